"""Command lines of open_clip's trainer become recipes; its flags are those of the trainer that is installed."""

from __future__ import annotations

import argparse
import inspect
import shlex

import pytest

from vlp.cli import main
from vlp.commands import from_open_clip
from vlp.commands.from_open_clip import parse, translate, write_translation
from vlp.commands.open_clip_flags import FLAGS, WITHOUT_VALUE
from vlp.commands.reference import describe
from vlp.data.shards.cards import load_card
from vlp.ground.types import RecipeError
from vlp.recipe.compose import load_recipe

COMMAND = """torchrun --nproc_per_node 8 -m open_clip_train.main --model ViT-B-32 --pretrained laion2b_s34b_b79k
 --train-data /data/{00000..00003}.tar::/other/*.tar --train-data-upsampling-factors 1::3 --train-num-samples 1000000
 --batch-size 512 --accum-freq 2 --epochs 10 --lr 1e-3 --warmup 500 --wd 0.1 --precision amp --grad-clip-norm 1.0
 --lr-scheduler const-cooldown --epochs-cooldown 2 --lr-cooldown-end 1e-4 --workers 6 --siglip --lock-image
 --local-loss --gather-with-grad --report-to wandb --imagenet-val /imagenet --save-frequency 2 --seed 3
 --image-key image.png;png --json-text-key long;short --json-text-key-probs 0.7 0.3 --aug-cfg scale=(0.4,1.0)"""


@pytest.fixture
def theirs(monkeypatch):
    """Return the flags of the installed trainer, and whether each takes a value."""
    from open_clip_train import params

    parsers = []
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", lambda self, *_: parsers.append(self) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        params.parse_args([])
    actions = parsers[0]._actions
    return {word[2:]: action.nargs == 0 for action in actions for word in action.option_strings if word != "-h"}


def test_every_flag_of_the_installed_trainer_is_known(theirs):
    theirs.pop("help")
    assert len(theirs) > 80
    assert theirs.keys() - FLAGS.keys() == set()
    assert {flag for flag, is_alone in theirs.items() if is_alone} == WITHOUT_VALUE & theirs.keys()


def test_every_key_of_the_table_is_one_of_a_recipe():
    keys = {key for known in FLAGS.values() for key in known.key.split(", ") if key and " " not in key}
    assert len(keys) > 30
    for key in keys:
        if key not in ("objective.siglip",) and not key.startswith(("model.image.", "model.text.", "objective.c")):
            assert describe(key)


def test_a_command_becomes_a_recipe_and_cards(tmp_path, capsys):
    main(["from-open-clip", "--to", str(tmp_path), "--", *shlex.split(COMMAND)])
    said = capsys.readouterr().out
    recipe = load_recipe(str(tmp_path / "ViT-B-32.recipe.yaml"))
    assert recipe.train.batch_size == 8 * 2 * 512 and recipe.train.micro_batches == 2
    assert recipe.train.samples == 10_000_000 and recipe.train.epochs is None
    assert recipe.train.precision == "float16" and recipe.train.clip_gradient_norm == 1.0
    assert recipe.optimizer.learning_rate == 1e-3 and recipe.optimizer.betas == (0.9, 0.98)
    assert recipe.schedule.shape == "cooldown" and recipe.schedule.cooldown_share == pytest.approx(0.2)
    assert recipe.schedule.final_factor == pytest.approx(0.1) and recipe.schedule.warmup_steps == 500
    assert list(recipe.objective) == ["siglip"] and recipe.model.freeze == ("visual",)
    assert recipe.model.weights == "ViT-B-32:laion2b_s34b_b79k"
    assert recipe.data.crop.scale == (0.4, 1.0) and recipe.data.crop.flip == 0
    assert recipe.data.train["source1"].repeat == 3 and recipe.data.workers == 6
    assert recipe.evaluation.tasks == ("imagenet1k",) and recipe.log.trackers == ("wandb",) and recipe.seed == 3
    assert recipe.checkpoint.every == 2 * (1_000_000 // 8192)
    card = load_card(recipe.data.train["source0"].card)
    assert card.images == ("image.png", "png") and card.captions == {"json.long": 0.7, "json.short": 0.3}
    assert "--local-loss: Not needed" in said and f"vlp train {tmp_path}" in said


def test_a_distillation_has_its_teacher(tmp_path):
    words = "--model ViT-B-32 --train-data /data/0.tar --distill-model ViT-L-14 --distill-pretrained openai"
    found = translate(shlex.split(words))
    assert found.recipe["strategies"] == {"teacher": {"models": ["ViT-L-14:openai"]}}
    assert found.recipe["objective"] == {"clip": {}, "soft_targets": {"teacher_scale": 100.0}}
    assert any(note.startswith("--distill-model: `teacher`, with") for note in found.notes)
    assert "strategies" not in translate(shlex.split("--model ViT-B-32 --distill-model ViT-L-14")).recipe


def test_a_coca_has_its_decoder():
    found = translate(shlex.split("--model coca_ViT-B-32 --train-data /data/0.tar --coca-caption-loss-weight 3"))
    assert found.recipe["model"]["decoder"] == {"type": "open_clip", "name": "coca_ViT-B-32"}
    assert found.recipe["objective"] == {"clip": {"weight": 1.0}, "captioning": {"weight": 3.0}}


def test_a_sigmoid_loss_begins_where_it_begins_there(tmp_path):
    """open_clip's trainer begins at scale 10 and bias -10; weights bring their scale, and a bias of their own or 0."""
    words = ["--model", "ViT-B-32", "--train-data", "a.tar"]
    write_translation([*words, "--siglip"], tmp_path / "new")
    model = load_recipe(str(tmp_path / "new" / "ViT-B-32.recipe.yaml")).model
    assert (model.init_scale, model.init_bias) == (10.0, -10.0)
    write_translation([*words, "--siglip", "--pretrained", "openai"], tmp_path / "old")
    assert load_recipe(str(tmp_path / "old" / "ViT-B-32.recipe.yaml")).model.init_bias == 0.0
    assert "init_bias" not in translate(words).recipe["model"]


def test_decays_by_layer_are_those_of_their_tower(tmp_path):
    """`--visual-layer-decay` is another name of `--image-layer-decay` there."""
    for flag in ("image", "visual"):
        words = f"--model ViT-B-32 --train-data a.tar --{flag}-layer-decay 0.7 --text-layer-decay 0.65 --name {flag}"
        write_translation(words.split(), tmp_path / flag)
        recipe = load_recipe(str(tmp_path / flag / f"{flag}.recipe.yaml"))
        assert recipe.optimizer.layer_decay == {"image": 0.7, "text": 0.65}
    found = translate(["--model", "ViT-B-32", "--train-data", "a.tar", "--text-layer-decay", "0.65"])
    assert found.recipe["optimizer"]["layer_decay"] == {"text": 0.65}


def test_lines_come_as_often_as_the_command_says():
    """Its main branch tells lines on the screen, `--log-every-n-steps`, from those of trackers."""
    words = ["--model", "ViT-B-32", "--train-data", "a.tar"]
    assert translate([*words, "--log-every-n-steps", "7"]).recipe["log"]["every"] == 7
    both = ["--log-metric-every-n-steps", "3", "--log-every-n-steps", "7"]
    assert translate([*words, *both]).recipe["log"]["every"] == 3


def test_every_flag_that_nothing_is_said_of_changes_the_recipe():
    """One that has a key and no note must be read, or a command would lose it without a word."""
    source = inspect.getsource(from_open_clip)
    silent = [flag for flag, known in FLAGS.items() if not known.note]
    assert len(silent) > 25
    assert [flag for flag in silent if f'"{flag}"' not in source] == []


def test_steps_that_nobody_knows_are_to_be_set_by_hand():
    """How often an epoch says what a step count says only with its samples."""
    words = ["--model", "ViT-B-32", "--train-data", "a.tar", "--save-frequency", "5"]
    assert any("set checkpoint.every" in note for note in translate(words).notes)
    assert not any("checkpoint.every" in note for note in translate([*words, "--train-num-samples", "640"]).notes)


def test_nothing_is_written_over(tmp_path):
    words = ["from-open-clip", "--to", str(tmp_path), "--", "--model", "RN50", "--train-data", "/d/{0..3}.tar"]
    main(words)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    (tmp_path / "RN50.recipe.yaml").unlink()
    with pytest.raises(SystemExit, match=r"data.yaml is there already: move it away"):
        main(words)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()}.items() < before.items()


def test_the_defaults_are_open_clips():
    recipe = translate(["--model", "RN50", "--train-data", "/d/{0..3}.tar"]).recipe
    assert recipe["train"]["batch_size"] == 64 and recipe["train"]["epochs"] == 32
    assert recipe["train"]["precision"] == "bfloat16" and recipe["train"]["clip_gradient_norm"] is None
    assert recipe["optimizer"] == {"learning_rate": 5e-4, "betas": [0.9, 0.999], "epsilon": 1e-8, "weight_decay": 0.2}
    assert recipe["schedule"] == {"shape": "cosine", "warmup_steps": 10000}
    assert recipe["data"]["crop"] == {"scale": [0.9, 1.0], "flip": 0.0}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--model RN50 --batchsize 3", "no such flag; did you mean 'batch-size'"),
        ("--batch-size 3", "--model is missing"),
        ("--model RN50 --siglip yes", "--siglip takes no value"),
        ("--model RN50 --lr", "--lr takes a value"),
        ("--model RN50 --batch-size 0", "--batch-size 0: must be at least 1"),
        ("--model RN50 --aug-cfg scale=0.5", "--aug-cfg scale=0.5: "),
        ("--model RN50 --lr fast", "--lr fast: could not convert"),
        ("--model RN50 --image-mean 0.5 x 0.5", "--image-mean 0.5 x 0.5: could not"),
        ("--model RN50 --aug-cfg scale=(0.4", "--aug-cfg scale=\\(0.4: "),
        ("--model RN50 --train-data a.tar --train-data-upsampling-factors much", "upsampling-factors much: could not"),
    ],
)
def test_mistakes_are_named(words, message):
    with pytest.raises(RecipeError, match=message):
        translate(words.split())


def test_values_may_be_joined_by_an_equals_sign():
    assert parse(["--lr=1e-3", "--image-mean", "0.5", "0.5", "0.5"])[1] == {"lr": ["1e-3"], "image-mean": ["0.5"] * 3}
