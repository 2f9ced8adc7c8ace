"""Folders and tables to evaluation sets in CLIP_benchmark's layout, held against what evaluators ask of a set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from vlp.curate.class_names import check_folders, known_classes, names_of_classes
from vlp.curate.packing import Limits, Tally, claimed, pack_units
from vlp.curate.sources.columns import CAPTION, LABEL, Columns
from vlp.curate.sources.folders import Folder
from vlp.curate.sources.open_source import open_source
from vlp.curate.sources.set_rows import OF_CLASSES, Labels, SetKind, SetRows
from vlp.curate.sources.unit import Unit, UnitRecord
from vlp.data.shards.cards import is_record
from vlp.evaluators.dataset import DataSource, EvaluationSet, open_set
from vlp.evaluators.layout import CLASS_NAMES, KIND_FILE, TEMPLATES, read_lines
from vlp.evaluators.prompts import PLACEHOLDER, templates_of
from vlp.ground.cores import usable_cores
from vlp.ground.files import write_text, write_whole
from vlp.ground.paths import find_file
from vlp.ground.types import RecipeError

LIMITS = Limits(samples=1000, bad=0.0)
PROMPT = f"a photo of a {PLACEHOLDER}."
NO_LIMIT = 2**62
TASKS: dict[str, tuple[str, str]] = {
    "classification": ("zero_shot", "acc1"),
    "multilabel": ("multilabel", "map"),
    "retrieval": ("retrieval", "mean_recall@1"),
    "choice": ("choice", "accuracy"),
}
"""Evaluator and main metric of the task that is written with a set."""


@dataclass(frozen=True)
class SetUnit(Unit):
    """A unit whose one shard is called by its number."""

    @property
    def stem(self) -> str:
        """Name of its shard and its record, without suffix."""
        return str(self.number)


@dataclass(frozen=True)
class PackedSet(Tally):
    """What a pack did, and the task that it wrote.

    Args:
        found: The set as an evaluator opens it.
        task: The file of the task; none for a split that is not `test`.
    """

    found: EvaluationSet
    task: Path | None

    def __str__(self) -> str:
        lines = [f"{self.found.kind} set: {super().__str__()}"]
        if self.found.class_names:
            lines.append(f"{len(self.found.class_names)} classes{_without_samples(self.found)}")
        lines += [f"vlp eval MODEL --tasks {self.task}"] if self.task else []
        return "\n".join(lines)


@dataclass(frozen=True)
class SetOptions:
    """What the shape of a set depends on beside its source.

    Args:
        kind: What the set is; by the source when absent: classes in, or a column that is called so, classification out.
        name: Folder of its shards, such as `test`, or `train` for probes.
        class_names: File with a name per line, in the order of the numbers; where the source calls classes something
            else, such as `n01440764`, that and a tab stand before each name. Relative to `eval/` too.
        prompts: File with a template per line, relative to `eval/` too; kept with the set.
    """

    kind: SetKind | None = None
    name: str = "test"
    class_names: str = ""
    prompts: str = ""


def pack_set(
    source: Path,
    to: Path,
    options: SetOptions,
    *,
    columns: str = "",
    limits: str = "",
    workers: int | None = None,
    split: str = "",
    configuration: str = "",
    encoding: str = "",
) -> PackedSet:
    """Write a source as an evaluation set with its task; what an interrupted pack finished is kept.

    Args:
        source: A folder of folders of classes, a folder of captioned images, a table, or a saved Hugging Face dataset.
        to: Folder of the set; its name becomes that of the task.
        columns: Names of the columns, as `Columns.parse` reads them; the caption's is that of the class where there are
            classes.
        limits: Samples per shard and budget, as `Limits.changed` reads them.
        workers: Processes; all cores when absent.
        split: Which split of a dataset with several.
        configuration: Which configuration of a clone of the hub with several.
        encoding: Of a CSV or TSV, where it is neither UTF-8 nor UTF-16.

    Raises:
        RecipeError: A mistake in the arguments or the source, a row that cannot be used, or what an evaluator refuses.
    """
    given, bounds = Columns.parse(columns, _usual(options.kind)), _limits(limits)
    opened = open_source(source, given, split=split, configuration=configuration, encoding=encoding)
    if any(map(is_record, opened.caption_keys)):
        raise RecipeError(
            f"{source}: interleaved documents, which no evaluator reads: vlp data pack makes shards of them"
        )
    has_classes = known_classes(opened) is not None or getattr(opened, "is_of_classes", False)
    kind = options.kind or ("classification" if has_classes else "retrieval")
    to = to.expanduser().resolve()
    if Path(options.name).name != options.name:
        raise RecipeError(f"--as {options.name}: the name of a folder within the set, such as test or train")
    if isinstance(opened, Folder) and opened.is_labelled:
        check_folders(opened)
    classes = names_of_classes(opened, to, options.class_names) if kind in OF_CLASSES else ()
    labels = Labels(kind, opened.caption_keys, *classes)
    settings = _settings(source, given, bounds, labels, split=split, configuration=configuration, encoding=encoding)
    folder = to / options.name
    units = (
        SetUnit(folder, number, SetRows(rows, labels), {labels.member: 1.0}, NO_LIMIT, to.name)
        for number, rows in enumerate(opened.units(bounds.samples))
    )
    with claimed(folder, settings):
        records, tally = pack_units(units, folder, bounds.bad, usable_cores() if workers is None else workers)
        write_text(folder / "nshards.txt", f"{_num_shards(records)}\n")
        _write_lists(to, labels, options)
        found = open_set(DataSource(root=str(to), split=options.name, classes_without_samples=None))
        if found.class_names:
            templates_of(found, None)
        return PackedSet(**vars(tally), found=found, task=_write_task(to, options.name, records, found))


def _usual(kind: SetKind | None) -> tuple[str, ...]:
    return (*LABEL, *CAPTION) if kind in OF_CLASSES else CAPTION if kind else (*CAPTION, *LABEL)


def _limits(text: str) -> Limits:
    if "megabytes" in text:
        raise RecipeError(
            f"--limits {text}: shards of evaluation sets are numbered; samples=N alone decides their size"
        )
    return LIMITS.changed(text)


def _settings(source: Path, columns: Columns, limits: Limits, labels: Labels, **chosen: str) -> dict[str, Any]:
    """Return what shapes the shards: two packs that differ in it do not share a folder."""
    return {
        "source": str(source.expanduser().resolve()),
        "columns": columns.given(),
        "samples": limits.samples,
        "kind": labels.kind,
        "classes": list(labels.class_names),
        "words": list(labels.words),
        **{name: word for name, word in chosen.items() if word},
    }


def _num_shards(records: list[UnitRecord]) -> int:
    """Return how many shards there are, numbered without a gap.

    Raises:
        RecipeError: All rows of one were left out.
    """
    for number, record in enumerate(records):
        if not record.shards:
            raise RecipeError(
                f"not one row of shard {number} can be used, and a set has no gaps; take more rows together with "
                "--limits samples=N, or repair the source"
            )
    return len(records)


def _write_lists(to: Path, labels: Labels, options: SetOptions) -> None:
    """Write what all splits of a set share.

    Raises:
        RecipeError: Another split says something else.
    """
    lists: dict[str, list[str]] = {} if labels.kind == "classification" else {KIND_FILE: [labels.kind]}
    if labels.class_names:
        lists[CLASS_NAMES] = list(labels.class_names)
        if options.prompts:
            lists[TEMPLATES] = list(read_lines(find_file("eval", options.prompts)))
        elif not (to / TEMPLATES).exists():
            lists[TEMPLATES] = [PROMPT]
    for name, lines in lists.items():
        path, content = to / name, "".join(f"{line}\n" for line in lines)
        if name != TEMPLATES and path.exists() and path.read_text(encoding="utf-8") != content:
            raise RecipeError(f"{path} says something else, for another split; choose a new folder with --to")
        write_text(path, content)


def _write_task(to: Path, split: str, records: list[UnitRecord], found: EvaluationSet) -> Path | None:
    """Write the task of a test split, keeping keys and comments that somebody added to an earlier one."""
    if split != "test":
        return None
    path = to / f"{to.name}.yaml"
    yaml = YAML()
    yaml.width = 120
    evaluator, metric = TASKS[found.kind]
    task = yaml.load(path) if path.exists() else {"version": 1, "evaluator": evaluator, "main_metric": metric}
    num_classes = len(found.class_names)
    if found.kind == "classification":
        task.setdefault("random", round(1 / num_classes, 6))
    captions = {"captions": sum(map(len, found.captions))} if found.kind == "retrieval" else {}
    classes = (
        {"classes": num_classes, "classes_without_samples": len(found.classes_without_samples)} if num_classes else {}
    )
    checksums = {f"{split}/{shard.name}": shard.sha256 for record in records for shard in record.shards}
    task["data"] = {"root": str(to), "samples": len(found), **captions, **classes, "sha256": checksums}
    with write_whole(path) as file:
        yaml.dump(task, file)
    return path


def _without_samples(found: EvaluationSet) -> str:
    absent = found.classes_without_samples
    return f"; {len(absent)} without a sample: {', '.join(absent[:5])}" if absent else ""
