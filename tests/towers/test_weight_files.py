"""Tensors out of every container in which people find weights; code in a file never runs."""

import argparse
import io
import json
import math
import os
import pickle
import struct
import subprocess
import sys
import zipfile

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.serialization import MAGIC_NUMBER, PROTOCOL_VERSION

from vlp.ground.types import RecipeError
from vlp.towers.weight_files import read_tensors


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.register_buffer("mask", torch.full((3, 3), -math.inf), persistent=False)
        self.a, self.b = nn.Linear(3, 4), nn.BatchNorm1d(4)
        self.inner = nn.Sequential(nn.Linear(4, 2).half())

    def forward(self, x):
        return self.b(self.a(x))


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


NET = Net()
STATE = NET.state_dict()
WRAPPED = {
    "plain": lambda _: STATE,
    "open_clip": lambda _: {"epoch": 3, "state_dict": STATE, "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}},
    "timm": lambda _: {"state_dict": STATE, "state_dict_ema": {"a.weight": torch.zeros(4, 3)}, "metric": 0.5},
    "model": lambda _: {"model": STATE, "args": argparse.Namespace(lr=1e-3, betas=(0.9, 0.98))},
    "deepspeed": lambda _: {"module": STATE, "ds_config": {"zero": 1}, "dp_world_size": 8},
    "lightning": lambda _: {"state_dict": STATE, "hyper_parameters": {"net": Net}, "callbacks": {}, "epoch": 1},
    "nested": lambda _: {"model": {"state_dict": STATE}},
    "module": lambda _: NET,
    "code": lambda path: {"state_dict": STATE, "x": Evil(path / "made")},
}


def check(path):
    found = read_tensors(path)
    assert found.keys() == STATE.keys()
    for name, value in STATE.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value)


@pytest.mark.parametrize("new", [True, False], ids=["archive", "before torch 1.6"])
@pytest.mark.parametrize("how", WRAPPED)
def test_every_wrapping_is_taken_off(tmp_path, how, new):
    torch.save(WRAPPED[how](tmp_path), tmp_path / "file.pt", _use_new_zipfile_serialization=new)
    check(tmp_path / "file.pt")
    assert not (tmp_path / "made").exists()


def test_torchscript_is_read_as_openais_archives_are(tmp_path):
    net = Net().eval()
    del net.mask  # TorchScript does not say which buffers no state has
    for name in ("input_resolution", "context_length", "vocab_size"):
        net.register_buffer(name, torch.tensor(3))
    torch.jit.trace(net, torch.ones(2, 3)).save(tmp_path / "net.pt")
    check(tmp_path / "net.pt")


def test_safetensors_are_known_by_their_content(tmp_path):
    save_file(STATE, tmp_path / "weights.bin")
    check(tmp_path / "weights.bin")


def test_parts_of_transformers_are_put_together(tmp_path):
    names = sorted(STATE)
    for number, part in enumerate((names[:3], names[3:])):
        save_file({name: STATE[name] for name in part}, tmp_path / f"model-{number}.safetensors")
    places = {name: f"model-{int(name not in names[:3])}.safetensors" for name in names}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    check(tmp_path / "model.safetensors.index.json")


def test_strides_sizes_and_young_formats(tmp_path):
    values = {
        "turned.x": torch.arange(12.0).view(3, 4).t(),
        "part.x": torch.arange(10)[3:7],
        "empty.x": torch.empty(0, 3),
        "one.x": torch.tensor(2.5),
        "small.x": torch.ones(3).to(torch.float8_e4m3fn),
        "brain.x": nn.Parameter(torch.ones(3, dtype=torch.bfloat16)),
    }
    torch.save(values, tmp_path / "file.pt")
    found = read_tensors(tmp_path / "file.pt")
    assert found.keys() == values.keys()
    for name, value in values.items():
        assert torch.equal(found[name].float(), value.detach().float())


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04nothing", b"hello, these are no weights", b"\x80\x02}q\x00.", b"\x00" * 100]
)
def test_what_is_no_checkpoint_is_refused_in_one_line(tmp_path, content):
    path = tmp_path / "file.pt"
    path.write_bytes(content)
    with pytest.raises(RecipeError, match=r"file\.pt") as found:
        read_tensors(path)
    assert "\n" not in str(found.value)


def test_no_flipped_bit_gives_other_weights(tmp_path):
    """An archive has checksums; what is read is what was written, or nothing."""
    torch.save(STATE, tmp_path / "file.pt")
    content = (tmp_path / "file.pt").read_bytes()
    for bit in range(0, 8 * len(content), 97):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        (tmp_path / "changed.pt").write_bytes(changed)
        try:
            found = read_tensors(tmp_path / "changed.pt")
        except RecipeError:
            continue
        assert found.keys() == STATE.keys()
        assert all(torch.equal(found[name], value) for name, value in STATE.items())


# ---------------------------------------- a few bytes that ask for all memory
def old_file(content: bytes, numbers: bytes = b"", keys: tuple[str, ...] = ("0",)) -> bytes:
    """Return a file as torch wrote it before 1.6, around a pickle."""
    head = [pickle.dumps(value, protocol=2) for value in (MAGIC_NUMBER, PROTOCOL_VERSION, {"little_endian": True})]
    return b"".join([*head, content, pickle.dumps(list(keys), protocol=2), numbers])


def archive(folder, content: bytes, numbers: bytes, packed: int = zipfile.ZIP_STORED):
    path = folder / "archive.pt"
    with zipfile.ZipFile(path, "w", packed) as written:
        written.writestr("archive/data.pkl", content)
        written.writestr("archive/data/0", numbers)
    return path


class Repeating(pickle.Pickler):
    """Writes one number as a tensor of any size."""

    def persistent_id(self, thing):
        return ("storage", torch.FloatStorage, "0", "cpu", 1) if thing == "numbers" else None


def repeating(size: int) -> bytes:
    buffer = io.BytesIO()

    class Made:
        def __reduce__(self):
            return torch._utils._rebuild_tensor_v2, ("numbers", 0, (size, size), (0, 0), False, {})

    Repeating(buffer, protocol=2).dump({"a": Made()})
    return buffer.getvalue()


MEMO = b"\x80\x02]r\xff\xff\xff\x7f}."  # a list, remembered under the largest number that there is
BYTES = b"\x80\x05\x96\x00\x00\x00\x00\x40\x00\x00\x00abc."  # 256 GB of an array, of which three bytes follow


@pytest.mark.parametrize("content", [MEMO, BYTES])
def test_a_pickle_gets_no_more_memory_than_it_has_bytes(tmp_path, content):
    """In a process that may not have more: the system would give it, and kill somebody else for it."""
    (tmp_path / "old.pt").write_bytes(old_file(content))
    path = archive(tmp_path, content, b"1234")
    script = (
        "import resource, sys; from pathlib import Path; from vlp.ground.types import RecipeError\n"
        "from vlp.towers.weight_files import read_tensors\n"
        "most = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize() + (1 << 30)\n"
        "resource.setrlimit(resource.RLIMIT_AS, (most, most))\n"
        "for path in sys.argv[1:]:\n"
        "    try:\n        read_tensors(Path(path))\n"
        "    except RecipeError as error:\n        print(error)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "old.pt"), str(path)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(said) == 2
    assert content is BYTES or not any("MemoryError" in line for line in said)


def test_what_repeats_a_number_without_end_is_refused(tmp_path):
    path = archive(tmp_path, repeating(1000), struct.pack("<f", 2.5))
    assert read_tensors(path)["a"].eq(2.5).all()
    for path in (archive(tmp_path, repeating(1 << 17), struct.pack("<f", 2.5)), tmp_path / "old.pt"):
        (tmp_path / "old.pt").write_bytes(old_file(repeating(1 << 17), struct.pack("<qf", 1, 2.5)))
        with pytest.raises(RecipeError, match="a tensor of 17,179,869,184 numbers repeats 1"):
            read_tensors(path)


def test_a_storage_holds_what_the_file_has(tmp_path):
    path = tmp_path / "old.pt"
    path.write_bytes(old_file(repeating(2), struct.pack("<qf", 1, 2.5)))
    assert read_tensors(path)["a"].tolist() == [[2.5, 2.5], [2.5, 2.5]]
    path.write_bytes(old_file(repeating(2), struct.pack("<qf", 1 << 40, 2.5)))
    with pytest.raises(RecipeError, match="storage 0: 1 numbers, where there are 1,099,511,627,776"):
        read_tensors(path)


def test_a_packed_archive_is_refused(tmp_path):
    path = archive(tmp_path, repeating(2), bytes(1 << 24), zipfile.ZIP_DEFLATED)
    with pytest.raises(RecipeError, match="archive/data/0: is packed"):
        read_tensors(path)


def test_an_old_part_of_a_storage_begins_where_it_says(tmp_path):
    """Files of torch 0.3 and before knew storages that are views of others."""

    class Parts(pickle.Pickler):
        def persistent_id(self, thing):
            view = ("part", 2, 3) if thing == "numbers" else None
            return ("storage", torch.FloatStorage, "0", "cpu", 6, view) if view else None

    class Made:
        def __reduce__(self):
            return torch._utils._rebuild_tensor, ("numbers", 1, (2,), (1,))

    buffer = io.BytesIO()
    Parts(buffer, protocol=2).dump({"a": Made()})
    path = tmp_path / "old.pt"
    path.write_bytes(old_file(buffer.getvalue(), struct.pack("<q6f", 6, *range(6))))
    assert read_tensors(path)["a"].tolist() == [3, 4]


def test_parts_of_one_storage_stay_apart_in_an_old_file(tmp_path):
    flat, path = torch.arange(6.0), tmp_path / "old.pt"
    torch.save({"a": flat[:3], "b": flat[3:], "c": flat.view(2, 3).T}, path, _use_new_zipfile_serialization=False)
    found = read_tensors(path)
    assert found["a"].tolist() == [0, 1, 2] and found["b"].tolist() == [3, 4, 5]
    assert found["c"].tolist() == [[0, 3], [1, 4], [2, 5]]
