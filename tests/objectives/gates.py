"""A head in which texts open filters, as training might have left it."""

from __future__ import annotations

import torch

from tests.objectives.batches import DIM
from vlp.objectives.head import Head
from vlp.objectives.projections.text_gate import TextGateHead


def opened_gate() -> Head:
    """Return a gate of float64 whose filters differ from text to text."""
    torch.manual_seed(3)
    head = Head(TextGateHead(hidden_width=5), "embeddings", "all", None)
    head.create(DIM, None)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter)
    return head.double()
