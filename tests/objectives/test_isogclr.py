"""IndividualTemperatureTerm against a slow reading over several batches, and where its temperatures settle."""

from __future__ import annotations

import math

import pytest
import torch

from tests.objectives.batches import draw_leaves, gradients_of, pairs_of, share_of, unit
from vlp.objectives.dcl import DclTerm
from vlp.objectives.isogclr import IndividualTemperatureTerm, adam_steps

VARIANTS = [{"gamma": 0.2, "gamma_steps": 4, "budget": 0.5, "temperature": 0.1}, {"rule": "adam", "epsilon": 1e-6}]

pytestmark = pytest.mark.filterwarnings("ignore:isogclr")


def batches():
    """Three batches of ids, of which some come again."""
    return [
        (torch.tensor(ids), unit(5, 6, seed), unit(5, 6, seed + 50))
        for seed, ids in enumerate(([3, 8, 1, 0, 4], [8, 3, 7, 1, 2], [3, 1, 8, 7, 6]))
    ]


class SlowReading:
    """One anchor at a time: its average, its temperature, the descent of that."""

    def __init__(self, gamma, budget, start, step_size, low, high):
        self.gamma, self.budget, self.step_size, self.low, self.high = gamma, budget, step_size, low, high
        self.start = start
        self.averages, self.temperatures, self.velocities = {}, {}, {}

    def __call__(self, ids, image, text):
        size, total = len(ids), 0.0
        for side, (own, other) in enumerate(((image, text), (text, image))):
            for i in range(size):
                key = int(ids[i]), side
                temperature = self.temperatures.get(key, self.start)
                gaps = [own[i] @ other[j] - own[i] @ other[i] for j in range(size) if j != i]
                exponentials = [math.exp(gap.item() / temperature) for gap in gaps]
                new = sum(exponentials) / (size - 1)
                average = (1 - self.gamma) * self.averages.get(key, new) + self.gamma * new
                self.averages[key] = average
                weighted = sum(e / average * gap for e, gap in zip(exponentials, gaps, strict=True)) / (size - 1)
                total = total + weighted
                slope = math.log(average) + self.budget - weighted.item() / temperature
                velocity = 0.1 * self.velocities.get(key, 0.0) + 0.9 * min(max(slope, -5.0), 5.0)
                self.velocities[key] = velocity
                self.temperatures[key] = min(max(temperature - self.step_size * velocity, self.low), self.high)
        return total / (2 * size)


@pytest.mark.parametrize("gamma", [1.0, 0.6])
def test_matches_paper_over_several_batches(gamma):
    settings = {"gamma": gamma, "budget": 0.7, "step_size": 0.02}
    term = IndividualTemperatureTerm(**settings, temperature=0.25, min_temperature=0.2, max_temperature=0.27)
    slow = SlowReading(gamma, 0.7, 0.25, 0.02, 0.2, 0.27)
    for ids, image, text in batches():
        leaves = [image.clone().requires_grad_(), text.clone().requires_grad_(), *draw_leaves(1)[2:]]
        ours = gradients_of(term, leaves, ids=ids)
        theirs = torch.autograd.grad(slow(ids, *leaves[:2]), leaves[:2])
        torch.testing.assert_close(ours[:2], list(theirs), rtol=1e-5, atol=1e-7)
        assert ours[2] == 0  # the model's scale takes no part
    stored = {(key, side): term.memory.rows[key, 2 + side].item() for key, side in slow.temperatures}
    assert stored == {key: pytest.approx(value, rel=1e-5) for key, value in slow.temperatures.items()}
    assert len({round(value, 4) for value in stored.values()}) > 5


class AdamByHand:
    """FastCLIPLossIndividual's steps of one temperature: betas of 0 at the first visit, corrections by visit."""

    def __init__(self):
        self.mean = self.square = 0.0
        self.visits = 0

    def __call__(self, slope):
        beta1, beta2 = (0.9, 0.999) if self.visits else (0.0, 0.0)
        self.visits += 1
        self.mean = beta1 * self.mean + (1 - beta1) * slope
        self.square = beta2 * self.square + (1 - beta2) * slope**2
        mean, square = self.mean / (1 - beta1**self.visits), self.square / (1 - beta2**self.visits)
        return mean / (math.sqrt(square) + 1e-8)


def test_adam_moves_each_temperature_as_the_authors_do():
    rng = torch.Generator().manual_seed(0)
    slopes, by_hand = 3 * torch.randn(4, 2, generator=rng, dtype=torch.float64), [AdamByHand(), AdamByHand()]
    moments = torch.zeros(1, 6, dtype=torch.float64)
    for slope in slopes:
        steps, moments = adam_steps(slope[None], moments)
        assert steps[0].tolist() == pytest.approx([rule(x) for rule, x in zip(by_hand, slope.tolist(), strict=True)])
    assert moments[0, 4:].tolist() == [4, 4]


def test_the_first_step_of_adam_is_as_long_for_all():
    image, text = unit(7, 6, 1), unit(7, 6, 2)
    term = IndividualTemperatureTerm(gamma=1, budget=1.5, temperature=0.25, step_size=0.01, rule="adam")
    share_of(term, pairs_of(image, text))
    moved = (term.memory.rows[:, 2:4] - 0.25).abs()
    torch.testing.assert_close(moved, torch.full_like(moved, 0.01), rtol=1e-4, atol=1e-6)


def test_epsilon_bounds_the_weight_of_easy_samples():
    """A sample whose average is far below epsilon hardly counts; one far above it counts as without."""
    leaves = draw_leaves(7)
    plain, raised, flat = (
        gradients_of(IndividualTemperatureTerm(gamma=1, temperature=0.25, epsilon=epsilon), leaves)
        for epsilon in (0.0, 1e-14, 1e6)
    )
    torch.testing.assert_close(raised, plain)
    assert flat[0].abs().max() < 1e-4 * plain[0].abs().max()


def test_at_one_temperature_without_memory_it_is_dcl_times_the_temperature():
    leaves = draw_leaves(7, scale=4.0)
    term = IndividualTemperatureTerm(gamma=1, temperature=0.25, min_temperature=0.25, max_temperature=0.25)
    ours, dcl = (gradients_of(part, leaves) for part in (term, DclTerm()))
    torch.testing.assert_close(ours[:2], [gradient / 4 for gradient in dcl[:2]])


def test_the_slope_is_budget_minus_divergence():
    """2.10 of the reference: on the quantities of one batch the closed form is a divergence from uniform weights."""
    image, text = unit(7, 6, 1), unit(7, 6, 2)
    term = IndividualTemperatureTerm(gamma=1, budget=1.5, temperature=0.25, step_size=1e-3)
    share_of(term, pairs_of(image, text))
    logits = (image @ text.T / 0.25).masked_fill(torch.eye(7, dtype=torch.bool), -math.inf)
    shares = torch.stack([logits.softmax(1), logits.softmax(0).T])
    divergence = torch.xlogy(shares, shares).sum(2) + math.log(6)
    torch.testing.assert_close(term.memory.rows[:, 4:].double(), 0.9 * (1.5 - divergence.T), rtol=1e-5, atol=1e-6)
    summary = term.gauges()
    assert [summary["kl_image"], summary["kl_text"]] == pytest.approx(divergence.mean(1).tolist(), rel=1e-5)
    assert summary["t10_image"] <= summary["t50_image"] <= summary["t90_image"]


@pytest.mark.parametrize(
    ("size", "temperature", "budget", "slope"), [(7, 0.5, 10.0, 5.0), (7, 0.5, 4.0, None), (400, 0.005, 0.1, -5.0)]
)
def test_no_slope_exceeds_five(size, temperature, budget, slope):
    """Both ways: a budget far above what so few negatives can spend, and one far below what cold ones do."""
    term = IndividualTemperatureTerm(gamma=1, budget=budget, temperature=temperature, step_size=1e-3)
    share_of(term, pairs_of(unit(size, 32, 1), unit(size, 32, 2)))
    slopes = term.memory.rows[:, 4:] / 0.9
    assert bool((slopes.abs() <= 5 + 1e-5).all())
    if slope is None:
        assert bool((slopes.abs() < 4.5).all())
    else:
        assert (slopes - slope).abs().median() < 1e-5
        moved = (temperature - 1e-3 * 0.9 * slope) - term.memory.rows[:, 2:4]
        assert moved.abs().median() < 1e-6


def settled(budget, steps, size=400):
    """Let temperatures settle on fixed embeddings; return the mean divergence and the temperatures."""
    term = IndividualTemperatureTerm(gamma=1, budget=budget, temperature=0.05, step_size=1e-3, min_temperature=0.005)
    pairs = pairs_of(unit(size, 32, 1, torch.float32), unit(size, 32, 2, torch.float32))
    with torch.no_grad():
        for _ in range(steps):
            share_of(term, pairs)
    return term.divergence.mean().item(), term.memory.rows[:, 2:4]


@pytest.mark.parametrize(("budget", "mean", "steps"), [(1.0, 0.117, 300), (3.0, 0.055, 100), (5.0, 0.024, 150)])
def test_temperatures_settle_where_the_budget_is_spent(budget, mean, steps):
    divergence, temperatures = settled(budget, steps)
    assert divergence == pytest.approx(budget, abs=0.02)
    assert temperatures.mean().item() == pytest.approx(mean, abs=1e-3)


def test_a_budget_beyond_the_log_of_the_negatives_drives_them_to_the_floor():
    with pytest.warns(RuntimeWarning, match="not below it"):
        _, temperatures = settled(6.5, steps=120)
    assert bool((temperatures == torch.tensor(0.005)).all())


def test_the_warning_comes_once():
    term = IndividualTemperatureTerm(budget=3.0)
    image, text = unit(5, 6, 1), unit(5, 6, 2)
    with pytest.warns(RuntimeWarning, match="bound the divergence by 1.39") as seen:
        for _ in range(2):
            share_of(term, pairs_of(image, text))
    assert len(seen) == 1


def test_a_sample_twice_in_a_batch_moves_once():
    image, text = unit(4, 6, 1), unit(4, 6, 2)
    order = torch.tensor([1, 0, 3, 2])
    ids = torch.tensor([5, 5, 2, 0])
    one, other = (IndividualTemperatureTerm(temperature=0.2, step_size=0.01) for _ in range(2))
    share_of(one, pairs_of(image, text, ids=ids))
    share_of(other, pairs_of(image[order], text[order], ids=ids[order]))
    torch.testing.assert_close(one.memory.rows, other.memory.rows)
    assert one.memory.rows[:, 0].isfinite().sum() == 3


def test_numbers_that_are_not_finite_do_not_reach_the_memory():
    ids, image, text = batches()[0]
    term = IndividualTemperatureTerm()
    share_of(term, pairs_of(image, text, ids=ids))
    before = term.memory.rows.clone()
    share_of(term, pairs_of(image * math.nan, text, ids=ids))
    assert torch.equal(term.memory.rows, before)


@pytest.mark.parametrize(
    "settings",
    [{"gamma": 0.0}, {"gamma_steps": -1}, {"budget": 0.0}, {"step_size": 0.0}, {"temperature": 2.0}],
)
def test_impossible_settings_are_refused(settings):
    with pytest.raises(ValueError, match="must"):
        IndividualTemperatureTerm(**settings)
