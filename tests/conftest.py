"""The default run: CPU, one thread, no network."""

from __future__ import annotations

import os

os.environ.update(HF_HUB_OFFLINE="1", CUDA_VISIBLE_DEVICES="", OMP_NUM_THREADS="1")
