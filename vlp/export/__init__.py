"""Write a trained model in the formats other libraries load, and prove that they agree."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from vlp.export.as_onnx import onnx_obstacles, write_onnx
from vlp.export.as_open_clip import open_clip_obstacles, point_to, write_open_clip
from vlp.export.as_program import compare_program, told_of_purifier, write_program
from vlp.export.as_transformers import obstacles, write_transformers
from vlp.export.card import write_card
from vlp.export.compare import compare
from vlp.export.towers_alone import towers_alone
from vlp.export.whole_folder import check_free, whole_folder
from vlp.ground.types import RecipeError
from vlp.towers.dual import DualEncoder
from vlp.towers.pixel_autoencoder import purifier_of, stepped_aside

LIBRARIES = ("open_clip", "transformers")
FORMATS = (*LIBRARIES, "onnx")


@dataclass(frozen=True)
class ExportReport:
    """What an export wrote.

    Args:
        folder: Where it lies.
        formats: The libraries that load it.
        left_out: Why another library cannot, or what of the model none can.
        parity: Differences between the libraries, as in `parity.json`.
        left_behind: What of the run is in none of them.
    """

    folder: Path
    formats: tuple[str, ...]
    left_out: Mapping[str, str]
    parity: Mapping[str, Any]
    left_behind: str = ""

    def __str__(self) -> str:
        reasons = [f"not for {library}: {reason}" for library, reason in self.left_out.items()]
        reasons += [f"left behind: {self.left_behind}"] if self.left_behind else []
        return "\n".join([f"{self.folder}: loads and agrees in {' and '.join(self.formats)}", *reasons])


def export_model(
    model: DualEncoder,
    to: Path,
    *,
    name: str,
    recipe_text: str,
    results: Sequence[Mapping[str, Any]],
    data_note: str,
    origins: Sequence[str] = (),
    formats: tuple[str, ...] = LIBRARIES,
    licence: str = "other",
    further: Mapping[str, str] = MappingProxyType({}),
    files: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
) -> ExportReport:
    """Write the folder `to`, load it back with every library, and keep it only if all embeddings agree.

    Args:
        name: What the model card calls the model.
        recipe_text: The recipe, as it goes into the card; empty for a model that was not trained here.
        results: Evaluation records; they go into the card and `eval/`.
        data_note: The data and its licences, in Markdown.
        origins: What the towers started from, a line each.
        formats: What to write for; a library that cannot express the model is left out, with the reason. Where both
            are wanted and neither can, a pair of ONNX files takes their place.
        licence: Licence of the weights, as the hub spells it.
        further: Text of further sections of the card, by title.
        files: JSON files that lie beside the weights, by name.

    Raises:
        RecipeError: The folder exists, no format can express the model, a package is missing, or embeddings differ.
    """
    check_free(to)
    model, lost = towers_alone(model)
    chosen, left_out = _choose(model, formats)
    left_out |= lost
    if purifier_of(model.core.visual) is not None:
        further = {**further, "Purifier": told_of_purifier(chosen)}
    was_training = model.training
    try:
        with whole_folder(to) as work:
            model.eval()
            parity = _write_and_compare(model, work, chosen)
            _write_json(work / "parity.json", parity)
            for record in results:
                _write_json(work / "eval" / f"{record['task']}.json", record)
            for file, content in files.items():
                _write_json(work / file, content)
            write_card(
                work, model, name=name, recipe_text=recipe_text, results=results, data_note=data_note,
                origins=origins, licence=licence, left_out=left_out, parity=parity, further=further,
            )  # fmt: skip
            point_to(work, str(to.resolve()))
    finally:
        model.train(was_training)
    return ExportReport(to, chosen, left_out, parity)


def _choose(model: DualEncoder, formats: tuple[str, ...]) -> tuple[tuple[str, ...], dict[str, str]]:
    unknown = set(formats) - set(FORMATS)
    if unknown or not formats:
        raise RecipeError(f"unknown formats {sorted(unknown)}: choose among {', '.join(FORMATS)}")
    reasons = {
        "open_clip": open_clip_obstacles(model), "transformers": obstacles(model), "onnx": onnx_obstacles(model)
    }  # fmt: skip
    left_out = {form: "; ".join(reasons[form]) for form in formats if reasons[form]}
    chosen = tuple(form for form in formats if form not in left_out)
    if not chosen and set(LIBRARIES) <= set(formats) and not reasons["onnx"]:
        return ("onnx",), left_out
    if not chosen:
        told = "; ".join(f"{form}: {reason}" for form, reason in left_out.items())
        raise RecipeError(f"no chosen library can express this model ({told}); the run's checkpoints stay usable")
    return chosen, left_out


def _write_and_compare(model: DualEncoder, folder: Path, formats: tuple[str, ...]) -> dict[str, Any]:
    parity: dict[str, Any] = {}
    of_libraries = tuple(form for form in formats if form in LIBRARIES)
    with stepped_aside(model.core.visual) as purifier:  # which neither library has a place for
        if "open_clip" in formats:
            write_open_clip(model, folder)
        if "transformers" in formats:
            write_transformers(model, folder)
        if of_libraries:
            parity |= compare(model, folder, of_libraries)
    if "onnx" in formats:  # which has one
        write_onnx(model, folder)
        parity |= compare(model, folder, ("onnx",))
    if purifier is not None and of_libraries:
        write_program(model, purifier, folder)
        parity |= {"purifier": compare_program(model, folder)}
    return parity


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")
