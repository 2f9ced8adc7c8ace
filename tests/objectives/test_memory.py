"""What terms remember, by sample id: the same after several batches, however many processes saw them."""

from __future__ import annotations

import math

import pytest
import torch

from tests.objectives.batches import DIM, draw_leaves, one, pairs_of, share_of, unit
from tests.processes import run_processes
from vlp.ground.types import RecipeError
from vlp.objectives.base import Objective, terms
from vlp.objectives.cluster_proxies import ClusterProxyTerm
from vlp.objectives.isogclr import IndividualTemperatureTerm
from vlp.objectives.shared.memory import NEVER_SEEN, SampleMemory, Visits, moving_log_mean
from vlp.objectives.shared.order import hashed_order
from vlp.objectives.sogclr import GlobalContrastTerm

SIZE = 6


def remembered(rank, world_size):
    """Return, for each term with a memory, its values and its state after three batches with samples that return."""
    rows = slice(rank * SIZE // world_size, (rank + 1) * SIZE // world_size)
    found = []
    for term in (
        GlobalContrastTerm(gamma=0.5, budget=1.0),
        IndividualTemperatureTerm(gamma=0.5, budget=1.0, temperature=0.2, step_size=0.01),
        ClusterProxyTerm(centres=4, decay=0.7, second_order=True),
    ):
        term.create(DIM)
        shares = []
        for step in range(3):
            image, text, ids = unit(SIZE, DIM, step), unit(SIZE, DIM, step + 9), (torch.arange(SIZE) * 5 + step) % 8
            shares.append(share_of(term, pairs_of(image[rows], text[rows], scale=3.0, ids=ids[rows], step=step)).item())
        found.append((shares, [value.numpy() for value in term.state_dict().values()]))
    return found


@pytest.mark.processes
@pytest.mark.parametrize("world_size", [2, 3])
def test_several_processes_remember_what_one_does(world_size):
    parts = run_processes(remembered, world_size)
    for place, (shares, state) in enumerate(remembered(0, 1)):
        summed = [sum(values) for values in zip(*(part[place][0] for part in parts), strict=True)]
        assert summed == pytest.approx(shares, rel=1e-5)  # the memory is float32
        for part in parts:
            for ours, theirs in zip(part[place][1], state, strict=True):
                torch.testing.assert_close(torch.as_tensor(ours), torch.as_tensor(theirs), rtol=1e-5, atol=1e-6)


def test_visits_average_the_values_of_a_sample():
    visits = Visits(torch.tensor([7, 2, 7]))
    values = torch.tensor([[1.0], [5.0], [3.0]])
    assert visits.ids.tolist() == [2, 7, 7]  # one that stands twice does so here, with one value
    assert visits.mean(values)[visits.places].tolist() == [[2.0], [5.0], [2.0]]
    expected = math.log((math.exp(1) + math.exp(3)) / 2)
    assert visits.log_mean_exp(values).flatten().tolist() == pytest.approx([5.0, expected, expected])
    huge = visits.log_mean_exp(values + 1e4).flatten().tolist()
    assert huge == pytest.approx([10005.0, 10000 + expected, 10000 + expected])


def test_the_table_grows_with_the_largest_id_and_survives_a_checkpoint():
    memory = SampleMemory([NEVER_SEEN, 0.5])
    assert memory.read(torch.tensor([1, 4]), torch.float64).tolist() == [[NEVER_SEEN, 0.5]] * 2
    memory.write(torch.tensor([4]), torch.tensor([[1.0, 2.0]]))
    other = SampleMemory([NEVER_SEEN, 0.5])
    other.load_state_dict(memory.state_dict())
    assert other.read(torch.tensor([4, 6]), torch.float32).tolist() == [[1.0, 2.0], [NEVER_SEEN, 0.5]]


def test_a_reserved_table_has_room_for_all_samples():
    memory = SampleMemory([0.5])
    memory.reserve(7)
    assert memory.rows.tolist() == [[0.5]] * 7
    assert memory.read(torch.tensor([6]), torch.float64).tolist() == [[0.5]]


def test_logs_of_moving_averages():
    before, now = torch.tensor([math.log(2), NEVER_SEEN, 1.0]), torch.tensor([math.log(4), 3.0, math.nan])
    moved = moving_log_mean(before, now, torch.tensor(0.25).double())
    assert moved.tolist() == pytest.approx([math.log(0.75 * 2 + 0.25 * 4), 3.0, 1.0])


def test_the_first_value_ever_and_one_that_counts_alone_are_taken_as_they_are():
    before, now = torch.tensor([math.log(2), NEVER_SEEN, -math.inf]), torch.tensor([0.5, 3.0, 1.5])
    assert moving_log_mean(before, now, torch.tensor(1.0).double()).tolist() == now.tolist()


@pytest.mark.parametrize("salt", [0, 1, 2, 2**31])
def test_the_hashed_order_follows_ids_and_step_alone(salt):
    ids, image = torch.arange(50) * 3, unit(50, DIM, 1)
    shuffled = torch.randperm(50, generator=torch.Generator().manual_seed(0))
    straight = ids[hashed_order(pairs_of(image, image, ids=ids), salt)]
    mixed = ids[shuffled][hashed_order(pairs_of(image, image, ids=ids[shuffled]), salt)]
    later = ids[hashed_order(pairs_of(image, image, ids=ids, step=1), salt)]
    assert torch.equal(straight, mixed)
    assert not torch.equal(straight, later)
    assert torch.equal(straight.sort().values, ids)


@pytest.mark.parametrize(("name", "settings"), [("isogclr", {}), ("sogclr", {"budget": 6.0})])
def test_a_budget_beyond_the_data_is_refused(name, settings):
    objective = Objective({"global": (terms.build(name, settings), one)})
    objective.expect(1000)
    with pytest.raises(RecipeError, match=r"objective\.global: budget 6\.0 must be below log\(samples - 1\) = 5\.99"):
        objective.expect(401)


def test_gauges_carry_the_label_of_their_term():
    objective = Objective(
        {"mine": (terms.build("isogclr", {"budget": 1.0}), one), "plain": (terms.build("clip", {}), one)}
    )
    objective(pairs_of(*draw_leaves(12)), 0)
    gauges = objective.gauges()
    assert {"mine/kl_image", "mine/t50_text"} <= gauges.keys()
    assert all(name.startswith("mine/") for name in gauges)
