"""Tensors that several files hold together are put together as they were, or not at all."""

from __future__ import annotations

import shutil

import pytest
import torch
from safetensors.torch import save_file
from torch.distributed import checkpoint as dcp

from vlp.ground.pieces import (
    joined,
    piece_name,
    pieces_of,
    read_whole,
    shapes,
    split,
    whole_name,
    write_pieces,
)
from vlp.ground.types import RecipeError
from vlp.towers.weight_files import read_tensors

WHOLE = {
    "rows": torch.arange(15.0).reshape(5, 3),
    "half": torch.randn(4, 2).to(torch.bfloat16),
    "scale": torch.tensor(2.5),
    "short": torch.arange(2),
}


@pytest.fixture
def path(tmp_path):
    """Write what three processes would hold of WHOLE, the last of them no row of `short` or `half`."""
    held = [
        ({"rows": (0, 2), "half": (0, 2), "short": (0, 1), "scale": None}),
        ({"rows": (2, 4), "half": (2, 4), "short": (1, 2)}),
        ({"rows": (4, 5), "half": (4, 4)}),
    ]
    for number, rows in enumerate(held):
        tensors = {name: WHOLE[name] if span is None else WHOLE[name][slice(*span)] for name, span in rows.items()}
        offsets = {
            name: [] if span is None else [span[0]] + [0] * (WHOLE[name].ndim - 1) for name, span in rows.items()
        }
        write_pieces(tmp_path / piece_name("model", number, 3), tensors, offsets)
    save_file({"rows": torch.zeros(1)}, tmp_path / "ema.safetensors")
    return tmp_path / "model.safetensors"


def test_they_are_read_as_one_file_by_name(path):
    assert [file.name for file in pieces_of(path)] == [f"model-0000{n}-of-00003.safetensors" for n in (1, 2, 3)]
    assert {whole_name(file.name) for file in pieces_of(path)} == {path.name}
    for found in (read_whole(path), read_tensors(path)):
        assert found.keys() == WHOLE.keys()
        for name, value in WHOLE.items():
            assert found[name].dtype == value.dtype and torch.equal(found[name], value)
    assert shapes(path) == {name: tuple(value.shape) for name, value in WHOLE.items()}


def test_a_whole_file_has_no_pieces(path):
    whole = path.with_name("ema.safetensors")
    assert pieces_of(whole) == [] == pieces_of(path.with_name("teacher.safetensors"))
    assert shapes(whole) == {"rows": (1,)}


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_torch_reads_them_too(path, tmp_path):
    folder = tmp_path / "theirs"
    folder.mkdir()
    for file in pieces_of(path):
        shutil.copy(file, folder)
    found = {name: torch.empty_like(value) for name, value in WHOLE.items() if value.ndim}
    dcp.load(found, storage_reader=dcp.HuggingFaceStorageReader(str(folder)), no_dist=True)
    assert all(torch.equal(found[name], WHOLE[name]) for name in found)


def test_a_gap_is_refused(path):
    pieces_of(path)[0].unlink()
    with pytest.raises(ValueError, match="do not make up 'half' of shape"):
        read_whole(path)
    with pytest.raises(RecipeError, match="cannot be read as weights"):
        read_tensors(path)


def test_a_state_without_shards_stays_as_it_is():
    state = {"state": [torch.ones(1), (1, None)], "groups": {"rate": 0.1}}
    shards = {}
    assert split(state, "training/optimizer", shards) == joined(state, {}) == state
    assert shards == {}
