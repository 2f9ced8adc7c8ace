"""benchmarks/scale.py: what it counts, on a small job; how long things take is for its report."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks import scale
from vlp.data.order.shuffle import Shuffle


@pytest.mark.long
def test_a_small_job_is_reported(tmp_path):
    with pytest.raises(SystemExit):
        scale.main(["--shards", "12", "--ranks", "4", "--samples", "40", "--to", str(tmp_path)])
    (page,) = tmp_path.glob("scale_*.md")
    found = json.loads(page.with_suffix(".json").read_text())["found"]
    assert [order["missing"] + order["twice"] for order in found["orders"].values() if not order["is_mixture"]] == [
        0,
        0,
    ]
    assert all(order["slices_make_up_batches"] for order in found["orders"].values())
    assert [(rank["rank"], rank["world_size"]) for rank in found["ranks"]] == [(0, 1), (0, 4), (2, 4), (3, 4)]
    assert all(len(rank["resumes"]) == scale.POSITIONS for rank in found["ranks"])


class Forgetful(Shuffle):
    """Gives one sample twice, and another never."""

    def samples_at(self, positions):
        epochs, ids = super().samples_at(positions)
        return epochs, np.where(ids == 7, 8, ids)


def test_an_order_that_loses_a_sample_is_noticed():
    order = scale.check_order("forgetful", Forgetful(5000, 0), 4)
    assert (order["missing"], order["twice"]) == (1, 1)
    assert scale.broken_promises({"forgetful": order}, [rank_of(1, 1.0)]) == ["forgetful: 1 samples missing, 1 twice"]


def rank_of(world_size, start, resume=0.1):
    return scale.Rank(0, world_size, start, 10.0, 1.0, 1.0, [resume])


def test_what_grows_with_ranks_or_resumes_slowly_is_named():
    ranks = [rank_of(1, 0.1), rank_of(4, 1.0), rank_of(64, 2.0, resume=1.5)]
    assert scale.broken_promises({}, ranks) == [
        "a resume takes 1.50 s",
        "start grows with the number of ranks: 1 of 4, 2 of 64",
    ]
    assert scale.broken_promises({}, [rank_of(1, 0.1), rank_of(4, 2.0), rank_of(64, 2.0)]) == []


@pytest.mark.parametrize(("number", "first"), [(0, 0), (2, 0), (3, 0), (4, 4), (6, 4), (7, 7)])
def test_batches_are_measured_within_one_epoch(number, first):
    assert scale.batch_of(Shuffle(1000, 0), 300, number) == first
