"""Shards to batches: `Card` -> `SampleSet` -> `Stream` -> `Batch`, and `Augment` on the device.

Read `stream.py` first. What a run sees is a pure function of its seed and the position, never of the number of
workers, processes or shards, nor of what was read before.

`order/` says which sample comes when, `shards/` where its bytes are, `pixels/` and `texts/` what becomes of them;
`batches.py` puts a batch together, `workers.py` spreads that over processes.
"""

from vlp.data.faults import Faults
from vlp.data.pixels.augment import Augment
from vlp.data.pixels.crop import Crop
from vlp.data.samples import SampleSet
from vlp.data.shards.cards import Card
from vlp.data.stream import Stream
from vlp.data.texts.captions import Captions
from vlp.data.texts.text_augment import TextAugment
from vlp.data.texts.wrong_captions import WrongCaptions
from vlp.data.views import Views

__all__ = [
    "Augment",
    "Captions",
    "Card",
    "Crop",
    "Faults",
    "SampleSet",
    "Stream",
    "TextAugment",
    "Views",
    "WrongCaptions",
]
