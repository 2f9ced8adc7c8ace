"""What can stand in a recipe, a task, a card or a list of rules: a line each, one in full, or all as pages."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import BaseModel

from vlp.commands.from_open_clip import flags_page
from vlp.commands.settings_text import body_of, default_of, kind_of, sentences_of
from vlp.commands.task_table import tasks_page
from vlp.curate.rules.base import rules
from vlp.curate.sources.rows import sources
from vlp.data.mined_captions import Mining
from vlp.data.order.timetable import Ramp
from vlp.data.pixels.augment import Augment
from vlp.data.pixels.crop import Crop
from vlp.data.pixels.policies import policies
from vlp.data.shards.cards import Card
from vlp.data.texts.captions import Captions
from vlp.data.texts.text_augment import TextAugment
from vlp.data.texts.wrong_captions import WrongCaptions
from vlp.evaluators.base import TaskFile, evaluators
from vlp.evaluators.corruptions import Corruption
from vlp.evaluators.dataset import DataSource
from vlp.evaluators.halves import Half
from vlp.evaluators.typos import Typos
from vlp.ground.registry import Registry, nearest, settings_of
from vlp.ground.types import RecipeError
from vlp.objectives.base import Term, terms
from vlp.objectives.projections.base import projections
from vlp.objectives.schedule import Schedule
from vlp.recipe import schema, scoring_and_saving
from vlp.recipe.train_section import FirstBatchesSection, TrainSection
from vlp.robust.attack_file import AttackFile
from vlp.robust.attacks.base import attacks
from vlp.step.learning_rate import learning_rate_factor
from vlp.step.optimizer import GroupSettings, build_optimizer
from vlp.step.optimizers.base import optimizers
from vlp.strategies.base import strategies
from vlp.towers.base import caption_decoders, image_towers, text_towers
from vlp.towers.dual import DualEncoder
from vlp.towers.tuning.base import tunings

TERMS_PREFACE = """\
Made by `make pages` from the documentation of the terms; `vlp describe TERM` prints one entry. Letters:
x_i and y_i are the embeddings of image and text i, z_ij = scale * x_i.y_j, lse is log-sum-exp, B the pairs in a batch.
Means over i are over the whole job's batch, and "in both directions" is the mean of rows and columns of z. A sample
that stands twice in a batch is no negative of itself: j skips the other rows of sample i."""
REFERENCE_PREFACE = """\
Made by `make pages` from the documentation of the parts; `vlp describe NAME` prints one of them, or
one setting (`vlp describe train.batch_size`), and `vlp describe --search WORD` finds it. `LABEL` stands for a name of
your choice. The terms of the objective have [a page of their own](terms.md)."""
# What documents a section, or that and what holds its settings where it has more than its part.
SECTIONS: dict[str, Any] = {
    "recipe": schema.Recipe,
    "data": schema.DataSection,
    "data.train.LABEL": schema.SourceSection,
    "data.train.LABEL.share": Ramp,
    "data.crop": Crop,
    "data.views.LABEL": (Crop, schema.ViewSection),
    "data.text_views.LABEL": (TextAugment, schema.TextViewSection),
    "data.captions": (Captions, schema.CaptionSection),
    "data.captions.augment": TextAugment,
    "data.captions.negatives": (WrongCaptions, schema.NegativeSection),
    "data.captions.negatives.mining": Mining,
    "data.augment": Augment,
    "model": (DualEncoder, schema.ModelSection),
    "objective.LABEL": schema.TermEntry,
    "heads.LABEL": schema.HeadEntry,
    "objective.LABEL.weight": Schedule,
    "optimizer": (build_optimizer, schema.SharedOptimizerSection),
    "optimizer.groups.LABEL": GroupSettings,
    "schedule": learning_rate_factor,
    "train": TrainSection,
    "train.first_batches": FirstBatchesSection,
    "evaluation": scoring_and_saving.EvaluationSection,
    "evaluation.stop_when.LABEL": scoring_and_saving.StopRule,
    "checkpoint": scoring_and_saving.CheckpointSection,
    "log": scoring_and_saving.LogSection,
}
PLURALS = {
    "section": "sections of a recipe",
    "file": "other files",
    "strategy": "strategies",
    "image policy": "image policies",
}
SENTENCES = {
    "data.views.LABEL.count": "How many such views.",
    "data.text_views.LABEL.count": "How many such views.",
    "model.image": "The image tower, by `type`: one of the image towers.",
    "model.text": "The text tower, by `type`: one of the text towers.",
    "model.decoder": "What writes captions, by `type`: one of the caption decoders; null for none.",
    "model.tune": "What of both towers trains, by `type`: one of the ways of tuning; the name alone will do.",
    "optimizer.type": "One of the optimizers, each with settings of its own beside these.",
}
FILES: dict[str, Any] = {
    "card": Card,
    "task": TaskFile,
    "task.data": DataSource,
    "task.data.corruption": Corruption,
    "task.data.typos": Typos,
    "task.data.half": Half,
    "attacks": AttackFile,
}
# How a part of each registry is asked for, and where.
USES: tuple[tuple[Registry[Any], str, str], ...] = (
    (terms, "In a recipe", "objective: {NAME: {SETTINGS}}"),
    (projections, "In a recipe", "heads: {LABEL: {type: NAME, SETTINGS}}"),
    (strategies, "In a recipe", "strategies: {NAME: {SETTINGS}}"),
    (image_towers, "In a recipe", "model: {image: {type: NAME, SETTINGS}}"),
    (text_towers, "In a recipe", "model: {text: {type: NAME, SETTINGS}}"),
    (caption_decoders, "In a recipe", "model: {decoder: {type: NAME, SETTINGS}}"),
    (tunings, "In a recipe", "model: {tune: {type: NAME, SETTINGS}}"),
    (optimizers, "In a recipe", "optimizer: {type: NAME, SETTINGS}"),
    (policies, "In a recipe", "data: {policy: {type: NAME, SETTINGS}}"),
    (evaluators, "In a task", "{evaluator: NAME, settings: {SETTINGS}}"),
    (attacks, "In a file of attacks", "attacks: {NAME: {SETTINGS}}"),
    (rules, "In a file of rules", "NAME: {SETTINGS}"),
    (sources, "On a command line", "vlp data pack SOURCE --to FOLDER"),
)


@dataclass(frozen=True)
class Described:
    """Something that has settings.

    Args:
        kind: What it is: a term, a section of a recipe, ...
        documented: What carries its documentation.
        settings: Its settings.
        use: How it is asked for; empty for what is always there.
    """

    kind: str
    name: str
    documented: Any
    settings: type[BaseModel]
    use: str = ""

    @property
    def headline(self) -> str:
        """The first line of its documentation."""
        return (inspect.getdoc(self.documented) or "(undocumented)").splitlines()[0]

    def sentence(self, setting: str) -> str:
        """Return what a setting does; a section within says it where it is described."""
        path = setting if self.name == "recipe" else f"{self.name}.{setting}"
        told = sentences_of(self.documented).get(setting, "") or SENTENCES.get(path, "")
        return told or (f"See `{path}`." if path in SECTIONS | FILES else "")


@cache
def everything() -> tuple[Described, ...]:
    """Return all that can be described, kind after kind."""
    found = []
    for kind, documented in (("section", SECTIONS), ("file", FILES)):
        for name, thing in documented.items():
            what, settings = thing if isinstance(thing, tuple) else (thing, _settings(thing))
            found.append(Described(kind, name, what, settings))
    for registry, where, use in USES:
        for name in registry:
            part: Any = registry[name]
            words = use.replace("NAME", name).replace("SETTINGS", _defaults(settings_of(part))).replace(", }", "}")
            found.append(Described(registry.noun, name, part, settings_of(part), f"{where}:\n    {words}"))
    return tuple(found)


def list_all() -> str:
    """Return everything with the first line of its documentation, kind after kind."""
    width = max(len(each.name) for each in everything())
    lines: list[str] = []
    for kind, members in _by_kind():
        lines += ["", f"{kind}:"] if lines else [f"{kind}:"]
        lines += [f"  {each.name:{width}}  {each.headline}" for each in members]
    return "\n".join(lines)


def describe(name: str, commands: Collection[str] = ()) -> str:
    """Return what a part does, where it comes from, its settings, and what it needs; or what one setting does.

    Args:
        name: Of a part, a section or a file, or the path of a setting, such as `train.batch_size`.
        commands: What else a name may be taken for.

    Raises:
        RecipeError: There is none of that name; names the nearest, or says that it is a command.
    """
    found = [_in_full(each) for each in everything() if each.name == name]
    section, _, setting = name.rpartition(".")
    holders = [each for each in everything() if re.fullmatch(each.name.replace("LABEL", r"[^.]+"), section or "recipe")]
    if name not in SECTIONS:
        found += [_one_setting(each, setting, name) for each in holders if setting in fields_of(each)]
        typed = [each for each in everything() if each.kind == section and setting in fields_of(each)]
        found += [_one_setting(each, setting, f"{name} of {each.name}") for each in typed]
    if not found and name in commands:
        raise RecipeError(f"'{name}' is a command, and no part of a recipe: vlp {name} --help says what it does")
    if not found:
        known = [each.name for each in everything()]
        raise RecipeError(f"nothing is called '{name}'{nearest(name, known)}; vlp describe lists what there is")
    return "\n\n".join(found)


def search(word: str) -> str:
    """Return a line for each part and each setting whose name or documentation has a word in it.

    Raises:
        RecipeError: None has.
    """
    word = word.replace("_", " ")
    lines = []
    for each in everything():
        if _has(word, each.name, body_of(each.documented)):
            lines.append(f"{each.name} ({each.kind}): {each.headline}")
        told = {setting: each.sentence(setting) for setting in fields_of(each)}
        lines += [f"{each.name}.{setting}: {text}" for setting, text in told.items() if _has(word, setting, text)]
    if not lines:
        raise RecipeError(f"no documentation has '{word}' in it")
    return "\n".join(lines)


def terms_page(shows: Callable[[Described], bool] = lambda _part: True) -> str:
    """Return the terms as one page of Markdown."""
    chosen = [each for each in everything() if each.kind == "term" and shows(each)]
    entries = [f"## {each.name}\n\n```text\n{_in_full(each)}\n```" for each in chosen]
    return "\n\n".join(["# Terms", TERMS_PREFACE, *entries]) + "\n"


def reference_page(shows: Callable[[Described], bool] = lambda _part: True) -> str:
    """Return everything but the terms as one page of Markdown, with a table of settings each."""
    parts = ["# Reference", REFERENCE_PREFACE]
    for kind, members in _by_kind():
        if kind != "terms":
            parts.append(f"## {kind[0].upper()}{kind[1:]}")
            parts += [f"### {each.name}\n\n{_entry(each)}" for each in members if shows(each)]
    return "\n\n".join(parts) + "\n"


PAGES: dict[str, Callable[..., str]] = {
    "terms": terms_page,
    "reference": reference_page,
    "from-open-clip": lambda _shows=None: flags_page(),
    "tasks": tasks_page,
}


def _by_kind() -> Iterator[tuple[str, list[Described]]]:
    for kind in dict.fromkeys(each.kind for each in everything()):
        yield PLURALS.get(kind, f"{kind}s"), [each for each in everything() if each.kind == kind]


def _in_full(each: Described) -> str:
    parts = [f"{each.name}: {inspect.getdoc(each.documented) or '(undocumented)'}"]
    if each.use:
        parts.append(each.use)
    else:
        told, fields = sentences_of(each.documented), fields_of(each)
        defaults = [f"    {name}: {default_of(field)}" for name, field in fields.items() if name in told]
        within = [f"    {name}: {each.sentence(name)}" for name in fields if name not in told]
        parts += ["\n".join(["Defaults:", *defaults]), *(["\n".join(["Within:", *within])] if within else [])]
    if each.kind == "term":
        with suppress(TypeError):  # a setting without a default decides them
            parts.append(_properties(terms.build(each.name, {})))
    return "\n\n".join(parts)


def _one_setting(each: Described, setting: str, path: str) -> str:
    field = fields_of(each)[setting]
    return f"{path} ({kind_of(field.annotation)}; default: {default_of(field)}): {each.sentence(setting)}"


def _entry(each: Described) -> str:
    rows = [
        f"| `{name}` | {kind_of(field.annotation)} | `{default_of(field)}` | {each.sentence(name)} |"
        for name, field in fields_of(each).items()
    ]
    head = ["| setting | kind | default | meaning |", "|---|---|---|---|"]
    use = each.use.partition("\n")[2].strip()
    fence = "bash" if each.kind == "source" else "yaml"
    shown = [f"```{fence}\n{use}\n```"] if use else []
    table = "\n".join([*head, *rows]) if rows else "No settings."
    return "\n\n".join([body_of(each.documented), *shown, table])


def _settings(documented: Any) -> type[BaseModel]:
    is_model = inspect.isclass(documented) and issubclass(documented, BaseModel)
    found: type[BaseModel] = documented if is_model else settings_of(documented)
    return found


def fields_of(each: Described) -> dict[str, Any]:
    """Return the settings of a part, and what is known of each."""
    return {name: field for name, field in each.settings.model_fields.items() if not field.exclude}


def _has(word: str, *texts: str) -> bool:
    return any(word.lower() in text.lower().replace("_", " ") for text in texts)


def _defaults(settings: type[BaseModel]) -> str:
    fields = settings.model_fields.items()
    shown = (key if field.is_required() else f"{key}: {json.dumps(field.get_default())}" for key, field in fields)
    return ", ".join(shown)


def _properties(term: Term) -> str:
    lines = [f"Reads: {', '.join(term.requests)}"] if term.requests else []
    if term.needs:
        lines.append(f"Needs: {', '.join(sorted(term.needs))}")
    if term.min_pairs > 1:
        lines.append(f"Fewest pairs: {term.min_pairs}")
    if term.reads_views:
        lines.append("Reads further views of images and texts (data.views, data.text_views, strategies.image_views)")
    if term.fixed_scale_advised:
        lines.append("A learnable scale runs to its largest value under this term: prefer model.learn_scale=false")
    if not term.gradient_is_slope:
        lines.append("Weights in the formula carry no gradient")
    return "\n".join(lines)
