"""Which tiles kernels use: those measured on this device with these kernels, or those that suit most."""

from __future__ import annotations

import json

import pytest
import torch

from vlp.pairs import kernel_blocks
from vlp.pairs.kernel_blocks import (
    HALF,
    INTERPRETED,
    SINGLE,
    Blocks,
    blocks_for,
    forget_choices,
    key_of,
    known_blocks,
    remember_blocks,
    use_blocks,
    where_known,
)

CPU = torch.device("cpu")
OTHER = Blocks(64, 32, 16, 2)
FEATURES = torch.ones(2, 3)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    forget_choices()
    yield
    forget_choices()


def test_what_was_measured_is_used_by_later_programs_until_it_is_forgotten():
    assert blocks_for(FEATURES) == INTERPRETED
    file = remember_blocks(key_of(CPU, torch.float32), OTHER)
    assert file == where_known() and blocks_for(FEATURES) == OTHER
    assert blocks_for(FEATURES.double()) == INTERPRETED
    forget_choices()  # as in another program
    assert blocks_for(FEATURES) == OTHER
    remember_blocks(key_of(CPU, torch.float64), SINGLE)
    assert blocks_for(FEATURES) == OTHER
    remember_blocks(key_of(CPU, torch.float32), None)
    assert blocks_for(FEATURES) == INTERPRETED and blocks_for(FEATURES.double()) == SINGLE


def test_it_holds_for_one_device_one_compiler_and_these_kernels(monkeypatch):
    names = iter(["NVIDIA H200", "NVIDIA L4", "NVIDIA L4"])
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: next(names))
    cuda = torch.device("cuda", 0)
    keys = [key_of(cuda, torch.float32) for _ in range(2)]
    monkeypatch.setattr(kernel_blocks, "KERNELS", ("engine/triton_tiles.py",))
    keys.append(key_of(cuda, torch.float32))
    assert len(set(keys)) == 3 and keys[0].startswith("NVIDIA H200, float32, triton ")


def test_features_have_tiles_by_their_number_format():
    class OnCuda:
        is_cuda = True
        device = torch.device("cuda", 0)

        def __init__(self, number_format):
            self.dtype = number_format

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(torch.cuda, "get_device_name", lambda _: "some device")
        assert blocks_for(OnCuda(torch.float32)) == SINGLE
        assert blocks_for(OnCuda(torch.bfloat16)) == HALF


@pytest.mark.parametrize("content", ["", "{", "[]", '{"a": 3}', '{"a": [1, 2]}', '{"a": ["x", 1, 1, 1]}'])
def test_a_file_that_is_no_such_file_counts_as_none(content):
    where_known().parent.mkdir(parents=True)
    where_known().write_text(content)
    assert known_blocks() == {} and blocks_for(FEATURES) == INTERPRETED
    remember_blocks("a", OTHER)
    assert json.loads(where_known().read_text()) == {"a": list(OTHER)}


def test_a_trial_ends_with_its_block():
    with pytest.raises(KeyError), use_blocks(OTHER):
        assert blocks_for(FEATURES) == OTHER
        raise KeyError
    assert blocks_for(FEATURES) == INTERPRETED
