"""Embeddings of a locked text tower, computed at the first sight of a caption and kept, whichever sample has it."""

from __future__ import annotations

import json
import sqlite3
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float32, Int64
from numpy.typing import NDArray
from torch import Tensor

from vlp.data.rows_by_key import RowsByKey
from vlp.ground import dist
from vlp.ground.types import Batch, VlpWarning, send
from vlp.run.kept_side import Arriving, Gain
from vlp.towers.dual import DualEncoder
from vlp.towers.text import can_cut

CAPTIONS_AT_A_TIME = 32
TOKENS_AT_A_TIME = 16  # steps in which blocks get wider


class KeptTexts:
    """What a locked text tower says of each caption.

    Captions are known by their tokens. Those that are not known are embedded in blocks of one number of captions, which
    are as long as their own length says: so a caption has the same numbers whatever stands beside it in a batch, a
    process or a run, and nothing depends on who came first.

    Args:
        towers: Whose text tower is locked.
    """

    rows: RowsByKey

    def __init__(self, towers: DualEncoder):
        self._towers = towers
        self._arriving = Arriving(self._add)
        self._is_full = False
        self._pairs = self._read = 0.0
        self._gain = Gain("captions")

    def open(self, stem: Path, about: Mapping[str, Any], say: Callable[[str], None]) -> None:
        """Make the file, or go on with it; called everywhere, once the weights are what they will stay.

        Args:
            stem: Its path without the suffix.
            about: What the embeddings follow from: those of anything else are forgotten.
            say: Prints a line.

        Raises:
            RecipeError: It cannot be used.
        """
        with dist.together():
            self.rows = RowsByKey(stem.with_name(f"{stem.name}.sqlite"), self._towers.embed_dim, json.dumps(about))
        known = self.rows.num_known
        so_far = f"{known:,} are known" if known else "each is computed at first sight"
        say(f"embeddings of captions are kept in {stem.parent} ({4 * self.rows.width:,} bytes each): {so_far}")

    def __call__(self, batch: Batch, device: torch.device) -> Float32[Tensor, "w n d"]:
        """Return the embeddings of a batch's captions; the tower reads those that are not known."""
        self._arriving.take_in(wait=False)
        assert batch.caption_keys is not None, "the stream tells captions apart"
        keys = batch.caption_keys.numpy().ravel()
        known, rows = self.rows.read(keys)
        self._pairs += len(batch) if torch.is_grad_enabled() else 0  # micro-batches are embedded twice
        self._read += len(batch) * float((~known).mean())
        text = send(torch.from_numpy(rows), device)
        if not known.all():
            missing = np.flatnonzero(~known)
            _, first, again = np.unique(keys[missing], return_index=True, return_inverse=True)
            chosen = missing[first]
            tokens = batch.tokens.flatten(0, 1)[send(torch.from_numpy(chosen), device)]
            found = self._embed(tokens, batch.lengths.numpy().ravel()[chosen])
            text[send(torch.from_numpy(missing), device)] = found[send(torch.from_numpy(again), device)]
            if not self._is_full:
                self._arriving.send(keys[chosen], found)
        return text.unflatten(0, batch.caption_keys.shape)

    def metrics(self) -> dict[str, float]:
        """Return the share of captions since the last call that the tower did not read."""
        share = max(0.0, 1 - self._read / max(1.0, self._pairs))
        self._pairs = self._read = 0.0
        return {"kept_texts": share}

    def gain(self, measured: Mapping[str, float]) -> str:
        """Say what keeping gains, once it is known; nothing at other times."""
        return self._gain(measured["kept_texts"], measured["samples_per_second"])

    def save(self) -> None:
        """Bring what is known to the disk; called everywhere."""
        with dist.together():
            self._arriving.take_in(wait=True)

    def _embed(self, tokens: Int64[Tensor, "n l"], lengths: Int64[NDArray[np.int64], " n"]) -> Float32[Tensor, "n d"]:
        found = torch.empty(len(tokens), self._towers.embed_dim, device=tokens.device)
        pad = self._towers.tokenizer.pad_id
        for places, width in self._blocks(lengths):
            filled = np.resize(places, CAPTIONS_AT_A_TIME)
            block = tokens[send(torch.from_numpy(filled), tokens.device), :width]
            block = F.pad(block, (0, width - block.shape[1]), value=pad)
            rows = self._towers.embed_tokens(block, np.full(len(filled), width))
            found[send(torch.from_numpy(places), tokens.device)] = rows[: len(places)]
        return found

    def _blocks(self, lengths: Int64[NDArray[np.int64], " n"]) -> Iterator[tuple[NDArray[np.int64], int]]:
        """Yield captions that are embedded together, and how many tokens wide."""
        most = self._towers.caption_length
        step = TOKENS_AT_A_TIME if can_cut(self._towers.core.text) else most
        widths = np.minimum(-(-lengths // step) * step, most)
        for width in np.unique(widths).tolist():
            places = np.flatnonzero(widths == width)
            for start in range(0, len(places), CAPTIONS_AT_A_TIME):
                yield places[start : start + CAPTIONS_AT_A_TIME], width

    def _add(self, keys: Any, rows: NDArray[Any]) -> None:
        try:
            self.rows.add(keys, rows)
        except sqlite3.Error as error:
            self._is_full = True
            warnings.warn(
                f"{self.rows.path}: no further captions are kept ({error}); others are embedded each time",
                VlpWarning,
                stacklevel=2,
            )
