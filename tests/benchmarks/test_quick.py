"""Every benchmark has a try of the whole way."""

from __future__ import annotations

import argparse
import importlib

import pytest

from benchmarks.quick import add_quick, settle
from tests.house import ROOT

BENCHMARKS = sorted(
    path.stem
    for path in (ROOT / "benchmarks").glob("*.py")
    if '__name__ == "__main__"' in (text := path.read_text(encoding="utf-8")) and "def build_parser" in text
)
BY_DEVICE = {"gpu_check"}
"""Tried with `--device cpu`, at toy sizes."""


def test_there_are_some():
    assert len(BENCHMARKS) > 12


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_can_be_tried(name):
    said = importlib.import_module(f"benchmarks.{name}").build_parser().format_help()
    assert f"  {'--device' if name in BY_DEVICE else '--quick '}" in said


def test_quick_stands_for_settings():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--names", nargs="+", default=["a", "b"])
    add_quick(parser, rounds=1, names=["a"])
    assert settle(parser.parse_args([])).rounds == 5
    quick = settle(parser.parse_args(["--quick"]))
    assert (quick.rounds, quick.names) == (1, ["a"])
    assert "rounds 1, names a" in " ".join(parser.format_help().split())
