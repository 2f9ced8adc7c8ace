"""ByolipTerm against a slow reading of the papers, and the properties of the direct predictor."""

from __future__ import annotations

import pytest
import torch

from tests.objectives.batches import DIM, draw_leaves, extras, gradients_of, pairs_of, share_of, unit
from tests.objectives.test_siamlip import two_minus_two_cosines
from vlp.ground.types import Teacher
from vlp.objectives.byolip import ByolipTerm
from vlp.objectives.shared.heads import direct_map

VARIANTS = [{"hidden_width": 8}, {"predictor": "direct", "memory": 0.6}]


def built(**settings) -> ByolipTerm:
    torch.manual_seed(0)
    term = ByolipTerm(**settings)
    term.create(DIM)
    return term.double()


@torch.no_grad()
def test_matches_paper_over_all_views():
    image, text, image1 = unit(7, DIM, 1), unit(7, DIM, 2), unit(7, DIM, 3)
    teacher = Teacher(unit(7, DIM, 4), unit(7, DIM, 5))
    term = built(hidden_width=8)
    pairs = pairs_of(image, text, image_views=(image1,), teacher=teacher)
    to_text = [two_minus_two_cosines(term.predict_text(pairs, view), teacher.text) for view in (image, image1)]
    to_image = two_minus_two_cosines(term.predict_image(pairs, text), teacher.image)
    assert share_of(term, pairs).item() == pytest.approx(sum(to_text) / 4 + to_image / 2, rel=1e-9)


@pytest.mark.parametrize(("settings", "fewest"), [({"hidden_width": 8}, 2), ({"predictor": "direct"}, 1)])
def test_so_few_pairs_suffice(settings, fewest):
    """Batch norm needs two."""
    term = built(**settings)
    pairs = pairs_of(
        unit(fewest, DIM, 1), unit(fewest, DIM, 2), teacher=Teacher(unit(fewest, DIM, 3), unit(fewest, DIM, 4))
    )
    assert term.min_pairs == fewest
    assert share_of(term, pairs).isfinite()


def direct_by_hand(correlation):
    """U diag(sqrt(lambda / largest lambda) + 0.01) U', one axis at a time."""
    values, vectors = torch.linalg.eigh(correlation)
    result = torch.zeros_like(correlation)
    for value, vector in zip(values.tolist(), vectors.T, strict=True):
        gain = (max(value, 0.0) / float(values.max())) ** 0.5 + 0.01
        for a in range(len(vector)):
            for b in range(len(vector)):
                result[a, b] += gain * vector[a] * vector[b]
    return result


def test_direct_remembers_correlations_of_past_batches():
    """Two batches: F = 0.7 E1, then F = 0.3 * 0.7 E1 + 0.7 E2."""
    term = built(predictor="direct")
    batches = [(unit(9, DIM, k), unit(9, DIM, k + 10)) for k in range(2)]
    teacher = Teacher(unit(9, DIM, 4), unit(9, DIM, 5))
    averages = [torch.zeros(DIM, DIM).double() for _ in range(2)]
    for batch in batches:
        expected = 0.0
        for side, (rows, target) in enumerate(zip(batch, (teacher.text, teacher.image), strict=True)):
            averages[side] = 0.3 * averages[side] + 0.7 * sum(torch.outer(row, row) for row in rows) / 9
            expected += two_minus_two_cosines(rows @ direct_by_hand(averages[side]), target) / 2
        assert share_of(term, pairs_of(*batch, teacher=teacher)).item() == pytest.approx(expected, rel=1e-6)  # float32


def test_the_direct_map_is_symmetric_and_commutes_with_the_correlation():
    rows = unit(9, DIM, 1)
    correlation = rows.T @ rows / 9
    chosen = direct_map(correlation)
    torch.testing.assert_close(chosen, chosen.T)
    torch.testing.assert_close(chosen @ correlation, correlation @ chosen)
    assert torch.linalg.eigvalsh(chosen)[-1].item() == pytest.approx(1.01)


def test_the_direct_map_itself_gets_no_gradient():
    """The gradient is that of the map held fixed."""
    leaves, more = draw_leaves(7), extras(7)
    term = built(predictor="direct")
    found = gradients_of(term, leaves, teacher=more["teacher"])[0]
    image = leaves[0].detach()
    fixed = direct_map(0.7 * image.T @ image / 7)
    again = image.clone().requires_grad_()
    loss = (1 - torch.nn.functional.cosine_similarity(again @ fixed, more["teacher"].text)).mean()
    torch.testing.assert_close(found, torch.autograd.grad(loss, again)[0])


@pytest.mark.parametrize(
    "settings",
    [{"predictor": "direct", "hidden_width": 8}, {"memory": 0.3}, {"predictor": "direct", "memory": 1.0}],
)
def test_settings_without_sense_are_refused(settings):
    with pytest.raises(ValueError, match="memory"):
        ByolipTerm(**settings)
