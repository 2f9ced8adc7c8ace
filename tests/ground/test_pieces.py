"""Tensors that several files hold together are put together as they were, or not at all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed import checkpoint as dcp

from vlp.ground.pieces import (
    HEADER,
    OFFSETS,
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
from vlp.towers.sources import find_weights
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
        wholes = {name: WHOLE[name].shape for name in rows}
        write_pieces(tmp_path / piece_name("model", number, 3), tensors, offsets, wholes)
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


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_gap_is_refused(path, number):
    pieces_of(path)[number].unlink()
    for read in (read_whole, shapes):
        with pytest.raises(ValueError, match=r"do not make up '\w+' of shape .*: some are missing"):
            read(path)
    with pytest.raises(RecipeError, match="cannot be read as weights"):
        read_tensors(path)


def _of_others(path: Path, *pieces: tuple[Tensor, object]) -> None:
    """Write pieces of `rows` as another program would, without the whole shape."""
    for number, (value, header) in enumerate(pieces):
        file = path.with_name(piece_name("theirs", number, len(pieces)))
        save_file(
            {"rows": value.contiguous()},
            file,
            {HEADER: header if isinstance(header, str) else json.dumps({"rows": header})},
        )


def at(*begin: int) -> dict[str, list[int]]:
    return {OFFSETS: list(begin)}


ROW = torch.ones(2, 3)
ODD = {
    "over another, and as much is missing": ([(ROW, at(0, 0)), (ROW, at(0, 0)), (ROW, at(4, 0))], "or there twice"),
    "over another in part": ([(ROW, at(0, 0)), (ROW, at(1, 0)), (ROW[:1], at(4, 0))], "or there twice"),
    "side by side and over another": ([(ROW, at(0, 0)), (ROW, at(0, 2)), (ROW[:, :1], at(0, 5))], "or there twice"),
    "of another type": ([(ROW, at(0, 0)), (ROW.half(), at(2, 0))], r"of different types \(F16, F32\)"),
    "of a tensor with other axes": ([(ROW, at(0, 0)), (ROW[0], at(2))], "of different numbers of axes"),
    "before its tensor": ([(ROW, at(0, 0)), (ROW, at(-2, 0))], "does not say where pieces lie"),
    "with a place of other axes": ([(ROW, at(0, 0)), (ROW, at(2))], "does not say where pieces lie"),
    "with a place in words": ([(ROW, at(0, 0)), (ROW, {OFFSETS: "20"})], "does not say where pieces lie"),
    "with a header of another kind": ([(ROW, "[1]"), (ROW, at(2, 0))], "does not say where pieces lie"),
    "with a header that is no JSON": ([(ROW, "{"), (ROW, at(2, 0))], "does not say where pieces lie"),
}  # fmt: skip


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_pieces_of_others_fit_or_are_refused(tmp_path, odd):
    pieces, said = odd
    path = tmp_path / "theirs.safetensors"
    _of_others(path, *pieces)
    for read in (read_whole, shapes):
        with pytest.raises(ValueError, match=said):
            read(path)


def test_pieces_of_others_are_read_in_whatever_way_they_lie(tmp_path):
    whole, path = torch.arange(24.0).reshape(4, 6), tmp_path / "theirs.safetensors"
    corners = [(0, 3, 0, 2), (0, 1, 2, 6), (1, 4, 2, 6), (3, 4, 0, 2), (2, 2, 0, 6)]
    _of_others(path, *((whole[a:b, c:d], at(a, c)) for a, b, c, d in corners))
    assert torch.equal(read_whole(path)["rows"], whole)


def test_pieces_of_others_are_all_needed_and_lie_with_no_others(tmp_path):
    path = tmp_path / "theirs.safetensors"
    _of_others(path, (ROW, at(0, 0)), (ROW, at(2, 0)), (ROW, at(4, 0)))
    pieces_of(path)[-1].unlink()
    with pytest.raises(ValueError, match="2 of its 3 pieces are there"):
        read_whole(path)
    _of_others(path, (ROW, at(0, 0)), (ROW, at(2, 0)))
    with pytest.raises(ValueError, match="pieces of 2 and of 3 files lie together"):
        shapes(path)


def test_one_piece_is_no_file_of_its_own(path):
    one = pieces_of(path)[0]
    with pytest.raises(RecipeError, match=r"one of the pieces of model\.safetensors: name that"):
        read_tensors(one)
    other = one.rename(one.with_name("renamed.safetensors"))
    with pytest.raises(RecipeError, match=r"do not make up .*: some are missing"):
        read_tensors(other)


def test_weights_are_named_by_the_file_that_pieces_make_up(path):
    for name in (str(path), f"ViT-B-32:{path}"):
        assert find_weights(name).path == path
    with pytest.raises(RecipeError, match="no weights at"):
        find_weights(str(path.with_name("teacher.safetensors")))


def test_a_state_without_shards_stays_as_it_is():
    state = {"state": [torch.ones(1), (1, None)], "groups": {"rate": 0.1}}
    shards = {}
    assert split(state, "training/optimizer", shards) == joined(state, {}) == state
    assert shards == {}
