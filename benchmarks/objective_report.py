"""From costs of single rounds to a page: targets reached or missed, then every case."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.objective_cases import DIM
from benchmarks.objective_numerics import BFLOAT16, FLOAT32, GradientError
from benchmarks.tables import Table, beside, listed, markdown, percent, slug
from vlp.pairs.engine.tiles import TILE_SIZE
from vlp.pairs.engine.walk import KEPT_BYTES

PEER_OF = {
    "clip": "open_clip.ClipLoss",
    "siglip": "open_clip.SigLipLoss",
    "uniformity_image": "dense_uniformity_image",
    "cwcl": "clip",
    "combination": "clip",
    "inf_cl": "open_clip.ClipLoss",
}
SYMMETRIC = ("uniformity_image",)
EARLY = ("siglip",)  # whose gradients are formed in the forward walk
BOUNDED = ("clip", *EARLY, *SYMMETRIC)
# dense bfloat16 TFLOP/s of the matrix units, from the makers' data sheets; TF32 runs at half of it
PEAK_TFLOPS = {"H100 PCIe": 756.0, "H100": 989.4, "H200": 989.4, "A100": 312.0, "L40S": 362.0, "RTX 4090": 165.2}


@dataclass
class Row:
    """One case over all rounds; each number is the median over the steps of one process.

    Args:
        cpu: Seconds of user and system time; on an accelerator, seconds between two events on it.
        peak_mb: Beyond inputs and gradients; of several processes, the largest.
        problem: Why it was not measured, where it was not.
    """

    name: str
    pairs: int
    processes: int = 1
    dtype: str = "float32"
    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)
    peak_mb: list[float] = field(default_factory=list)
    problem: str = ""


@dataclass(frozen=True)
class Target:
    """One thing that the objectives must reach.

    Args:
        measured: None where its cases did not run.
        shown: Puts a number into words, never better than it is.
        at_most: The limit; `at_least` where more is better.
    """

    what: str
    measured: float | None
    shown: Callable[[float], str]
    at_most: float | None = None
    at_least: float | None = None

    @property
    def reached(self) -> bool | None:
        """Whether the exact number, not the one that is shown, suffices."""
        if self.measured is None:
            return None
        if self.at_most is not None:
            return self.measured <= self.at_most
        return self.measured >= (self.at_least or 0.0)

    def cells(self) -> list[str]:
        """Return the line of the table."""
        sign, limit = ("<=", self.at_most) if self.at_most is not None else (">=", self.at_least or 0.0)
        found = "" if self.measured is None else self.shown(self.measured)
        verdict = {True: "reached", False: "**missed**", None: "not measured"}[self.reached]
        return [self.what, found, f"{sign} {self.shown(limit)}", verdict]

    def record(self) -> dict[str, Any]:
        """Return what stands in the JSON file."""
        limits = {name: value for name in ("at_most", "at_least") if (value := getattr(self, name)) is not None}
        return {"what": self.what, "measured": self.measured, **limits, "reached": self.reached}


def times(ratio: float) -> str:
    """Return a ratio with two digits, rounded up."""
    return f"{math.ceil(round(ratio * 100, 9)) / 100:.2f} x"


def fraction(ratio: float) -> str:
    """Return a small ratio as one over a number, which is cut."""
    return "0" if ratio <= 0 else f"1/{math.floor(round(10 / ratio, 9)) / 10:.1f}"


def error(value: float) -> str:
    """Return two digits and a power of ten, rounded up."""
    if value == 0:
        return "0"
    power = math.floor(math.log10(value))
    digits = math.ceil(round(value / 10 ** (power - 1), 9))
    return f"{digits * 10.0 ** (power - 1):.1e}"


class Results:
    """Rows, and what follows from several of them."""

    def __init__(self, rows: Iterable[Row]):
        self._rows = {(row.name, row.pairs, row.processes, row.dtype): row for row in rows}

    def median(self, cost: str, name: str, pairs: int, processes: int = 1, dtype: str = "float32") -> float | None:
        """Return the median over the rounds of a cost, None where there is none."""
        row = self._rows.get((name, pairs, processes, dtype))
        values = getattr(row, cost) if row else []
        return statistics.median(values) if values else None

    def ratio(self, cost: str, name: str, peer: str, pairs: int, dtype: str = "float32") -> float | None:
        """Return what a case costs relative to another."""
        return _over(self.median(cost, name, pairs, dtype=dtype), self.median(cost, peer, pairs, dtype=dtype))

    def speedup(self, name: str, pairs: int) -> float | None:
        """Return the wall time of two processes relative to one."""
        return _over(self.median("wall", name, pairs, 2), self.median("wall", name, pairs))

    def bound(self, name: str, pairs: int) -> float | None:
        """Return the seconds that the matrix products of a case take by themselves."""
        product, update = (self.median("cpu", part, TILE_SIZE) for part in ("tile_mm", "tile_addmm"))
        if name not in BOUNDED or product is None or update is None:
            return None
        tiles, symmetric = pairs / TILE_SIZE, name in SYMMETRIC
        walked = (tiles**2 + tiles) / 2 if symmetric and tiles > 1 else tiles**2
        return logits_products(name, walked) * product + tiles**2 * (1 if symmetric else 2) * update

    def share_of_bound(self, name: str, pairs: int) -> float | None:
        """Return which share of its time a case must spend on matrix products."""
        return _over(self.bound(name, pairs), self.median("cpu", name, pairs))


def logits_products(name: str, tiles: float) -> float:
    """Return how many tiles of float32 logits the engine computes, forward and backward, for a walk over `tiles`."""
    if name in EARLY:
        return tiles
    return tiles + max(0.0, tiles - KEPT_BYTES / (4 * TILE_SIZE**2))


def _over(value: float | None, reference: float | None) -> float | None:
    return None if value is None or not reference else value / reference


def targets(rows: Sequence[Row], errors: Sequence[GradientError]) -> list[Target]:
    """Compare what was measured with what was promised."""
    found = Results(rows)
    listing = [
        Target(f"{name}: time of {PEER_OF[name]}, {pairs} pairs", ratio, times, at_most=limit)
        for name, limits in (
            ("clip", {4096: 0.57, 16384: 0.48}),
            ("siglip", {4096: 0.6, 16384: 0.5}),
            ("uniformity_image", {4096: 0.5, 16384: 0.5}),
            ("cwcl", {4096: 1.15, 16384: 1.15}),
            ("combination", {4096: 2.2, 16384: 2.2}),
        )
        for pairs, limit in limits.items()
        for ratio in [found.ratio("cpu", name, PEER_OF[name], pairs)]
    ]
    memory = found.ratio("peak_mb", "clip", PEER_OF["clip"], 16384)
    listing.append(Target(f"clip: memory of {PEER_OF['clip']}, 16384 pairs", memory, fraction, at_most=1 / 15))
    for name in ("clip", "siglip"):
        for pairs in (4096, 16384):
            share = found.share_of_bound(name, pairs)
            what = f"{name}: share of the matrix-product bound, {pairs} pairs"
            listing.append(Target(what, share, percent, at_least=0.9))
    for name in ("clip", "siglip"):
        for pairs in (4096, 8192):
            what = f"{name}: wall time of two processes relative to one, {pairs} pairs"
            listing.append(Target(what, found.speedup(name, pairs), times, at_most=0.6))
    by_key = {(row.term, row.what): row.error for row in errors}
    for name in ("clip", "siglip"):
        for what, limit in ((FLOAT32, 1e-5), (BFLOAT16, 1e-3)):
            wrong = by_key.get((name, what))
            listing.append(Target(f"{name}: gradient error, {what}", wrong, error, at_most=limit))
    return listing


NOTES = """\
Each number is the median over rounds of fresh processes, and each process gives the median of its steps: 20 at 1024
pairs, 4 at 4096, 1 from 8192 on, and none after 5 s; before them one step with 64 pairs loads what is loaded once. The
rounds go through all cases in turn; sizes above 16384 and terms without a target are measured once. Every process has
one thread. CPU time is user and system time of forward and backward, for dense losses pay for their matrices in page
faults; ratios
compare CPU times, except those of several processes, which compare wall times. Memory is the peak beyond the resident
inputs, less their gradients. Embeddings are random, of unit norm, 512 wide, float32; so are reference features. The
bound is the time of the matrix products alone: one product of a tile's logits where the engine keeps them or needs them
once, two where it computes them twice, and two for the gradients (of a symmetric matrix half of the tiles, and the
gradients of one side), at the speed that single products of one tile reached in the same rounds. Ratios, errors and
memory are rounded up, shares are cut; verdicts look at the exact numbers."""
CUDA_NOTES = """\
Each number is the median over rounds of fresh processes, and each process gives the median of 10 steps after 3, by
events on the device. Memory is the peak that the allocator handed out beyond inputs and gradients. Embeddings are
random, of unit norm and 512 wide; float32 products may run in TF32 where an implementation leaves that to torch. The
share of the peak counts three products of 2 x pairs^2 x 512 operations, the fewest that forward and backward need,
however many an implementation performs, against the peak of the matrix units in the type of the embeddings."""
NUMERICS_NOTES = """\
Relative error of the gradients of images and texts (the larger one) against the dense formula with autograd in float64
on the same inputs: 2048 pairs, 512 wide, scale 100, bias -30, images in tight clusters, texts at a cosine near 0.32.
Towers hand over float32 (`vlp.ground.types.Embeddings`) even where they compute in bfloat16: `bfloat16 inputs` have
bfloat16 values, become float32 before the first product, and get a float32 gradient. Storing it in bfloat16 costs what
the last row says, whatever computed it. `kept in bfloat16` skips the cast, which the trainer never does."""


def write_report(folder: Path, about: dict[str, Any], rows: Sequence[Row], errors: Sequence[GradientError]) -> Path:
    """Write the page and, beside it, all numbers as JSON; return the page."""
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / f"objectives_{slug(about['machine'])}_{about['date']}.md"
    page.write_text(page_text(about, rows, errors), encoding="utf-8")
    record = {
        **about,
        "rows": [asdict(row) for row in rows],
        "gradient_errors": [asdict(row) for row in errors],
        "targets": [] if about["device"] == "cuda" else [target.record() for target in targets(rows, errors)],
    }
    page.with_suffix(".json").write_text(json.dumps(record, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return page


def page_text(about: dict[str, Any], rows: Sequence[Row], errors: Sequence[GradientError]) -> str:
    """Return the report."""
    sections = [
        f"# Objectives on {about['machine']}, {about['date']}",
        f"Commit `{about['commit']}`, {about['rounds']} rounds of {about['rounds_wanted']}."
        + beside(about["versions"]),
        f"Again: `{about['command']}`",
    ]
    if about["device"] == "cuda":
        sections += ["## Every case", markdown(cuda_table(rows, about["peak_tflops"])), CUDA_NOTES]
        sections += ["## Largest batch that ran", markdown(largest_table(rows))]
    else:
        table = [["target", "measured", "wanted", "verdict"], *(target.cells() for target in targets(rows, errors))]
        sections += ["## Targets", markdown(table), "## Every case", markdown(case_table(rows)), NOTES]
    if errors:
        sections += ["## Numerics", markdown(error_table(errors)), NUMERICS_NOTES]
    missing = [f"- {row.name}, {row.pairs} pairs: {row.problem}" for row in rows if row.problem]
    sections += ["## Problems", "\n".join(missing)] if missing else []
    return "\n\n".join([*sections, "## Versions", listed(about["versions"])]) + "\n"


def case_table(rows: Sequence[Row]) -> Table:
    """Return one line per case."""
    table = [["case", "pairs", "processes", "CPU ms", "p10 .. p90", "wall ms", "memory MB", "relative to", "of bound"]]
    found = Results(rows)
    for row in measured(rows):
        low, middle, high = (1e3 * value for value in tenths(row.cpu))
        peer = PEER_OF.get(row.name, "")
        ratio = found.ratio("cpu", row.name, peer, row.pairs) if row.processes == 1 else None
        share = found.share_of_bound(row.name, row.pairs) if row.processes == 1 else None
        table.append(
            [
                *(row.name, str(row.pairs), str(row.processes), f"{middle:,.1f}", f"{low:,.1f} .. {high:,.1f}"),
                f"{1e3 * statistics.median(row.wall):,.1f}",
                f"{math.ceil(statistics.median(row.peak_mb)):,}",
                f"{times(ratio)} {peer}" if ratio else "",
                percent(share) if share else "",
            ]
        )
    return table


def cuda_table(rows: Sequence[Row], peak_tflops: float | None) -> Table:
    """Return one line per case on an accelerator."""
    table = [["case", "embeddings", "pairs", "ms", "p10 .. p90", "memory MB", "relative to", "of peak"]]
    found = Results(rows)
    for row in measured(rows):
        low, middle, high = (1e3 * value for value in tenths(row.cpu))
        peer = PEER_OF.get(row.name, "")
        ratio = found.ratio("cpu", row.name, peer, row.pairs, row.dtype)
        share = ""
        if peak_tflops:
            peak = peak_tflops * 1e12 * (1 if row.dtype == "bfloat16" else 0.5)
            share = percent(3 * 2.0 * row.pairs**2 * DIM / peak / statistics.median(row.cpu))
        table.append(
            [
                *(row.name, row.dtype, str(row.pairs), f"{middle:,.2f}", f"{low:,.2f} .. {high:,.2f}"),
                f"{math.ceil(statistics.median(row.peak_mb)):,}",
                f"{times(ratio)} {peer}" if ratio else "",
                share,
            ]
        )
    return table


def largest_table(rows: Sequence[Row]) -> Table:
    """Return for each case the largest batch that ran, and what stopped the next."""
    table = [["case", "embeddings", "pairs", "then"]]
    for name, dtype in dict.fromkeys((row.name, row.dtype) for row in rows):
        tried = [row for row in rows if (row.name, row.dtype) == (name, dtype)]
        largest = max((row.pairs for row in measured(tried)), default=None)
        stopped = [f"{row.problem} at {row.pairs}" for row in tried if row.problem]
        then = stopped[0] if stopped else "nothing larger was tried"
        table.append([name, dtype, "none" if largest is None else str(largest), then])
    return table


def error_table(errors: Sequence[GradientError]) -> Table:
    """Return one line per gradient that was compared."""
    table = [["gradient", "term", "relative error", "loss"]]
    return table + [[row.what, row.term, error(row.error), f"{row.loss:.3f}"] for row in errors]


def measured(rows: Sequence[Row]) -> list[Row]:
    """Return the rows with numbers."""
    return [row for row in rows if row.cpu]


def tenths(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the 10th percentile, the median and the 90th percentile."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    cuts = statistics.quantiles(values, n=10, method="inclusive")
    return cuts[0], statistics.median(values), cuts[8]


def peak_of(device_name: str) -> float | None:
    """Return the known peak of an accelerator in bfloat16 TFLOP/s."""
    return next((peak for name, peak in PEAK_TFLOPS.items() if name in device_name), None)
