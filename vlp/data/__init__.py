"""Shards to batches: `Card` -> `SampleSet` -> `Stream` -> `Batch`, and `Augment` on the device.

Read `stream.py` first. What a run sees is a pure function of its seed and the position, never of the number of
workers, processes or shards, nor of what was read before.
"""

from vlp.data.augment import Augment
from vlp.data.captions import Captions
from vlp.data.cards import Card
from vlp.data.crop import Crop
from vlp.data.faults import Faults
from vlp.data.negatives import HardNegatives
from vlp.data.samples import SampleSet
from vlp.data.stream import Stream
from vlp.data.text_augment import TextAugment
from vlp.data.views import Views

__all__ = [
    "Augment",
    "Captions",
    "Card",
    "Crop",
    "Faults",
    "HardNegatives",
    "SampleSet",
    "Stream",
    "TextAugment",
    "Views",
]
