"""Features before and after: alike where nothing happened, and told block by block."""

import pytest
import torch

from vlp.robust.attack_diagnostics import diagnose
from vlp.robust.findings import Outcome


def outcome(seed: int, layers: int = 3) -> Outcome:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.nn.functional.normalize(torch.randn(12, 4, generator=generator), dim=1)
    kept = tuple(torch.randn(12, 6, generator=generator) for _ in range(layers))
    return Outcome(rows, torch.zeros(12), layers=kept)


def test_nothing_changed():
    clean = outcome(0)
    found = diagnose(clean, clean, clean.rows, label="pgd", radius=1)
    assert [each["value"] for each in found["cka_by_block"]] == pytest.approx([1.0] * 3)
    assert found["cka_of_embeddings"]["value"] == pytest.approx(1)
    assert found["geometry"]["alignment"]["clean"]["value"] == pytest.approx(0)
    assert all(each["clean"] == each["attacked"] for each in found["geometry"].values())


def test_everything_changed():
    found = diagnose(outcome(0), outcome(1), outcome(0).rows, label="pgd", radius=1)
    assert found["cka_of_embeddings"]["value"] < 0.5
    assert found["geometry"]["alignment"]["attacked"]["value"] > 0.5
    between = found["cka_between_blocks"]
    assert between["clean"][0][1] == between["clean"][1][0] != between["attacked"][0][1]


def test_few_samples_say_nothing():
    few = Outcome(torch.eye(4), torch.zeros(4))
    assert diagnose(few, few, few.rows, label="pgd", radius=1) is None
