"""What stands in front of a tower begins as the identity, steps aside, and is a program of torch."""

import pytest
import torch

from tests.towers.tiny import tiny_batch, tiny_model
from vlp.towers.pixel_autoencoder import (
    PixelAutoencoder,
    as_program,
    purifier_of,
    squared_change,
    stand_in_front,
    stepped_aside,
)


def moved(width=4):
    torch.manual_seed(0)
    autoencoder = PixelAutoencoder(width)
    torch.nn.init.normal_(autoencoder.leave.weight, std=0.1)
    return autoencoder


def images(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("sides", [(32, 32), (33, 47)])
def test_it_begins_as_the_identity_at_any_size(sides):
    pixels = images(2, 3, *sides)
    assert torch.equal(PixelAutoencoder(4)(pixels), pixels)
    assert moved()(pixels).shape == pixels.shape


def test_every_parameter_learns_once_the_last_layer_is_not_zero():
    autoencoder = moved()
    autoencoder(images(2, 3, 16, 16)).square().sum().backward()
    assert all((parameter.grad != 0).any() for parameter in autoencoder.parameters())


def test_the_tower_sees_what_it_returns_and_without_it_the_image():
    model, autoencoder = tiny_model().eval(), moved()
    pixels = tiny_batch(model)[0][0]
    plain = model.embed_images(pixels)
    purified = model.embed_images(autoencoder(pixels))
    stand_in_front(model.core.visual, autoencoder)
    torch.testing.assert_close(model.embed_images(pixels), purified)
    with stepped_aside(model.core.visual) as lent:
        assert lent is autoencoder
        torch.testing.assert_close(model.embed_images(pixels), plain)
        assert not any("purifier" in name for name in model.state_dict())
    assert purifier_of(model.core.visual) is autoencoder
    torch.testing.assert_close(model.embed_images(pixels), purified)


def test_the_change_of_an_image_is_a_mean_square_over_its_colours_in_255ths():
    tower, std = torch.nn.Identity(), (0.5, 0.25, 1.0)
    stand_in_front(tower, PixelAutoencoder(4))
    pixels = images(2, 3, 16, 16)
    assert squared_change(tower, pixels, std).tolist() == [0.0, 0.0]
    tower.purifier.leave.bias.data[:] = torch.tensor([2.0, 4.0, 8.0]) / 255  # 1, 1 and 8 of 255 once std is undone
    assert squared_change(tower, pixels, std).tolist() == pytest.approx([(1 + 1 + 64) / 3] * 2, rel=1e-4)
    tower.add_module("purifier", moved())
    by_hand = []
    for before, after in zip(pixels, tower.purifier(pixels).detach(), strict=True):
        total = 0.0
        for colour in range(3):
            for row in range(16):
                for column in range(16):
                    total += (255 * std[colour] * float((after - before)[colour, row, column])) ** 2
        by_hand.append(total / (3 * 16 * 16))
    assert squared_change(tower, pixels, std).tolist() == pytest.approx(by_hand, rel=1e-4)


def test_nothing_steps_aside_where_nothing_stands():
    with stepped_aside(tiny_model().core.visual) as lent:
        assert lent is None


def test_it_is_a_program_for_any_number_of_images():
    autoencoder = moved()
    program = as_program(autoencoder, images(2, 3, 32, 32)).module()
    for count in (1, 5):
        torch.testing.assert_close(program(images(count, 3, 32, 32)), autoencoder(images(count, 3, 32, 32)))
