"""A sample that stands twice in a batch is no negative of itself, under any term and over any number of processes."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from tests.objectives.batches import DIM, VOCABULARY, draw_leaves, extras, one, pairs_of, rows_of, share_of
from tests.objectives.cases import CASES, build, chosen_places, each_term
from tests.objectives.twins import IDS, NO_NEGATIVES, READINGS, SIZE, WITH_TERM, Whole, draw_twins
from tests.processes import run_processes
from vlp.objectives.base import Objective, terms

pytestmark = pytest.mark.filterwarnings("ignore:isogclr")
READ = [(name, settings) for name, settings in CASES if name in READINGS]
VIEWS = [(name, settings, views) for name, settings in READ for views in sorted({False, terms[name].reads_views})]
MINING = (
    "ascl",
    "hard",
    "simple",
    "ranker_distillation",
    "adversarial_ranker",
    "groco",
    "mochi",
    "cwcl",
    "core_tuning",
)
"""Terms that pick some rows: of two that are equal in every number either will do."""
BATCHES = {
    "some": IDS,
    "all": torch.full((4,), 3),
    "two_of_three": torch.tensor([5, 8, 5]),
    "none": 2 * torch.arange(5),
}
PROJECTING = ("amcl", "sepclr", "feature_transformation", "hallucinator", "core_tuning")
"""Terms that move embeddings before they compare them, so that a gradient is no sum of other embeddings."""


def share_of_batch(term, batch: Whole):
    return share_of(term, pairs_of(*batch.leaves[:4], **batch.options))


def read_slowly(name, settings, term, batch):
    return READINGS[name](batch, *((term,) if name in WITH_TERM else ()), **settings)


def gradients(loss, leaves):
    if not loss.requires_grad:
        return [torch.zeros_like(leaf) for leaf in leaves]
    return torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)


def test_every_term_is_read_slowly_or_has_no_negatives():
    """A new term's test file has `READING`, a function as those of `twins.py`, or `NO_NEGATIVES`, which says why."""
    assert READINGS.keys() | NO_NEGATIVES.keys() == set(terms)
    assert not READINGS.keys() & NO_NEGATIVES.keys()


@pytest.mark.parametrize("ids", BATCHES)
@pytest.mark.parametrize(("name", "settings", "views"), VIEWS, ids=["-".join(map(str, case)) for case in VIEWS])
def test_equals_a_slow_reading_without_twins(name, settings, ids, views):
    term, batch = build(name, settings), draw_twins(BATCHES[ids], views=views)
    if len(batch.ids) < term.min_pairs:
        pytest.skip("too small a batch")
    loss, slow = share_of_batch(term, batch), read_slowly(name, settings, term, batch)
    assert loss.item() == pytest.approx(float(slow.detach()), rel=1e-6, abs=1e-9)
    wanted = [*batch.leaves, *term.parameters()]
    for ours, theirs, leaf in zip(gradients(loss, wanted), gradients(slow, wanted), wanted, strict=True):
        both = [seen_by_towers(gradient, leaf, len(batch.ids)) for gradient in (ours, theirs)]
        if name in MINING and ids == "some" and leaf.shape[:1] == (SIZE,):
            both = [gradient.index_add(0, torch.tensor([0, 7]), gradient[[7, 0]]) for gradient in both]
        torch.testing.assert_close(*both, rtol=1e-6, atol=1e-8)


def seen_by_towers(gradient, leaf, size):
    """Take away what changes the length of an embedding, which towers normalise."""
    if leaf.shape != (size, DIM):
        return gradient.double()
    return (gradient - (gradient * leaf.detach()).sum(1, keepdim=True) * leaf.detach()).double()


@pytest.mark.parametrize("name", NO_NEGATIVES)
def test_terms_without_negatives_do_not_look_at_ids(name):
    batch = draw_twins()
    values = [
        share_of(build(name, {}), pairs_of(*batch.leaves[:4], **batch.options | {"ids": ids})).item()
        for ids in (IDS, torch.arange(SIZE))
    ]
    assert values[0] == values[1]


@each_term
@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_a_batch_of_one_sample_is_finite(name, settings, scale):
    """All rows are one sample, at two batches, so that no state is spoilt either."""
    term = build(name, settings).float()
    more = extras(5, torch.float32) | {"ids": torch.full((5,), 3)}
    for step in range(2):
        leaves = draw_leaves(5, scale=scale, dtype=torch.float32)
        loss = share_of(term, pairs_of(*leaves, step=step, **more))
        assert bool(loss.isfinite())
        assert all(bool(gradient.isfinite().all()) for gradient in gradients(loss, [*leaves, *term.parameters()]))
    state = [value for key, value in term.state_dict().items() if "memory.rows" not in key]
    assert all(bool(value.isfinite().all()) for value in state)


def coefficients(gradient, batch):
    """Write each row of a gradient as a sum of all images and texts."""
    basis = torch.cat([batch.image, batch.text]).detach()
    found = torch.linalg.lstsq(basis.T, gradient.T).solution.T
    torch.testing.assert_close(found @ basis, gradient, rtol=1e-6, atol=1e-9)
    return found.split([batch.size, batch.size], dim=1)


def draw_wide(width: int) -> Whole:
    """Draw a batch with twins whose embeddings are linearly independent, so that each has its own direction."""
    generator = torch.Generator().manual_seed(0)
    batch = draw_twins()
    wide = torch.randn(2, SIZE, width, generator=generator, dtype=torch.float64)
    wide[1] += wide[0]
    for row, number in enumerate(IDS.tolist()):
        first = IDS.tolist().index(number)
        wide[:, row] = wide[:, row] if first == row else wide[:, first] + 0.3 * wide[:, row]  # the hardest of all
    image, text = functional.normalize(wide, dim=2)
    more = {key: value for key, value in batch.more.items() if key not in ("teacher", "negatives")}
    teacher = type(batch.more["teacher"])(image.flip(0), text.flip(0))
    more |= {"teacher": teacher, "negatives": functional.normalize(text.roll(1, 0) + image, dim=1)[:, None]}
    return Whole(image.requires_grad_(), text.requires_grad_(), batch.scale, batch.bias, IDS, more=more)


OF_OTHERS = ("teacher_contrast", "feature_contrast", "clip_negatives")
"""Their gradients also run along the teacher's embeddings, or along wrong captions, which are none of the batch."""


@pytest.mark.parametrize(
    ("name", "settings"),
    cases := [case for case in READ if case[0] not in (*PROJECTING, *OF_OTHERS) and not case[1].get("mined")],
    ids=[f"{name}-{settings}" for name, settings in cases],
)
def test_no_gradient_runs_along_a_twin(name, settings):
    """Not away from its embeddings, as of a negative, nor towards them."""
    batch = draw_wide(3 * SIZE)
    twins = (IDS[:, None] == IDS) & ~torch.eye(SIZE, dtype=torch.bool)
    assert along(name, settings, batch)[..., twins].abs().max() < 1e-9
    batch.ids = torch.arange(SIZE)
    assert along(name, settings, batch)[..., twins].abs().max() > 1e-9  # what ids are for


def along(name, settings, batch):
    """Return how much of each row's gradient runs along each image and each text."""
    term = terms.build(name, settings)
    term.fit_maps(DIM)
    term.fit_vocabulary(VOCABULARY)
    term.create(3 * SIZE)
    loss = share_of_batch(term.double(), batch)
    parts = [coefficients(gradient, batch) for gradient in gradients(loss, [batch.image, batch.text])]
    return torch.stack([part for pair in parts for part in pair])


def apart(rows):
    """Move equal rows a little, so that no two negatives are equally hard: which one counts would be left to chance."""
    noise = torch.randn(rows.shape, generator=torch.Generator().manual_seed(1), dtype=rows.dtype)
    return functional.normalize(rows + 0.02 * noise, dim=-1)


def numbers_of(case, rows):
    """Return the reported value, the share, and the gradients of embeddings, scale, bias and the term's parameters."""
    batch, term = draw_twins(views=True), build(*case)
    leaves = [apart(leaf.detach())[rows] if leaf.ndim else leaf.detach() for leaf in batch.leaves]
    image, text, scale, bias, first, second, third = (leaf.requires_grad_() for leaf in leaves)
    more = rows_of(batch.more, rows) | {"ids": IDS[rows], "image_views": (first, second), "text_views": (third,)}
    loss, report = Objective({"term": (term, one)})(pairs_of(image, text, scale, bias, **more), 0)
    found = gradients(loss, [image, text, first, second, third, scale, bias, *term.parameters()])
    cut, whole = found[:5], found[5:]
    state = [value.numpy() for value in term.state_dict().values() if not value.requires_grad]
    return report["term"].item(), loss.item(), [g.numpy() for g in cut], [g.numpy() for g in whole], state


def train_on(rank, world_size, places):
    rows = slice(rank * SIZE // world_size, (rank + 1) * SIZE // world_size)
    return {place: numbers_of(CASES[place], rows) for place in places}


@pytest.fixture(scope="module")
def parts(request):
    return run_processes(train_on, 2, chosen_places(request.session.items, __name__))


@each_term
@pytest.mark.processes
def test_several_processes_equal_one(name, settings, parts):
    """Copies of one sample lie on different processes: two here, and three without copies in `test_processes.py`."""
    place = CASES.index((name, settings))
    values, shares, cut, whole, states = zip(*(part[place] for part in parts), strict=True)
    value, share, expected_cut, expected_whole, expected_state = numbers_of((name, settings), slice(None))
    assert values == pytest.approx([value] * len(parts), rel=1e-11, abs=1e-14)
    assert sum(shares) == pytest.approx(share, rel=1e-11, abs=1e-14)
    together = [torch.cat([torch.as_tensor(piece) for piece in pieces]) for pieces in zip(*cut, strict=True)]
    together += [torch.as_tensor(sum(pieces)) for pieces in zip(*whole, strict=True)]
    for ours, theirs in zip(together, [*expected_cut, *expected_whole], strict=True):
        torch.testing.assert_close(ours, torch.as_tensor(theirs), rtol=1e-9, atol=1e-11)
    for state in states:
        for ours, theirs in zip(state, expected_state, strict=True):
            torch.testing.assert_close(torch.as_tensor(ours), torch.as_tensor(theirs), rtol=1e-6, atol=1e-7)
