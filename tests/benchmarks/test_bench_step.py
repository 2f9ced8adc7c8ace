"""The benchmark of training steps: both sides take their steps, and the page says what they took."""

from __future__ import annotations

import json
from dataclasses import asdict

from benchmarks.bench_step import measure, peer_of
from benchmarks.gpu.peer_steps import CONTEXT
from benchmarks.step_report import Case, Found, sections, table

CASE = Case(None, 8, 1.5)


def test_both_sides_take_steps_on_the_same_captions(tmp_path):
    found = measure(CASE, 1, tmp_path)
    assert len(found.vlp) == len(found.peer) == len(found.fused) == 1
    assert min(found.vlp + found.peer + found.fused) > 0
    assert 3 < found.tokens <= found.longest <= CONTEXT


def test_the_peer_pads_the_captions(tmp_path):
    from benchmarks.gpu.steps import TINY, synthetic_parts

    _, batch = synthetic_parts("vitb32_clip", tmp_path, 4, "cpu", [*TINY, "train.precision=float32"])
    texts = peer_of(Case(None, 4, 1.0), batch, fused=True).texts
    width = batch.tokens.shape[2]
    assert texts.shape == (4, CONTEXT)
    assert (texts[:, :width] == batch.tokens[0]).all() and not texts[:, width:].any()


def test_the_page_has_ratios_and_comes_back_from_its_file():
    found = Found(CASE, 12.5, 20.0, vlp=[1.0, 2.0, 3.0], peer=[4.0, 4.0, 5.0], fused=[3.0, 3.0, 3.0])
    again = Found.from_mapping(json.loads(json.dumps(asdict(found))))
    assert again == found
    (line,) = table([again])[1:]
    assert line[0] == "toy, 8 pairs" and line[4] == "2.00 x" and line[6] == "1.50 x" and line[7] == "1.5 x"
    assert "3 rounds" in sections([found])[1]
