"""One change for all: what it is learned by, and what it does to sets that it was not learned on."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch

from tests.robust.stages import captions_it_meets, encoder_of, model_that_learned, opened, plan_of, record_of
from tests.shards import write_shards
from vlp.attacks.ball import PIXEL_STEP
from vlp.ground.types import RecipeError
from vlp.robust.attacks.cpgc_word import first_tokens, nearest_word
from vlp.robust.learning_pairs import read_pairs
from vlp.robust.malicious_contrast import malicious_contrast, scaled_copies
from vlp.robust.perturbation_generator import PerturbationGenerator

SETTINGS = {
    "universal": {"pairs": 12, "epochs": 3, "batch_size": 4},
    "cpgc_image": {"pairs": 4, "epochs": 1, "width": 32, "scales": [0.5]},
    "universal_word": {"pairs": 8, "candidates": 6},
    "cpgc_word": {"pairs": 8, "epochs": 2, "width": 32, "candidates": 6, "batch_size": 4},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("sets")


@pytest.fixture(scope="module")
def task(place):
    return captions_it_meets(place)


@pytest.fixture(scope="module")
def card(place):
    """Pairs that the model has not learned."""
    write_shards(place / "pairs", num_shards=1, samples_per_shard=12)
    path = place / "pairs.yaml"
    path.write_text(f"name: pairs\nshards: {place / 'pairs'}/*.tar\n")
    return str(path)


@pytest.fixture(scope="module")
def encoder():
    return encoder_of(model_that_learned())


def by_hand(changed, clean, own, others):
    """The loss in plain loops."""
    right = wrong = push = 0.0
    for i in range(len(changed)):
        likeness = [float(clean[i] @ other) for other in others]
        far = others[likeness.index(min(likeness))]
        right += math.exp(float(changed[i] @ own[i]) / 0.1) / len(changed)
        wrong += math.exp(float(changed[i] @ far) / 0.1) / len(changed)
        push += float(((changed[i] - clean[i]) ** 2).sum())
    return math.log(right / (right + wrong)) - 0.1 * push


def test_the_malicious_contrast():
    generator = torch.Generator().manual_seed(0)
    rows = [torch.nn.functional.normalize(torch.randn(n, 5, generator=generator), dim=1) for n in (4, 4, 4, 6)]
    assert float(malicious_contrast(*rows)) == pytest.approx(by_hand(*rows), rel=1e-5)


def test_copies_have_the_size_of_the_image():
    pixels = torch.rand(2, 3, 8, 8)
    copies = scaled_copies(pixels, (0.5, 1.5), torch.Generator().manual_seed(0))
    assert torch.equal(copies[0], pixels)
    assert [copy.shape for copy in copies] == [pixels.shape] * 3
    assert not torch.equal(copies[1], copies[2])


def test_the_generator_makes_one_map_and_sees_its_condition():
    torch.manual_seed(0)
    made = PerturbationGenerator(condition_dim=5, batch_size=4, side=3, channels=3, width=32)
    with torch.no_grad():
        for block in made.attention:
            for parameter in block.parameters():
                parameter.add_(0.1)  # the blocks add nothing at first
    found = made(torch.randn(4, 5))
    assert found.shape == (1, 3, 384, 384)
    assert not torch.equal(found, made(torch.randn(4, 5)))


@pytest.mark.parametrize("name", SETTINGS)
def test_it_is_learned_once_and_the_same_for_every_sample(name, task, encoder, card):
    stage = opened(task, encoder)
    attack = plan_of(name, 12.0, card=card, **SETTINGS[name])[0].attack
    found = attack.change(stage.stage, 12.0)
    assert torch.equal(attack.change(stage.stage, 12.0).rows, found.rows)
    if attack.side == "images":
        change = attack._learned[12.0]
        assert 0 < change.abs().max() <= 12 * PIXEL_STEP + 1e-6
        assert found.distance.max() <= 12 + 1e-3 and 0 <= found.least <= found.most <= 1
    else:
        assert all(attack._word in text for text in found.texts)
    again = plan_of(name, 12.0, card=card, **SETTINGS[name])[0].attack.change(stage.stage, 12.0)
    assert torch.equal(again.rows, found.rows)


def test_success_is_told_against_the_clean_run(task, encoder, card):
    stage = opened(task, encoder)
    plan = plan_of("universal", 12.0, card=card, **SETTINGS["universal"])
    record = record_of(stage, plan)
    rows = plan[0].attack.change(stage.stage, 12.0).rows
    metrics = record["attacks"][0]["metrics"]
    for direction, ranks in stage.scorer.ranks(rows).items():
        for k in (1, 5, 10):
            had = [rank <= k for rank in stage.scorer.clean[direction].tolist()]
            lost = [rank > k for rank in ranks.tolist()]
            rate = metrics[f"{direction}success@{k}"]
            assert rate["count"] == sum(had)
            assert rate["value"] == pytest.approx(sum(map(lambda a, b: a and b, had, lost)) / sum(had))


def test_learning_raises_what_it_climbs(task, encoder, card):
    stage = opened(task, encoder).stage
    pairs = read_pairs(stage, card, 12)
    attack = plan_of("universal", 12.0, card=card, **SETTINGS["universal"])[0].attack

    def loss(change):
        rows = encoder.embed_pixels((pairs.pixels + change).clamp(0, 1))
        return float(malicious_contrast(rows, pairs.images, pairs.texts, pairs.texts))

    assert loss(attack.learn(stage, pairs, 12 * PIXEL_STEP)) < loss(0.0)


def test_pairs_come_in_batches_of_their_own_order(task, encoder, card):
    pairs = read_pairs(opened(task, encoder).stage, card, 10)
    batches = list(pairs.batches(5, 2, seed=0))
    assert len(pairs) == 10 and len(batches) == 4
    assert sorted(torch.cat([places for places, _ in batches[:2]]).tolist()) == list(range(10))
    assert not torch.equal(batches[0][0], batches[2][0])


def test_too_few_pairs_are_refused(task, encoder, card):
    with pytest.raises(RecipeError, match="3 pairs can be read"):
        read_pairs(opened(task, encoder).stage, card, 3)


def test_a_word_stands_where_it_stood(task, encoder):
    tokens, at = first_tokens(encoder, ["a red dog", "blue"], [2, 0])
    assert at.sum(dim=1).tolist() == [1, 1]
    dog, blue = encoder.read_texts(["dog", "blue"])[0][:, 1].tolist()
    assert tokens[at].tolist() == [dog, blue]
    assert nearest_word(encoder, encoder.words[dog], ["cat", "dog", "blue"]) == "dog"


def test_no_such_card_is_an_error(task, encoder):
    attack = partial(plan_of, "universal", 12.0)
    with pytest.raises(RecipeError, match="nosuch"):
        attack(card="nosuch")[0].attack.change(opened(task, encoder).stage, 12.0)
