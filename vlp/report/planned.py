"""What a plan expected of a run, beside what came true."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from vlp.html.frame import gap, section, table
from vlp.html.words import number, text
from vlp.plan.saved_plan import SavedPlan
from vlp.report.reading import RecordedRun

PARTS = {
    "weights": "weights, float32",
    "gradients": "gradients",
    "optimizer": "optimizer",
    "kept": "averages and teachers",
}
"""What runs measure of their memory, and what plans call it; the rest, `PASSING`, is there while a step is computed."""
PASSING = "passing"


def planned(run: RecordedRun, plan: SavedPlan) -> str:
    """Show both, and how many times the expected the measured is."""
    devices = f"{plan.num_devices} x {plan.device}" if plan.num_devices > 1 else plan.device
    note = text(f"Expected of {plan.recipe} on {devices} ({plan.basis}); measured in this run.")
    rows = [
        (name, number(expected), number(found), f"{found / expected:.2f}" if expected else "")
        for name, expected, found in (
            ("pairs per second, median", plan.pairs_per_second, run.middle("samples_per_second")),
            ("memory of a device, GB, at most", plan.memory_gb, run.last("peak_memory_gb")),
            *_parts(run, plan.memory_parts_gb),
        )
        if found is not None
    ]
    if not rows:
        return section("Plan", note, gap("No step was logged."))
    return section("Plan", note, table(("quantity", "expected", "measured", "measured / expected"), rows))


def memory_of(run: RecordedRun, part: str) -> float | None:
    """Return what a part of the memory took in the end, in GB; None where lines do not tell."""
    return run.last(f"memory_gb/{part}")


def _parts(run: RecordedRun, planned: Mapping[str, float]) -> Iterator[tuple[str, float, float | None]]:
    """Yield the parts of the memory: what was expected of each, and what was measured."""
    if not planned:
        return
    for part, name in PARTS.items():
        yield f"{name}, GB", planned.get(name, 0.0), memory_of(run, part)
    rest = sum(value for name, value in planned.items() if name not in PARTS.values())
    yield "all that passes, GB", rest, memory_of(run, PASSING)
