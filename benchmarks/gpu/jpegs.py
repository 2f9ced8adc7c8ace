"""Make the JPEGs of phase G while phase B does not need the processors.

python -m benchmarks.gpu.jpegs FOLDER --samples 8192 --processes 15
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

from PIL import Image
from sklearn.datasets import load_sample_images

from benchmarks.jpeg_sets import SETS, make, photographs
from vlp.ground.yaml import write_yaml

KIND = SETS[0]
CARD, READY = "jpegs.yaml", "ready.json"


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the shards, their card, and last a note that all is there."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.jpegs", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--samples", type=int, required=True)
    parser.add_argument("--processes", type=int, default=1)
    parsed = parser.parse_args(arguments)
    started = time.monotonic()
    photos, source = _photographs()
    card = make(KIND, parsed.samples, parsed.folder.resolve(), processes=parsed.processes, photos=photos)
    shards = [str(path) for path in card.paths()]
    text = write_yaml({"name": "jpegs", "shards": shards, "captions": {"txt": 1.0}, "samples": parsed.samples})
    (parsed.folder / CARD).write_text(text, encoding="utf-8")
    size = sum(Path(path).stat().st_size for path in shards)
    made = {"samples": parsed.samples, "bytes": size, "seconds": time.monotonic() - started, "source": source}
    (parsed.folder / READY).write_text(json.dumps(made), encoding="utf-8")


def _photographs() -> tuple[list[Image.Image], str]:
    """Return photographs, and where they come from: without scikit-image there are few."""
    try:
        return photographs(), "scikit-learn and scikit-image"
    except ImportError:
        return [Image.fromarray(pixels) for pixels in load_sample_images().images], "scikit-learn alone"


if __name__ == "__main__":
    main()
