"""From a command line of open_clip's trainer to a recipe, cards and notes about what differs."""

from __future__ import annotations

import ast
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from vlp.commands.open_clip_flags import FLAGS, WITHOUT_VALUE
from vlp.ground.errors import said_by
from vlp.ground.files import write_text
from vlp.ground.registry import nearest
from vlp.ground.types import RecipeError
from vlp.ground.yaml import write_yaml
from vlp.recipe.compose import load_recipe
from vlp.recipe.layers import LENGTHS, merge, nested

TRAINERS = ("open_clip_train", "training.main")
PROCESSES = ("nproc_per_node", "nproc-per-node", "num_processes", "num-processes")
PRECISIONS = {"amp": "float16", "amp_bf16": "bfloat16", "amp_bfloat16": "bfloat16", "fp32": "float32"}
RANGES = ("scale", "ratio")
LAYER_DECAYS = {"image": ("image-layer-decay", "visual-layer-decay"), "text": ("text-layer-decay",)}
SHAPES = {"cosine": "cosine", "const": "constant", "const-cooldown": "cooldown"}


@dataclass
class Translation:
    """What a command line becomes.

    Args:
        recipe: Settings of the recipe, nested.
        cards: Settings of each card, by its name.
        notes: What differs, or has to be done by hand.
    """

    recipe: dict[str, Any]
    cards: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def set(self, path: str, value: Any) -> None:
        """Set one key of the recipe."""
        self.recipe = merge(self.recipe, nested(path, value))


def write_translation(words: Sequence[str], to: Path, processes: int | None = None) -> str:
    """Write a recipe and its cards into a folder; return what there is to know about them.

    Args:
        words: Of the command: from its first word on, or its flags alone.
        processes: That the command started, where its words do not say; 1 when absent.

    Raises:
        RecipeError: A flag that open_clip's trainer does not have, a value that it would not take, no model, or a file
            of such a name that is there already.
    """
    found = translate(words, processes)
    to = to.expanduser()
    cards = {name: to / f"{name}.yaml" for name in found.cards}
    recipe = to / f"{found.recipe['name']}.recipe.yaml"
    for path in (recipe, *cards.values()):
        if path.exists():
            raise RecipeError(f"{path} is there already: move it away, or write somewhere else with --to")
    to.mkdir(parents=True, exist_ok=True)
    for name, path in cards.items():
        write_text(path, write_yaml(found.cards[name]))
        found.recipe["data"]["train"][name]["card"] = str(path.resolve())
    head = "# From open_clip: " + shlex.join(words).replace("\n", " ")[:2000] + "\n"
    write_text(recipe, head + write_yaml(found.recipe))
    load_recipe(str(recipe))
    files, notes = map(str, (recipe, *cards.values())), (f"- {note}" for note in found.notes)
    return "\n".join([*files, *notes, f"vlp train {recipe}"])


def translate(words: Sequence[str], processes: int | None = None) -> Translation:
    """Return what a command line of open_clip's trainer becomes."""
    launcher, given = parse(words)
    processes = processes or next((int(launcher[key]) for key in PROCESSES if launcher.get(key, "").isdigit()), 1)
    if "model" not in given:
        raise RecipeError("--model is missing: open_clip's default is RN50; name the model that you mean")
    found = Translation({"extends": "base.yaml", "name": _name(given)})
    for part in (_model, _data, _lengths, _optimizer, _objective, _the_rest):
        part(found, given, processes)
    for flag in given:
        if note := FLAGS[flag].note:
            found.notes.append(f"--{flag}: {note}")
    return found


def parse(words: Sequence[str]) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Return the flags of the launcher and those of the trainer, each with its values.

    Raises:
        RecipeError: A flag that the trainer does not have; names the nearest.
    """
    begin = next((place + 1 for place, word in enumerate(words) if any(main in word for main in TRAINERS)), 0)
    before = [part for word in words[:begin] for part in word.split("=", 1)]
    launcher = {word.lstrip("-"): after for word, after in pairwise(before)}
    given: dict[str, list[str]] = {}
    values: list[str] = []
    for word in words[begin:]:
        if not word.startswith("--"):
            values.append(word)
            continue
        flag, _, value = word[2:].partition("=")
        if flag not in FLAGS:
            raise RecipeError(f"--{flag}: open_clip's trainer has no such flag{nearest(flag, FLAGS)}")
        values = given[flag] = [value] if value else []
    for flag, found in given.items():
        if (flag in WITHOUT_VALUE) == bool(found):
            raise RecipeError(f"--{flag} takes {'no value' if flag in WITHOUT_VALUE else 'a value'}")
    return launcher, given


def _all(given: Mapping[str, list[str]], flag: str, kind: Callable[[str], Any]) -> list[Any]:
    """Return the values of a flag.

    Raises:
        RecipeError: One is not of its kind.
    """
    try:
        return [kind(value) for value in given.get(flag, ())]
    except (ValueError, SyntaxError, TypeError) as error:
        raise RecipeError(f"--{flag} {' '.join(given[flag])}: {said_by(error)}") from error


def _one(given: Mapping[str, list[str]], flag: str, kind: Callable[[str], Any] = str, default: Any = None) -> Any:
    return next(iter(_all(given, flag, kind)), default)


def _positive(word: str) -> int:
    number = int(word)
    if number < 1:
        raise ValueError("must be at least 1")
    return number


def _name(given: Mapping[str, list[str]]) -> str:
    name = _one(given, "name", default=f"{given['model'][0]}".replace("/", "-"))
    return "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in name).lstrip(".-") or "run"


def _model(found: Translation, given: Mapping[str, list[str]], _processes: int) -> None:
    name = given["model"][0]
    image: dict[str, Any] = {"type": "open_clip", "name": name}
    text: dict[str, Any] = {"type": "open_clip", "name": name}
    if sizes := _all(given, "force-image-size", int):
        image["image_size"] = sizes[0] if len(sizes) == 1 else sizes
    if "force-patch-dropout" in given:
        image["patch_dropout"] = _one(given, "force-patch-dropout", float)
    if "force-context-length" in given:
        text["context_length"] = _one(given, "force-context-length", int)
    if "force-quick-gelu" in given:
        image["quick_gelu"] = text["quick_gelu"] = True
    found.recipe["model"] = {"image": image, "text": text, "grad_checkpointing": "grad-checkpointing" in given}
    if tag := _one(given, "pretrained"):
        is_file = "/" in tag or Path(tag).exists()
        found.set("model.weights", tag if is_file else f"{name}:{tag}")
    locked = [tower for flag, tower in (("lock-image", "visual"), ("lock-text", "text")) if flag in given]
    if locked:
        found.set("model.freeze", locked)
    for flag, key, kind in (
        ("image-mean", "mean", float),
        ("image-std", "std", float),
        ("image-interpolation", "interpolation", str),
        ("image-resize-mode", "resize_mode", str),
    ):
        if values := _all(given, flag, kind):
            found.set(f"model.{key}", values[0] if kind is str else values)


def _data(found: Translation, given: Mapping[str, list[str]], _processes: int) -> None:
    options = dict(_all(given, "aug-cfg", _assignment))
    crop: dict[str, Any] = {"scale": [0.9, 1.0], "flip": 0.0}
    crop |= {key: options.pop(key) for key in RANGES if key in options}
    if rest := [key for key in options if key != "use_timm"]:
        found.notes.append(f"--aug-cfg: {', '.join(rest)}: see `vlp describe data.augment` and the image policies")
    found.recipe["data"] = {"train": {}, "crop": crop, "workers": _one(given, "workers", int, 4)}
    sources = (_one(given, "train-data") or "").split("::") if "train-data" in given else []
    factors = _one(given, "train-data-upsampling-factors", _factors, [])
    if not sources:
        found.notes.append("--train-data is missing: name a card under data.train")
        found.recipe["data"]["train"] = {"embedded": {}}
    for number, (shards, factor) in enumerate(zip(sources, factors + [None] * len(sources), strict=False)):
        if shards.endswith((".csv", ".tsv")):
            image = _one(given, "csv-img-key", default="filepath")
            columns = f"image={image},caption={_one(given, 'csv-caption-key', default='title')}"
            command = f"vlp data pack {shards} --columns {columns} --to FOLDER"
            found.notes.append(f"--train-data {shards}: a table; write shards of it first: {command}")
        name = f"source{number}" if len(sources) > 1 else "data"
        found.cards[name] = {"name": name, "shards": shards, **_members(given)}
        found.recipe["data"]["train"][name] = {}
        if factor and factor.is_integer():
            found.recipe["data"]["train"][name]["repeat"] = int(factor)
        elif factor:
            found.notes.append(f"an upsampling factor of {factor}: give every source a `share` of the samples")


def _factors(words: str) -> list[float]:
    return [float(word) for word in words.split("::")]


def _assignment(word: str) -> tuple[str, Any]:
    key, _, value = word.partition("=")
    return key, [float(number) for number in ast.literal_eval(value)] if key in RANGES else value


def _members(given: Mapping[str, list[str]]) -> dict[str, Any]:
    """Return what a card says of the members of a sample."""
    card: dict[str, Any] = {}
    if keys := _one(given, "json-text-key"):
        shares = _all(given, "json-text-key-probs", float)
        weights = dict(zip(keys.split(";"), shares or [1.0] * len(keys.split(";")), strict=False))
        card["captions"] = {f"json.{key}": weight for key, weight in weights.items() if weight > 0}
    else:
        card["captions"] = {key: 1.0 for key in _one(given, "text-key", default="txt").split(";")}
    if "image-key" in given:
        card["images"] = given["image-key"][0].split(";")
    return card


def _lengths(found: Translation, given: Mapping[str, list[str]], processes: int) -> None:
    pieces = _one(given, "accum-freq", _positive, 1)
    batch = _one(given, "batch-size", _positive, 64) * pieces * processes
    epochs, samples = _one(given, "epochs", _positive, 32), _one(given, "train-num-samples", _positive)
    train: dict[str, Any] = {"batch_size": batch, "micro_batches": pieces, **dict.fromkeys(LENGTHS)}
    train |= {"epochs": epochs} if samples is None else {"samples": epochs * samples}
    precision = _one(given, "precision", default="amp_bf16")
    train["precision"] = PRECISIONS.get(precision, "bfloat16")
    if precision not in PRECISIONS:
        found.notes.append(f"--precision {precision}: weights stay float32 here; towers compute in bfloat16")
    train["clip_gradient_norm"] = _one(given, "grad-clip-norm", float)
    train["compile"] = "torchcompile" in given
    found.recipe["train"] = train
    if samples is not None:
        per_epoch = max(1, samples // batch)
        found.set("checkpoint.every", _one(given, "save-frequency", _positive, 1) * per_epoch)
        found.set("evaluation.every", _one(given, "zeroshot-frequency", _positive, 2) * per_epoch)
    else:
        found.notes.append(
            "--train-num-samples is missing: set checkpoint.every and evaluation.every, for an epoch has no known steps"
        )
    found.set("checkpoint.keep", 1 if "delete-previous-checkpoint" in given else 1000)
    found.set("evaluation.tasks", ["imagenet1k"] if "imagenet-val" in given else [])


def _optimizer(found: Translation, given: Mapping[str, list[str]], _processes: int) -> None:
    is_vit = "vit" in given["model"][0].lower()
    rate = _one(given, "lr", float, 5e-4)
    found.recipe["optimizer"] = {
        "learning_rate": rate,
        "betas": [_one(given, "beta1", float, 0.9), _one(given, "beta2", float, 0.98 if is_vit else 0.999)],
        "epsilon": _one(given, "eps", float, 1e-6 if is_vit else 1e-8),
        "weight_decay": _one(given, "wd", float, 0.2),
    }
    for tower, flags in LAYER_DECAYS.items():
        for flag in flags:
            if flag in given:
                found.set(f"optimizer.layer_decay.{tower}", _one(given, flag, float))
    if patterns := given.get("wd-exclude"):
        found.set("optimizer.no_decay", patterns)
    if _one(given, "opt", default="adamw") != "adamw":
        found.notes.append(f"--opt {given['opt'][0]}: AdamW is set: see optimizer.type for others")
    if "skip-scheduler" in given:
        found.recipe["schedule"] = {"shape": "constant", "warmup_steps": 0}
        return
    shape = SHAPES.get(_one(given, "lr-scheduler", default="cosine"), "cosine")
    found.recipe["schedule"] = {"shape": shape, "warmup_steps": _one(given, "warmup", int, 10000)}
    if shape == "cooldown":
        epochs = _one(given, "epochs", _positive, 32)
        found.set("schedule.cooldown_share", _one(given, "epochs-cooldown", int, 0) / epochs)
        found.set("schedule.final_factor", _one(given, "lr-cooldown-end", float, 0.0) / rate if rate else 0.0)


def _objective(found: Translation, given: Mapping[str, list[str]], _processes: int) -> None:
    if "siglip" in given:
        found.recipe["objective"] = {"clip": None, "siglip": {}}
        has_weights = bool(_one(given, "pretrained"))  # their scale holds, and a bias of 0 where they have none
        found.recipe["model"] |= {"init_bias": 0.0} if has_weights else {"init_scale": 10.0, "init_bias": -10.0}
    elif "coca" in given["model"][0].lower():
        found.recipe["objective"] = {
            "clip": {"weight": _one(given, "coca-contrastive-loss-weight", float, 1.0)},
            "captioning": {"weight": _one(given, "coca-caption-loss-weight", float, 2.0)},
        }
        found.recipe["model"]["decoder"] = {"type": "open_clip", "name": given["model"][0]}
    else:
        found.recipe["objective"] = {"clip": {}}
    model, weights = _one(given, "distill-model"), _one(given, "distill-pretrained")
    if model and weights:  # one alone does nothing there either
        found.recipe["objective"]["soft_targets"] = {"teacher_scale": 100.0}
        found.recipe["strategies"] = {"teacher": {"models": [f"{model}:{weights}"]}}


def _the_rest(found: Translation, given: Mapping[str, list[str]], _processes: int) -> None:
    found.set("seed", _one(given, "seed", int, 0))
    found.set("runs", _one(given, "logs", default="runs").rstrip("/"))
    for flag in ("log-every-n-steps", "log-metric-every-n-steps"):  # the second of its main branch alone
        if flag in given:
            found.set("log.every", _one(given, flag, _positive))
    if trackers := [name for name in (_one(given, "report-to") or "").split(",") if name]:
        found.set("log.trackers", ["tensorboard", "wandb", "trackio"] if trackers == ["all"] else trackers)
    if "wandb-project-name" in given:
        found.set("log.project", given["wandb-project-name"][0])


def flags_page() -> str:
    """Return the page about open_clip's flags as Markdown."""
    rows = [f"| `--{flag}` | {_cell(known.key)} | {known.note} |" for flag, known in sorted(FLAGS.items())]
    return "\n".join([PREFACE, "", "| flag | here | what differs |", "|---|---|---|", *rows]) + "\n"


def _cell(key: str) -> str:
    return f"`{key}`" if key and " " not in key else key


PREFACE = """\
# Coming from open_clip

```bash
vlp from-open-clip --to mine -- torchrun --nproc_per_node 8 -m open_clip_train.main --model ViT-B-32 \\
  --train-data '/data/{000000..001000}.tar' --train-num-samples 10000000 --batch-size 512 --epochs 10 --siglip
vlp train mine/ViT-B-32.recipe.yaml
```

writes a recipe and a card for each source, and says what differs. Batches are those of the whole job here:
`--batch-size` times `--accum-freq` times the processes. Losses are exact on any number of processes, so the flags that
choose between memory and gradients have no counterpart. Checkpoints of open_clip start a run as `model.weights: FILE`;
a run continues by `--resume` without a path, in the middle of an epoch. Made by `make pages` from the table that the
command reads."""
