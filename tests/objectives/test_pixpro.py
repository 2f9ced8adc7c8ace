"""PixProTerm against a reading of the paper in loops over places, and which places of two crops are the same."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import linear

from tests.objectives.batches import DIM, extras, pairs_of, share_of, unit
from vlp.objectives.pixpro import PixProTerm
from vlp.objectives.shared.rising_decay import rising_decay
from vlp.objectives.shared.same_place import same_place

SIZES = {"hidden_width": 7, "width": 5}
VARIANTS = [SIZES, SIZES | {"sharpness": 1.0, "reach": 1.2, "decay": 0.5, "last_step": 3}]
NO_TOWER = [{}, *VARIANTS]
NO_NEGATIVES = "every place is compared with places of its own image alone"


def built(**settings) -> PixProTerm:
    torch.manual_seed(0)
    term = PixProTerm(**(SIZES | settings))
    term.fit_maps(DIM)
    term.create(8)
    return term.double()


def batch(size=4, step=0, **changed):
    more = {key: value for key, value in extras(size).items() if key.startswith(("image_", "taught"))}
    return pairs_of(unit(size, DIM, 1), unit(size, DIM, 2), step=step, **(more | changed))


def head_by_hand(parameters, rows):
    """Two layers; between them each feature gets mean 0 and variance 1 over all places of all images."""
    hidden = linear(rows, parameters["layers.0.weight"])
    hidden = (hidden - hidden.mean(dim=0)) / (hidden.var(dim=0, unbiased=False) + 1e-5).sqrt()
    hidden = (hidden * parameters["norms.0.stretch"] + parameters["norms.0.shift"]).relu()
    return linear(hidden, parameters["layers.1.weight"], parameters["layers.1.bias"])


def centre(cut, row, column):
    """Return where the centre of a bin of a map of 2 x 3 lies in the picture."""
    left, top, right, bottom, mirrored = cut
    column = 2 - column if mirrored else column
    return top + (bottom - top) * (row + 0.5) / 2, left + (right - left) * (column + 0.5) / 3


def same_by_hand(one, other, reach):
    diagonal = max(math.hypot((cut[3] - cut[1]) / 2, (cut[2] - cut[0]) / 3) for cut in (one, other))
    places = [(row, column) for row in range(2) for column in range(3)]
    return [[math.dist(centre(one, *a), centre(other, *b)) / diagonal < reach for b in places] for a in places]


def cosine(one, other):
    return float(one @ other) / math.sqrt(float(one @ one) * float(other @ other))


def loss_by_hand(pairs, heads, value, sharpness, reach):
    """Equations 2 to 5, a pair of places at a time."""
    said, size = pairs.embeddings, pairs.num_pairs
    learned, taught = (
        [head_by_hand(head, maps.flatten(0, 2)).unflatten(0, (size, 6)) for maps in views]
        for head, views in zip(heads, (said.image_maps, said.taught_maps), strict=True)
    )
    total = 0.0
    for mine, other in ((0, 1), (1, 0)):
        for i in range(size):
            places = learned[mine][i]
            same = same_by_hand(said.image_cuts[mine][i].tolist(), said.image_cuts[other][i].tolist(), reach)
            found = []
            for a in range(6):
                gathered = torch.zeros(places.shape[1], dtype=torch.float64)
                for b in range(6):
                    g = value(places[b])
                    gathered += max(cosine(places[a], places[b]), 0) ** sharpness * g / g.norm()
                found += [cosine(gathered, taught[other][i][b]) for b in range(6) if same[a][b]]
            total -= sum(found) / len(found) / size if found else 0.0
    return total


@torch.no_grad()
@pytest.mark.parametrize("settings", [{}, {"sharpness": 1.0, "reach": 1.2}])
def test_matches_paper_over_steps(settings):
    """Between two batches the head moves, and its average follows ever more slowly."""
    term = built(decay=0.6, last_step=4, **settings)
    averages = {name: value.clone() for name, value in term.head.named_parameters()}
    for step, decay in ((0, 0.6), (2, 0.8)):
        for name, value in term.head.named_parameters():
            value += 0.1 * torch.randn_like(value)
            averages[name] = decay * averages[name] + (1 - decay) * value
        pairs = batch(step=step)
        heads = dict(term.head.named_parameters()), averages
        wanted = loss_by_hand(pairs, heads, term.value, term.sharpness, term.reach)
        assert share_of(term, pairs).item() == pytest.approx(wanted, rel=1e-6)
        assert wanted != 0


def test_gradients_reach_the_maps_that_learn_and_no_others():
    more = extras(4)
    taught = tuple(maps.requires_grad_() for maps in more["taught_maps"])
    pairs = batch(taught_maps=taught)
    share_of(built(), pairs).backward()
    assert all(maps.grad.abs().sum() > 0 for maps in pairs.embeddings.image_maps)
    assert all(maps.grad is None or not maps.grad.any() for maps in taught)


def test_a_mirrored_crop_is_compared_in_a_mirror():
    """The same crop, mirrored: each place meets the one that stands at the other end of its row."""
    cut = torch.tensor([[10.0, 20.0, 70.0, 60.0, 0.0]])
    mirrored = cut.clone()
    mirrored[:, 4] = 1
    assert torch.equal(same_place(cut, cut, (2, 3), 0.7)[0], torch.eye(6, dtype=torch.bool))
    expected = torch.eye(6, dtype=torch.bool).view(6, 2, 3).flip(2).view(6, 6)
    assert torch.equal(same_place(cut, mirrored, (2, 3), 0.7)[0], expected)
    assert torch.equal(same_place(mirrored, mirrored, (2, 3), 0.7)[0], torch.eye(6, dtype=torch.bool))


def test_crops_that_share_no_place_cost_nothing():
    near = torch.tensor([[0.0, 0.0, 30.0, 30.0, 0.0]] * 4)
    far = torch.tensor([[500.0, 500.0, 530.0, 530.0, 1.0]] * 4)
    assert not same_place(near, far, (2, 3), 0.7).any()
    assert share_of(built(), batch(image_cuts=(near, far))).item() == 0


def test_the_larger_bin_says_what_is_near():
    small, large = (torch.tensor([[0.0, 0.0, side, side, 0.0]]) for side in (30.0, 120.0))
    same = same_place(small, large, (2, 2), 0.7)[0]
    assert same.tolist() == [[True, False, False, False]] * 4


def test_the_decay_rises_by_half_a_cosine():
    assert [rising_decay(0.99, step, 10) for step in (0, 5, 10, 20)] == pytest.approx([0.99, 0.995, 1.0, 1.0])
    assert rising_decay(0.99, 7, None) == 0.99


@pytest.mark.parametrize("settings", [{"width": 0}, {"reach": 0.0}, {"decay": 1.5}, {"last_step": 0}])
def test_impossible_settings_are_refused(settings):
    with pytest.raises(ValueError, match=r"must be positive|must lie in"):
        PixProTerm(**settings)
