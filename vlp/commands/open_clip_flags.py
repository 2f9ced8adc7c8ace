"""Every flag of open_clip's trainer (3.3 and its main branch of June 2026): our key, and what differs."""

from __future__ import annotations

from typing import NamedTuple


class Flag(NamedTuple):
    """What becomes of a flag.

    Args:
        key: Where it is set here; empty where nothing is.
        note: What differs, or what takes its place.
    """

    key: str = ""
    note: str = ""


AUDIO = Flag("", "There is no audio here.")
NAFLEX = Flag("", "Images of native aspect (NaFlex) are not here: a fixed size, or `model.resize_mode`.")
ALWAYS = Flag("", "Not needed: losses are exact on any number of processes, without a matrix of the whole batch.")
LAUNCH = Flag("", "The launcher decides: `recipes/launch/`.")

FLAGS: dict[str, Flag] = {
    # data
    "train-data": Flag("data.train.LABEL.card", ""),
    "train-data-upsampling-factors": Flag("data.train.LABEL.repeat", "Whole factors only; others as `share`s."),
    "val-data": Flag("", "Make a retrieval set of it (docs/add-an-evaluator.md) and name it in `evaluation.tasks`."),
    "train-num-samples": Flag("train.samples", "Counted from the shards; with `--epochs` it gives the length."),
    "val-num-samples": Flag("", "Declared in the task, and checked."),
    "dataset-type": Flag("", "Shards are read; tables become shards once: `vlp data pack`."),
    "dataset-resampled": Flag("", "Each sample comes once per epoch, on any number of shards and processes."),
    "csv-separator": Flag("", "`vlp data pack` finds it."),
    "csv-img-key": Flag("", "`vlp data pack --columns image=NAME`."),
    "csv-caption-key": Flag("", "`vlp data pack --columns caption=NAME`."),
    "image-key": Flag("images of the card", ""),
    "max-image-pixels": Flag("", "Images past 100 million pixels are refused by their header."),
    "text-key": Flag("captions of the card", ""),
    "json-text-key": Flag("captions of the card", "As `json.KEY`; among several one is drawn by weight."),
    "json-text-key-probs": Flag("captions of the card", "A sample without the key that was drawn counts as faulty."),
    "imagenet-val": Flag("evaluation.tasks", "Task `imagenet1k`, in CLIP_benchmark's layout of shards."),
    "imagenet-v2": Flag("evaluation.tasks", "Task `imagenetv2`: add it to the list."),
    "workers": Flag("data.workers", "Per process, as there."),
    "aug-cfg": Flag("data.crop", "`scale` and `ratio`; colours under `data.augment`, policies as `data.policy`."),
    "length-bucketing": Flag("model.text_buckets", "Always on, within a batch; changes no number."),
    "bucket-pool": Flag("model.text_buckets", "Buckets lie within a batch; the order of samples does not change."),
    "bucket-chunk": Flag("model.text_buckets", "Buckets lie within a batch; the order of samples does not change."),
    "bucket-prefetch-pools": Flag("", "The stream decodes ahead by itself."),
    "text-pad-multiple": Flag("model.text_buckets", "Buckets bound the number of lengths."),
    # the model
    "model": Flag("model.image.name, model.text.name", ""),
    "pretrained": Flag("model.weights", "A tag as `NAME:TAG`, or a file."),
    "pretrained-image": Flag("model.image.pretrained", "For towers of type `timm`."),
    "lock-image": Flag("model.freeze", "`visual`."),
    "lock-image-unlocked-groups": Flag("model.freeze", "Name what stays locked by patterns: `visual.conv1`, ..."),
    "lock-image-freeze-bn-stats": Flag("model.freeze", "What is frozen keeps its statistics in any case."),
    "lock-text": Flag("model.freeze", "`text`."),
    "lock-text-unlocked-layers": Flag("model.freeze", "Name what stays locked by patterns."),
    "lock-text-freeze-layer-norm": Flag("model.freeze", "What is frozen is frozen whole."),
    "text-pooler-own-group": Flag("", "Poolers belong to the head, which has the full rate."),
    "image-mean": Flag("model.mean", ""),
    "image-std": Flag("model.std", ""),
    "image-interpolation": Flag("model.interpolation", "`data.crop.interpolation` for training."),
    "image-resize-mode": Flag("model.resize_mode", ""),
    "grad-checkpointing": Flag("model.grad_checkpointing", ""),
    "force-context-length": Flag("model.text.context_length", ""),
    "force-image-size": Flag("model.image.image_size", ""),
    "force-quick-gelu": Flag("model.image.quick_gelu, model.text.quick_gelu", ""),
    "force-patch-dropout": Flag("model.image.patch_dropout", ""),
    "force-custom-text": Flag("", "Towers are always apart."),
    "force-naflex-vision": NAFLEX,
    "use-bn-sync": Flag("", "Always: batch norms see the batches of all processes. They refuse micro-batches."),
    "use-bnb-linear": Flag("", "There are no 8-bit layers here."),
    "cache-dir": Flag("", "`HF_HOME` and `XDG_CACHE_HOME` say where."),
    # how long, how fast
    "batch-size": Flag("train.batch_size", "Of the whole job here: times `--accum-freq` times the processes."),
    "accum-freq": Flag("train.micro_batches", "Gradients are those of the undivided batch, the scale's included."),
    "epochs": Flag("train.epochs, train.samples", ""),
    "epochs-cooldown": Flag("schedule.cooldown_share", "As a share of the training."),
    "warmup": Flag("schedule.warmup_steps", ""),
    "lr": Flag("optimizer.learning_rate", ""),
    "beta1": Flag("optimizer.betas", ""),
    "beta2": Flag("optimizer.betas", ""),
    "eps": Flag("optimizer.epsilon", ""),
    "wd": Flag("optimizer.weight_decay", ""),
    "wd-exclude": Flag("optimizer.no_decay", ""),
    "momentum": Flag("optimizer.momentum", "Of `muon` and `adafactor`; AdamW has none."),
    "opt": Flag("optimizer.type", "Others than AdamW by hand: `lion`, `lamb`, `adafactor`, `muon`, `schedule_free`."),
    "opt-kwargs": Flag("optimizer", "Each optimizer has settings of its own."),
    "opt-fallback-list": Flag("", "`muon` moves the matrices of blocks, and all else as AdamW does."),
    "text-layer-decay": Flag("optimizer.layer_decay", "Its `text`. The last norm is as fast as the head here."),
    "image-layer-decay": Flag("optimizer.layer_decay", "Its `image`. The last norm is as fast as the head here."),
    "visual-layer-decay": Flag("optimizer.layer_decay", "As `--image-layer-decay`."),
    "skip-scheduler": Flag("schedule.shape", "`constant`, without warm-up."),
    "lr-scheduler": Flag("schedule.shape", "`cosine`, `constant`, `cooldown`; also `linear`, `inverse_sqrt`."),
    "lr-cooldown-end": Flag("schedule.final_factor", "As a factor of the peak."),
    "lr-cooldown-power": Flag("", "The end is linear."),
    "precision": Flag("train.precision", "`float32`, `bfloat16`, `float16`; weights stay float32."),
    "grad-clip-norm": Flag("train.clip_gradient_norm", ""),
    "torchcompile": Flag("train.compile", ""),
    "torchscript": Flag("train.compile", "`train.compile` takes its place."),
    "trace": Flag("train.compile", "`train.compile` takes its place."),
    "torchcompile-strategy": Flag(
        "train.compile", "`model` is `towers`; `true` compiles block by block, and nothing a whole step."
    ),
    "torchcompile-backend": Flag("train.compile", "Inductor."),
    "torchcompile-mode": Flag("train.compile", "The default mode."),
    "seed": Flag("seed", ""),
    "device": Flag("", "A GPU where there is one; `ACCELERATE_USE_CPU=true` for none."),
    # the loss
    "siglip": Flag("objective.siglip, model.init_scale, model.init_bias", ""),
    "local-loss": ALWAYS,
    "gather-with-grad": ALWAYS,
    "loss-dist-impl": ALWAYS,
    "coca-caption-loss-weight": Flag("objective.captioning.weight", ""),
    "coca-contrastive-loss-weight": Flag("objective.clip.weight", ""),
    "distill-model": Flag(
        "strategies", "`teacher`, with `objective.soft_targets` at a scale of 100, not the teacher's."
    ),
    "distill-pretrained": Flag("strategies", ""),
    # what is kept and shown
    "name": Flag("name", ""),
    "logs": Flag("runs", ""),
    "log-local": Flag("", "The first process logs."),
    "save-frequency": Flag("checkpoint.every", "In steps."),
    "save-most-recent": Flag("checkpoint.keep", "Checkpoints are whole or absent; the newest whole one is resumed."),
    "delete-previous-checkpoint": Flag("checkpoint.keep", "`keep: 1`; the successor is on the disk before one goes."),
    "zeroshot-frequency": Flag("evaluation.every", "In steps."),
    "val-frequency": Flag("evaluation.every", "In steps."),
    "val-retrieval-chunk-size": Flag("", "Retrieval is exact and streamed."),
    "val-retrieval-precision": Flag("", "Scores are float32."),
    "resume": Flag("", "`vlp train RECIPE --resume` continues the run; `model.weights: FILE` starts from weights."),
    "report-to": Flag("log.trackers", ""),
    "wandb-notes": Flag("", "The tracker gets the whole recipe."),
    "wandb-project-name": Flag("log.project", ""),
    "log-every-n-steps": Flag("log.every", ""),
    "log-metric-every-n-steps": Flag("log.every", ""),
    "train-loss-ema-samples": Flag("", "`vlp report` smooths."),
    "debug": Flag("", "Nothing is hidden."),
    "copy-codebase": Flag("", "The lock names the commit and every version."),
    "remote-sync": Flag("", "Copy the run folder: every file in it is whole at any time."),
    "remote-sync-frequency": Flag("", "See `--remote-sync`."),
    "remote-sync-protocol": Flag("", "See `--remote-sync`."),
    # processes
    "dist-url": LAUNCH,
    "dist-backend": LAUNCH,
    "ddp-static-graph": LAUNCH,
    "no-set-device-rank": LAUNCH,
    "horovod": LAUNCH,
    "fsdp": Flag("", "`recipes/launch/fsdp2.yaml`."),
    "fsdp-no-reshard-after-forward": Flag("", "`fsdp_reshard_after_forward` in the launch file."),
    "fsdp-offload-cpu": LAUNCH,
    "fsdp-checkpoint": Flag("", "Checkpoints are whole, whatever the layout, and load in any other."),
    "use-naflex": NAFLEX,
    **{
        f"naflex-{name}": NAFLEX
        for name in (
            *("num-train-image-tokens", "patch-sizes", "patch-size-probs", "seq-lens", "seq-len-probs"),
            *("max-tokens-per-batch", "max-text-tokens", "batch-divisor", "loss-scale", "pad-multiple"),
        )
    },
    "pretrained-audio": AUDIO,
    **{
        f"audio-{name}": AUDIO
        for name in (
            *("ext", "fill", "trunc", "fusion", "int16-normalize", "layer-decay", "multiprocessing-context"),
            *("zeroshot-dataset", "zeroshot-split", "zeroshot-audio-key", "zeroshot-target-key", "zeroshot-class-key"),
            *("zeroshot-template", "zeroshot-workers", "zeroshot-multiprocessing-context"),
        )
    },
}
WITHOUT_VALUE = frozenset(
    (
        *("dataset-resampled", "log-local", "use-bn-sync", "skip-scheduler", "save-most-recent", "pretrained-image"),
        *("lock-image", "lock-image-freeze-bn-stats", "lock-text", "lock-text-freeze-layer-norm", "grad-checkpointing"),
        *("local-loss", "gather-with-grad", "force-quick-gelu", "force-custom-text", "torchcompile", "debug"),
        *("copy-codebase", "ddp-static-graph", "fsdp", "fsdp-no-reshard-after-forward", "fsdp-offload-cpu"),
        *("no-set-device-rank", "delete-previous-checkpoint", "siglip", "use-naflex", "force-naflex-vision"),
        *(
            "length-bucketing",
            "text-pooler-own-group",
            "audio-fusion",
            "audio-int16-normalize",
            "horovod",
            "trace",
            "torchscript",
        ),
    )
)
