"""The default run: CPU, one thread, no network. `pytest -m gpu` alone sees the machine's GPUs."""

from __future__ import annotations

import os

import pytest

os.environ.update(HF_HUB_OFFLINE="1", OMP_NUM_THREADS="1")


def pytest_configure(config: pytest.Config) -> None:
    """Hide GPUs from everything but their own tests, before torch looks for them."""
    if config.getoption("markexpr") != "gpu":
        os.environ.update(CUDA_VISIBLE_DEVICES="")
