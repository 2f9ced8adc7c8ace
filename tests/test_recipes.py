"""Every recipe loads, and trains two steps on the shipped pairs with small towers."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from tests.teachers import with_tiny_teachers
from vlp.cli import build_parser
from vlp.data.shards.cards import load_card
from vlp.evaluate import find_tasks
from vlp.ground.yaml import read_yaml
from vlp.objectives.base import terms
from vlp.recipe.arguments import parse
from vlp.recipe.compose import load_recipe, lock_text
from vlp.train import train

ROOT = Path(__file__).resolve().parent.parent
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
LAUNCH = sorted((ROOT / "recipes" / "launch").rglob("*.yaml"))
SMALL = (
    "data.train=embedded",
    "model.weights=null",
    "data.workers=0",
    "model.embed_dim=16",
    "model.image={type: vit, layers: 1, width: 32, head_width: 16, patch_size: 16, image_size: 32}",
    "model.text={type: transformer, layers: 1, width: 8, heads: 1, context_length: 16}",
    "train={steps: 2, samples: null, epochs: null, batch_size: 8, micro_batches: 1, threads: 1}",
    "schedule.warmup_steps=null",
    "evaluation={tasks: [], every: null}",
    "log.every=1",
)
NATIVE = (
    "model.embed_dim=128",
    "model.image={type: timm, name: naflexvit_micro_patch8_siglip, pool: map, proj: none, max_patches: 256}",
)
NARROWER = {
    "coca_embedded": ("model.embed_dim=32", "model.text.width=32", "model.decoder={layers: 1, heads: 2}"),
    "cosmo_embedded": (
        "model.embed_dim=32",
        "model.text={width: 32, context_length: 16}",
        "model.decoder={layers: 1, heads: 2}",
        "data.documents.images=1",
    ),
    "vitb16_cosmo": (
        "model.embed_dim=32",
        "model.text={width: 32, context_length: 16}",
        "model.decoder={layers: 2, heads: 2}",
        "data.documents.images=1",
    ),
    "locca_embedded": ("model.text={tokenizer: null, vocab_size: 49408}", "data.regions.key=json.regions"),
    "vitb16_siglip2": ("model.decoder={layers: 1, heads: 2}",),
    "vitb16_coca_timm": ("model.embed_dim=32", "model.text.width=32", "model.decoder={layers: 1, heads: 2}"),
    "vitb32_coca": ("model.embed_dim=32", "model.text.width=32", "model.decoder={layers: 1, heads: 2}"),
    "vitb32_growing_batches": ("train.first_batches=[{batch_size: 4, steps: 1}]",),
    "vitb32_matryoshka": ("objective.clip.widths=[4, 8]",),
    "vitb32_advxl": ("strategies.small_first.image_size=16",),
    "vitb32_adainf": ("data.train={embedded: {}, cc12m: null, generated: {card: embedded-photos}}",),
    "finetune_replay": ("data.train={new: {card: embedded-photos}, earlier: {card: embedded}}",),
    "vitb32_clipa": ("strategies.small_first.image_size=16",),
    "siglip2_native": NATIVE,
    "siglip2_native_smoke": NATIVE,
    "vitb16_sequence_lengths": ("strategies.sequence_lengths.lengths=[1, 4]",),
    "vitb32_flip": ("model.image.patch_dropout=0.5",),
    "vitb32_adversarial_ranker": ("objective.adversarial_ranker={width: 16, num_negatives: 2}",),
    "vitb32_near_start": ("model.weights=null", "optimizer.unfreeze_every=null"),  # two steps are too few
}

OF_A_PAPER = ("finetune_degla", "finetune_tecoa")  # 256 pairs, of a card with labels or wrong captions


def test_there_are_recipes():
    names = {path.stem for path in RECIPES}
    assert {"base", "quickstart", "smoke", "vitb32_clip", "vitb32_gap", "lit_cwcl", "vitb16_siglip"} <= names
    assert len(LAUNCH) >= 4


def test_every_term_has_a_recipe():
    recipes = [load_recipe(str(path)) for path in RECIPES if path.stem != "base"]
    assert {entry.type for recipe in recipes for entry in recipe.objective.values()} == set(terms)


@pytest.mark.filterwarnings("ignore:train.precision")  # of CPUs that are slow at it
@pytest.mark.filterwarnings("ignore:model.freeze")  # the locked tower is a small random one here
@pytest.mark.filterwarnings("ignore:isogclr")  # a batch of 8 cannot spend its budget
@pytest.mark.parametrize("path", [path for path in RECIPES if path.stem != "base"], ids=lambda path: path.stem)
def test_every_recipe_trains_two_steps(path, tmp_path):
    recipe = with_tiny_teachers(load_recipe(str(path), [*SMALL, *NARROWER.get(path.stem, ()), f"runs={tmp_path}"]))
    assert recipe.name == path.stem
    run = train(recipe)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2]
    assert all(line["loss"] is not None for line in lines)


def test_the_pairs_that_ship_fill_a_batch_of_the_recipes_that_name_them():
    found = {}
    for path in RECIPES:
        recipe = load_recipe(str(path)) if path.stem not in ("base", *OF_A_PAPER) else None
        cards = set() if recipe is None else {source.card for source in recipe.data.train.values()}
        if recipe is not None and cards <= {"embedded", "embedded-photos"}:
            found[path.stem] = sum(load_card(card).samples for card in cards) - recipe.train.batch_size
    assert {"smoke", "finetune", "finetune_lora", "lit_embedded"} <= found.keys()
    assert not [name for name, left in found.items() if left < 0]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipes_are_short_and_say_why(path):
    text = path.read_text()
    assert text.startswith("# ")
    assert len(text.splitlines()) <= 60


@pytest.mark.parametrize("name", ["vitb32_improved", "vitb32_multi_crop", "vitb32_swav", "vitb32_pixpro"])
def test_images_are_blurred_as_the_authors_do(name):
    augment = load_recipe(name).data.augment
    assert (augment.blur, augment.blur_sigma) == (0.5, (0.1, 2.0))


def test_the_weak_view_of_the_improved_baseline_is_not_mirrored_and_its_rate_ends_above_nothing():
    recipe = load_recipe("vitb32_improved")
    assert recipe.data.crop.flip == 0 and recipe.data.views["local"].flip == 0.5
    assert recipe.schedule.warmup_steps is None
    assert recipe.schedule.warmup_share * recipe.train.epochs == 1
    assert recipe.optimizer.learning_rate * recipe.schedule.final_factor == pytest.approx(1e-5, rel=0.02)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_tasks_that_a_recipe_or_its_header_names_are_there(path):
    asked = re.findall(r"^#.*vlp eval .*--tasks (.*)$", path.read_text(), flags=re.MULTILINE)
    names = [name for words in asked for name in shlex.split(words)]
    tasks, _ = find_tasks([*names, *(load_recipe(str(path)).evaluation.tasks if path.stem != "base" else ())])
    assert len(tasks) >= len(names)


def commands_in(header):
    """Return the words of each command that begins a line of a header, without what is said behind it."""
    lines = re.findall(r"^# +(?:\w+: +)?vlp (.+)$", re.sub(r"\\\n# +", "", header), flags=re.MULTILINE)
    return [shlex.split(re.split(r" +\(|, |  ", line)[0] if "'" not in line else line) for line in lines]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_commands_in_headers_can_be_given(path):
    for words in commands_in(path.read_text()):
        parse(build_parser(), words)


def test_headers_say_how_negatives_are_mined():
    found = [words for name in ("mann_whitney", "adversarial_ranker") for words in commands_of(name)]
    assert [words[0] for words in found] == ["embed", "mine", "train", "train"]
    card = "data.train=embedded"
    recipe = load_recipe("vitb32_adversarial_ranker", [*found[-1][2:], card])
    assert recipe.data.captions.negatives.mining.every == 2000 and recipe.objective["adversarial_ranker"].mined
    assert load_recipe("vitb32_mann_whitney", [*found[2][2:], card]).data.captions.negatives.mined == "mined"


def commands_of(name):
    return commands_in((ROOT / "recipes" / f"vitb32_{name}.yaml").read_text())


def test_some_headers_name_tasks():
    assert sum("--tasks" in path.read_text() for path in RECIPES) >= 4


@pytest.mark.parametrize("path", [path for path in RECIPES if path.stem != "base"], ids=lambda path: path.stem)
def test_the_lock_of_every_recipe_loads(path, tmp_path):
    recipe = load_recipe(str(path))
    (tmp_path / "lock.yaml").write_text(lock_text(recipe))
    assert load_recipe(str(tmp_path / "lock.yaml")) == recipe


@pytest.mark.parametrize("path", LAUNCH, ids=lambda path: path.stem)
def test_launch_files_are_what_accelerate_reads(path):
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(path))
    assert config.num_processes >= 1
    assert read_yaml(path)["mixed_precision"] == "no"
