"""Slow waves of one image under those of another: the published exchange by numpy's transform, and what stays."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vlp.data.pixels.amplitudes import Styles
from vlp.data.pixels.fourier_style import FourierStyle
from vlp.ground.types import RecipeError


def image_of(seed, height=23, width=32):
    return np.random.default_rng(seed).integers(40, 200, (height, width, 3), dtype=np.uint8)


def exchanged(source, target, share, strength):
    """Yang and Soatto's FDA_source_to_target_np, with the amplitudes of Xu et al. on the way from one to the other."""
    found = []
    for channel in range(3):
        ours, theirs = (np.fft.fft2(x[..., channel].astype(float)) for x in (source, target))
        amplitude, goal = np.fft.fftshift(np.abs(ours)), np.fft.fftshift(np.abs(theirs))
        height, width = amplitude.shape
        reach, y, x = int(min(height, width) * share), height // 2, width // 2
        window = slice(y - reach, y + reach + 1), slice(x - reach, x + reach + 1)
        amplitude[window] = (1 - strength) * amplitude[window] + strength * goal[window]
        changed = np.fft.ifftshift(amplitude) * np.exp(1j * np.angle(ours))
        found.append(np.real(np.fft.ifft2(changed)))
    return np.stack(found, axis=-1).round().clip(0, 255)


def give(styles, source, which, strength):
    pixels = torch.from_numpy(source).permute(2, 0, 1)[None]
    return styles.give(pixels, torch.tensor([which]), torch.tensor([strength]))[0].permute(1, 2, 0).numpy()


@pytest.mark.parametrize("share", [0.01, 0.09, 0.4])
@pytest.mark.parametrize("strength", [0.3, 1.0])
def test_it_is_the_published_exchange(share, strength):
    styles, source = Styles("embedded-photos", 3, share, 23, 32), image_of(1)
    target = styles.images[2].permute(1, 2, 0).numpy()
    found = give(styles, source, 0.9, strength)
    assert np.abs(found - exchanged(source, target, share, strength)).max() <= 1  # rounding of a half


def test_an_image_in_its_own_style_or_none_stays_as_it_is():
    styles = Styles("embedded-photos", 3, 0.1, 23, 32)
    own = styles.images[1].permute(1, 2, 0).numpy()
    assert np.array_equal(give(styles, own, 0.5, 1.0), own)
    assert np.array_equal(give(styles, image_of(2), 0.5, 0.0), image_of(2))


def test_images_of_another_size_take_the_same_styles():
    styles = Styles("embedded-photos", 3, 0.1, 32, 32)
    assert give(styles, image_of(1, 16, 16), 0.0, 1.0).shape == (16, 16, 3)


def test_a_policy_depends_on_its_key_alone():
    policy, source = FourierStyle(count=8, share=0.1), image_of(1)
    assert np.array_equal(policy(source, 5), FourierStyle(count=8, share=0.1)(source, 5))
    assert not np.array_equal(policy(source, 5), policy(source, 6))
    rare = FourierStyle(count=8, share=0.1, probability=0.2)
    kept = [np.array_equal(rare(source, key), source) for key in range(60)]
    assert 0.6 < np.mean(kept) < 0.95


@pytest.mark.parametrize(
    "settings", [{"strength": 0.0}, {"probability": 1.5}, {"share": 0.5}, {"count": 0}, {"card": "nothing"}]
)
def test_what_cannot_be_is_refused(settings):
    with pytest.raises(RecipeError):
        FourierStyle(**settings)(image_of(1), 0)
