"""Every test gets a cache folder of its own, and images with captions in the forms that people have them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.shards import SUFFIXES, image_bytes


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def write_images(folder: Path, count: int = 10) -> list[Path]:
    """Write images of noise in every format; the same number gives the same image."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number in range(count):
        extension = list(SUFFIXES)[number % len(SUFFIXES)]
        paths.append(folder / f"photo {number:03d}.{extension}")
        paths[-1].write_bytes(image_bytes(number, extension))
    return paths


@pytest.fixture
def photos(tmp_path) -> Path:
    """Ten images with a text file each."""
    folder = tmp_path / "photos"
    for number, path in enumerate(write_images(folder)):
        path.with_suffix(".txt").write_text(f"caption {number}\n")
    return folder


@pytest.fixture
def table(tmp_path) -> Path:
    """Ten images and a table of JSON lines."""
    paths = write_images(tmp_path / "images")
    lines = [
        {"file_name": f"images/{path.name}", "text": f"caption {number}", "url": "https://example.org"}
        for number, path in enumerate(paths)
    ]
    file = tmp_path / "table.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file
