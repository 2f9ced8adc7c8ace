"""The images of a batch of documents, which have different numbers of them: only those that are there are embedded."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from vlp.ground.interleaved import Interleaved
from vlp.ground.types import send


def views_that_are_there(interleaved: Interleaved, device: torch.device) -> Int64[Tensor, " m"]:
    """Return the places of the images of all documents among the image views, one view behind the other."""
    return send(torch.from_numpy(np.flatnonzero(interleaved.has_view)), device)


def by_document(
    rows: Float[Tensor, "m e"],
    states: Float[Tensor, "m k w"],
    places: Int64[Tensor, " m"],
    interleaved: Interleaved,
) -> tuple[Float[Tensor, "n e"], Float[Tensor, "n j w"]]:
    """Return the mean over the images of each document, and the tokens of all its images, those of absent ones zero.

    Wang et al. 2024 (arXiv:2401.00849) average the class tokens of the images before the projection; their code counts
    the black images that fill up a document, too.

    Args:
        rows: What the tower says of each image before it is made unit.
        states: Tokens of each image.
        places: As `views_that_are_there`.
    """
    shape = interleaved.most, len(interleaved.num_images)
    rows = rows.float()  # autocast ends here
    spread = rows.new_zeros(shape[0] * shape[1], rows.shape[1]).index_copy(0, places, rows)
    counts = send(torch.from_numpy(interleaved.num_images), rows.device)
    mean = spread.view(*shape, -1).sum(dim=0) / counts[:, None]
    tokens = states.new_zeros(shape[0] * shape[1], *states.shape[1:]).index_copy(0, places, states)
    return mean, tokens.view(*shape, *states.shape[1:]).transpose(0, 1).flatten(1, 2)
