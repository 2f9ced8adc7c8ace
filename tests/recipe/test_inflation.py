"""One number repeats real data and weakens augmentation: the paper's two points, and everything in between."""

from __future__ import annotations

import pytest

from tests.shards import write_shards
from tests.strategies.runs import assert_resumes
from tests.tiny import tiny_recipe
from vlp.ground.types import RecipeError
from vlp.recipe.compose import load_recipe, lock_text
from vlp.recipe.inflation import inflated
from vlp.train import train


def shown(inflation):
    return inflated(load_recipe("vitb32_adainf", [f"data.inflation={inflation}"]).data)


def test_ten_times_is_the_papers_weak_augmentation():
    """The authors' code: RandomResizedCrop (0.2, 1), ColorJitter(0.4, 0.4, 0.4, 0.1) at 0.4, gray as it was."""
    data = shown(10)
    assert data.crop.scale == (pytest.approx(0.2, abs=0.003), 1.0)
    augment = data.augment
    changed = [augment.color, augment.brightness, augment.contrast, augment.saturation, augment.hue, augment.gray]
    assert changed == pytest.approx([0.4, 0.4, 0.4, 0.4, 0.1, 0.2])
    assert {label: source.repeat for label, source in data.train.items()} == {"cc12m": 10, "generated": 1}


def test_once_is_the_strong_one_and_more_is_weaker():
    assert shown(1) == load_recipe("vitb32_adainf", ["data.inflation=1"]).data
    strengths = [(shown(n).augment.color, 1 / shown(n).crop.scale[0]) for n in (1, 2, 5, 10, 100)]
    assert strengths == sorted(strengths, reverse=True) and strengths[-1][0] > 0


def test_it_is_carried_out_once(tmp_path):
    """A lock says what was asked for; a run from it does not inflate again."""
    (tmp_path / "lock.yaml").write_text(lock_text(load_recipe("vitb32_adainf")))
    assert inflated(load_recipe(str(tmp_path / "lock.yaml")).data) == shown(10) == inflated(shown(10))


@pytest.fixture
def two_sources(tmp_path):
    for name in ("real", "made"):
        write_shards(tmp_path / name, num_shards=1, samples_per_shard=9)
        (tmp_path / f"{name}.yaml").write_text(f"name: {name}\nshards: {tmp_path / name}/*.tar\n")
    cards = f"data.train={{tiny: null, real: {{card: {tmp_path}/real.yaml}}, made: {{card: {tmp_path}/made.yaml}}}}"

    def build(*overrides):
        return tiny_recipe(tmp_path, f"{tmp_path}/real/*.tar", cards, *overrides)

    return build


@pytest.mark.filterwarnings("ignore:data.train")  # of copies in a batch
def test_an_epoch_holds_real_samples_as_often(two_sources):
    recipe = two_sources("data.train.made.generated=true", "data.inflation=2", "data.augment={color: 0.8, hue: 0.2}")
    assert_resumes(recipe)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ((), "data.inflation: .* no source is generated"),
        (("data.train.made.generated=true", "data.train.real.generated=true"), "every source is generated"),
        (
            ("data.train.made={generated: true, share: 1}", "data.train.real.share=2"),
            r"data\.train\.real\.share: decides",
        ),
    ],
)
def test_what_has_no_effect_is_refused(two_sources, overrides, message):
    with pytest.raises(RecipeError, match=message):
        train(two_sources("data.inflation=3", *overrides))
