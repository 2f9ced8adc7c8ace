"""Adapters of a run as a folder that peft loads, for whoever has the model that they belong to."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from vlp.export.whole_folder import check_free, whole_folder
from vlp.ground.types import RecipeError
from vlp.run.trained_model import is_run, open_run, split_label
from vlp.towers.low_rank import ADAPTER
from vlp.towers.peft_folders import ADAPTER_CONFIG, ADAPTER_WEIGHTS, BASE, INNER, WRAPPER, A, B
from vlp.towers.sources import HUB, is_of_transformers_alone
from vlp.towers.transformers_names import layers_in_transformers
from vlp.towers.tuning.lora import Lora

CORE = "core."  # in front of the names of what open_clip calls the model
ENDS = {"a": A, "b": B}  # of names: ours, and those of peft
IN_OPEN_CLIP = (
    "```python",
    "from peft import PeftModel",
    'model = PeftModel.from_pretrained(base, "FOLDER")  # base: the open_clip model, with two towers of its own',
    "```",
    "",
    "(open_clip 3: peft has no adapter for the attention of open_clip 4)",
)
IN_TRANSFORMERS = (
    "```python",
    "from peft import PeftModel",
    "from transformers import AutoModel",
    'model = PeftModel.from_pretrained(AutoModel.from_pretrained("BASE"), "FOLDER")',
    "```",
)
LEARNED_BESIDE = ("logit_scale", "logit_bias")


def export_adapters(path: Path, to: Path, *, weights: str | None = None) -> Path:
    """Write the adapters of a run that was tuned with `model.tune=lora`, a few MB, and return the folder.

    Their names are those of the model that the run started from: of CLIPModel or SiglipModel, or else of open_clip.

    Args:
        path: A run or checkpoint folder.
        weights: Label of the weights; None takes those that the recipe evaluates.

    Raises:
        RecipeError: The run trained something else than adapters, started from weights that others do not have, or the
            folder exists.
    """
    check_free(to)
    recipe, checkpoint, label = open_run(path, weights)
    base, tune = recipe.model.weights, recipe.model.tune
    if tune.type != "lora" or tune.heads:
        trained = "heads too (tune.heads)" if tune.type == "lora" else f"otherwise (tune: {tune.type})"
        raise RecipeError(
            f"{path}: holds no adapters alone, it was tuned {trained}: export the model, without --adapters"
        )
    if recipe.model.text.new_tokens:
        raise RecipeError(
            f"{path}: its tokenizer has learned words (text.new_tokens), for which peft's format has no place: "
            "export the model, without --adapters"
        )
    if base is None or is_run(split_label(base)[0]):
        raise RecipeError(
            f"{path}: started from {base or 'scratch'}, which nobody else has: export that with vlp export, and start "
            "from its folder, or export this model whole, without --adapters"
        )
    is_theirs = is_of_transformers_alone(base)
    name_them = names_in_transformers if is_theirs else peft_names
    tensors = name_them(checkpoint.weights(label))
    adapters = Lora(**tune.model_dump(exclude={"type"})).adapters
    first = next(iter(adapters.values()))
    targets = sorted(
        name.removeprefix(WRAPPER).removesuffix(A) for name in tensors if name.endswith(A) and INNER not in name
    )
    config = {
        "peft_type": "LORA",
        BASE: base.removeprefix(HUB),
        "r": first["rank"],
        "lora_alpha": first["alpha"],
        "rank_pattern": _others(targets, adapters, "rank"),
        "alpha_pattern": _others(targets, adapters, "alpha"),
        "lora_dropout": first["dropout"],
        "target_modules": targets,
        "bias": "none",
        "inference_mode": True,
    }
    with whole_folder(to) as work:
        (work / ADAPTER_CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        save_file(tensors, work / ADAPTER_WEIGHTS[0], metadata={"format": "pt"})
        (work / "README.md").write_text(
            _card(
                base,
                recipe.name,
                f"rank {_ranks(adapters)}, step {checkpoint.step}",
                IN_TRANSFORMERS if is_theirs else IN_OPEN_CLIP,
            ),
            encoding="utf-8",
        )
    return to


def _others(targets: Sequence[str], adapters: Mapping[str, Mapping[str, Any]], key: str) -> dict[str, float]:
    """Return what layers of the text tower have in place of what the first tower has, where it is something else."""
    usual, own = next(iter(adapters.values()))[key], adapters.get("text", {}).get(key)
    return {} if own in (None, usual) else {name: own for name in targets if name.startswith("text")}


def _ranks(adapters: Mapping[str, Mapping[str, Any]]) -> str:
    return " and ".join(dict.fromkeys(str(each["rank"]) for each in adapters.values()))


def _card(base: str, name: str, which: str, ways: Sequence[str]) -> str:
    """Return the page that a hub shows, which finds the base model by it.

    Args:
        which: Rank and step.
        ways: How peft loads them.
    """
    head = {
        "library_name": "peft",
        "base_model": base.removeprefix(HUB),
        "pipeline_tag": "zero-shot-image-classification",
    }
    lines = ["---", *(f"{key}: {value}" for key, value in head.items()), "---", "", f"# {name}", ""]
    lines += [
        f"Low-rank adapters ({which}) of `{base}`, trained with vlp. In Python:",
        "",
        *(line.replace("BASE", base.removeprefix(HUB)) for line in ways),
        "",
        "or, merged, wherever vlp takes a model: `vlp eval FOLDER`, `vlp train finetune model.weights=FOLDER`.",
    ]
    return "\n".join(lines) + "\n"


def peft_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the adapters in a state, and the temperature that was trained with them, by peft's names.

    Peft adapts the last projection of an attention wherever it adapts the attention; there, adapters are zero.
    """
    plain = {name.removeprefix(CORE): value for name, value in state.items()}
    found = {name: plain[name] for name in LEARNED_BESIDE if name in plain}
    for name, value in plain.items():
        layer, _, part = name.rpartition(f".{ADAPTER}.")
        if not layer or part not in ENDS:
            continue
        found[f"{layer}{ENDS[part]}"] = value.contiguous()
        if f"{layer}.in_proj_weight" in plain:
            width, rank = len(plain[f"{layer}.out_proj.weight"]), min(value.shape)
            zeros = value.new_zeros((rank, width) if part == "a" else (width, rank))
            found[f"{layer}{INNER}.out_proj{ENDS[part]}"] = zeros
    return {WRAPPER + name: value for name, value in found.items()}


def names_in_transformers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the adapters in a state, and the temperature, by peft's names for CLIPModel or SiglipModel.

    Their queries, keys and values are layers of their own: each has the first thin matrix, and a third of the second.
    """
    plain = {name.removeprefix(CORE): value for name, value in state.items()}
    is_clip = "visual.proj" in plain  # whose temperature has no axis
    found = {name: plain[name].reshape(() if is_clip else 1) for name in LEARNED_BESIDE if name in plain}
    for name, value in plain.items():
        layer, _, part = name.rpartition(f".{ADAPTER}.")
        if layer and part in ENDS:
            theirs = layers_in_transformers(layer)
            pieces = [value] * len(theirs) if part == "a" else value.chunk(len(theirs))
            found |= {f"{new}{ENDS[part]}": piece.clone() for new, piece in zip(theirs, pieces, strict=True)}
    return {WRAPPER + name: value for name, value in found.items()}
