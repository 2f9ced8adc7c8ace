"""What a device holds of split parameters, against FSDP2 itself, and what travels, by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from torch.distributed.device_mesh import init_device_mesh

from tests.plan.test_forecast import B32, H100, plan
from tests.processes import run_processes
from tests.towers.tiny import tiny_model
from vlp.ground import dist
from vlp.plan.forecast import NETWORK
from vlp.plan.holding import Holding
from vlp.plan.splitting import FLOAT32, SplitRows, rows_of, sent_in_step
from vlp.towers.sharding import shard

MESHES = {"parts": ((2,), None), "copies": ((2, 1), ("copies", "parts"))}


def _hold(rank, world_size):
    found = {}
    for name, (sizes, names) in MESHES.items():
        towers = tiny_model()
        rows = rows_of(towers, (towers.core.visual, towers.core.text, towers.decoder))
        mesh = init_device_mesh("cpu", sizes, mesh_dim_names=names)
        shard(towers, mesh, number_format=None, reshard_after_forward=True)
        own = [dist.own_part(parameter).detach() for parameter in towers.parameters()]
        used, taken = (sum(each) for each in zip(*((o.nbytes, o.untyped_storage().nbytes()) for o in own), strict=True))
        found[name] = (rows, used, taken)
    return found


@pytest.mark.processes
def test_every_device_holds_the_bytes_that_fsdp_holds():
    ranks = run_processes(_hold, 2)
    for name, (sizes, _) in MESHES.items():
        rows = ranks[0][name][0]
        share = FLOAT32 * sum(each.share(sizes[-1]) for each in rows)
        assert [each[name][2] for each in ranks] == [share] * 2  # padding included
        assert ranks[0][name][1] == share  # the first device needs none
        whole = FLOAT32 * sum(each.numbers for each in rows)
        assert sum(each[name][1] for each in ranks) * sizes[-1] == 2 * whole
        assert (sizes[-1] * share > whole) == (name == "parts")  # some were padded
    assert {each.in_block for each in rows} == {True, False}


def test_rows_are_padded_to_whole_pieces():
    assert [SplitRows(5, 15, True, True).share(parts) for parts in (1, 2, 4, 8)] == [15, 9, 6, 3]
    counts = replace(
        B32, trained=25, weights=FLOAT32 * 50, rows=(SplitRows(5, 15, True, True), SplitRows(4, 20, False, False))
    )
    holding = Holding(counts, 1024, 8, sharded=True, shards=2)
    assert (holding.parts_of_state, holding.copies) == (2, 4)
    assert holding.held(counts.trained, of_trained=True) == 10 + 9  # 10 belong to terms
    memory = holding.memory(1)
    assert memory["weights, float32"] == FLOAT32 * (15 + 9 + 10)
    assert memory["optimizer"] == 2 * memory["gradients"] == 2 * FLOAT32 * 19


def test_what_travels_by_hand():
    """A block of 5 x 3 and a locked rest of 4 x 5, on 2 devices of 4 copies: 9 and 10 numbers on each."""
    rows = (SplitRows(5, 15, True, True), SplitRows(4, 20, False, False))
    sent = sent_in_step(rows, 2, 4, gathered=2, micro_batches=1)
    assert sent.within == (2 * 2 * 9 + 4 * 10) + 4 * 9
    assert sent.between == 2 * 3 / 4 * 4 * 9
    pieces = sent_in_step(rows, 2, 4, gathered=2, micro_batches=3)
    assert pieces.within == 3 * (sent.within + 2 * 9)
    assert pieces.between == 3 * sent.between


def test_copies_on_every_machine_keep_weights_off_the_network():
    counts = replace(B32, rows=(SplitRows(1000, 151_000_000, True, True),))
    told = {"counts": counts, "gpus": 16, "sharded": True}
    parts, copies = plan("train.batch_size=1024", **told), plan("train.batch_size=1024", "train.shards=8", **told)
    one, two = ({part.name: part for part in each.parts if part.hidden} for each in (parts, copies))
    assert one["parameters within a copy"].floor == pytest.approx(15 * 8 * 63 * 151_000 / NETWORK)
    assert two["parameters within a copy"].floor == pytest.approx(7 * 8 * 125 * 151_000 / H100.link)
    assert two["gradients between copies"].floor == pytest.approx(4 * 125 * 151_000 / NETWORK)
    assert copies.step() < parts.step()
