"""What a batch says of its samples besides their pixels: made in parts, and joined."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64, UInt8
from numpy.typing import NDArray
from torch import Tensor

from vlp.data.faults import Fault
from vlp.ground.interleaved import Interleaved
from vlp.ground.region_rows import RegionRows
from vlp.ground.types import Batch


@dataclass(frozen=True)
class BatchRows:
    """What a batch says of some of its samples besides their pixels; in arrays, which are cheap to send."""

    tokens: Int64[NDArray[np.int64], "views n l"]
    lengths: Int64[NDArray[np.int64], "views n"]
    draws: Float32[NDArray[np.float32], "views n draws"]
    ids: Int64[NDArray[np.int64], " n"]
    caption_ids: Int64[NDArray[np.int64], " n"]
    sources: tuple[str, ...]
    captions: tuple[str, ...]
    visits: Int64[NDArray[np.int64], "n 2"]
    blank: Bool[NDArray[np.bool_], " n"]
    caption_keys: Int64[NDArray[np.int64], "views n"]
    cuts: Float32[NDArray[np.float32], "views n 5"]
    interleaved: Interleaved | None = None
    grids: Int64[NDArray[np.int64], "views n 2"] | None = None
    regions: RegionRows | None = None
    encoded: tuple[bytearray | None, ...] = ()  # files whose pixels are not written yet


@dataclass(frozen=True)
class Piece:
    """Some samples of a batch and the bad ones met on the way, or no rows where nothing good was found."""

    rows: BatchRows | None
    faults: tuple[Fault, ...]


def join_rows(rows: Sequence[BatchRows], images: UInt8[Tensor, "views n h w 3"], pad_id: int) -> Batch:
    """Put rows behind each other, captions padded to the longest, and pixels beside them."""
    blank = torch.from_numpy(np.concatenate([part.blank for part in rows]))
    if bool(blank.all()):
        images = images.new_empty(*images.shape[:2], 0, 0, 3)
    width = max(part.tokens.shape[2] for part in rows)
    interleaved = [part.interleaved for part in rows if part.interleaved is not None]
    grids = [part.grids for part in rows if part.grids is not None]
    regions = [part.regions for part in rows if part.regions is not None]
    padded = [np.pad(r.tokens, ((0, 0), (0, 0), (0, width - r.tokens.shape[2])), constant_values=pad_id) for r in rows]
    return Batch(
        images=images,
        tokens=torch.from_numpy(np.concatenate(padded, axis=1)),
        lengths=torch.from_numpy(np.concatenate([part.lengths for part in rows], axis=1)),
        draws=torch.from_numpy(np.concatenate([part.draws for part in rows], axis=1)),
        ids=torch.from_numpy(np.concatenate([part.ids for part in rows])),
        caption_ids=torch.from_numpy(np.concatenate([part.caption_ids for part in rows])),
        sources=sum((part.sources for part in rows), ()),
        captions=sum((part.captions for part in rows), ()),
        visits=torch.from_numpy(np.concatenate([part.visits for part in rows])),
        blank=blank,
        caption_keys=torch.from_numpy(np.concatenate([part.caption_keys for part in rows], axis=1)),
        cuts=torch.from_numpy(np.concatenate([part.cuts for part in rows], axis=1)),
        interleaved=Interleaved.join(interleaved) if interleaved else None,
        grids=torch.from_numpy(np.concatenate(grids, axis=1)) if grids else None,
        regions=RegionRows.join(regions) if regions else None,
    )


def keys_of(
    tokens: Int64[NDArray[np.int64], "n l"], lengths: Int64[NDArray[np.int64], " n"]
) -> Int64[NDArray[np.int64], " n"]:
    """Return stable 64-bit hashes of captions as the tower reads them, whatever pads them.

    Among 100 million captions two share one with a probability of 3e-4.
    """
    rows = zip(tokens.astype("<i8"), lengths.tolist(), strict=True)
    digests = [hashlib.blake2b(row[:length].tobytes(), digest_size=8).digest() for row, length in rows]
    return np.frombuffer(b"".join(digests), dtype="<i8").astype(np.int64)


def hash_text(text: str) -> int:
    """Return a stable signed 64-bit hash."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big", signed=True)
