"""Embeddings of a locked image tower, computed at first sight and kept: later epochs need neither it nor the pixels."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float32
from torch import Tensor

from vlp.data.kept_rows import KeptRows
from vlp.ground import dist
from vlp.ground.types import Batch, Embeddings, send
from vlp.run.kept_side import Arriving, Gain


class KeptImages:
    """What a locked image tower has said of each sample.

    The processes of a machine share one file; each machine has its own, and embeds at its own first sight.

    Args:
        rows: By number of the sample.
        begins: Whether this process is the one of its machine that makes files and saves them.
    """

    def __init__(self, rows: KeptRows, *, begins: bool):
        self.rows = rows
        self._begins = begins
        self._arriving = Arriving(rows.write)
        self._pairs = self._blank = 0
        self._gain = Gain("images")

    def open(self, stem: Path, about: Mapping[str, Any], say: Callable[[str], None]) -> None:
        """Make the file, or go on with it; called everywhere, once the weights are what they will stay.

        Args:
            stem: Path of its files without their suffixes.
            about: What the embeddings follow from: those of anything else are forgotten.
            say: Prints a line.

        Raises:
            RecipeError: There is no room.
        """
        self.rows.stem = stem
        with dist.together():
            if self._begins:
                self.rows.begin(json.dumps(about))
        with dist.together():
            self.rows.open()
        num_rows, num_known = self.rows.shape[0], self.rows.num_known
        so_far = f"{num_known:,} are known" if num_known else "each is computed at first sight"
        size = f"{self.rows.num_bytes / 1e9:.3g} GB"
        say(f"embeddings of {num_rows:,} images are kept in {stem.parent} ({size}): {so_far}")

    def look_up(self, batch: Batch, device: torch.device) -> Float32[Tensor, "1 n d"] | None:
        """Return the embeddings of a batch's images, or nothing where the tower must look at them."""
        self._arriving.take_in(wait=False)
        numbers = _numbers(batch)
        self._pairs += len(batch)
        self._blank += int(_blank(batch).sum())
        if not self.rows.has(numbers).all():
            return None
        return send(torch.from_numpy(self.rows.read(numbers))[None], device)

    def complete(self, batch: Batch, embeddings: Embeddings) -> Embeddings:
        """Keep what the tower said, and put what is kept where it saw no pixels.

        A batch in which some samples have none is embedded whole: products of matrices with fewer rows may round in
        another way.
        """
        numbers, blank, image = _numbers(batch), _blank(batch), embeddings.image
        if bool(blank.any()):
            kept = torch.from_numpy(self.rows.read(numbers))
            image = torch.where(send(blank, image.device)[:, None], send(kept, image.device), image)
        self._arriving.send(numbers, image)
        return replace(embeddings, image=image, reference=image)

    def metrics(self) -> dict[str, float]:
        """Return the share of the pairs since the last call that came without pixels."""
        share = self._blank / max(1, self._pairs)
        self._pairs = self._blank = 0
        return {"kept_images": share}

    def gain(self, measured: Mapping[str, float]) -> str:
        """Say what keeping gains, once it is known; nothing at other times."""
        return self._gain(measured["kept_images"], measured["samples_per_second"])

    def save(self) -> None:
        """Bring what is known to the disk; called everywhere."""
        with dist.together():
            self._arriving.take_in(wait=True)
        with dist.together():
            if self._begins:
                self.rows.save()


def _numbers(batch: Batch) -> Any:
    assert batch.visits is not None, "the stream says which samples it has drawn"
    return batch.visits[:, 1].numpy()


def _blank(batch: Batch) -> Tensor:
    assert batch.blank is not None, "the stream says what it has left out"
    return batch.blank
