"""Where open_clip configurations and weights lie: a name, a tag, a file, a folder or the hub."""

from __future__ import annotations

import copy
import importlib.util
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import open_clip
from huggingface_hub import snapshot_download
from open_clip.pretrained import download_pretrained, download_pretrained_from_hf, get_pretrained_cfg

from vlp.ground.pieces import holds_tensors
from vlp.ground.registry import nearest
from vlp.ground.types import RecipeError
from vlp.towers import transformers_folders
from vlp.towers.base import Fragment
from vlp.towers.meaning import Meaning, meaning_of_config, meaning_of_file, meaning_of_tag
from vlp.towers.peft_folders import ADAPTER_CONFIG, AdapterFolder, adapter_folder

CONFIG_FILE = "open_clip_config.json"
WEIGHT_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin")
HUB = "hf-hub:"
LOCAL = "local-dir:"
PACKAGE = "package:"  # weights that a Python package brings along
FETCHED = ["*.json", "*.txt", "*.model", "*.safetensors"]  # of a page for transformers: never code or pickles


@dataclass(frozen=True)
class WeightFile:
    """A weight file on disk.

    Args:
        meaning: What it means.
        name: What to call it.
        adapters: What is to be added.
        new_tokens: Words that its tokenizer was given as tokens.
    """

    path: Path
    meaning: Meaning
    name: str
    adapters: AdapterFolder | None = None
    new_tokens: tuple[str, ...] = ()


Finder = Callable[[str], WeightFile | None]
finders: list[Finder] = []


def finder(find: Finder) -> Finder:
    """Add a kind of place that weights can come from, such as the folder of a run; it is asked before all others."""
    finders.append(find)
    return find


def folder_of(name: str) -> Path | None:
    """Return the folder that a name points to, or None if it points elsewhere."""
    path = place_of(name)
    return path if path.is_dir() else None


def is_place(name: str) -> bool:
    """Whether a name says where a model lies, as a folder or a page of the hub does, and not what it is called."""
    return name.startswith((HUB, LOCAL, PACKAGE)) or folder_of(name) is not None


def place_of(name: str) -> Path:
    """Return the path that a name stands for: one on this machine, or `package:NAME/PATH` in an installed package.

    Raises:
        RecipeError: The package is not installed.
    """
    if not name.startswith(PACKAGE):
        return Path(name.removeprefix(LOCAL)).expanduser()
    package, _, inner = name.removeprefix(PACKAGE).partition("/")
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise RecipeError(f"'{name}': the Python package '{package}' is not installed: pip install {package}")
    return Path(spec.submodule_search_locations[0]) / inner


def read_config(name: str) -> dict[str, Any]:
    """Return {"model_cfg", "preprocess_cfg", "correct_cls_mask", "max_patches"} of a name, JSON file, folder or hub id.

    Raises:
        RecipeError: Nothing by that name, or not the configuration of a dual encoder.
    """
    name = _here(name)
    if name.startswith(HUB):
        found = _read_json(_from_hub(name.removeprefix(HUB), CONFIG_FILE))
    elif folder := folder_of(name):
        if (adapters := adapter_folder(folder)) is not None:
            return read_config(architecture_of(adapters.base))
        found = _read_folder(folder)
    elif name.endswith(".json"):
        found = _read_json(Path(name).expanduser())
    else:
        known = open_clip.list_models()
        if name not in known and ("/" in name or name.startswith((".", "~"))):
            raise RecipeError(
                f"there is no run, export or model folder at '{name}' (see vlp list runs, vlp list models, or name "
                f"{HUB}ORG/NAME)"
            )
        if name not in known:
            raise RecipeError(
                f"open_clip has no model '{name}'{nearest(name, dual_encoders())}; a path to its JSON configuration, a "
                f"folder with {CONFIG_FILE} or '{HUB}ORG/NAME' will do as well"
            )
        found = copy.deepcopy(open_clip.get_model_config(name))
    model_cfg = found.get("model_cfg", found)
    _check_dual_encoder(name, model_cfg)
    told = {"correct_cls_mask": bool(found.get("correct_cls_mask", False)), "max_patches": found.get("max_patches")}
    return {"model_cfg": model_cfg, "preprocess_cfg": found.get("preprocess_cfg", {}), **told}


def architecture_of(weights: str) -> str:
    """Return the name by which `read_config` finds the towers that weights belong to: a place, or NAME of NAME:TAG.

    Raises:
        RecipeError: A bare file, which does not say what its towers are.
    """
    if holds_tensors(Path(weights).expanduser()):
        raise RecipeError(
            f"'{weights}' does not say what its towers are: name an open_clip model before it, as in ViT-B-32:{weights}"
        )
    return weights if is_place(weights) else weights.partition(":")[0]


def find_weights(source: str, beside: str | None = None) -> WeightFile:
    """Locate the weights that `source` names, downloading them where it names the hub or a tag.

    Args:
        beside: Name of the open_clip model that they are for; it tells what a bare file does not.

    Raises:
        RecipeError: There are no such weights.
    """
    for find in finders:
        if found := find(source):
            return found
    here = _here(source)
    if here.startswith(HUB):
        name = source.removeprefix(HUB)
        config = _read_json(_from_hub(name, CONFIG_FILE))
        return WeightFile(_from_hub(name, None), meaning_of_config(config), source)
    if folder := folder_of(here):
        if (adapters := adapter_folder(folder)) is not None:
            return replace(find_weights(adapters.base, beside), name=source, adapters=adapters)
        return _weights_in(folder, source)
    path = place_of(source)
    if holds_tensors(path):
        beside_it = path.with_name(CONFIG_FILE)
        is_export = path.name in WEIGHT_FILES and beside_it.is_file()
        meaning = meaning_of_config(_read_json(beside_it)) if is_export else meaning_of_file(path, beside)
        return WeightFile(path, meaning, source)
    name, colon, tag = source.partition(":")
    if colon and holds_tensors(file := Path(tag).expanduser()):
        return WeightFile(file, meaning_of_file(file, name), source)
    if colon and name in open_clip.list_models():
        return _pretrained(name, tag)
    raise RecipeError(
        f"no weights at '{source}': give a file, a folder, a run, '{HUB}ORG/NAME' or 'NAME:TAG' with an open_clip "
        f"model name{nearest(name, dual_encoders())}"
    )


def find_sources(image: Fragment, text: Fragment, weights: str | None) -> dict[str, WeightFile]:
    """Return the weights of the whole model and of single towers, by prefix and in the order of reading.

    Raises:
        RecipeError: Some are not there.
    """
    found = {}
    for part, source, name in (
        ("", weights, image.model_name),
        ("visual.", image.weights, image.model_name),
        ("text.", text.weights, text.model_name),
    ):
        if source is not None:
            found[part] = find_weights(source, name)
    return found


def trained_with(sources: Mapping[str, WeightFile]) -> dict[str, bool | None]:
    """Return whether each tower's weights were trained with QuickGELU: those of its own, or those of the whole."""
    found = {}
    for side, part in (("image", "visual."), ("text", "text.")):
        file = sources.get(part) or sources.get("")
        found[side] = file.meaning.quick_gelu if file else None
    return found


def holds_weights(name: str) -> bool:
    """Whether the folder or hub page that an architecture is named by has weights too."""
    folder = folder_of(name)
    if folder is None:
        return name.startswith(HUB)
    return any((folder / file).is_file() for file in (*WEIGHT_FILES, *transformers_folders.WEIGHTS))


def _pretrained(name: str, tag: str) -> WeightFile:
    tags = open_clip.list_pretrained_tags_by_model(name)
    if tag not in tags:
        raise RecipeError(
            f"open_clip has no weights '{tag}' for '{name}'{nearest(tag, tags)} (known: {', '.join(tags)})"
        )
    try:
        path = download_pretrained(get_pretrained_cfg(name, tag))
    except Exception as error:  # the hub client raises its own, the network's and the disk's errors
        raise RecipeError(f"cannot fetch the weights '{name}:{tag}': {error}") from error
    return WeightFile(Path(path), meaning_of_tag(name, tag), f"{name}:{tag}")


def _weights_in(folder: Path, source: str) -> WeightFile:
    is_theirs = transformers_folders.kind_of(folder) is not None
    for name in (*WEIGHT_FILES, *(transformers_folders.WEIGHTS if is_theirs else ())):
        if (folder / name).is_file():
            has_config = is_theirs or (folder / CONFIG_FILE).is_file()
            return WeightFile(
                folder / name, meaning_of_config(_read_folder(folder)) if has_config else Meaning(), source
            )
    raise RecipeError(
        f"no weights in '{folder}': expected one of {', '.join(WEIGHT_FILES)}, a model of transformers (CLIP, SigLIP), "
        "or a run; for another file name it whole"
    )


def _read_folder(folder: Path) -> dict[str, Any]:
    if not (folder / CONFIG_FILE).is_file() and transformers_folders.kind_of(folder):
        return transformers_folders.read_folder(folder)
    if not (folder / CONFIG_FILE).is_file():
        raise RecipeError(
            f"no configuration of a model in '{folder}': it is no run (recipe.lock.yaml), no export ({CONFIG_FILE}) "
            "and no CLIP or SigLIP of transformers (config.json)"
        )
    return _read_json(folder / CONFIG_FILE)


def hub_folder(name: str) -> Path | None:
    """Return a copy of a page of the hub that transformers or peft can read; None where the page is open_clip's.

    Raises:
        RecipeError: It cannot be fetched, or is neither.
    """
    try:
        _from_hub(name, CONFIG_FILE)
    except RecipeError as error:
        try:
            folder = Path(snapshot_download(name, allow_patterns=FETCHED))
        except Exception:  # whatever it is, the first error says more
            raise error from None
        if not any((folder / name).is_file() for name in (transformers_folders.CONFIG, ADAPTER_CONFIG)):
            raise
        return folder
    return None


def is_of_transformers_alone(name: str) -> bool:
    """Whether a name leads to a model of transformers that open_clip does not load.

    Raises:
        RecipeError: It is a page of the hub that cannot be fetched.
    """
    folder = folder_of(_here(name))
    return folder is not None and not (folder / CONFIG_FILE).is_file() and bool(transformers_folders.kind_of(folder))


def _here(name: str) -> str:
    """Return a copy of a page of the hub that transformers or peft can read; any other name as it is.

    Raises:
        RecipeError: The page cannot be fetched, or is no model's.
    """
    folder = hub_folder(name.removeprefix(HUB)) if name.startswith(HUB) else None
    return name if folder is None else str(folder)


def _from_hub(name: str, file: str | None) -> Path:
    try:
        return Path(download_pretrained_from_hf(name, filename=file))
    except Exception as error:  # the hub client raises its own, the network's and the disk's errors
        raise RecipeError(f"cannot fetch {file or 'the weights'} of '{HUB}{name}': {error}") from error


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise RecipeError(f"no open_clip configuration at '{path}'")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, RecursionError, ValueError) as error:
        raise RecipeError(f"'{path}' is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise RecipeError(f"'{path}' is no open_clip configuration: it holds no names and values")
    return found


def dual_encoders() -> list[str]:
    """Return the names of open_clip's models that can be built: those of an image and a text tower, and decoders."""
    return [name for name in open_clip.list_models() if _objection(open_clip.get_model_config(name) or {}) is None]


def _check_dual_encoder(name: str, config: Mapping[str, Any]) -> None:
    objection = _objection(config)
    if objection:
        raise RecipeError(f"'{name}' {objection}")


def _objection(config: Mapping[str, Any]) -> str | None:
    if "audio_cfg" in config:
        return "embeds sounds (CLAP); only models of an image and a text tower can be built"
    missing = [key for key in ("embed_dim", "vision_cfg", "text_cfg") if key not in config]
    return f"is no open_clip configuration: it lacks {', '.join(missing)}" if missing else None
