"""Where open_clip configurations and weights lie: a name, a tag, a file, a folder or the hub."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import open_clip
from open_clip.pretrained import download_pretrained, download_pretrained_from_hf, get_pretrained_cfg

from vlp.registry import nearest
from vlp.types import RecipeError

CONFIG_FILE = "open_clip_config.json"
WEIGHT_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin")
HUB = "hf-hub:"
LOCAL = "local-dir:"
PREPROCESS_KEYS = ("mean", "std", "interpolation", "resize_mode", "fill_color")


@dataclass(frozen=True)
class WeightFile:
    """A weight file on disk and the preprocessing that belongs to it."""

    path: Path
    preprocess: Mapping[str, Any] = field(default_factory=dict)


def folder_of(name: str) -> Path | None:
    """Return the folder that a name points to, or None if it points elsewhere."""
    path = Path(name.removeprefix(LOCAL)).expanduser()
    return path if path.is_dir() else None


def read_config(name: str) -> dict[str, Any]:
    """Return {"model_cfg", "preprocess_cfg"} of a model name, a JSON file, a folder or a hub id.

    Raises:
        RecipeError: Nothing by that name, or not the configuration of a dual encoder.
    """
    if name.startswith(HUB):
        found = _read_json(_from_hub(name.removeprefix(HUB), CONFIG_FILE))
    elif folder := folder_of(name):
        found = _read_json(folder / CONFIG_FILE)
    elif name.endswith(".json"):
        found = _read_json(Path(name).expanduser())
    else:
        known = open_clip.list_models()
        if name not in known:
            raise RecipeError(
                f"open_clip has no model '{name}'{nearest(name, known)}; a path to its JSON configuration, a folder "
                f"with {CONFIG_FILE} or '{HUB}ORG/NAME' will do as well"
            )
        found = copy.deepcopy(open_clip.get_model_config(name))
    model_cfg = found.get("model_cfg", found)
    _check_dual_encoder(name, model_cfg)
    return {"model_cfg": model_cfg, "preprocess_cfg": found.get("preprocess_cfg", {})}


def find_weights(source: str) -> WeightFile:
    """Locate the weights that `source` names, downloading them where it names the hub or a tag.

    Raises:
        RecipeError: There are no such weights.
    """
    if source.startswith(HUB):
        name = source.removeprefix(HUB)
        config = _read_json(_from_hub(name, CONFIG_FILE))
        return WeightFile(_from_hub(name, None), _preprocess(config.get("preprocess_cfg", {})))
    if folder := folder_of(source):
        return _weights_in(folder)
    path = Path(source).expanduser()
    if path.is_file():
        return WeightFile(path)
    name, colon, tag = source.partition(":")
    if colon and name in open_clip.list_models():
        return _pretrained(name, tag)
    raise RecipeError(
        f"no weights at '{source}': give a file, a folder, '{HUB}ORG/NAME' or 'NAME:TAG' with an open_clip model "
        f"name{nearest(name, open_clip.list_models())}"
    )


def _pretrained(name: str, tag: str) -> WeightFile:
    tags = open_clip.list_pretrained_tags_by_model(name)
    if tag not in tags:
        raise RecipeError(
            f"open_clip has no weights '{tag}' for '{name}'{nearest(tag, tags)} (known: {', '.join(tags)})"
        )
    entry = get_pretrained_cfg(name, tag)
    try:
        path = download_pretrained(entry)
    except Exception as error:  # the hub client raises its own, the network's and the disk's errors
        raise RecipeError(f"cannot fetch the weights '{name}:{tag}': {error}") from error
    return WeightFile(Path(path), _preprocess(entry))


def _weights_in(folder: Path) -> WeightFile:
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            config = folder / CONFIG_FILE
            preprocess = _read_json(config).get("preprocess_cfg", {}) if config.is_file() else {}
            return WeightFile(folder / name, _preprocess(preprocess))
    raise RecipeError(f"no weights in '{folder}': expected one of {', '.join(WEIGHT_FILES)}")


def _from_hub(name: str, file: str | None) -> Path:
    try:
        return Path(download_pretrained_from_hf(name, filename=file))
    except Exception as error:  # the hub client raises its own, the network's and the disk's errors
        raise RecipeError(f"cannot fetch {file or 'the weights'} of '{HUB}{name}': {error}") from error


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise RecipeError(f"no open_clip configuration at '{path}'")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise RecipeError(f"'{path}' is not JSON: {error}") from error


def _preprocess(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: config[key] for key in PREPROCESS_KEYS if config.get(key) is not None}


def _check_dual_encoder(name: str, config: Mapping[str, Any]) -> None:
    missing = [key for key in ("embed_dim", "vision_cfg", "text_cfg") if key not in config]
    if missing:
        raise RecipeError(f"'{name}' is no open_clip configuration: it lacks {', '.join(missing)}")
    if "multimodal_cfg" in config:
        raise RecipeError(f"'{name}' has a caption decoder (CoCa); only models of two towers can be built")
