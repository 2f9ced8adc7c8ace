"""What any term must hold. A new term is covered here the moment it is registered."""

from __future__ import annotations

import pytest
import torch

from tests.objectives.batches import draw_leaves, gradients_of, one, pairs_of, share_of, unit
from tests.processes import run_processes
from vlp.objectives.base import Objective, Term, terms
from vlp.pairs import Pairs
from vlp.registry import settings_of
from vlp.types import Embeddings

SIZE = 12
VARIANTS = [
    ("alignment", {"power": 1.5}),
    ("clip", {"label_smoothing": 0.1, "text_share": 0.3}),
    ("clip", {"mask_duplicates": True}),
    ("cwcl", {"kernel": "exp", "kernel_temperature": 0.3, "mix": 0.4, "reduction": "mean"}),
    ("cwcl", {"kernel": "exp", "anchor": "text"}),
    ("cwcl", {"anchor": "text"}),
    ("dcl", {"intra": True}),
    ("uniformity", {"modality": "image", "sharpness": 3.0}),
]
CASES = [*((name, {}) for name in terms), *VARIANTS]
ONE_TOWER = [("uniformity", {"modality": "image", "sharpness": 3.0})]
each_term = pytest.mark.parametrize(("name", "settings"), CASES, ids=[f"{name}-{settings}" for name, settings in CASES])


def build(name: str, settings: dict) -> Term:
    return terms.build(name, settings)


def captions(size: int) -> torch.Tensor:
    return torch.arange(size) % max(1, size - 3)


def extras(size: int, dtype: torch.dtype = torch.float64) -> dict[str, torch.Tensor]:
    return {"caption_ids": captions(size), "reference": unit(size, 4, 9, dtype)}


def test_the_registry_is_not_empty():
    assert len(terms) >= 8


@each_term
def test_settings_are_a_schema(name, settings):
    checked = settings_of(terms[name])(**settings)
    build(name, checked.model_dump())


@each_term
def test_pair_order_does_not_matter(name, settings):
    image, text, scale, bias = (leaf.detach() for leaf in draw_leaves(SIZE))
    order = torch.randperm(SIZE, generator=torch.Generator().manual_seed(0))
    more = extras(SIZE)
    shuffled = {key: value[order] for key, value in more.items()}
    straight = share_of(build(name, settings), pairs_of(image, text, scale, bias, **more))
    mixed = share_of(build(name, settings), pairs_of(image[order], text[order], scale, bias, **shuffled))
    assert mixed.item() == pytest.approx(straight.item(), rel=1e-12)


@each_term
@pytest.mark.parametrize("size", [1, 2, SIZE])
@pytest.mark.parametrize("same", [False, True])
def test_finite_at_scale_100(name, settings, size, same):
    term = build(name, settings)
    if size < term.min_pairs:
        pytest.skip(f"{name} is defined from {term.min_pairs} pairs on")
    leaves = draw_leaves(size, scale=100.0, dtype=torch.float32)
    if same:
        leaves[1] = leaves[0].detach().clone().requires_grad_()
    more = extras(size, torch.float32)
    assert bool(share_of(term, pairs_of(*leaves, **more)).isfinite())
    assert all(bool(gradient.isfinite().all()) for gradient in gradients_of(term, leaves, **more))


@each_term
def test_too_few_pairs_are_refused(name, settings):
    term = build(name, settings)
    if term.min_pairs == 1:
        share_of(term, pairs_of(unit(1, 4, 1), unit(1, 4, 2), **extras(1)))
        return
    with pytest.raises(ValueError, match=f"needs {term.min_pairs} pairs"):
        share_of(term, pairs_of(unit(1, 4, 1), unit(1, 4, 2), **extras(1)))


@each_term
def test_gradcheck(name, settings):
    if name == "dclw":
        pytest.skip("stops the gradient of its weights on purpose; see test_dclw.py")
    term = build(name, settings)
    leaves = draw_leaves(5, scale=3.0, bias=-1.0)
    assert torch.autograd.gradcheck(lambda *leaf: share_of(term, pairs_of(*leaf, **extras(5))), leaves)


@each_term
def test_gradient_reaches_both_towers(name, settings):
    image, text, *_ = gradients_of(build(name, settings), draw_leaves(SIZE), **extras(SIZE))
    assert bool(image.abs().sum() > 0)
    assert bool(text.abs().sum() > 0) == ((name, settings) not in ONE_TOWER)


@each_term
def test_needs_are_declared(name, settings):
    """A term that reads reference features or captions must say so, for strategies to provide them."""
    term = build(name, settings)
    assert term.needs <= {"ids", "caption_ids", "reference", "views", "teacher"}
    plain = pairs_of(unit(SIZE, 4, 1), unit(SIZE, 4, 2))
    if "reference" in term.needs:
        with pytest.raises(ValueError, match="needs reference features"):
            share_of(term, plain)
    else:
        share_of(term, plain)


@each_term
@pytest.mark.filterwarnings("ignore")
def test_same_value_when_compiled(name, settings):
    torch._dynamo.reset()
    term = Objective({"term": (build(name, settings), one)})
    compiled = torch.compile(term, backend="aot_eager")
    values = []
    for function in (term, compiled):
        leaves = draw_leaves(6)
        loss, _ = function(pairs_of(*leaves, **extras(6)), 0)
        loss.backward()
        values.append([loss.detach(), leaves[0].grad, leaves[1].grad])
    torch.testing.assert_close(*values, rtol=1e-10, atol=1e-10)


def train_on(rank, world_size):
    """Return for every case the reported value, the share, and the gradients of this process."""
    rows = slice(rank * SIZE // world_size, (rank + 1) * SIZE // world_size)
    image, text, scale, bias = (leaf.detach() for leaf in draw_leaves(SIZE))
    more = extras(SIZE)
    answers = []
    for name, settings in CASES:
        leaves = [leaf.clone().requires_grad_() for leaf in (image[rows], text[rows], scale, bias)]
        embeddings = Embeddings(*leaves, reference=more["reference"][rows])
        pairs = Pairs(embeddings, torch.arange(SIZE)[rows], more["caption_ids"][rows])
        loss, report = Objective({"term": (build(name, settings), one)})(pairs, 0)
        found = torch.autograd.grad(loss, leaves, allow_unused=True)
        numbers = [torch.zeros_like(leaf) if g is None else g for g, leaf in zip(found, leaves, strict=True)]
        answers.append([report["term"].item(), loss.item(), *(number.numpy() for number in numbers)])
    return answers


@pytest.fixture(scope="module", params=[2, 3])
def parts(request):
    return run_processes(train_on, request.param)


@each_term
@pytest.mark.processes
def test_several_processes_equal_one(name, settings, parts):
    place = CASES.index((name, settings))
    values, shares, images, texts, scales, biases = zip(*(part[place] for part in parts), strict=True)
    leaves = draw_leaves(SIZE)
    whole = share_of(build(name, settings), pairs_of(*leaves, **extras(SIZE))).item()
    assert values == pytest.approx([whole] * len(parts), rel=1e-12)
    assert sum(shares) == pytest.approx(whole, rel=1e-12)
    together = [torch.cat([torch.as_tensor(piece) for piece in pieces]) for pieces in (images, texts)]
    together += [torch.as_tensor(sum(scales)), torch.as_tensor(sum(biases))]
    for ours, theirs in zip(together, gradients_of(build(name, settings), leaves, **extras(SIZE)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)
