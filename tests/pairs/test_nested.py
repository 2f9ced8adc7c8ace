"""Several widths of the same embeddings in one walk: equal to each width alone, at the products of the widest."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.pairs.dense import COLUMNS, REQUESTS, ROWS, blocks_of, cut_blocks, dense_stat, leaves, mix, unit
from vlp.pairs import HIST, LSE, MAP, SOFTPLUS, TOPK, pair_stats
from vlp.pairs.engine.nested import NestedWalk

DIM = 6
SIZES = [(7, 3, 2**7), (13, 4, 2**9)]
TWINS = torch.tensor([3, 1, 3, 2, 5, 5, 9, 8, 3, 0, 4, 6, 7])


def several(requests):
    """Ask the same of all widths."""
    return {f"{name}@{width}": asked for name, asked in requests.items() for width in (2, 4, DIM)}


def blocks_of_widths(inputs, ids=None):
    """Return the similarity matrices of several widths; those of all coordinates are not cut."""
    return cut_blocks(blocks_of(*inputs, ids), (2, 3, 4, DIM))


def gradients(loss, inputs):
    wanted = [leaf for leaf in inputs if leaf.requires_grad]
    found = torch.autograd.grad(loss, wanted, allow_unused=True)
    return [torch.zeros_like(leaf) if g is None else g for g, leaf in zip(found, wanted, strict=True)]


def assert_equals_dense(inputs, requests, ids=None, **options):
    blocks = blocks_of_widths(inputs, ids)
    streamed = pair_stats(blocks, requests, **options)
    dense = {
        (name, request): dense_stat(blocks[name], request) for name, asked in requests.items() for request in asked
    }
    assert streamed.keys() == dense.keys()
    for key, values in dense.items():
        torch.testing.assert_close(streamed[key], values, rtol=1e-10, atol=1e-10)
    in_order = {key: streamed[key] for key in dense}  # which `mix` goes by
    for ours, theirs in zip(gradients(mix(in_order), inputs), gradients(mix(dense), inputs), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    return streamed


@pytest.mark.parametrize("name", REQUESTS)
@pytest.mark.parametrize(("size", "tile_size", "kept_bytes"), SIZES)
def test_equals_dense(name, size, tile_size, kept_bytes):
    assert_equals_dense(leaves(size), several(REQUESTS[name]), tile_size=tile_size, kept_bytes=kept_bytes)


@pytest.mark.parametrize(("size", "tile_size"), [(1, 4), (2, 1), (13, 13)])
def test_one_tile_and_the_smallest_ones_equal_dense(size, tile_size):
    assert_equals_dense(leaves(size), several(REQUESTS["all"]), tile_size=tile_size, kept_bytes=0)


@pytest.mark.parametrize("name", ["all", "within_mixed", "rectangular", "means"])
def test_without_a_bound_equals_dense(name, monkeypatch):
    monkeypatch.setattr("vlp.pairs.engine.matrix.bound_of_cosines", lambda *_: None)
    assert_equals_dense(leaves(13), several(REQUESTS[name]), tile_size=4, kept_bytes=0)


@pytest.mark.parametrize("name", ["twins", "twins_weighted", "all"])
def test_twins_are_hidden_at_every_width(name):
    assert_equals_dense(leaves(13), several(REQUESTS[name]), TWINS, tile_size=4, kept_bytes=0)


@pytest.mark.parametrize("locked", [[0], [1], [2, 3], [0, 1], [0, 2]])
@pytest.mark.parametrize("name", ["both", "all", "within", "sigmoid"])
def test_what_wants_no_gradient_gets_none(name, locked):
    inputs = leaves(13)
    for number in locked:
        inputs[number].requires_grad_(False)
    assert_equals_dense(inputs, several(REQUESTS[name]), tile_size=4, kept_bytes=0)


def test_widths_may_ask_for_different_things_and_the_whole_for_nothing():
    requests = {
        "image_text@2": [ROWS, LSE("column", factor=0.5)],
        "image_text@3": [ROWS, MAP(SOFTPLUS), TOPK("row", 2)],
        "image_text@4": [COLUMNS, HIST(7)],
    }
    streamed = assert_equals_dense(leaves(13), requests, tile_size=4, kept_bytes=0)
    assert len({values.grad_fn for values in streamed.values() if values.grad_fn is not None}) == 1


def walks_of(requests):
    stats = pair_stats(blocks_of_widths(leaves(9)), requests, tile_size=4, kept_bytes=0)
    return {values.grad_fn: type(values.grad_fn.path) for values in stats.values()}


def test_widths_of_one_matrix_are_walked_together_and_others_apart():
    assert list(walks_of(several({"image_text": [ROWS]})).values()) == [NestedWalk]
    two = walks_of(several({"image_text": [ROWS], "image_image": [ROWS]}))
    assert list(two.values()) == [NestedWalk, NestedWalk]
    apart = walks_of({"image_text@2": [ROWS], "image_text@4": [LSE("row", fixed_scale=3.0)]})
    assert NestedWalk not in apart.values()  # not one scale
    assert len(apart) == 2


def operations(requests, kept_bytes):
    inputs = leaves(32)
    with FlopCounterMode(display=False) as counter:
        gradients(mix(pair_stats(blocks_of_widths(inputs), requests, tile_size=8, kept_bytes=kept_bytes)), inputs)
    return counter.get_total_flops()


@pytest.mark.parametrize("kept_bytes", [0, 2**11])
@pytest.mark.parametrize("block", ["image_text", "image_image"])
def test_all_widths_take_the_products_of_the_widest(block, kept_bytes):
    alone = operations({f"{block}@{DIM}": [ROWS]}, kept_bytes)
    assert operations(several({block: [ROWS]}), kept_bytes) == alone > 0


@pytest.mark.parametrize("cloud", ["random", "opposed"])
def test_float32_is_exact_where_a_bound_loses_digits(cloud):
    """At this scale sums under one bound vanish; the walk of all widths is taken again without."""
    image = unit(24, DIM, 1)
    text = unit(24, DIM, 2) if cloud == "random" else -image
    inputs = [leaf.float().requires_grad_() for leaf in (image, text, torch.tensor(200.0), torch.tensor(0.0))]
    requests = several({"image_text": [ROWS, COLUMNS]})
    streamed = pair_stats(blocks_of_widths(inputs), requests, tile_size=10, kept_bytes=2**9)
    exact = [leaf.detach().double().requires_grad_() for leaf in inputs]
    blocks = blocks_of_widths(exact)
    dense = {
        (name, request): dense_stat(blocks[name], request) for name, asked in requests.items() for request in asked
    }
    for key, values in dense.items():
        torch.testing.assert_close(streamed[key].double(), values, rtol=2e-6, atol=2e-4)
    losses = [sum(values.mean() for values in stats.values()) for stats in (streamed, dense)]
    for ours, theirs in zip(gradients(losses[0], inputs), gradients(losses[1], exact), strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-3, atol=4e-3)


def test_going_back_twice_gives_the_same():
    inputs = leaves(13)
    loss = mix(pair_stats(blocks_of_widths(inputs), several(REQUESTS["all"]), tile_size=4, kept_bytes=2**9))
    first = torch.autograd.grad(loss, inputs, retain_graph=True)
    for one, other in zip(first, torch.autograd.grad(loss, inputs), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_rows_whose_first_coordinates_are_zero_are_finite():
    inputs = leaves(5)
    with torch.no_grad():
        inputs[0][1, :3] = 0
    found = assert_finite(
        pair_stats(blocks_of_widths(inputs), several({"image_text": [ROWS]}), tile_size=4, kept_bytes=0)
    )
    assert all(bool(each.isfinite().all()) for each in gradients(mix(found), inputs))


def assert_finite(stats):
    assert all(bool(values.isfinite().all()) for values in stats.values())
    return stats


def test_what_is_kept_anyway_is_walked_width_by_width():
    """Its exponentials are kept, too: one walk of all would take them twice."""
    blocks = blocks_of_widths(leaves(9))
    stats = pair_stats(blocks, several({"image_text": [ROWS]}), kept_bytes=9 * 9 * 8)
    assert len({values.grad_fn for values in stats.values()}) == 3
    stats = pair_stats(blocks, several({"image_text": [ROWS]}), kept_bytes=9 * 9 * 4 - 1)
    assert len({values.grad_fn for values in stats.values()}) == 1
