"""Every shipped recipe, with small towers, computes in micro-batches and on two processes what it does in one pass."""

from __future__ import annotations

import pytest

from tests.processes import run_processes
from tests.small_steps import PLAIN_STEPS, RECIPES
from tests.strategies.layouts import Found, steps_of

CHANGES = {
    "vitb32_growing_batches": ("train.first_batches=[]",),
    "vitb32_improved": ("model.text_dropout=0",),  # each pass drops other parts
}
COMPARED = [name for name in RECIPES if name != "vitb32_flip"]  # each pass leaves out other patches
OF_PROCESSES = [name for name in COMPARED if name != "vitb32_drrho"]  # needs the same teacher on all processes

pytestmark = [
    pytest.mark.long,
    pytest.mark.filterwarnings("ignore:isogclr"),
    pytest.mark.filterwarnings("ignore:model.freeze"),
]


def found_of(name: str, micro_batches: int = 1) -> Found:
    """Return two steps of a recipe, of this process's share."""
    return steps_of(name, (*PLAIN_STEPS, *CHANGES.get(name, ())), micro_batches)


def assert_reports_alike(found: Found, expected: Found) -> None:
    """Compare losses and gradients of both steps; the second has the weights that the first leads to."""
    for ours, theirs in zip(found[0], expected[0], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-5)  # float32, other orders of sums


@pytest.mark.parametrize("name", COMPARED)
def test_micro_batches_equal_one_pass(name):
    assert_reports_alike(found_of(name, 2), found_of(name))


def _in_a_process(_rank, _world_size):
    return {name: found_of(name) for name in OF_PROCESSES}


@pytest.mark.processes
def test_two_processes_equal_one():
    for name, found in run_processes(_in_a_process, 2)[0].items():
        try:
            assert_reports_alike(found, found_of(name))
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from error
