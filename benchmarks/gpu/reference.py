"""The losses that a GPU must repeat: those of the smoke recipe in float32 on a CPU.

    python -m benchmarks.gpu.reference     # computes them anew; about two minutes

They change when numerics do, and are renewed then.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("reference.json")


def losses(device: str) -> list[float]:
    """Return the loss of every step, of what is trained on a device (on the CPU, a toy)."""
    record: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    found: list[float] = record["losses"][device]
    return found


def strategy_losses(name: str) -> list[float]:
    """Return the losses of a few steps with a strategy."""
    record: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    found: list[float] = record["strategies"][name]
    return found


def settings_of(name: str, folder: Path) -> str:
    """Return a checksum of the settings that a strategy's losses belong to, wherever they are computed."""
    from benchmarks.gpu.runs import strategy_recipe
    from benchmarks.gpu.waits import ROOT

    text = json.dumps(strategy_recipe(name, folder).model_dump(mode="json"), sort_keys=True)
    return hashlib.sha256(text.replace(str(folder), "").replace(str(ROOT), "").encode()).hexdigest()[:16]


def main() -> None:
    """Train on the CPU and write the losses."""
    os.environ.update(ACCELERATE_USE_CPU="true", CUDA_VISIBLE_DEVICES="")
    from benchmarks.gpu.runs import SIZES, has_recipe, losses_of, smoke, strategy_recipe
    from vlp.ground.provenance import commit, machine, versions
    from vlp.strategies.base import strategies
    from vlp.train import train

    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        used = {name: losses_of(train(strategy_recipe(name, folder))) for name in strategies if has_recipe(name)}
        settings = {name: settings_of(name, folder) for name in used}
        found = {device: losses_of(train(smoke(device, folder, device, "data.workers=0"))) for device in SIZES}
    about = {"commit": commit(), "machine": machine(), "versions": versions()}
    record = {**about, "losses": found, "strategies": used, "settings": settings}
    FILE.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"{FILE}: " + ", ".join(f"{device} {values[0]:.4f} .. {values[-1]:.4f}" for device, values in found.items()))


if __name__ == "__main__":
    main()
