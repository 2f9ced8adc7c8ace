"""The benchmark of the vocabulary's cross-entropy: all forms say the same, and its report has them all."""

from __future__ import annotations

import pytest

from benchmarks import bench_captioning
from benchmarks.bench_captioning import FORMS, measure, table


def test_all_forms_have_one_loss(monkeypatch):
    monkeypatch.setattr(bench_captioning, "WORDS", 500)
    found = {(form, 64, 16): [measure(form, 64, 16)] for form in FORMS}
    losses = [rounds[0]["loss"] for rounds in found.values()]
    assert losses == pytest.approx([losses[0]] * len(losses), rel=1e-5)
    assert [row[0] for row in table(found)] == ["form", *FORMS]
    assert all(rounds[0]["seconds"] >= rounds[0]["forward"] >= 0 for rounds in found.values())
