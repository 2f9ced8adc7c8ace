"""Runs with heads: resumed, in micro-batches, with companions, scored behind heads, exported with some of them."""

from __future__ import annotations

import copy
import json

import open_clip
import pytest
import torch

from tests.evaluators.sets import write_classes
from tests.processes import run_processes
from tests.strategies.runs import STEADY, assert_resumes, losses_of, recipe_of
from tests.towers.tiny import CAPTIONS, tiny_images
from vlp.embeddings.embed import embed
from vlp.embeddings.model_agreement import agree
from vlp.embeddings.parts import read_embeddings, read_manifest
from vlp.evaluate import load
from vlp.evaluators.aspect_retrieval import GateEncoder
from vlp.export.run import export_any
from vlp.ground.offers import offers
from vlp.ground.types import PixelEncoder, RecipeError, WordEncoder
from vlp.merging.merge import merge
from vlp.run.subject import find_subject
from vlp.run.watchdog import Watchdog, WatchedEncoder
from vlp.train import train

LOCAL = "heads={local: {type: perceptron, width: 8, hidden_width: 12, reads: features, views: further, init_scale: 10}}"
VIEWS = ("data.views={local: {count: 2}}", "data.text_views={local: {count: 2, swap: 0.5}}")
GATE = ("heads.gate={type: text_gate, hidden_width: 8}", "objective.gated={type: clip, head: gate}")
IMPROVED = (*VIEWS, LOCAL, "objective.local={type: clip_views, label_smoothing: 0.1, head: local, weight: 2}", *GATE)
COMPANIONS = {
    "siamlip": ("objective.siamlip={hidden_width: 8}",),
    "byolip": ("objective.byolip={hidden_width: 8}", "strategies.dual_teacher={decay: 0.99, warmup: false}"),
    "barlip": ("objective.barlip={hidden_width: 8, width: 8}",),
    "swalip": ("objective.swalip={weight: 0.2}",),
}


def embeddings_of(encoder):
    return encoder.embed_images(tiny_images()), encoder.embed_texts(CAPTIONS)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return the folder of a run with a perceptron, a matrix, and the projections of amcl."""
    folder = tmp_path_factory.mktemp("heads")
    write_classes(folder / "set")
    text = f"version: 1\nevaluator: zero_shot\nmain_metric: acc1\ndata: {{root: {folder / 'set'}}}\n"
    (folder / "classes.yaml").write_text(text)
    return train(
        recipe_of(
            folder,
            *IMPROVED,
            "heads.flat={type: linear, width: 8, init_scale: 5}",
            "objective.flat={type: clip, head: flat}",
            "objective.amcl={width: 8}",
            f"evaluation={{tasks: [{folder / 'classes.yaml'}], heads: [local, flat, amcl, amcl.1, gate]}}",
            "train.steps=3",
        )
    )


def test_it_resumes_bit_for_bit(tmp_path):
    assert_resumes(recipe_of(tmp_path, *IMPROVED, "model.text_dropout=0.2"))


def test_micro_batches_change_nothing(tmp_path):
    whole, pieces = (
        losses_of(
            train(recipe_of(tmp_path, *IMPROVED, STEADY, f"train.micro_batches={n}", f"name=of{n}", "train.steps=3"))
        )
        for n in (1, 2)
    )
    for one, other in zip(whole, pieces, strict=True):
        assert one == pytest.approx(other, rel=1e-5)


def _train_with_others(rank, _world_size, folder):
    (folder / str(rank)).mkdir()
    return losses_of(train(recipe_of(folder / str(rank), *IMPROVED, STEADY, f"runs={folder}", "name=two")))


@pytest.mark.processes
def test_two_processes_equal_one(tmp_path):
    (tmp_path / "alone").mkdir()
    one = losses_of(train(recipe_of(tmp_path / "alone", *IMPROVED, STEADY)))
    for alone, together in zip(one, run_processes(_train_with_others, 2, tmp_path)[0], strict=True):
        assert together == pytest.approx(alone, rel=1e-3)  # float32 sums in another order, 6 steps


@pytest.mark.parametrize("name", COMPANIONS)
def test_each_companion_trains_inside_it(name, tmp_path):
    losses = losses_of(train(recipe_of(tmp_path, *IMPROVED, *COMPANIONS[name], "train.steps=2")))
    assert {"loss/clip", "loss/local", f"loss/{name}"} <= losses[-1].keys()


def test_pixels_and_moved_words_are_not_asked_of_what_stands_before_a_head(run):
    encoder = find_subject(f"{run}@flat").encoder("cpu")
    assert not offers(encoder, PixelEncoder) and not offers(encoder, WordEncoder)
    assert offers(encoder.encoder, PixelEncoder)
    assert copy.copy(encoder).head is encoder.head  # which asks for attributes before there are any


def test_a_run_is_scored_behind_its_heads_as_on_the_way(run):
    line = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    for name, width in (("local", 8), ("flat", 8), ("amcl", 24), ("amcl.1", 8)):
        subject = find_subject(f"{run}@{name}")
        images, texts = embeddings_of(subject.encoder("cpu"))
        assert images.shape[1] == texts.shape[1] == width == subject.embed_dim
        torch.testing.assert_close(images.norm(dim=1), torch.ones(len(images)))
        assert (subject.name, subject.folder.name) == (f"tiny@{name}", f"head_{name}")
        assert (subject.folder / "classes.json").is_file() and f"eval@{name}/classes/acc1" in line


def test_a_head_that_reads_features_is_a_part_of_the_objective_as_saved(run):
    subject = find_subject(f"{run}:model@local")
    with torch.no_grad():
        seen = subject.head.embed("image", load(f"{run}:model").image_features(tiny_images()))
    torch.testing.assert_close(seen, embeddings_of(subject.encoder("cpu"))[0])
    assert subject.encoder("cpu").scale == pytest.approx(10, rel=0.1)


@pytest.mark.parametrize(
    ("name", "behind"), [("flat", "amcl (amcl)"), ("amcl.0", "flat (linear), amcl (amcl but for amcl.0)")]
)
def test_a_matrix_becomes_a_part_of_the_exported_towers(run, tmp_path, name, behind):
    report = export_any(f"{run}@{name}", tmp_path / "export")
    assert f"left behind: the run's heads local (perceptron), gate (text_gate), {behind};" in str(report)
    assert report.left_behind in (tmp_path / "export" / "README.md").read_text()
    expected = embeddings_of(find_subject(f"{run}@{name}").encoder("cpu"))
    for ours, theirs in zip(embeddings_of(load(str(tmp_path / "export"))), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'export'}")
    tokens = open_clip.get_tokenizer(f"local-dir:{tmp_path / 'export'}")(CAPTIONS)
    with torch.no_grad():
        torch.testing.assert_close(model.eval().encode_text(tokens, normalize=True), expected[1], rtol=1e-4, atol=1e-5)


def test_what_is_behind_a_head_is_told_by_its_width_and_never_taken_for_the_model(run, tmp_path):
    embed(f"{run}@local@4", str(run.parent.parent / "card.yaml"), tmp_path, kind="float32", file_format="npy")
    assert read_manifest(tmp_path)["width"] == 4 == read_embeddings(tmp_path)[1].shape[1]
    with pytest.raises(RecipeError, match=r"@local' is a model behind a head.*name the model itself"):
        merge([f"{run}@local", str(run)], tmp_path / "merge")
    with pytest.raises(RecipeError, match="behind @WIDTH or @HEAD has no weights of its own"):
        agree(str(run), f"{run}@flat")
    for part, complaint in (
        ("@nothing", r"no head is called 'nothing' \(known: local, gate, flat, amcl\)"),
        ("@local@9", "@9: the model's embeddings have 8 coordinates"),
    ):
        with pytest.raises(RecipeError, match=complaint):
            find_subject(f"{run}{part}")


def test_a_text_opens_a_filter_behind_a_gate_alone(run):
    encoder = find_subject(f"{run}@gate").encoder("cpu")
    (images, texts), (plain_images, plain_texts) = embeddings_of(encoder), embeddings_of(encoder.encoder)
    gates = encoder.text_gates(CAPTIONS)
    torch.testing.assert_close(images, plain_images)
    torch.testing.assert_close(texts, torch.nn.functional.normalize(plain_texts * gates**2, dim=1))
    assert (gates > 0).all() and (gates < 1).all() and gates.std() > 0
    assert offers(encoder, GateEncoder) and not offers(find_subject(f"{run}@gate@4").encoder("cpu"), GateEncoder)
    with pytest.raises(RecipeError, match="behind this head texts open no filter"):
        find_subject(f"{run}@flat").encoder("cpu").text_gates(CAPTIONS)


def test_what_no_text_has_filtered_is_the_same_on_the_way_as_afterwards(run, monkeypatch):
    """A training watches its encoder, so that the one around the model is not the outermost."""
    beats = []
    monkeypatch.setattr(Watchdog, "beat", lambda _: beats.append(1))
    encoder = find_subject(f"{run}@gate").encoder("cpu")
    watched = WatchedEncoder(encoder, Watchdog(1.0))
    assert offers(watched, GateEncoder)
    plain = encoder.encoder.embed_texts(CAPTIONS)
    assert torch.equal(encoder.ungated.embed_texts(CAPTIONS), plain)
    assert torch.equal(watched.ungated.embed_texts(CAPTIONS), plain) and len(beats) == 1
    assert not torch.equal(watched.embed_texts(CAPTIONS), plain)


@pytest.mark.parametrize("name", ["local", "amcl", "gate"])
def test_no_other_library_has_a_head_that_is_more(run, tmp_path, name):
    with pytest.raises(RecipeError, match=f"@{name}: no tower of other libraries has such a head"):
        export_any(f"{run}@{name}", tmp_path / "export")


def test_a_head_that_is_not_there_is_named_with_those_that_are(run):
    with pytest.raises(RecipeError, match="no head is called 'nobody'"):
        find_subject(f"{run}@nobody")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("heads.h={type: linear}",), "heads.h: no term stands behind it"),
        (("objective.clip.head=h",), "objective.clip.head: no head is labelled 'h'"),
        (("heads.h={type: linear}", "objective.clip={head: h, widths: [4]}"), "objective.clip.widths: has no meaning"),
        (("heads.h={type: linear, views: further}", "objective.clip.head=h"), "heads.h.views: there are no further"),
        (("evaluation.heads=[h]",), "evaluation.heads: no head is called 'h'"),
        (("heads.h={type: linear, reads: features}", "objective.clip.head=h", "train.compile=towers"), "train.compile"),
        (("heads.h={type: reweighting, kappa: 0.5}", "objective.clip.head=h"), "heads.h: kappa 0.5 must be"),
        (("model.text_dropout=0.1", "model.grad_checkpointing=true"), "model.grad_checkpointing"),
    ],
)
def test_what_cannot_work_is_refused(overrides, message, tmp_path):
    with pytest.raises(RecipeError, match=message):
        train(recipe_of(tmp_path, *overrides))
