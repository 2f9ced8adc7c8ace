"""Adapters in the format of peft: read, and added to the weights of the model that they adapt."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from vlp.ground.types import RecipeError
from vlp.towers.low_rank import product
from vlp.towers.weight_files import read_tensors

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
BASE = "base_model_name_or_path"
WRAPPER = "base_model.model."  # in front of the names of the model's own modules
INNER = ".base_layer"  # what peft calls a layer within the one that adapts it
A, B = ".lora_A.weight", ".lora_B.weight"
TWICE = (0, 21, 2)  # the last version of peft known to add some adapters twice
INITS = ("gaussian", "eva", "orthogonal", "mica")  # beside true and false: all others change the weights underneath
REFUSED = ("use_dora", "use_qalora", "fan_in_fan_out", "alora_invocation_tokens", "target_parameters")


@dataclass(frozen=True)
class AdapterFolder:
    """A folder that peft, or `vlp export --adapters`, has written.

    Args:
        folder: Where it lies.
        config: Its `adapter_config.json`.
    """

    folder: Path
    config: Mapping[str, Any]

    @property
    def base(self) -> str:
        """Return the name of the model that the adapters were trained on.

        Raises:
            RecipeError: The folder does not say.
        """
        if not self.config.get(BASE):
            raise RecipeError(
                f"{self.folder / ADAPTER_CONFIG}: {BASE} is empty; write the name of the model that the adapters "
                "belong to: a folder, NAME:TAG of open_clip or hf-hub:ORG/NAME"
            )
        name = str(self.config[BASE])
        is_hub_page = name.count("/") == 1 and ":" not in name and not Path(name).expanduser().exists()
        return f"hf-hub:{name}" if is_hub_page else name

    def read(self) -> dict[str, Tensor]:
        """Return what the folder adds to weights, by the names of peft without their wrapper.

        Raises:
            RecipeError: It holds no adapters, or others than those of LoRA.
        """
        kind = self.config.get("peft_type")
        odd = [key for key in REFUSED if self.config.get(key)]
        if kind != "LORA" or odd:
            raise RecipeError(
                f"{self.folder}: only plain LoRA is read, these adapters are {kind}{' with ' + odd[0] if odd else ''}: "
                "merge them with peft (merge_and_unload), and save the model"
            )
        init = self.config.get("init_lora_weights", True)
        if isinstance(init, str) and init.lower() not in INITS:
            raise RecipeError(
                f"{self.folder}: adapters that began by '{init}' belong to other weights than those of '{self.base}': "
                "merge them with peft (merge_and_unload), and save the model"
            )
        file = next((self.folder / name for name in ADAPTER_WEIGHTS if (self.folder / name).is_file()), None)
        if file is None:
            raise RecipeError(f"no adapters in '{self.folder}': expected {' or '.join(ADAPTER_WEIGHTS)}")
        return {name.removeprefix(WRAPPER): value for name, value in read_tensors(file).items()}

    def share(self, name: str) -> float:
        """Return what the product of a layer's thin matrices is multiplied with, whatever peft calls the layer.

        Peft 0.21.2 and before add what belongs to the last projection of torch's attention twice, in training and in
        use (github.com/huggingface/peft/pull/3774); a model that was trained so stays what it was.
        """
        layer = name.partition(INNER)[0]  # what lies within a layer that adapts it is of its rank
        rank = _of_pattern(self.config.get("rank_pattern"), layer, self.config.get("r", 8))
        alpha = _of_pattern(self.config.get("alpha_pattern"), layer, self.config.get("lora_alpha", 8))
        times = 2 if INNER in name and _version(self.config) <= TWICE else 1
        return float(times * alpha / (rank**0.5 if self.config.get("use_rslora") else rank))

    def add_to(self, state: dict[str, Tensor], found: Mapping[str, Tensor], *, last: bool = False) -> dict[str, Tensor]:
        """Add adapters to weights, and put what was trained whole in the place of what was there.

        Args:
            found: What `read` returned, or a part of it.
            last: Refuse what belongs to no tensor.

        Returns:
            What belongs to no tensor of these names.

        Raises:
            RecipeError: There is such, and `last` is set.
        """
        rest: dict[str, Tensor] = {}
        for name, value in found.items():
            if name.endswith(B):
                continue
            layer = name.removesuffix(A)
            plain = layer.replace(INNER, "")
            key = _find(state, [name] if layer == name else [f"{plain}.weight", f"{plain}.in_proj_weight"])
            if key is None:
                rest |= {name: value} if layer == name else {name: value, f"{layer}{B}": found[f"{layer}{B}"]}
            elif layer == name:
                state[key] = value.to(state[key].dtype).reshape(state[key].shape)
            else:
                thin = value.float(), found[f"{layer}{B}"].float()
                state[key] = state[key].float() + product(*thin, self.share(layer))
        if rest and last:
            raise RecipeError(f"{self.folder}: '{next(iter(rest))}' belongs to no tensor of '{self.base}'")
        return rest


def adapter_folder(folder: Path) -> AdapterFolder | None:
    """Return the adapters in a folder, or None where it has no configuration of any.

    Raises:
        RecipeError: It cannot be read.
    """
    path = folder / ADAPTER_CONFIG
    if not path.is_file():
        return None
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RecipeError(f"'{path}' is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise RecipeError(f"'{path}' holds no names and values")
    return AdapterFolder(folder, config)


def _version(config: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the version of peft that wrote a configuration; a high one where another program did."""
    numbers = re.findall(r"\d+", str(config.get("peft_version") or ""))
    return tuple(int(number) for number in numbers[:3]) or (sys.maxsize,)


def _of_pattern(patterns: Mapping[str, Any] | None, layer: str, usual: Any) -> Any:
    """Return the value whose key is the end of a layer's name, from a dot on; keys are regular expressions to peft."""
    return next((value for key, value in (patterns or {}).items() if re.match(rf"(.*\.)?({key})$", layer)), usual)


def _find(state: Mapping[str, Tensor], wanted: list[str]) -> str | None:
    """Return the name of a tensor as a file has it, whose text tower may stand without a prefix."""
    names = [*wanted, *(name.removeprefix("text.") for name in wanted if name.startswith("text."))]
    exact = next((name for name in names if name in state), None)
    if exact is not None:
        return exact
    return next((key for name in names for key in state if key.endswith(f".{name}")), None)
