"""A watched encoder offers what the encoder does, and beats at each call."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from tests.towers.tiny import tiny_model
from vlp.evaluators.shared import Locator
from vlp.ground.offers import offers
from vlp.ground.types import FeatureEncoder, PixelEncoder
from vlp.run.watchdog import Watchdog, WatchedEncoder
from vlp.towers.encoder import TowerEncoder


@pytest.fixture
def beats(monkeypatch):
    found = []
    monkeypatch.setattr(Watchdog, "beat", lambda _: found.append(1))
    return found


def test_it_says_what_the_encoder_says_and_tells_so(beats):
    encoder = TowerEncoder(tiny_model())
    watched = WatchedEncoder(encoder, Watchdog(1.0))
    images = [Image.fromarray(np.full((8, 8, 3), 90, dtype=np.uint8))]
    assert torch.equal(watched.embed_images(images), encoder.embed_images(images))
    assert torch.equal(watched.image_features(images), encoder.image_features(images))
    assert len(beats) == 2
    assert (watched.scale, watched.device) == (encoder.scale, encoder.device)  # where scores are computed


def test_it_offers_what_the_encoder_offers(beats):
    watched = WatchedEncoder(TowerEncoder(tiny_model()), Watchdog(1.0))
    assert all(offers(watched, kind) for kind in (FeatureEncoder, PixelEncoder, Locator))
    assert not hasattr(watched, "text_gates")
