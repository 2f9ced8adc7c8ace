"""CoOp: vectors in front of class names, learned for frozen towers, against a training by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from tests.evaluators.kinds import check_intervals, check_samples, draw_rows, values_of
from tests.evaluators.learned import CONTEXT, TRAIN, names, read_by_hand, small_encoder, small_set
from tests.evaluators.sets import HashEncoder
from tests.towers.test_borrowed import clip_folder
from tests.towers.tiny import SIGLIP_TEXT, tiny_bert, tiny_model
from vlp.evaluate import load
from vlp.evaluators.coop_prompts import CoopPrompts
from vlp.evaluators.dataset import DataSource, open_set
from vlp.evaluators.probes import class_contexts
from vlp.evaluators.probes.class_contexts import ClassContexts
from vlp.evaluators.probes.few import draw_few
from vlp.evaluators.probes.learned_prompts import Learning, Prompts, SeenImages, learn
from vlp.evaluators.shared import SharedEncoder
from vlp.ground.types import RecipeError
from vlp.towers.encoder import TowerEncoder
from vlp.towers.prefix_encoder import PrefixEncoder


@pytest.fixture
def data(tmp_path):
    return small_set(tmp_path)


def train_by_hand(encoder, rows, labels, *, epochs, size, rate, seed):
    """Return the vectors that CoOp learns: momentum 0.9, decay 5e-4, a first epoch at 1e-5, then half a cosine."""
    tokens, is_word = encoder.read_texts([CONTEXT])
    context = encoder.words[tokens[0, is_word[0]]].clone()
    speed, order = torch.zeros_like(context), np.random.default_rng(seed)
    for epoch in range(epochs):
        now = 1e-5 if epoch == 0 else rate * (1 + math.cos(math.pi * (epoch - 1) / epochs)) / 2
        shown = order.permutation(len(labels))
        for step in range(len(labels) // size):
            context = context.detach().requires_grad_()
            texts = [read_by_hand(encoder, context, name) for name in names()]
            total = 0.0
            for place in shown[step * size : (step + 1) * size]:
                scores = [encoder.scale * (rows[place] @ text) for text in texts]
                total = total + torch.logsumexp(torch.stack(scores), 0) - scores[labels[place]]
            (slope,) = torch.autograd.grad(total / size, context)
            speed = 0.9 * speed + slope + 5e-4 * context.detach()
            context = context.detach() - now * speed
    return context


def test_it_learns_what_a_training_by_hand_learns(data):
    encoder = small_encoder()
    images = SharedEncoder(encoder).images(open_set(DataSource(root=str(data.folder.root), split="train")))
    contexts = ClassContexts(encoder, data.class_names, CONTEXT)
    prompts, how = Prompts(contexts.start), Learning(epochs=4, batch_size=8, learning_rate=0.05)
    labels = torch.tensor(TRAIN)
    losses = list(learn(prompts, contexts, SeenImages(images), labels, how, scale=encoder.scale, seed=(3, 1)))
    expected = train_by_hand(encoder, images, labels, epochs=4, size=8, rate=0.05, seed=[3, 1])
    assert (expected - contexts.start).abs().max() > 1e-3
    torch.testing.assert_close(prompts.context.detach(), expected, atol=1e-5, rtol=1e-4)
    assert len(losses) == 4 and losses[-1] < losses[0]


def test_a_draw_is_scored_by_the_texts_that_it_learned(data):
    encoder = small_encoder()
    found = CoopPrompts(data, shots=(1, 2), draws=2, epochs=3, learning_rate=0.05).run(SharedEncoder(encoder))
    train = SharedEncoder(encoder).images(open_set(DataSource(root=str(data.folder.root), split="train")))
    test, truth = SharedEncoder(encoder).images(data), torch.tensor(data.labels)
    before = encoder.embed_texts([f"{CONTEXT} {name}." for name in names()])
    values = values_of(found)
    assert values["acc1_0shot"] == pytest.approx(float(((test @ before.T).argmax(1) == truth).float().mean()))
    for number in (1, 2):
        for draw in range(2):
            places = torch.from_numpy(draw_few(np.array(TRAIN), number, 0, draw).reshape(-1))
            context = train_by_hand(
                encoder, train[places], torch.tensor(TRAIN)[places], epochs=3, size=3 * number, rate=0.05,
                seed=[0, draw, number],
            )  # fmt: skip
            texts = torch.stack([read_by_hand(encoder, context, name) for name in names()])
            right = float(((test @ texts.T).argmax(1) == truth).float().mean())
            assert found.details["draws"][f"acc1_{number}shot"][draw] == pytest.approx(right)
    assert list(values) == ["acc1_0shot", "acc1_1shot", "acc1_2shot"]
    check_samples(found, list(values))
    check_intervals(found)


@pytest.mark.parametrize("kind", ["causal", "last", "bert", "a CLIP of transformers"])
def test_a_context_that_did_not_move_says_the_words(tmp_path, kind):
    if kind == "a CLIP of transformers":
        clip_folder(tmp_path)
        check_words(load(str(tmp_path)))
        return
    text = {
        "causal": {"layers": 2, "width": 32, "heads": 2},
        "last": SIGLIP_TEXT,
        "bert": {"type": "transformers", "name": tiny_bert(tmp_path), "context_length": 16},
    }[kind]
    check_words(small_encoder(text=text))


def check_words(encoder):
    """Compare a context as it starts with the words that it starts from, and one that has moved with these."""
    contexts = ClassContexts(encoder, names(), CONTEXT)
    assert len(contexts.start) == 4
    found = contexts.embed(torch.stack([contexts.start, contexts.start + draw_rows(*contexts.start.shape)]))
    expected = encoder.embed_texts([f"{CONTEXT} {name}." for name in names()])
    torch.testing.assert_close(found[0], expected, atol=1e-5, rtol=0)
    assert (found[1] - expected).abs().max() > 1e-2


def test_many_texts_in_several_passes_are_those_of_one(monkeypatch):
    encoder = small_encoder()
    contexts = ClassContexts(encoder, names(), CONTEXT)
    moved = contexts.start + 0.1 * draw_rows(5, 4, 32)
    found = []
    for texts in (2048, 4):
        monkeypatch.setattr(class_contexts, "TEXTS", texts)
        rows = contexts.embed(asked := moved.clone().requires_grad_())
        (slope,) = torch.autograd.grad((rows * draw_rows(*rows.shape, seed=1)).sum(), asked)
        found.append((rows.detach(), slope))
    for one, several in zip(*found, strict=True):
        torch.testing.assert_close(one, several, atol=1e-5, rtol=1e-4)


def test_gradients_stay_away_from_the_towers(data):
    encoder = small_encoder()
    before = {name: value.clone() for name, value in encoder.model.state_dict().items()}
    CoopPrompts(data, shots=(2,), draws=2, epochs=2).run(SharedEncoder(encoder))
    assert all(parameter.requires_grad for parameter in encoder.model.parameters())
    assert all(parameter.grad is None for parameter in encoder.model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in encoder.model.state_dict().items())


def test_the_rates_are_those_of_the_authors():
    how = Learning(epochs=50, learning_rate=0.002)
    assert [how.rate(epoch) for epoch in (0, 1, 26)] == [1e-5, 0.002, pytest.approx(0.001)]
    assert 0 < how.rate(49) < 1e-5


def test_more_shots_take_more_epochs(data):
    found = CoopPrompts(data, shots=(1, 2, 4, 8)).how
    assert {shots: how.epochs for shots, how in found.items()} == {1: 50, 2: 100, 4: 100, 8: 200}


def test_the_first_coordinates_have_prompts_too(data):
    encoder = PrefixEncoder(small_encoder(), 8)
    found = CoopPrompts(data, shots=(1,), draws=2, epochs=2).run(SharedEncoder(encoder))
    assert found.details["texts_of_a_draw"] == {"1shot": 6}


class OneWord(HashEncoder):
    """Reads several words as one token where they stand together."""

    words = torch.eye(4)

    def read_texts(self, texts):
        rows = [[1 if text == CONTEXT else 2, *[3] * 5] for text in texts]
        return torch.tensor(rows), torch.tensor([[True, *[False] * 5]] * len(rows))

    def embed_shifted(self, tokens, is_word, shift):
        raise AssertionError("refused before")


@pytest.mark.parametrize(
    ("encoder", "settings", "message"),
    [
        (HashEncoder, {}, "learned for a HashEncoder, whose token embeddings are out of reach.*few_shot"),
        (OneWord, {}, "'a photo of a' is read as other tokens in front of 'red cat'"),
        (small_encoder, {"context": ""}, "settings.context is '', which has no word"),
        (small_encoder, {"context": "a " * 80}, "no token of 'red cat' is left"),
        (small_encoder, {"shots": (7,)}, "settings.shots: 7 samples of each class"),
        (small_encoder, {"draws": 1}, "settings.draws is 1"),
        (small_encoder, {"learning_rate": 0.0}, "settings.learning_rate is 0"),
        (
            lambda: TowerEncoder(tiny_model(tune={"type": "prompts", "text": 2, "image": 0}).eval()),
            {},
            "learned tokens have ids below zero",
        ),
    ],
    ids=["no words", "other tokens", "no context", "long", "shots", "draws", "rate", "learned"],
)
def test_what_cannot_be_learned_is_refused(data, encoder, settings, message):
    with pytest.raises(RecipeError, match=message):
        CoopPrompts(data, **settings).run(SharedEncoder(encoder()))


def test_equal_seeds_learn_equally_and_leave_random_numbers_alone(data):
    state = torch.get_rng_state()
    one, same, other = (
        CoopPrompts(data, shots=(1, 2), draws=3, epochs=4, learning_rate=0.5, seed=seed).run(
            SharedEncoder(small_encoder_of(state))
        )
        for seed in (0, 0, 1)
    )
    assert one == same != other
    assert torch.equal(torch.get_rng_state(), state)


def small_encoder_of(state):
    """Return a small encoder, made without a trace in the random numbers of the process."""
    with torch.random.fork_rng(devices=[]):
        encoder = small_encoder()
    assert isinstance(encoder.model, nn.Module) and torch.equal(torch.get_rng_state(), state)
    return encoder
