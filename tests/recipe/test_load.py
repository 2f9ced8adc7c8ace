"""Recipes: inheritance, overrides, and one clear line for every mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from vlp.ground.types import RecipeError
from vlp.ground.yaml import parse_yaml
from vlp.recipe.compose import differences, load_recipe, lock_text, recipe_layers
from vlp.recipe.layers import explain_sources

PARENT = """
data: {train: {embedded: {}}}
model:
  embed_dim: 16
  image: {type: vit, layers: 1, width: 32, head_width: 16, image_size: 32}
  text: {type: transformer, layers: 1, width: 32, heads: 2}
objective: {clip: {}}
train: {steps: 10}
"""


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "parent.yaml").write_text(PARENT)

    def write(text: str = "name: child") -> str:
        path = tmp_path / "child.yaml"
        path.write_text(f"extends: parent.yaml\n{text}\n")
        return str(path)

    return write


def test_a_child_keeps_what_it_does_not_change(recipe):
    loaded = load_recipe(recipe("name: child\ntrain: {batch_size: 8}"))
    assert (loaded.train.batch_size, loaded.train.steps, loaded.model.image.width) == (8, 10, 32)


def test_overrides_win_and_null_removes(recipe):
    loaded = load_recipe(
        recipe(), ["objective.siglip.weight=0.1", "objective.clip=null", "train.steps=null", "train.epochs=1.5"]
    )
    assert list(loaded.objective) == ["siglip"]
    assert loaded.objective["siglip"].weight == 0.1
    assert (loaded.train.steps, loaded.train.epochs) == (None, 1.5)


@pytest.mark.parametrize("override", ["train.epochs=1.5", "train={epochs: 1.5}"])
def test_a_length_on_the_command_line_replaces_that_of_the_files(recipe, override):
    path = recipe()
    loaded = load_recipe(path, [override])
    assert (loaded.train.steps, loaded.train.samples, loaded.train.epochs) == (None, None, 1.5)
    assert not any(line.startswith("train.steps") for line in explain_sources(recipe_layers(path, [override])))
    with pytest.raises(RecipeError, match="exactly one"):
        load_recipe(path, ["train.epochs=1", "train.samples=5"])


BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join(['*' + old] * 10)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
HOSTILE = {
    "an alias bomb": (BOMB, "1,000,000 entries"),
    "an endless alias": ("name: &a [*a]", "levels deep"),
    "deep nesting": ("name: " + "[" * 200 + "]" * 200, "levels deep"),
    "deeper nesting": ("name: " + "[" * 20_000 + "]" * 20_000, "not valid YAML"),
    "NUL": ('name: "a\\0b"', "no text may have"),
    "half a surrogate": ('name: "a\\ud800b"', "no text may have"),
    "a raw NUL": ("name: a\0b", "child.yaml"),
    "an object": ("name: !!python/object/apply:os.system [ls]", "child.yaml"),
    "dots": ("name: ..", "name"),
    "a way out": ("name: ../elsewhere", "name"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_recipe_gets_one_line(recipe, kind):
    text, expected = HOSTILE[kind]
    with pytest.raises(RecipeError) as caught:
        load_recipe(recipe(text))
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_two_terms_of_one_type_need_two_labels(recipe):
    loaded = load_recipe(recipe("name: child\nobjective: {hard: {type: clip, text_share: 1.0}}"))
    assert [(label, entry.type) for label, entry in loaded.objective.items()] == [("clip", "clip"), ("hard", "clip")]


def test_another_type_starts_from_a_clean_sheet(recipe):
    loaded = load_recipe(recipe("name: child\nmodel: {image: {type: timm, name: test_resnet}}"))
    assert loaded.model.image.name == "test_resnet"
    assert not hasattr(loaded.model.image, "layers")


def test_a_weight_may_be_a_schedule(recipe):
    loaded = load_recipe(recipe("name: child\nobjective: {clip: {weight: {start: 0, end: 1, last_step: 5}}}"))
    assert loaded.objective["clip"].weight.last_step == 5


def test_the_lock_gives_an_equal_recipe(recipe, tmp_path):
    loaded = load_recipe(recipe(), ["optimizer.learning_rate=5e-4", "data.captions.separator=','"])
    (tmp_path / "lock.yaml").write_text(lock_text(loaded))
    again = load_recipe(str(tmp_path / "lock.yaml"))
    assert again == loaded
    assert differences(loaded, again) == []


def test_differences_name_the_key_and_both_values(recipe):
    path = recipe()
    assert differences(load_recipe(path), load_recipe(path, ["seed=3"])) == ["seed: 0 -> 3"]


def test_sources_name_the_file_of_each_setting(recipe):
    lines = explain_sources(recipe_layers(recipe(), ["seed=3"]))
    assert any(line.startswith("train.steps = 10") and "parent.yaml" in line for line in lines)
    assert "seed = 3  (command line)" in lines


MISTAKES = {
    "an unknown section": ("trian: {steps: 3}", [], ["child.yaml", "trian", "unknown key", "'train'"]),
    "an unknown key": ("train: {stpes: 3}", [], ["child.yaml", "train.stpes", "unknown key", "'steps'"]),
    "an unknown setting of a term": (
        "objective: {clip: {label_smothing: 0.1}}",
        [],
        ["child.yaml", "objective.clip.label_smothing", "'label_smoothing'"],
    ),
    "an unknown term": ("objective: {clpi: {}}", [], ["objective.clpi", "unknown type 'clpi'", "'clip'"]),
    "an unknown tower": ("model: {image: {type: tim}}", [], ["model.image", "unknown type 'tim'", "'timm'"]),
    "an unknown setting of a tower": (
        "model: {image: {pach_size: 8}}",
        [],
        ["child.yaml", "model.image.pach_size", "'patch_size'"],
    ),
    "an unknown strategy": ("strategies: {emma: {}}", [], ["strategies.emma", "'ema'"]),
    "a wrong type": ("train: {batch_size: many}", [], ["child.yaml", "train.batch_size", "integer", "'many'"]),
    "a value out of range": ("train: {batch_size: 0}", [], ["train.batch_size", "greater than or equal to 1"]),
    "a word that is no choice": ("train: {precision: bf16}", [], ["train.precision", "bfloat16", "'bf16'"]),
    "a duplicate key": ("train: {steps: 1, steps: 2}", [], ["child.yaml", "line 3", "duplicate key"]),
    "broken YAML": ("train: {steps: 1", [], ["child.yaml", "line"]),
    "no length": ("train: {steps: null}", [], ["train", "exactly one of steps, samples, epochs", "none is given"]),
    "two lengths": ("train: {epochs: 1}", [], ["train", "exactly one", "train.steps=null"]),
    "a missing required setting": (
        "model: {text: {type: transformers}}",
        [],
        ["model.text.name", "required"],
    ),
    "no terms": ("objective: {clip: null}", [], ["objective", "at least 1"]),
    "unknown weights to evaluate": ("evaluation: {weights: ema}", [], ["evaluation.weights", "'ema'", "model"]),
    "an override without a value": ("", ["train.steps"], ["override 'train.steps'", "key.sub=value"]),
    "an override with a typo": ("", ["trian.steps=3"], ["command line", "trian", "'train'"]),
    "an override that is no YAML": ("", ["train.steps=[1"], ["override 'train.steps=[1'"]),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_explained(recipe, mistake):
    text, overrides, expected = MISTAKES[mistake]
    with pytest.raises(RecipeError) as caught:
        load_recipe(recipe(f"name: child\n{text}"), overrides)
    for words in expected:
        assert words in str(caught.value), str(caught.value)


def test_a_missing_recipe_names_the_nearest():
    with pytest.raises(RecipeError, match=r"no recipe 'quickstrat'.*did you mean 'quickstart'"):
        load_recipe("quickstrat")


def test_a_missing_parent_names_the_child(tmp_path):
    path = tmp_path / "child.yaml"
    path.write_text("extends: basee.yaml\nname: x")
    with pytest.raises(RecipeError, match=r"child.yaml: extends: .*basee"):
        load_recipe(str(path))


def test_a_recipe_cannot_extend_itself(tmp_path):
    path = tmp_path / "loop.yaml"
    path.write_text("extends: loop.yaml\nname: x")
    with pytest.raises(RecipeError, match="extends itself"):
        load_recipe(str(path))


def test_yaml_reads_numbers_as_numbers_and_words_as_words():
    assert parse_yaml("[5e-4, 1e6, no, on, 30_000]", "here") == [5e-4, 1e6, "no", "on", 30_000]


def test_errors_are_one_line_each_and_never_a_traceback(recipe, capsys):
    from vlp.cli import main

    with pytest.raises(SystemExit) as caught:
        main(["config", recipe("name: child\ntrain: {stpes: 3, batch_sise: 4}")])
    lines = str(caught.value).splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("vlp: ")
    assert Path(lines[1].split(":")[0]).name == "child.yaml"


def test_a_name_that_no_file_can_have_is_not_found(tmp_path):
    path = tmp_path / "long.yaml"
    path.write_text(f"extends: {'s' * 5000}.yaml\nname: x\n")
    with pytest.raises(RecipeError, match="extends: there is no file"):
        load_recipe(str(path))
