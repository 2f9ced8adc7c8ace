"""What each sample adds to each metric, in a table beside the record: models are compared from it when they are gone.

A row is a sample (or a caption, where a metric is a mean over captions), a column is a metric; `METRIC.group` stands
beside a metric that is a mean over groups. Rows that are no part of a metric are empty in its column.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from vlp.evaluators.dataset import EvaluationSet
from vlp.ground.files import write_whole
from vlp.ground.types import PerSample, RecipeError

KEY, GROUP = "key", ".group"
PARQUET, NPZ = ".samples.parquet", ".samples.npz"
Columns = dict[str, np.ndarray]


@dataclass(frozen=True)
class MetricSamples:
    """One metric, sample by sample.

    Args:
        keys: What each number belongs to, such as the key of a sample in its shard.
        values: The numbers.
        groups: Where given, the metric is the mean over groups of the means within them.
    """

    keys: NDArray[np.str_]
    values: NDArray[np.float64]
    groups: NDArray[np.int64] | None = None

    @property
    def metric(self) -> float:
        """Return the value of the metric."""
        if self.groups is None:
            return float(self.values.mean())
        _, places = np.unique(self.groups, return_inverse=True)
        return float((np.bincount(places, self.values) / np.bincount(places)).mean())


def lay_out_samples(samples: Mapping[str, PerSample], data: EvaluationSet) -> Columns:
    """Lay out what an evaluator says of each sample as columns of one table.

    Raises:
        ValueError: A number is not finite, or a sample has no group where others have.
    """
    sizes = list(dict.fromkeys(len(each.values) for each in samples.values()))
    columns: Columns = {KEY: np.array([key for size in sizes for key in _keys(data, size)], dtype=np.str_)}
    for name, each in samples.items():
        start = sum(sizes[: sizes.index(len(each.values))])
        rows = slice(start, start + len(each.values))
        columns[name] = _column(name, each.values, rows, sum(sizes))
        if each.groups is not None:
            columns[name + GROUP] = _column(name + GROUP, each.groups, rows, sum(sizes))
    return columns


def write_samples(stem: Path, columns: Columns) -> None:
    """Replace the table of a record, whole or not at all: as parquet, or as NumPy's npz where pyarrow is missing.

    Args:
        stem: Path of the record without its ending.
        columns: By name; without one, the table that was there is removed.

    Raises:
        OSError: The folder cannot be written.
    """
    suffix = PARQUET if find_spec("pyarrow") else NPZ
    write = _write_parquet if suffix == PARQUET else _write_npz
    if len(columns) > 1:
        with write_whole(_with(stem, suffix)) as file:
            write(file, columns)
    for other in (PARQUET, NPZ):
        if len(columns) <= 1 or other != suffix:
            _with(stem, other).unlink(missing_ok=True)


def read_samples(stem: Path) -> dict[str, MetricSamples]:
    """Return the metrics of a table by name; none where there is no table.

    Raises:
        RecipeError: The table is damaged, or parquet cannot be read here.
    """
    for suffix, read in ((PARQUET, _read_parquet), (NPZ, _read_npz)):
        path = _with(stem, suffix)
        if not path.is_file():
            continue
        try:
            columns = read(path)
            names = [name for name in columns if name != KEY and not name.endswith(GROUP)]
            return {name: _metric(columns, name) for name in names}
        except ImportError as error:
            raise RecipeError(f"{path}: parquet needs pyarrow: pip install 'vlp[data]'") from error
        except Exception as error:  # pyarrow, zipfile and NumPy raise what they like over damaged bytes
            raise RecipeError(f"{path}: not a table of samples ({error}); evaluate again or remove it") from error
    return {}


def _with(stem: Path, suffix: str) -> Path:
    return stem.with_name(stem.name + suffix)


def _keys(data: EvaluationSet, size: int) -> list[str]:
    """Return what `size` numbers of a set belong to: its samples, its captions, or anything in order."""
    if size == len(data):
        return [sample.key for sample in data.samples]
    captions = [
        f"{sample.key}#{number}"
        for sample, texts in zip(data.samples, data.captions, strict=False)
        for number in range(len(texts))
    ]
    return captions if size == len(captions) else [str(number) for number in range(size)]


def _column(name: str, numbers: object, rows: slice, size: int) -> NDArray[np.float64]:
    column = np.full(size, np.nan)
    column[rows] = np.asarray(numbers, dtype=np.float64)
    if not np.isfinite(column[rows]).all():
        raise ValueError(f"{name}: not a finite number for each sample")
    return column


def _metric(columns: Columns, name: str) -> MetricSamples:
    there = ~np.isnan(columns[name])
    groups = columns.get(name + GROUP)
    return MetricSamples(
        columns[KEY][there], columns[name][there], None if groups is None else groups[there].astype(np.int64)
    )


def _write_parquet(file: BinaryIO, columns: Columns) -> None:
    import pyarrow
    from pyarrow.parquet import write_table

    arrays = {name: pyarrow.array(column, from_pandas=True) for name, column in columns.items()}
    arrays |= {name: array.cast(pyarrow.int64()) for name, array in arrays.items() if name.endswith(GROUP)}
    write_table(pyarrow.table(arrays), file, compression="zstd")


def _read_parquet(path: Path) -> Columns:
    from pyarrow.parquet import ParquetFile

    with ParquetFile(path) as file:
        table = file.read()
    columns = {name: table[name].to_numpy() for name in table.column_names if name != KEY}
    return {KEY: np.array(table[KEY].to_pylist(), dtype=np.str_)} | {
        name: column.astype(np.float64) for name, column in columns.items()
    }


def _write_npz(file: BinaryIO, columns: Columns) -> None:
    np.savez_compressed(file, **columns)  # type: ignore[arg-type]


def _read_npz(path: Path) -> Columns:
    with np.load(path, allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}
