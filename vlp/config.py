"""Recipes: one YAML file, one parent, dotted overrides, and an answer to every mistake."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model

from vlp import paths
from vlp.data.augment import Augment
from vlp.data.captions import Captions
from vlp.data.cards import Card
from vlp.data.crop import Crop
from vlp.evaluators.base import Task
from vlp.explain import explain
from vlp.objectives.base import terms
from vlp.objectives.schedule import Schedule
from vlp.optim import build_optimizer, learning_rate_factor
from vlp.registry import Registry, settings_of
from vlp.strategies.base import strategies
from vlp.towers.base import image_towers, text_towers
from vlp.towers.dual import DualEncoder
from vlp.types import RecipeError
from vlp.yaml import parse_yaml, read_yaml, write_yaml


class Section(BaseModel):
    """A part of the recipe: unknown keys are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def one_of(registry: Registry[Any], **extra: Any) -> Any:
    """Return the type of `{type: NAME, ...settings of NAME}`, plus fields that every entry has."""
    specs = [
        create_model(name, __base__=settings_of(registry[name]), type=(Literal[name], name), **extra)
        for name in registry
    ]
    return Annotated[reduce(or_, specs), Field(discriminator="type")]


CropSection = settings_of(Crop)
CaptionSection = settings_of(Captions)
AugmentSection = settings_of(Augment)
OptimizerSection = settings_of(build_optimizer)
ScheduleSection = settings_of(learning_rate_factor)
TermSection = one_of(terms, weight=(float | settings_of(Schedule), 1.0))
StrategySection = one_of(strategies)
ModelSection = create_model(
    "model", __base__=settings_of(DualEncoder), image=(one_of(image_towers), ...), text=(one_of(text_towers), ...)
)


class SourceSection(Section):
    """One source of training pairs.

    Args:
        card: Name or path of a card under `data/`.
    """

    card: str


class DataSection(Section):
    """What is read, and how a sample is cut, worded and changed.

    Args:
        train: Sources by label; the label is the card's name unless `card` says otherwise.
        workers: Processes that decode; 0 decodes in the training process.
        bad_sample_budget: Share of samples that may be unreadable before the run stops.
    """

    train: dict[str, SourceSection] = Field(min_length=1)
    crop: CropSection = CropSection()
    captions: CaptionSection = CaptionSection()
    augment: AugmentSection = AugmentSection()
    workers: int = Field(1, ge=0)
    bad_sample_budget: float = Field(0.01, ge=0, le=1)


class TrainSection(Section):
    """How long, how large, how exact.

    Args:
        batch_size: Pairs in one batch of the whole job; every process takes an equal share.
        micro_batches: Pieces in which a process embeds its share; changes memory, not gradients.
        steps: Length of the training in optimizer steps (give one of steps, samples, epochs).
        samples: Length in pairs.
        epochs: Length in passes over the data.
        precision: Number format inside the towers; embeddings and losses stay float32.
        clip_gradient_norm: Largest norm of the whole gradient; null does not clip.
        max_bad_steps: Consecutive steps with a NaN or Inf gradient that end the run.
        compile: Compile the towers with torch.compile.
        deterministic: Refuse kernels whose results vary from run to run.
        threads: Threads of one process on the CPU; null shares the cores among the processes of a machine.
    """

    batch_size: int = Field(1024, ge=1)
    micro_batches: int = Field(1, ge=1)
    steps: int | None = Field(None, ge=1)
    samples: int | None = Field(None, ge=1)
    epochs: float | None = Field(None, gt=0)
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    clip_gradient_norm: float | None = Field(1.0, gt=0)
    max_bad_steps: int = Field(20, ge=1)
    compile: bool = False
    deterministic: bool = False
    threads: int | None = Field(None, ge=1)


class EvaluationSection(Section):
    """What is measured during training.

    Args:
        tasks: Names of tasks under `eval/`.
        every: Steps between evaluations; null evaluates at the end only.
        weights: A strategy that holds averaged weights (its label), or `model`.
    """

    tasks: tuple[str, ...] = ()
    every: int | None = Field(None, ge=1)
    weights: str = "model"


class CheckpointSection(Section):
    """When the run is saved.

    Args:
        every: Steps between checkpoints.
        keep: Newest checkpoints that stay.
    """

    every: int = Field(1000, ge=1)
    keep: int = Field(2, ge=1)


class LogSection(Section):
    """What people see.

    Args:
        every: Steps between lines of `metrics.jsonl`.
        trackers: Accelerate's trackers beside it.
        project: Name under which trackers file the run.
    """

    every: int = Field(10, ge=1)
    trackers: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()
    project: str = "vlp"


class Recipe(Section):
    """Everything that decides what a run computes.

    Args:
        name: Name of the run; its folder is `<runs>/<name>`.
        runs: Folder of all runs.
        seed: Source of all randomness.
    """

    name: str = Field(min_length=1, pattern=r"^[\w.-]+$")
    runs: str = "runs"
    seed: int = 0
    data: DataSection
    model: ModelSection
    objective: dict[str, TermSection] = Field(min_length=1)
    strategies: dict[str, StrategySection] = {}
    optimizer: OptimizerSection = OptimizerSection()
    schedule: ScheduleSection = ScheduleSection()
    train: TrainSection = TrainSection()
    evaluation: EvaluationSection = EvaluationSection()
    checkpoint: CheckpointSection = CheckpointSection()
    log: LogSection = LogSection()

    @property
    def folder(self) -> Path:
        """The run folder."""
        return Path(self.runs) / self.name


LABELLED = ("objective", "strategies")


@dataclass(frozen=True)
class Layer:
    """One source of settings: a file of the `extends` chain, or the command line."""

    name: str
    settings: dict[str, Any]


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe and everything it extends, apply overrides, and check it.

    Args:
        name: Path of a YAML file, or the name of a recipe under `recipes/`.
        overrides: `key.sub=value` texts; values are YAML, `null` removes a key.

    Raises:
        RecipeError: Any mistake; names the key, where it stands, and the nearest valid name.
    """
    return check_recipe(recipe_layers(name, overrides))


def recipe_layers(name: str, overrides: Sequence[str] = ()) -> list[Layer]:
    """Return a recipe's ancestors, the recipe, and the overrides, oldest first."""
    return [*read_layers(paths.find_card("recipes", name)), *([override_layer(overrides)] if overrides else [])]


def check_recipe(layers: Sequence[Layer]) -> Recipe:
    """Merge layers and turn them into a Recipe, or explain the first mistakes."""
    merged: dict[str, Any] = {}
    for layer in layers:
        merged = merge(merged, layer.settings)
    try:
        recipe = Recipe.model_validate(with_types(merged))
    except ValidationError as error:
        raise RecipeError(explain(error, Recipe, [(layer.name, layer.settings) for layer in layers])) from error
    _check_length(recipe, layers)
    _check_weights(recipe)
    return recipe


def read_layers(path: Path, seen: tuple[Path, ...] = ()) -> list[Layer]:
    """Return the `extends` chain of a recipe, oldest ancestor first."""
    if path in seen:
        raise RecipeError(f"{path}: extends itself through {' -> '.join(map(str, seen))}")
    settings = read_yaml(path)
    settings.pop("provenance", None)  # a lock carries it
    parent = settings.pop("extends", None)
    if parent is None:
        return [Layer(str(path), settings)]
    beside = path.parent / str(parent)
    try:
        found = beside if beside.is_file() else paths.find_card("recipes", str(parent))
    except RecipeError as error:
        raise RecipeError(f"{path}: extends: {error}") from error
    return [*read_layers(found, (*seen, path)), Layer(str(path), settings)]


def override_layer(overrides: Sequence[str]) -> Layer:
    """Turn `key.sub=value` texts into one layer."""
    settings: dict[str, Any] = {}
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not all(key.split(".")):
            raise RecipeError(f"override '{text}': write it as key.sub=value")
        nested: Any = parse_yaml(value, f"override '{text}'")
        for part in reversed(key.split(".")):
            nested = {part: nested}
        settings = merge(settings, nested)
    return Layer("command line", settings)


def merge(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Merge mappings key by key; any other value replaces. A null stays, so that it can replace or remove."""
    merged = dict(old)
    for key, value in new.items():
        before = merged.get(key)
        if isinstance(before, Mapping) and isinstance(value, Mapping) and _same_type(before, value):
            merged[key] = merge(before, value)
        else:
            merged[key] = value
    return merged


def with_types(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Drop removed entries and default each labelled entry's `type` (or a source's `card`) to its label."""
    full = {key: value for key, value in settings.items() if value is not None}
    for section in LABELLED:
        full[section] = _label(full.get(section, {}), "type")
    if isinstance(full.get("data"), Mapping):
        full["data"] = {**full["data"], "train": _label(full["data"].get("train", {}), "card")}
    return full


def lock_text(recipe: Recipe) -> str:
    """Return the resolved recipe as YAML; loading it gives an equal recipe."""
    return write_yaml(recipe.model_dump(mode="json"))


def differences(old: Recipe, new: Recipe) -> list[str]:
    """List the settings that differ, as `key: old -> new` lines."""
    before, after = _leaves(old.model_dump(mode="json")), _leaves(new.model_dump(mode="json"))
    keys = sorted(before.keys() | after.keys())
    return [
        f"{key}: {before.get(key, 'absent')} -> {after.get(key, 'absent')}"
        for key in keys
        if before.get(key, "absent") != after.get(key, "absent")
    ]


def explain_sources(layers: Sequence[Layer]) -> list[str]:
    """List every setting that a layer gives, as `key = value  (where)` lines; the last layer wins."""
    origin = {key: (value, layer.name) for layer in layers for key, value in _leaves(layer.settings).items()}
    return [f"{key} = {value}  ({where})" for key, (value, where) in sorted(origin.items())]


def load_card(name: str) -> Card:
    """Return a data card by its name under `data/` or by the path of its YAML file."""
    path = paths.find_card("data", name)
    return Card.from_mapping(read_yaml(path), path)


def load_task(name: str) -> Task:
    """Return an evaluation task by its name under `eval/` or by the path of its YAML file."""
    path = paths.find_card("eval", name)
    return Task.from_mapping(path.stem, read_yaml(path), str(path))


def build_model(section: BaseModel) -> DualEncoder:
    """Build the towers that a recipe's `model` section describes."""
    image: Any = section.image  # type: ignore[attr-defined]  # fields of a model made from signatures
    text: Any = section.text  # type: ignore[attr-defined]
    return DualEncoder(
        image_towers.build(image.type, settings(image, "type")),
        text_towers.build(text.type, settings(text, "type")),
        **settings(section, "image", "text"),
    )


def without_weights(section: BaseModel) -> BaseModel:
    """Return a `model` section that downloads and loads nothing, for a model whose weights come from elsewhere."""
    names = {"weights": None, "pretrained": False}
    towers = {
        side: getattr(section, side).model_copy(
            update={name: value for name, value in names.items() if name in type(getattr(section, side)).model_fields}
        )
        for side in ("image", "text")
    }
    return section.model_copy(update={"weights": None, **towers})


def settings(section: BaseModel, *without: str) -> dict[str, Any]:
    """Return a section's values as keyword arguments."""
    return {name: getattr(section, name) for name in type(section).model_fields if name not in without}


def _same_type(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether both describe the same part; another `type` starts from a clean sheet."""
    return "type" not in new or old.get("type") in (None, new["type"])


def _label(entries: Any, key: str) -> Any:
    if not isinstance(entries, Mapping):
        return entries
    named = {label: {} if entry == {} else entry for label, entry in entries.items() if entry is not None}
    return {label: {key: label, **entry} if isinstance(entry, Mapping) else entry for label, entry in named.items()}


def _leaves(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, Mapping) or not value:
        return {prefix: value}
    leaves: dict[str, Any] = {}
    for key, inner in value.items():
        leaves.update(_leaves(inner, f"{prefix}.{key}" if prefix else str(key)))
    return leaves


def _check_length(recipe: Recipe, layers: Sequence[Layer]) -> None:
    given = [key for key in ("steps", "samples", "epochs") if getattr(recipe.train, key) is not None]
    if len(given) != 1:
        said = "none is given" if not given else f"given: {', '.join(given)}; remove one with train.{given[0]}=null"
        raise RecipeError(f"{layers[-1].name}: train: give exactly one of steps, samples, epochs ({said})")


def _check_weights(recipe: Recipe) -> None:
    if recipe.evaluation.weights not in ("model", *recipe.strategies):
        known = ", ".join(("model", *recipe.strategies))
        raise RecipeError(f"evaluation.weights: no strategy is labelled '{recipe.evaluation.weights}' (known: {known})")
