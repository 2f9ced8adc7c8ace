"""GOPro: prompts that follow from each image, against the authors' loss one image, class and number at a time."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from tests.evaluators.kinds import check_intervals, check_samples, draw_rows, values_of
from tests.evaluators.learned import (
    CONTEXT,
    TRAIN,
    names,
    read_by_hand,
    see_by_hand,
    small_encoder,
    small_set,
)
from tests.evaluators.sets import HashEncoder
from tests.processes import run_processes
from tests.towers.tiny import tiny_images
from vlp.evaluators.coop_prompts import CoopPrompts
from vlp.evaluators.gopro_prompts import GoproPrompts
from vlp.evaluators.probes.changed_views import MixedView, StrongView, change
from vlp.evaluators.probes.class_contexts import ClassContexts
from vlp.evaluators.probes.image_styles import Eye
from vlp.evaluators.probes.learned_prompts import Learning, Prompts, SeenImages, Shift, learn, loss, view_contrast
from vlp.evaluators.shared import SharedEncoder
from vlp.ground.types import RecipeError
from vlp.towers.encoder import TowerEncoder
from vlp.towers.prefix_encoder import PrefixEncoder

CPU = torch.device("cpu")


@pytest.fixture
def data(tmp_path):
    return small_set(tmp_path)


@pytest.fixture(scope="module")
def encoder():
    return small_encoder()


@pytest.fixture(scope="module")
def contexts(encoder):
    return ClassContexts(encoder, names(), CONTEXT)


def draw_prompts(contexts, widths=(32, 32)):
    torch.manual_seed(1)
    return Prompts(contexts.start, Shift(widths, contexts.start.shape[1]))


def shift_by_hand(shift, styles):
    """Return what one image adds to each vector: block by block, one number at a time."""
    width, total = shift.style[0].out_features, []
    for channel in range(width):
        value = float(shift.blocks.bias)
        for number, (means, deviations) in enumerate(styles):
            of_style = float(shift.style[number].bias[channel])
            of_content = float(shift.content[number].bias[channel])
            for place in range(len(means)):
                pooled = (float(means[place]) + float(deviations[place])) / 2
                of_style += float(shift.style[number].weight[channel, place]) * pooled
                of_content += float(shift.content[number].weight[channel, place]) * float(means[place])
            value += float(shift.blocks.weight[0, number]) * (of_style + of_content) / 2
        total.append(value)
    return torch.tensor(total)


def contrast_by_hand(first, second, temperature):
    """SimCLR over both kinds of views, one query at a time."""
    rows = [row / row.norm() for row in (*first, *second)]
    count, total = len(first), 0.0
    for query in range(2 * count):
        others = [math.exp(float(rows[query] @ rows[key]) / temperature) for key in range(2 * count) if key != query]
        partner = float(rows[query] @ rows[(query + count) % (2 * count)]) / temperature
        total -= math.log(math.exp(partner) / sum(others))
    return total / (2 * count)


def project_by_hand(projector, rows):
    """A linear map and a batch norm over the rows, one channel at a time."""
    linear, norm = projector
    mapped = [[float(w @ row) + float(b) for w, b in zip(linear.weight, linear.bias, strict=True)] for row in rows]
    columns = []
    for number, channel in enumerate(zip(*mapped, strict=True)):
        middle = sum(channel) / len(channel)
        spread = sum((value - middle) ** 2 for value in channel) / len(channel) + 1e-5
        scale, offset = float(norm.weight[number]), float(norm.bias[number])
        columns.append([(value - middle) / spread**0.5 * scale + offset for value in channel])
    return torch.tensor(columns).T


def test_the_loss_is_that_of_the_authors_one_number_at_a_time(encoder, contexts):
    pixels = torch.rand(3, 2, 3, 32, 32, generator=torch.Generator().manual_seed(0))  # a view of two images each
    prompts, labels, how = draw_prompts(contexts), [2, 0], Learning(consistency_weight=1.0, contrast_weight=0.1)
    projector = nn.Sequential(nn.Linear(64, 8), nn.BatchNorm1d(8))
    projector[0] = nn.Linear(encoder.embed_pixels(pixels[0]).shape[1], 8)
    seen = [[see_by_hand(encoder, image) for image in view] for view in pixels]
    texts = [
        [
            [read_by_hand(encoder, prompts.context + shift_by_hand(prompts.shift, styles), name) for name in names()]
            for _, styles in view
        ]
        for view in seen
    ]
    total = 0.0
    for (row, _), own, label in zip(seen[0], texts[0], labels, strict=True):
        scores = [math.exp(encoder.scale * float(row @ text)) for text in own]
        total -= math.log(scores[label] / sum(scores)) / 2
    for view in (1, 2):
        squares = [
            (float(a) - float(b)) ** 2
            for image in range(2)
            for kind in range(3)
            for a, b in zip(texts[0][image][kind], texts[view][image][kind], strict=True)
        ]
        assert len(squares) == 2 * 3 * len(texts[0][0][0])
        total += sum(squares) / len(squares)
    rows = [torch.stack([row for row, _ in view]) for view in seen]
    projected = [project_by_hand(projector, rows[view]) for view in (0, 1)]
    total += 0.1 * contrast_by_hand(*projected, 0.1)
    eye = Eye(encoder, CPU)
    found = loss(
        prompts, contexts, [eye.see(view) for view in pixels], torch.tensor(labels), how, encoder.scale, projector
    )
    assert float(found) == pytest.approx(total, abs=1e-4)


def test_the_contrast_is_simclr_s():
    first, second = draw_rows(5, 6), draw_rows(5, 6, seed=1)
    assert float(view_contrast(first, second, 0.5)) == pytest.approx(contrast_by_hand(first, second, 0.5), abs=1e-5)


def test_images_have_texts_of_their_own_and_without_maps_all_the_same(encoder, contexts):
    eye = Eye(encoder, CPU)
    seen = eye.see(torch.stack([encoder.plain_pixels(image) for image in tiny_images()]))
    prompts = draw_prompts(contexts)
    texts = contexts.embed(prompts(seen.styles))
    assert texts.shape[:2] == (len(seen.rows), 3)
    assert (texts[0] - texts[1]).norm(dim=-1).min() > 1e-3
    moved = prompts(seen.styles) - prompts.context
    torch.testing.assert_close(moved, moved[:, :1].expand_as(moved))  # every vector is shifted alike
    assert len(Prompts(contexts.start)(seen.styles)) == 1


def test_coop_is_what_is_left_without_maps_and_weights(encoder, contexts):
    eye, labels = Eye(encoder, CPU), torch.tensor([1, 0, 2])
    seen = eye.see(torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(2)))
    still = draw_prompts(contexts)
    nn.init.zeros_(still.shift.blocks.weight)
    nn.init.zeros_(still.shift.blocks.bias)
    coop, how = Prompts(contexts.start), Learning()
    values, slopes = [], []
    for prompts, images in ((still, seen), (coop, SeenImages(seen.rows))):
        value = loss(prompts, contexts, [images], labels, how, encoder.scale)
        values.append(float(value.detach()))
        slopes.append(torch.autograd.grad(value, prompts.context)[0])
    assert values[0] == pytest.approx(values[1], abs=1e-6)
    assert slopes[0].abs().max() > 1e-4
    torch.testing.assert_close(*slopes, atol=1e-5, rtol=1e-3)  # slopes are up to 1e-1


def learned_with(encoder, contexts, data, **weights):
    """Return prompts after a few steps; the maps begin the same each time."""
    eye, how = Eye(encoder, CPU), Learning(epochs=3, batch_size=4, learning_rate=0.02, **weights)
    pixels = torch.stack([*eye.read(data, range(9))])
    prompts, projector = draw_prompts(contexts), None
    if how.contrast_weight:
        torch.manual_seed(2)
        width = encoder.embed_pixels(pixels).shape[1]
        projector = nn.Sequential(nn.Linear(width, width), nn.BatchNorm1d(width))
        start = projector[0].weight.detach().clone()
    look = eye.look((pixels * 255).round().to(torch.uint8), range(9), (0, 0), mixed=True)
    labels = torch.tensor(data.labels[:9])
    for _ in learn(
        prompts, contexts, eye.see(pixels), labels, how, scale=encoder.scale, seed=(0,), look=look, projector=projector
    ):
        pass
    assert projector is None or not torch.equal(projector[0].weight, start)
    return prompts


def test_the_contrast_of_views_teaches_its_projector_and_no_text(encoder, contexts, data):
    with_it = learned_with(encoder, contexts, data, consistency_weight=1.0, contrast_weight=0.1)
    without = learned_with(encoder, contexts, data, consistency_weight=1.0)
    other = learned_with(encoder, contexts, data)
    for (name, one), another, third in zip(
        with_it.named_parameters(), without.parameters(), other.parameters(), strict=True
    ):
        assert torch.equal(one, another), name
        assert not torch.equal(one, third), name


def test_consistency_brings_texts_of_views_together(encoder, contexts, data):
    eye = Eye(encoder, CPU)
    pixels = torch.stack([*eye.read(data, range(9))])
    look = eye.look((pixels * 255).round().to(torch.uint8), range(9), (1, 1), mixed=True)
    clean, views = eye.see(pixels), look(0, torch.arange(9))
    apart = []
    for weight in (0.0, 30.0):
        prompts = learned_with(encoder, contexts, data, consistency_weight=weight)
        with torch.no_grad():
            texts = contexts.embed(prompts(clean.styles))
            apart.append(sum(float((texts - contexts.embed(prompts(view.styles))).square().mean()) for view in views))
    assert apart[1] < 0.5 * apart[0]


@pytest.mark.parametrize("view", [StrongView, MixedView])
def test_each_image_of_a_batch_has_a_view_of_its_own(view):
    policy = view((16, 16))
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 16, 16)).astype(np.uint8)
    one, other = (change(images[0], policy, key) for key in (1, 2))
    assert one.shape == (3, 16, 16) and not np.array_equal(one, other)
    assert np.array_equal(change(images[0], policy, 1), one)
    assert not np.array_equal(change(images[1], policy, 1), one)


def test_views_are_drawn_anew_for_each_epoch_and_do_not_depend_on_the_batch(encoder, data):
    eye = Eye(encoder, CPU)
    pixels = torch.stack([*eye.read(data, range(6))])
    look = eye.look((pixels * 255).round().to(torch.uint8), range(6), (0, 0), mixed=True)
    whole, part, later = look(1, torch.arange(6)), look(1, torch.tensor([4, 2])), look(2, torch.arange(6))
    assert len(whole) == 2
    for all_of_them, two, next_epoch in zip(whole, part, later, strict=True):
        torch.testing.assert_close(two.rows, all_of_them.rows[[4, 2]], atol=1e-5, rtol=1e-4)
        assert (next_epoch.rows - all_of_them.rows).norm(dim=1).min() > 1e-4


def run(data, encoder, **settings):
    known = {"shots": (1, 2), "draws": 2, "epochs": 2, "learning_rate": 0.01} | settings
    return GoproPrompts(data, **known).run(SharedEncoder(encoder))


class Counts:
    """Counts the texts that an encoder embeds."""

    def __init__(self, encoder):
        self.encoder, self.count = encoder, 0

    def __getattr__(self, name):
        return getattr(self.encoder, name)

    def embed_shifted(self, tokens, is_word, shift):
        self.count += len(tokens)
        return self.encoder.embed_shifted(tokens, is_word, shift)


def test_each_image_is_scored_by_texts_of_its_own_and_all_texts_are_counted(data, encoder, monkeypatch):
    kept = []
    learn_one = GoproPrompts._learn

    def keep(self, *inputs):
        kept.append(learn_one(self, *inputs))
        return kept[-1]

    monkeypatch.setattr(GoproPrompts, "_learn", keep)
    counts = Counts(encoder)
    found = run(data, counts)
    asked = found.details["texts_of_a_draw"]
    # two epochs of one batch: of three images, then of four of the six
    assert asked == {"1shot": 2 * 3 * 3 * 3, "2shot": 2 * 4 * 3 * 3}
    assert found.details["texts_of_scoring"] == 4 * 15 * 3
    assert counts.count == 2 * sum(asked.values()) + found.details["texts_of_scoring"] + 3
    assert found.details["blocks"] == 2
    for number, prompts in enumerate(kept):
        right = []
        for place in range(len(data)):
            row, styles = see_by_hand(encoder, encoder.plain_pixels(data.decode(place)[0]))
            moved = (prompts.context + shift_by_hand(prompts.shift, styles)).detach()
            scores = [float(row @ read_by_hand(encoder, moved, name)) for name in names()]
            right.append(np.argmax(scores) == data.labels[place])
        told = found.details["draws"][f"acc1_{1 + number // 2}shot"][number % 2]
        assert told == pytest.approx(np.mean(right))
    values = values_of(found)
    assert list(values) == ["acc1_0shot", "acc1_1shot", "acc1_2shot"]
    check_samples(found, list(values))
    check_intervals(found)


def test_equal_seeds_learn_equally_and_nothing_is_left_behind(data, encoder):
    state = torch.get_rng_state()
    weights = {name: value.clone() for name, value in encoder.model.state_dict().items()}
    one, same, other = (run(data, encoder, seed=seed) for seed in (0, 0, 1))
    assert one == same != other
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, weights[name]) for name, value in encoder.model.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in encoder.model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in encoder.model.modules())


def test_without_weights_no_view_is_made(data, encoder, monkeypatch):
    monkeypatch.setattr(Eye, "look", None)
    found = run(data, encoder, consistency_weight=0.0, contrast_weight=0.0)
    assert found.details["texts_of_a_draw"]["1shot"] == 2 * 3 * 3


def test_a_tower_of_several_widths_and_an_embedding_cut_short_have_prompts_too(data):
    network = small_encoder(image={"type": "timm", "name": "test_resnet", "image_size": 64})
    found = run(data, PrefixEncoder(network, 8), shots=(1,))
    assert found.details["blocks"] >= 2


def learn_and_score(rank, world_size, folder):
    from vlp.evaluators.dataset import DataSource, open_set

    return run(open_set(DataSource(root=str(folder))), small_encoder())


@pytest.mark.processes
def test_several_processes_find_what_one_finds(data, encoder):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    alone = learn_and_score(0, 1, data.folder.root)
    torch.set_num_threads(threads)
    for found in run_processes(learn_and_score, 2, data.folder.root, timeout=200):
        assert found == alone


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("kind", [CoopPrompts, GoproPrompts])
def test_a_gpu_learns_what_the_cpu_learns(data, kind):
    evaluator = kind(data, shots=(1, 2), draws=2, epochs=3)
    expected = values_of(evaluator.run(SharedEncoder(small_encoder())))
    there = small_encoder().model.cuda()
    found = values_of(evaluator.run(SharedEncoder(TowerEncoder(there, device="cuda"))))
    assert found == pytest.approx(expected, abs=1.01 / len(data))


class Blind(HashEncoder):
    """Has words, and does not say how it sees."""

    words = torch.eye(8, 16)

    def read_texts(self, texts):
        rows = [[1, 2, 3, 4, 5 + len(text) % 3] for text in texts]
        words = [[True] * 4 + [text != CONTEXT] for text in texts]
        return torch.tensor(rows), torch.tensor(words)

    def embed_shifted(self, tokens, is_word, shift):
        raise AssertionError("refused before")


class Blockless(Blind):
    """Says how it sees, of no block."""

    def plain_pixels(self, image):
        return torch.zeros(3, 8, 8)

    def styled_pixels(self, pixels):
        return torch.ones(len(pixels), 16), []


@pytest.mark.parametrize(
    ("encoder", "settings", "message"),
    [
        (HashEncoder, {}, "learned for a HashEncoder, whose token embeddings are out of reach"),
        (Blind, {}, "a Blind does not say what the blocks .* coop_prompts need no such thing"),
        (Blockless, {}, "the image tower has no blocks"),
        (Blind, {"batch_size": 1}, "settings.batch_size is 1"),
        (Blind, {"temperature": 0.0}, "settings.temperature is 0"),
        (Blind, {"consistency_weight": -1.0}, "settings.consistency_weight is -1"),
        (Blind, {"contrast_weight": math.inf}, "settings.contrast_weight is inf"),
        (small_encoder, {"shots": (1, 7)}, "settings.shots: 7 samples of each class"),
    ],
)
def test_what_cannot_be_learned_is_refused(data, encoder, settings, message):
    with pytest.raises(RecipeError, match=message):
        run(data, encoder(), **settings)


def test_one_image_of_one_class_is_refused_where_it_would_be_contrasted(data):
    with pytest.raises(RecipeError, match=r"settings\.shots: one image of one class"):
        run(replace(data, class_names=data.class_names[:1]), Blind(), shots=(1, 2))


def test_the_drawn_images_are_those_of_the_other_few_shot_evaluators(data, encoder, monkeypatch):
    asked = []
    monkeypatch.setattr(
        GoproPrompts, "_learn", lambda self, chosen, *_: asked.append(chosen) or Prompts(torch.zeros(4, 32))
    )
    run(data, encoder, shots=(2,))
    assert [chosen.shape for chosen in asked] == [(3, 2), (3, 2)]
    assert all((np.array(TRAIN)[chosen] == [[0], [1], [2]]).all() for chosen in asked)
    assert isinstance(data.decode(0)[0], Image.Image)
