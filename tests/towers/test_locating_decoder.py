"""The decoder of LocCa against a slow reading: every sequence by itself, token by token."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.towers.test_gated_decoder import attended, normed
from tests.towers.tiny import SIGLIP_TEXT, VIT, tiny_bert, tiny_images, tiny_model
from vlp.ground.draws import pick, uniform
from vlp.ground.region_rows import RegionRows
from vlp.ground.types import RecipeError
from vlp.towers.dual import DualEncoder
from vlp.towers.encoder import TowerEncoder
from vlp.towers.locating_decoder import SALT
from vlp.towers.location_layout import lay_out_regions

BINS, VOCABULARY, CONTEXT = 10, 13, 16
LOCCA = {
    "image": VIT,
    "text": {**SIGLIP_TEXT, "vocab_size": VOCABULARY},
    "decoder": {"type": "locating", "layers": 2, "heads": 2, "width": 24, "bins": BINS, "parallel": 0.5},
}
BOXES = [[0.0, 0.26, 0.5, 1.0], [0.0] * 4, [0.44, 0.1, 0.66, 0.3]]
REGIONS = RegionRows(
    np.array(BOXES, dtype=np.float32), np.array([[2, 9, 4, 3], [2, 3, 0, 0], [2, 5, 3, 0]]), np.array([4, 0, 3])
)
TOKENS = torch.tensor([[[2, 11, 12, 3, 0, 0], [2, 10, 11, 7, 12, 3], [2, 3, 0, 0, 0, 0]]])
LENGTHS = np.array([[4, 6, 2]])
DRAWS = torch.tensor([[0.1], [0.6], [0.35]])


@pytest.fixture(scope="module")
def locating(tmp_path_factory):
    """A small model of thirteen words."""
    tokenizer = tiny_bert(tmp_path_factory.mktemp("bert"))

    def build(**settings) -> DualEncoder:
        text = {**LOCCA["text"], "tokenizer": tokenizer}
        return tiny_model(**{**LOCCA, "text": text, **settings}).eval()

    return build


def pixels(seed=0):
    return torch.randn(1, 3, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def tell(model, regions=REGIONS, draws=None, tokens=TOKENS, lengths=LENGTHS, images=None):
    return model(pixels() if images is None else images, tokens, lengths, regions=regions, draws=draws)


def states_by_hand(decoder, image, inputs, *, causal):
    """States of one sequence: attention, a look at the image, and a network, each beside what came in."""
    image = image if decoder.image_map is None else decoder.image_map(image)
    rows = [decoder.words.weight[token] + decoder.places[place] for place, token in enumerate(inputs)]
    for attending, looking in zip(decoder.resblocks, decoder.cross_attn, strict=True):
        before = [normed(attending.ln_1, row) for row in rows]
        for place in range(len(rows)):
            seen = before[: place + 1] if causal else before
            rows[place] = rows[place] + attended(attending, before[place], torch.stack(seen))
        keys = normed(looking.ln_1_kv, image)
        rows = [row + attended(looking, normed(looking.ln_1, row), keys) for row in rows]
        rows = [row + looking.mlp(normed(looking.ln_2, row)) for row in rows]
    return torch.stack([normed(decoder.ln_final, row) for row in rows])


def losses_by_hand(decoder, image, task, words):
    """-log of the probability of each token behind the mark of a task."""
    inputs = [VOCABULARY + BINS + 1 + task, *words[:-1]]
    shares = (states_by_hand(decoder, image, inputs, causal=True) @ decoder.text_projection).log_softmax(dim=-1)
    return [-float(share[word]) for share, word in zip(shares, words, strict=True)]


def parallel_by_hand(decoder, image, words):
    """The same where as many hidden tokens as a caption may have are read, and all see each other."""
    inputs = [VOCABULARY + BINS + 1 + 3] * (CONTEXT - 1)
    shares = (states_by_hand(decoder, image, inputs, causal=False) @ decoder.text_projection).log_softmax(dim=-1)
    return sum(-float(share[word]) for share, word in zip(shares, words, strict=False))


@torch.no_grad()
def test_all_three_tasks_are_those_of_a_slow_reading(locating):
    model = locating()
    found = tell(model, draws=DRAWS)
    in_parallel = uniform(pick(DRAWS[:, 0], 2**24), 0, SALT, 1)[:, 0] < 0.5
    assert in_parallel.any() and not in_parallel.all()
    _, images = model.core.visual(pixels()[0])
    for row, image in enumerate(images):
        words = TOKENS[0, row, 1 : LENGTHS[0, row]].tolist()
        told = (
            parallel_by_hand(model.decoder, image, words)
            if in_parallel[row]
            else sum(losses_by_hand(model.decoder, image, 0, words))
        )
        assert float(found.caption_losses[row]) == pytest.approx(told, rel=1e-4)
        assert found.caption_words[row] == len(words)
        said = REGIONS.tokens[row, 1 : REGIONS.lengths[row]].tolist()
        if not said:
            assert found.region_losses[row].tolist() == [0] * 4 and found.region_words[row].tolist() == [0] * 4
            continue
        sides = [VOCABULARY + round(BINS * side) for side in BOXES[row]]
        referring = losses_by_hand(model.decoder, image, 1, said + sides)
        grounded = losses_by_hand(model.decoder, image, 2, sides + said)
        size = len(said)
        parts = [sum(referring[:size]), sum(referring[size:]), sum(grounded[:4]), sum(grounded[4:])]
        assert found.region_losses[row].tolist() == pytest.approx(parts, rel=1e-4)
        assert found.region_words[row].tolist() == [size, 4, 4, size]


@torch.no_grad()
def test_the_rest_of_the_batch_changes_nothing(locating):
    model = locating()
    whole = tell(model, draws=DRAWS)
    for row in range(3):
        alone = slice(row, row + 1)
        length = LENGTHS[0, row]
        one = tell(
            model,
            REGIONS.narrow(row, 1),
            DRAWS[alone],
            TOKENS[:, alone, :length],
            LENGTHS[:, alone],
            pixels()[:, alone],
        )
        for name in ("caption_losses", "region_losses", "image", "text"):
            torch.testing.assert_close(getattr(one, name)[0], getattr(whole, name)[row], rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_without_regions_or_draws_it_is_a_decoder_of_captions(locating):
    model = locating()
    plain, both = tell(model, regions=None), tell(model)
    assert plain.region_losses is None and plain.region_words is None
    torch.testing.assert_close(plain.caption_losses, both.caption_losses, rtol=1e-5, atol=1e-5)
    words = TOKENS[:, :, 1:]
    inputs = torch.cat([torch.full((3, 1), model.decoder.mark(0)), words[0, :, :-1]], dim=1)
    shares = model.decoder.logits(model.core.visual(pixels()[0])[1], inputs).log_softmax(dim=-1)
    said = [sum(shares[n, t, words[0, n, t]] for t in range(LENGTHS[0, n] - 1)) for n in range(3)]
    torch.testing.assert_close(plain.caption_losses, -torch.stack(said), rtol=1e-4, atol=1e-5)


def test_whole_numbers_lie_behind_the_words_and_stay_out_of_the_text_tower(locating):
    model = locating()
    assert model.core.text.token_embedding.num_embeddings == VOCABULARY
    assert model.decoder.text_projection.shape == (24, VOCABULARY + BINS + 1)
    assert model.decoder.words.num_embeddings == VOCABULARY + BINS + 1 + 4
    layout = lay_out_regions(REGIONS, 1, VOCABULARY, BINS)
    assert layout.tokens[0, : layout.length].tolist() == [9, 4, 3, 13, 16, 18, 23]
    assert layout.parts[0].tolist() == [0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3]
    assert layout.parts[1].tolist() == [-1] * 14 and layout.parts[2].tolist()[:7] == [0, 0, 1, 1, 1, 1, -1]


def test_gradients_reach_the_image_tower_and_not_the_text_tower_and_recomputing_changes_none(locating):
    plain, frugal = locating(), locating(grad_checkpointing=True)
    for model in (plain, frugal):
        found = tell(model, draws=DRAWS)
        (found.caption_losses.sum() + found.region_losses.sum()).backward()
    assert plain.core.text.token_embedding.weight.grad is None
    assert all(p.grad is not None for p in (plain.core.visual.conv1.weight, *plain.decoder.parameters()))
    for ours, theirs in zip(plain.parameters(), frugal.parameters(), strict=True):
        assert (ours.grad is None) == (theirs.grad is None)
        if ours.grad is not None:
            torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize(
    ("decoder", "complaint"),
    [
        ({"bins": 0}, r"model\.decoder\.bins: 0"),
        ({"parallel": 1.5}, r"parallel: 1\.5"),
        ({"heads": 5}, r"heads 5 does"),
    ],
)
def test_what_cannot_be_is_refused(locating, decoder, complaint):
    with pytest.raises(RecipeError, match=complaint):
        locating(decoder={**LOCCA["decoder"], **decoder})


@torch.no_grad()
def test_a_box_has_the_likeliest_side_each_time(locating):
    model = locating(resize_mode="squash")
    images, words = tiny_images()[:3], ["a cat", "two dogs of the leash", "photo"]
    encoder = TowerEncoder(model, batch_size=2)
    found = encoder.locate_captions(images, words)
    for picture, said, box in zip(images, words, found, strict=True):
        tokens, lengths = model.tokenizer([said])
        _, states = model.core.visual(encoder.transform(picture)[None])
        inputs = torch.cat([torch.tensor([[model.decoder.mark(1)]]), tokens[:, 1 : lengths[0]]], dim=1)
        for _ in range(4):
            logits = model.decoder.logits(states, inputs)[:, -1]
            side = VOCABULARY + logits[:, VOCABULARY:].argmax(dim=1, keepdim=True)
            inputs = torch.cat([inputs, side], dim=1)
        assert ((inputs[0, -4:] - VOCABULARY) / BINS).tolist() == pytest.approx(box.tolist())
    with pytest.raises(RecipeError, match="no decoder that knows boxes"):
        TowerEncoder(tiny_model()).locate_captions(images, words)


@pytest.mark.parametrize(
    ("mode", "shift", "stretch"),
    [
        ("squash", (0, 0), (1, 1)),
        ("shortest", (16 / 64, 0), (0.5, 1)),  # 80 x 40 become 64 x 32, of which the middle is left
        ("longest", (0, -8 / 16), (1, 2)),  # 32 x 16, with eight empty rows above and below
    ],
)
@torch.no_grad()
def test_a_box_is_in_shares_of_the_whole_image_however_the_model_sees_it(locating, mode, shift, stretch):
    model = locating(resize_mode=mode)
    encoder, image = TowerEncoder(model), tiny_images()[0].resize((80, 40))
    (seen,) = model.locate(encoder.transform(image)[None], *model.tokenizer(["a cat"])).tolist()
    (found,) = encoder.locate_captions([image], ["a cat"]).tolist()
    assert found == pytest.approx([shift[side % 2] + seen[side] * stretch[side % 2] for side in range(4)])
