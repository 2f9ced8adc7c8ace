"""Folders and tables to evaluation sets in CLIP_benchmark's layout, held against what evaluators ask of a set."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from vlp.curate.packing import Limits, Tally, claimed, pack_units
from vlp.curate.sources.columns import CAPTION, LABEL, Columns
from vlp.curate.sources.folders import Folder
from vlp.curate.sources.open_source import open_source
from vlp.curate.sources.rows import Source
from vlp.curate.sources.set_rows import OF_CLASSES, Labels, SetKind, SetRows
from vlp.curate.sources.unit import Unit, UnitRecord
from vlp.data import Captions
from vlp.data.faults import BadSampleError
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
ROWS_AT_ONCE = 1000
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
    has_classes = _classes_of(opened) is not None or getattr(opened, "is_of_classes", False)
    kind = options.kind or ("classification" if has_classes else "retrieval")
    to = to.expanduser().resolve()
    if Path(options.name).name != options.name:
        raise RecipeError(f"--as {options.name}: the name of a folder within the set, such as test or train")
    if isinstance(opened, Folder) and opened.is_labelled:
        _check_folders(opened)
    labels = Labels(kind, opened.caption_keys, *(_classes(opened, to, options) if kind in OF_CLASSES else ()))
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


def _classes_of(source: Source) -> tuple[str, ...] | None:
    """Return the classes that a source knows; none where it has captions."""
    classes: tuple[str, ...] | None = getattr(source, "classes", None)
    return classes


def _classes(source: Source, to: Path, options: SetOptions) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return names of classes, and what the source calls them where that is something else.

    The names are those given, those of a split that is there, those of the source, or all that stand in it.

    Raises:
        RecipeError: A name stands twice, the source has numbers alone, or a number in it may be a name as well.
    """
    known = _classes_of(source)
    if options.class_names:
        path = find_file("eval", options.class_names)
        pairs = [line.rpartition("\t") for line in read_lines(path)]
        words = tuple(_spaced(word) for word, tab, _ in pairs if tab)
        if words and len(words) < len(pairs):
            raise RecipeError(f"{path}: {len(words)} of {len(pairs)} lines have a tab; all must, or none")
        names = _distinct([name for *_, name in pairs], str(path))
        return names, _distinct(words, str(path)) or _words(names, known, str(path))
    if (to / CLASS_NAMES).is_file():
        names = read_lines(to / CLASS_NAMES)
        return names, _words(names, known, str(to / CLASS_NAMES))
    if known:
        names = _distinct(known, "the source")
        return names, _words(names, known, "the source")
    names = tuple(sorted(set(_texts(source))))
    _check_told(names)
    numbers = list(filter(_is_number, names))
    if not names:
        raise RecipeError(
            "no row names a class; name the column with --columns caption=NAME, or the classes with --class-names"
        )
    if numbers:
        raise RecipeError(
            f"classes are numbers ({', '.join(numbers[:5])}): write their names into a file, a line each, that of "
            "number 0 first, and name it with --class-names FILE"
        )
    return names, ()


def _words(names: Sequence[str], known: Sequence[str] | None, where: str) -> tuple[str, ...]:
    """Return what the source calls classes whose names are numbers of other classes, as in `1`, `2`, `3`.

    Raises:
        RecipeError: It may mean either.
    """
    other = next((name for place, name in enumerate(names) if _is_number(name) and int(name) != place), None)
    if other is None:
        return ()
    if known is None:
        raise RecipeError(
            f"{where}: a class is called '{other}', and is not number {other}: what stands in the source may be names "
            "or numbers; write what the source calls each class and a tab before each name, in a file that "
            "--class-names names"
        )
    return tuple(names)  # folders and features of a dataset say names


def _check_told(names: Sequence[str]) -> None:
    """Refuse names that are several, as in `cat|dog` beside `dog`, or one in two spellings, as in `Cat` and `cat`."""
    spelled: dict[str, str] = {}
    for name in names:
        if (other := spelled.setdefault(name.lower(), name)) != name:
            raise RecipeError(
                f"'{other}' and '{name}' would be two classes: write them alike, or name all classes with --class-names"
            )
        pieces = [piece.strip() for piece in re.split(r"[|;,]", name)]
        if len(pieces) > 1 and set(pieces) & set(names):
            raise RecipeError(
                f"'{name}' looks like {len(pieces)} classes in one cell: write a list there, such as "
                f"{json.dumps(pieces)}, for --kind multilabel; or name all classes with --class-names"
            )


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdigit()


def _check_folders(source: Folder) -> None:
    """Refuse folders that become one class unasked, such as `n02012849-crane` and `n03126707-crane`."""
    several = next(((name, found) for name, found in source.folders_of_classes().items() if len(found) > 1), None)
    if several is not None:
        name, folders = several
        raise RecipeError(
            f"{', '.join(map(str, folders[:5]))}: folders of one class, '{name}': rename all but one, or move their "
            "images together"
        )


def _texts(source: Source) -> Iterator[str]:
    """Yield what stands under the images; rows that say nothing are for the pack to judge."""
    for rows in source.units(ROWS_AT_ONCE):
        for row in rows:
            try:
                yield from Captions().all(row.texts(source.caption_keys))
            except BadSampleError:
                continue


def _spaced(word: str) -> str:
    return " ".join(word.split())


def _distinct(names: Sequence[str], where: str) -> tuple[str, ...]:
    found = tuple(map(_spaced, names))
    twice = sorted(name for name, times in Counter(found).items() if times > 1)
    if twice:
        raise RecipeError(f"{where}: two classes are called '{twice[0]}'; give each a name of its own")
    return found


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
