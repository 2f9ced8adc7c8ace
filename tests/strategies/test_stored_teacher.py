"""What a teacher said of a training's views, read from files: what it would say now, to the bit."""

from __future__ import annotations

import json
import shutil
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.processes import run_processes
from tests.shards import write_shards
from tests.strategies.runs import STEADY, assert_resumes, losses_of, recipe_of
from tests.tiny import tiny_recipe
from tests.towers.tiny import tiny_export
from vlp.cli import main
from vlp.commands.timed_steps import bench
from vlp.data.stored_views import StoredViews
from vlp.embeddings import embed_views as module
from vlp.embeddings.embed_views import embed_views
from vlp.ground.types import RecipeError
from vlp.plan.counts import count
from vlp.run.assemble import assemble
from vlp.train import train

TERMS = "objective={feature_distillation: {}, soft_targets: {teacher_scale: 50}, clip: {}}"
CHANGING = (
    "data.augment={color: 0.8, brightness: 0.4, saturation: 0.4, erase: 0.5}",
    "data.captions={templates: ['a photo of {}', 'the {}'], augment: {swap: 0.5}}",
)


@pytest.fixture
def export(tmp_path):
    return str(tiny_export(tmp_path / "export"))


@pytest.fixture
def other(tmp_path):
    return str(tiny_export(tmp_path / "other", shift=0.05))


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch):
    monkeypatch.setattr(module, "PAIRS_PER_PART", 16)


def stored(folder: Path, model: str, *overrides: str, epochs: int = 3, kind="float32", to: str = "views") -> str:
    """Embed the views of the recipe of `recipe_of`, and return the folder."""
    recipe = recipe_of(folder, TERMS, *overrides)
    card = next(iter(recipe.data.train.values())).card
    assert embed_views(model, [card], folder / to, recipe, epochs=epochs, kind=kind) == epochs * 21
    return str(folder / to)


@pytest.mark.claim
@pytest.mark.parametrize("pieces", [1, 2])
def test_stored_and_live_teachers_are_equal_bit_for_bit(tmp_path, export, other, pieces):
    """Over three epochs of 21 samples, of crops, colours and wordings that change, for an ensemble."""
    options = (TERMS, STEADY, *CHANGING, f"train.micro_batches={pieces}", "train.steps=7")
    live = train(recipe_of(tmp_path, *options, "name=live", f"strategies.teacher={{models: [{export}, {other}]}}"))
    first = stored(tmp_path, export, *options, to="first")
    second = stored(tmp_path, other, *options, to="second")
    used = f"strategies.stored_teacher={{folders: [{first}, {second}]}}"
    read = train(recipe_of(tmp_path, *options, "name=read", used))
    assert losses_of(read) == losses_of(live)
    plain = train(recipe_of(tmp_path, *options[1:], "objective={clip: {}}", "name=plain"))
    assert [line["loss/clip"] for line in losses_of(plain)] != [line["loss/clip"] for line in losses_of(live)]


def test_rounded_numbers_are_near_and_of_unit_norm(tmp_path, export):
    whole, half = (StoredViews(Path(stored(tmp_path, export, kind=kind, to=kind))) for kind in ("float32", "float16"))
    recipe = recipe_of(tmp_path, TERMS, f"strategies.stored_teacher={{folders: [{half.folder}]}}")
    parts = assemble(recipe, resume=False, allow_changes=False)
    (batch,) = islice(parts.stream.batches(0), 1)
    embeddings = parts.towers(torch.zeros(1, 8, 3, 32, 32), batch.tokens, batch.lengths.numpy())
    teacher = parts.strategies["stored_teacher"].after_forward(None, batch, embeddings).teacher
    for rows, exact in zip((teacher.image, teacher.text), whole.read(batch.visits.numpy()), strict=True):
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(8))
        assert 0 < (rows - torch.from_numpy(exact)).abs().max() < 1e-3


def test_it_goes_on_where_it_was_stopped(tmp_path, export, monkeypatch):
    whole = StoredViews(Path(stored(tmp_path, export, to="whole")))
    folder, recipe = tmp_path / "views", recipe_of(tmp_path, TERMS)
    card = next(iter(recipe.data.train.values())).card
    written = []

    def stop_at_the_third(path, *rest):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(path)
        return write(path, *rest)

    write = module.write_part_of_views
    monkeypatch.setattr(module, "write_part_of_views", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        embed_views(export, [card], folder, recipe, epochs=3, kind="float32")
    with pytest.raises(RecipeError, match="not all views are there yet"):
        StoredViews(folder)
    written.clear()
    monkeypatch.setattr(module, "write_part_of_views", lambda path, *rest: (written.append(path), write(path, *rest)))
    for _ in range(2):  # the second time nothing is left to do
        assert embed_views(export, [card], folder, recipe, epochs=3, kind="float32") == 63
    assert [path.name for path in written] == ["part-000002-0-of-1.npz", "part-000003-0-of-1.npz"]
    visits = np.stack(np.meshgrid(np.arange(3), np.arange(21), indexing="ij"), axis=-1).reshape(-1, 2)
    for ours, theirs in zip(StoredViews(folder).read(visits), whole.read(visits), strict=True):
        assert np.array_equal(ours, theirs)
    assert not list(folder.glob("part-*"))


def _embed_with_others(rank, world_size, folder, shards, model, overrides):
    pytest.MonkeyPatch().setattr(module, "PAIRS_PER_PART", 16)
    recipe = tiny_recipe(Path(folder) / str(rank), shards, f"runs={folder}/runs", *overrides)
    card = next(iter(recipe.data.train.values())).card
    return embed_views(model, [card], Path(folder) / "two", recipe, epochs=2, kind="float32")


@pytest.mark.processes
def test_two_processes_write_what_one_does(tmp_path, export):
    one = StoredViews(Path(stored(tmp_path, export, epochs=2, to="one")))
    for rank in range(2):
        (tmp_path / str(rank)).mkdir()
    counts = run_processes(_embed_with_others, 2, str(tmp_path), f"{tmp_path}/shards/*.tar", export, (TERMS,))
    assert counts == [42, 42]
    two = StoredViews(tmp_path / "two")
    visits = np.stack(np.meshgrid(np.arange(2), np.arange(21), indexing="ij"), axis=-1).reshape(-1, 2)
    for ours, theirs in zip(one.read(visits), two.read(visits), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)  # products with half as many rows


def test_resume_equals_no_interruption_and_another_teacher_is_refused(tmp_path, export, other):
    used = f"strategies.stored_teacher={{folders: [{stored(tmp_path, export)}]}}"
    recipe = recipe_of(tmp_path, TERMS, used)
    assert_resumes(recipe)
    shutil.rmtree(tmp_path / "views")
    stored(tmp_path, other)
    with pytest.raises(RecipeError, match=r"strategies\.stored_teacher: .*views is of other weights"):
        train(recipe, resume=True)


def test_views_come_again_where_that_is_wanted(tmp_path, export):
    """Later epochs have an order of their own, and the crops and captions of earlier ones."""
    folder = stored(tmp_path, export, *CHANGING, epochs=1)
    used = f"strategies.stored_teacher={{folders: [{folder}], cycle: true}}"
    recipe = recipe_of(tmp_path, TERMS, *CHANGING, used, "train.steps=6", "name=cycling")
    assert_resumes(recipe)
    parts = assemble(recipe_of(tmp_path, TERMS, *CHANGING, used, "name=other"), resume=False, allow_changes=False)
    seen: dict[int, list] = {}
    for batch in islice(parts.stream.batches(0), 6):
        assert not batch.visits[:, 0].any()
        for k, number in enumerate(batch.visits[:, 1].tolist()):
            seen.setdefault(number, []).append((batch.images[0, k], batch.captions[k], batch.draws[0, k]))
    twice = [views for views in seen.values() if len(views) > 1]
    assert len(twice) > 20
    for (pixels, caption, draws), *others in twice:
        for each in others:
            assert torch.equal(each[0], pixels) and each[1] == caption and torch.equal(each[2], draws)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("seed=1",), r"views of another seed \(0, not 1\)"),
        (("data.crop.scale=[0.3, 1.0]",), r"another data\.crop"),
        (("data.augment={gray: 0.5}",), r"another data\.augment"),
        (("data.captions.lower=true",), r"another data\.captions"),
        (("data.train.tiny.repeat=2", "train.batch_size=2"), r"another data\.train"),
        (("model.mean=[0.1, 0.1, 0.1]",), r"another model\.mean"),
        (("train.steps=9",), r"begins 4 epochs, and views of 3 are stored: .*--views 4.*cycle=true"),
    ],
)
def test_views_that_the_training_would_not_draw_are_refused(tmp_path, export, overrides, message):
    used = f"strategies.stored_teacher={{folders: [{stored(tmp_path, export)}]}}"
    with pytest.raises(RecipeError, match=rf"strategies\.stored_teacher: .*{message}"):
        train(recipe_of(tmp_path, TERMS, used, *overrides))


def test_a_view_that_is_not_there_is_named(tmp_path, export):
    views = StoredViews(Path(stored(tmp_path, export)))
    present = views.folder / "epoch-00001.present.npy"
    flags = np.load(present)
    flags[7] = False
    np.save(present, flags)
    with pytest.raises(RecipeError, match="nothing is stored of sample 7 in epoch 1"):
        StoredViews(views.folder).read(np.array([[0, 7], [1, 7]]))


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "views.json").write_text("[1]"),
        lambda folder: (folder / "views.json").write_text('{"epochs": 3}'),
        lambda folder: (folder / "epoch-00002.images.npy").unlink(),
        lambda folder: (folder / "epoch-00000.texts.npy").write_bytes(b"no array"),
        lambda folder: np.save(folder / "epoch-00001.present.npy", np.zeros(3, dtype=bool)),
    ],
    ids=["a list", "half a manifest", "an epoch is gone", "no array", "too few"],
)
def test_a_damaged_folder_is_refused_before_the_first_step(tmp_path, export, damage):
    folder = Path(stored(tmp_path, export))
    damage(folder)
    with pytest.raises(RecipeError, match=r"cannot be read .*: embed the views again, to another folder"):
        StoredViews(folder)


def test_the_command_embeds_views_of_a_recipe_and_refuses_another_card(tmp_path, export, capsys):
    recipe = recipe_of(tmp_path, TERMS)
    card = next(iter(recipe.data.train.values())).card
    words = ["embed", export, card, "--to", str(tmp_path / "out"), "--type", "float32"]
    main([*words, "--views", "2", "--recipe", str(tmp_path / "recipe.yaml"), "seed=4"])
    assert f"42 views embedded in {tmp_path / 'out'}" in capsys.readouterr().out
    told = json.loads((tmp_path / "out" / "views.json").read_text())
    assert (told["decides"]["seed"], told["epochs"], told["width"]) == (4, 2, 16)
    with pytest.raises(SystemExit, match="vlp: --views and --recipe belong together"):
        main([*words, "--views", "2"])
    with pytest.raises(RecipeError, match=r"--recipe: it trains on .*, not on embedded: .*name the card of each"):
        embed_views(export, ["embedded"], tmp_path / "more", recipe, epochs=1)
    with pytest.raises(SystemExit, match="vlp embed takes one data card, and 2 are named"):
        main([*words[:3], card, "--to", str(tmp_path / "plain")])


def test_sources_with_shares_have_epochs_of_their_own(tmp_path, export):
    """Of 48 pairs 24 come from 9 samples, which begin a third epoch; and the numbers are those of a live teacher."""
    write_shards(tmp_path / "few", num_shards=1, samples_per_shard=9)
    (tmp_path / "few.yaml").write_text(f"name: few\nshards: {tmp_path}/few/*.tar\n")
    few = f"data.train.few={{card: {tmp_path}/few.yaml, share: 1.0}}"
    mixed = (TERMS, *CHANGING, "data.train.tiny.share=1.0", few, "checkpoint.every=100", STEADY)
    recipe = recipe_of(tmp_path, *mixed)
    cards = [source.card for source in recipe.data.train.values()]
    with pytest.raises(RecipeError, match="name the card of each"):
        embed_views(export, cards[:1], tmp_path / "views", recipe, epochs=2, kind="float32")
    assert embed_views(export, cards, tmp_path / "views", recipe, epochs=2, kind="float32") == 2 * 30
    used = f"strategies.stored_teacher={{folders: [{tmp_path}/views]}}"
    with pytest.raises(RecipeError, match=r"begins 3 epochs, and views of 2 are stored: .*--views 3"):
        assemble(recipe_of(tmp_path, *mixed, used), resume=False, allow_changes=False)
    short = (*mixed, "train.steps=4")
    stored_run = train(recipe_of(tmp_path, *short, used, "name=stored"))
    live_run = train(recipe_of(tmp_path, *short, f"strategies.teacher={{models: [{export}]}}", "name=live"))
    for one, other in zip(losses_of(stored_run), losses_of(live_run), strict=True):
        assert one == pytest.approx(other, rel=1e-5)  # the teacher's batches are put together in another way
    asked = recipe_of(tmp_path, *short, used, "name=turned")
    turned = asked.data.model_copy(update={"train": dict(reversed(asked.data.train.items()))})
    with pytest.raises(RecipeError, match=r"another data\.train"):  # other numbers, and so other views
        assemble(asked.model_copy(update={"data": turned}), resume=False, allow_changes=False)


@pytest.mark.filterwarnings("ignore:model.freeze")  # the locked tower is a small random one here
def test_a_locked_tower_can_be_kept_beside_a_stored_teacher(tmp_path, export):
    """Then a later epoch looks at no image at all; a live teacher would."""
    fixed = (TERMS, "model.freeze=[visual]", "data.crop={scale: [1, 1], flip: 0}")
    used = f"strategies.stored_teacher={{folders: [{stored(tmp_path, export, *fixed)}]}}"
    runs = [
        train(recipe_of(tmp_path, *fixed, used, f"name=kept_{k}", f"train.keep_locked={k}")) for k in ("false", "true")
    ]
    assert losses_of(runs[0]) == losses_of(runs[1])
    live = f"strategies.teacher={{models: [{export}]}}"
    with pytest.raises(RecipeError, match=r"train\.keep_locked: strategies\.teacher looks at the pixels"):
        train(recipe_of(tmp_path, *fixed, live, "name=live", "train.keep_locked=true"))


def test_a_plan_knows_that_it_costs_next_to_nothing(tmp_path, export):
    recipe = recipe_of(tmp_path, TERMS, f"strategies.stored_teacher={{folders: [{stored(tmp_path, export)}]}}")
    found = count(recipe)
    assert found.strategies == 0 and found.uncounted == ()


@pytest.mark.filterwarnings("ignore:model.freeze")
def test_its_steps_can_be_timed(tmp_path, export):
    """Although so many have more epochs than are stored; what is kept is as at first sight."""
    fixed = (TERMS, "model.freeze=[visual]", "data.crop={scale: [1, 1], flip: 0}")
    used = f"strategies.stored_teacher={{folders: [{stored(tmp_path, export, *fixed)}]}}"
    recipe_of(tmp_path)
    found = bench(str(tmp_path / "recipe.yaml"), [*fixed, used, "train.keep_locked=true"], steps=1)
    assert found.parts["towers"] > 0


@pytest.mark.parametrize(
    ("used", "message"),
    [
        ("{folders: []}", "folders: name at least one"),
        ("{folders: [nothing/there]}", r"nothing/there: there are no stored views; vlp embed MODEL CARD --views"),
    ],
)
def test_mistakes_are_refused_by_their_key(tmp_path, used, message):
    with pytest.raises(RecipeError, match=rf"strategies\.stored_teacher: {message}"):
        train(recipe_of(tmp_path, TERMS, f"strategies.stored_teacher={used}"))
