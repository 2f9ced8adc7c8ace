"""Which reader a source needs."""

from __future__ import annotations

from pathlib import Path

from vlp.curate.sources.columns import Columns
from vlp.curate.sources.delimited import check_encoding
from vlp.curate.sources.folders import holds_shards
from vlp.curate.sources.parquet import SUFFIX
from vlp.curate.sources.rows import Source, sources
from vlp.curate.sources.tables import DELIMITED, JSON, LINES
from vlp.ground.registry import settings_of
from vlp.ground.types import RecipeError

COMPRESSED = (".gz", ".zip", ".bz2", ".xz", ".zst", ".7z", ".rar")
WHERE = {
    "split": "has no splits; name a folder of parquet files, or a table with a column `split`",
    "configuration": "has no configurations; name a folder of parquet files",
    "encoding": f"is no table of lines ({', '.join(DELIMITED)})",
}


def open_source(
    path: Path, columns: Columns, *, split: str = "", configuration: str = "", encoding: str = ""
) -> Source:
    """Return the reader of a folder, a table or a saved dataset: the first in rank that takes the path.

    Args:
        split: Which split of a dataset with several.
        configuration: Which configuration of a clone of the hub with several.
        encoding: Of a CSV or TSV, where it is neither UTF-8 nor UTF-16.

    Raises:
        RecipeError: No such source, or none that can be packed; says what can.
    """
    path = path.expanduser()
    flags = {"split": split, "configuration": configuration, "encoding": check_encoding(encoding)}
    if not path.exists():
        raise RecipeError(f"no file or folder '{path}'")
    for name in sorted(sources, key=lambda each: sources[each].rank):
        if sources[name].takes(path):
            given = {flag: word for flag, word in flags.items() if word}
            for flag in given.keys() - settings_of(sources[name]).model_fields.keys():
                raise RecipeError(f"--{flag} {given[flag]}: {path} {WHERE[flag]}")
            return sources.build(name, given, path, columns)
    raise RecipeError(f"{path}: {_why_not(path)}")


def _why_not(path: Path) -> str:
    if path.is_dir() and holds_shards(path):
        return (
            f"shards already (img2dataset writes them so); they need a card alone, {path.name}.yaml:\n"
            f"  name: {path.name}\n  shards: {path}/*.tar\n  captions: {{txt: 1.0}}"
        )
    if not path.is_file():
        return "neither a file nor a folder"
    if path.suffix.lower() == ".tar" or path.name.endswith((".tar.gz", ".tgz")):
        return "a shard already; write a card for it (docs/add-a-dataset.md)"
    if path.suffix.lower() in COMPRESSED:
        return "compressed as a whole: unpack it first, and pack what is in it"
    return f"expected a folder of images or a table ({', '.join((*DELIMITED, *LINES, JSON, SUFFIX))})"
