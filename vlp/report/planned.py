"""What a plan expected of a run, beside what came true."""

from __future__ import annotations

from vlp.html.frame import gap, section, table
from vlp.html.words import number, text
from vlp.plan.saved_plan import SavedPlan
from vlp.report.reading import RecordedRun


def planned(run: RecordedRun, plan: SavedPlan) -> str:
    """Show both, and how many times the expected the measured is."""
    devices = f"{plan.num_devices} x {plan.device}" if plan.num_devices > 1 else plan.device
    note = text(f"Expected of {plan.recipe} on {devices} ({plan.basis}); measured in this run.")
    rows = [
        (name, number(expected), number(found), f"{found / expected:.2f}")
        for name, expected, found in (
            ("pairs per second, median", plan.pairs_per_second, run.middle("samples_per_second")),
            ("memory of a device, GB, at most", plan.memory_gb, run.last("peak_memory_gb")),
        )
        if found is not None
    ]
    if not rows:
        return section("Plan", note, gap("No step was logged."))
    return section("Plan", note, table(("quantity", "expected", "measured", "measured / expected"), rows))
