"""Which path a matrix takes, and the tiles that it keeps."""

from __future__ import annotations

import pytest
import torch

from tests.pairs.dense import COLUMNS, ROWS, blocks_of, leaves
from tests.pairs.test_walk import EXTREMES
from vlp.pairs import HIST, LSE, MAP, SOFTPLUS, TOPK, WMEAN, TileMemory, nearness, pair_stats
from vlp.pairs.engine.tile_paths import EarlyGradients, KeptExponentials, TwoWalks
from vlp.pairs.engine.tiles import KeptTiles

PATHS = [
    ("image_text", [ROWS], KeptExponentials),
    ("image_text", [ROWS, COLUMNS], KeptExponentials),
    ("image_text", [LSE("row", kernel=nearness(0.2))], KeptExponentials),
    ("image_image", [ROWS], KeptExponentials),
    ("image_text", [LSE("row", individual=True)], TwoWalks),  # has no shift
    ("image_text", [WMEAN("row")], TwoWalks),
    ("image_text", [HIST(9)], TwoWalks),
    ("image_text", [ROWS, LSE("row", mask="pair")], TwoWalks),
    ("image_text", [ROWS, TOPK("row", 2)], TwoWalks),
    ("image_text", [MAP(SOFTPLUS)], EarlyGradients),
    ("image_extra", [MAP(SOFTPLUS, mask="label")], EarlyGradients),
    ("image_image", [MAP(SOFTPLUS)], TwoWalks),
    ("image_text", [MAP(SOFTPLUS), ROWS], TwoWalks),
]


def path_of(inputs, block, requests):
    stats = pair_stats(blocks_of(*inputs), {block: requests}, tile_size=4)
    return next(iter(stats.values())).grad_fn.path


@pytest.mark.parametrize(("block", "requests", "path"), PATHS)
def test_every_matrix_takes_the_quickest_path(block, requests, path):
    assert type(path_of(leaves(9), block, requests)) is path


@pytest.mark.parametrize("requests", [[ROWS], [MAP(SOFTPLUS)]])
def test_whose_rows_want_no_gradient_is_walked_twice(requests):
    """The gradient of the scale follows from that of the rows; without them it takes the logits of every tile."""
    inputs = leaves(9)
    inputs[0].requires_grad_(False)
    assert type(path_of(inputs, "image_text", requests)) is TwoWalks


@pytest.mark.parametrize("requests", [[ROWS], [MAP(SOFTPLUS)]])
def test_where_no_bound_is_known_every_matrix_is_walked_twice(requests, monkeypatch):
    monkeypatch.setattr("vlp.pairs.engine.matrix.bound_of_cosines", lambda *_: None)
    assert type(path_of(leaves(9), "image_text", requests)) is TwoWalks


def test_exponentials_that_lost_digits_are_not_kept():
    sides = [side.float().requires_grad_() for side in EXTREMES["opposed"](16)]
    path = path_of([*sides, torch.tensor(200.0), torch.tensor(0.0)], "image_text", [ROWS])
    assert type(path) is TwoWalks
    assert len(path.kept) == 0


def test_nothing_is_kept_where_nothing_wants_a_gradient():
    inputs = [leaf.detach() for leaf in leaves(9)]
    memory = TileMemory()
    pair_stats(blocks_of(*inputs), {"image_text": [ROWS]}, tile_size=4, memory=memory)
    assert [len(tiles) for tiles in memory._free.values()] == [1]  # one tile served all, and came back


def test_kept_tiles_have_room_for_the_first_ones_and_give_them_out_once():
    kept, like = KeptTiles(4 * (6 + 4), TileMemory()), torch.zeros(1)
    first, second, third = (kept.keep(slice(0, 2), slice(k, k + width), like) for k, width in ((0, 3), (3, 3), (6, 2)))
    assert first.shape == (2, 3)
    assert second is None
    assert third.shape == (2, 2)
    assert len(kept) == 2
    assert kept.pop(slice(0, 2), slice(0, 3)) is first
    assert kept.pop(slice(0, 2), slice(0, 3)) is None
    assert len(kept) == 1
