"""Load a trained model by name, wherever it comes from."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vlp.ground.types import RecipeError, VlpWarning
from vlp.towers.borrowed import BorrowedModel, is_borrowed
from vlp.towers.dual import DualEncoder
from vlp.towers.joined import JoinedModel, is_joined
from vlp.towers.onnx_pair import OnnxPair, is_onnx_pair
from vlp.towers.open_clip import OpenClipDecoder, OpenClipImage, OpenClipText
from vlp.towers.pixel_autoencoder import PROGRAM_FILE
from vlp.towers.sources import CONFIG_FILE, HUB, architecture_of, folder_of, hub_folder, is_place, read_config
from vlp.towers.transformers_folders import kind_of

AnyModel = DualEncoder | BorrowedModel | OnnxPair | JoinedModel
OF_A_WRITER = ("_name_or_path", "transformers_version", "dtype", "torch_dtype")  # of a configuration of transformers
SENTENCE_MODULES = "modules.json"
OF_CLIP = ("CLIPModel", "Transformer")  # what sentence-transformers calls it, before version 5.4 and since
Loader = Callable[[str], DualEncoder | None]
loaders: list[Loader] = []


def loader(load: Loader) -> Loader:
    """Add a kind of place that models can come from, such as the folder of a run; it is asked before all others."""
    loaders.append(load)
    return load


def split_width(name: str) -> tuple[str, int | None]:
    """Return the name and the width of `NAME@WIDTH`; None where it names no width."""
    asked = re.fullmatch(r"(.+)@(\d+)", name)
    if asked is None or Path(name).expanduser().exists():
        return name, None
    return asked[1], int(asked[2])


def tensors_of(model: AnyModel, width: int | None) -> Iterator[Tensor]:
    """Yield all weights of a model in their order, and what tells one width of its embeddings from another."""
    yield from model.state_dict().values() if isinstance(model, DualEncoder) else model.tensors()
    if width is not None:
        yield torch.tensor([float(width)])


def configuration_of(model: AnyModel) -> dict[str, Any]:
    """Return what embeddings follow from beside weights: towers, activations, tokenizers, how images are prepared."""
    if isinstance(model, JoinedModel):
        return {"members": [configuration_of(member) for member in model.members]}
    towers: Any = {}
    if isinstance(model, DualEncoder):
        towers = model.model_cfg
    elif isinstance(model, BorrowedModel):
        towers = {name: value for name, value in model.config.to_dict().items() if name not in OF_A_WRITER}
    return {"towers": towers, "images": dict(model.preprocess_cfg)}


def load_model(name: str) -> DualEncoder:
    """Load a model with its weights, in evaluation mode.

    Args:
        name: A folder with `open_clip_config.json`, a CLIP or SigLIP of transformers, `hf-hub:ORG/NAME`, `NAME:TAG` of
            open_clip, or `NAME:FILE` with a checkpoint of open_clip's trainer.

    Raises:
        RecipeError: No such model, or it has no weights.
    """
    source = architecture_of(name)
    is_coca = "multimodal_cfg" in read_config(source)["model_cfg"]
    if source == name and not is_place(name):
        raise RecipeError(f"'{name}' is an architecture without weights: name them too, as in '{name}:TAG'")
    towers = OpenClipImage(name=source), OpenClipText(name=source)
    return DualEncoder(*towers, decoder=OpenClipDecoder(name=source) if is_coca else None, weights=name).eval()


def load_any_model(name: str) -> AnyModel:
    """Load a model that can be evaluated, whether open_clip's towers can express it or not.

    Args:
        name: As `load_model`; also a folder or a page of the hub with another dual encoder of transformers (ALIGN,
            CLIPSeg, SigLIP 2), or with a CLIP of sentence-transformers; also a folder with a pair of ONNX files, or
            of models that are joined; also what a `loader` knows, such as a run.

    Raises:
        RecipeError: No such model, or it has no weights.
    """
    for load in loaders:
        if (found := load(name)) is not None:
            return found
    folder = _folder(name)
    if folder is None:
        return load_model(name)
    if is_onnx_pair(folder):
        return OnnxPair(folder)
    if is_joined(folder):
        return JoinedModel(folder, load_any_model)
    if (inner := _clip_in_sentence_transformers(folder)) is not None:
        return load_any_model(str(inner))
    _check_nothing_in_front(folder)
    if (folder / CONFIG_FILE).is_file() or not is_borrowed(folder):
        return load_model(str(folder))
    if kind_of(folder) is None:
        return BorrowedModel(folder)
    try:
        return load_model(str(folder))
    except RecipeError:  # a CLIP or SigLIP with something that open_clip's towers do not have
        return BorrowedModel(folder)


def _check_nothing_in_front(folder: Path) -> None:
    if (folder / PROGRAM_FILE).is_file():
        warnings.warn(
            f"{folder}: this is the model without {PROGRAM_FILE}, which was trained to stand in front of it: to have "
            "both as one, take the run, or an export with --formats onnx",
            VlpWarning,
            stacklevel=3,
        )


def _folder(name: str) -> Path | None:
    """Return the folder of a model that is no export of open_clip; of a page of the hub, the copy on this machine."""
    if name.startswith(HUB):
        return hub_folder(name.removeprefix(HUB))
    return folder_of(name)


def _clip_in_sentence_transformers(folder: Path) -> Path | None:
    """Return where a folder of sentence-transformers keeps its CLIP, if that is a folder of its own.

    Version 5 keeps it in the folder itself.

    Raises:
        RecipeError: Something else stands behind the CLIP.
    """
    try:
        modules = json.loads((folder / SENTENCE_MODULES).read_text(encoding="utf-8"))
        places = {str(module["type"]).rsplit(".", 1)[-1]: folder / str(module["path"]) for module in modules}
    except (OSError, ValueError, KeyError, TypeError):
        return None
    inner = next((places[kind] for kind in OF_CLIP if kind in places), None)
    if inner is None or ("CLIPModel" not in places and kind_of(inner) is None):
        return None
    further = sorted(places.keys() - {*OF_CLIP, "Normalize"})
    if further:
        raise RecipeError(
            f"'{folder}': sentence-transformers puts {', '.join(further)} behind the CLIP, and these are not read: "
            f"take them out of {SENTENCE_MODULES} to have the CLIP alone"
        )
    return None if inner.resolve() == folder.resolve() else inner
