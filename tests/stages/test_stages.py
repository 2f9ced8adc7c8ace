"""Stages: batches of what the last model finds alike, bit for bit after any stop, joined to one model in the end."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.cluster import KMeans

from tests.processes import run_processes
from tests.shards import write_shards
from tests.strategies.runs import STEADY, losses_of
from tests.tiny import tiny_recipe
from vlp.data.sample_groups import read_group_folder
from vlp.embeddings.parts import Part, claim_folder, write_part
from vlp.ground.types import RecipeError
from vlp.run.subject import find_subject
from vlp.stages.grouping import cluster
from vlp.stages.run_stages import train_in_stages


def embeddings_at(folder, rows):
    manifest = {"samples": len(rows), "samples_per_part": 100, "format": "npy", "sides": ["images"]}
    claim_folder(folder, manifest | {"fingerprint": "f", "data": "card"})
    for number, start in enumerate(range(0, len(rows), 100)):
        ids = list(range(start, min(start + 100, len(rows))))
        part = Part(ids, [str(each) for each in ids], [""] * len(ids), images=rows[start : start + 100])
        write_part(folder / f"part-{number:05d}", part, "npy", "float32")
    return folder


def clouds(seed, centres, each=60):
    rows = np.random.default_rng(seed).normal(scale=0.1, size=(centres, each, 8)) + np.eye(8)[:centres, None] * 2
    return np.random.default_rng(seed).permutation(rows.reshape(-1, 8)).astype(np.float32)


def test_clusters_are_those_of_whole_k_means(tmp_path):
    rows = clouds(0, 4)
    sizes = cluster(embeddings_at(tmp_path / "e", rows), tmp_path / "g", clusters=4, seed=0)
    whole = KMeans(4, n_init=3, random_state=1).fit_predict(rows / np.linalg.norm(rows, axis=1, keepdims=True))
    _, groups = read_group_folder(tmp_path / "g")
    assert sizes == [60] * 4
    assert len({(int(a), int(b)) for a, b in zip(groups, whole, strict=True)}) == 4


def test_groups_are_products_of_all_clusters_so_far(tmp_path):
    first, second = clouds(0, 3), clouds(1, 2, each=90)
    cluster(embeddings_at(tmp_path / "a", first), tmp_path / "g1", clusters=3, seed=0)
    cluster(embeddings_at(tmp_path / "b", second), tmp_path / "alone", clusters=2, seed=0)
    cluster(embeddings_at(tmp_path / "b", second), tmp_path / "g2", clusters=2, seed=0, within=tmp_path / "g1")
    before, alone = (read_group_folder(tmp_path / name)[1] for name in ("g1", "alone"))
    told, groups = read_group_folder(tmp_path / "g2")
    assert groups.tolist() == (before * 2 + alone).tolist() and len(set(groups.tolist())) == 6
    assert [name.rsplit("/", 1)[-1] for name in told["clustered"]] == ["a", "b"]
    with pytest.raises(RecipeError, match="--clusters: 200 are more"):
        cluster(tmp_path / "a", tmp_path / "g3", clusters=200, seed=0)


@pytest.mark.parametrize("seed", range(4))
def test_a_last_part_may_have_fewer_samples_than_there_are_clusters(tmp_path, seed):
    """Or none that could be embedded; it comes first where the order of the parts has it so."""
    rows = clouds(0, 4, each=51)[:202]
    folder = embeddings_at(tmp_path / "e", rows)
    write_part(folder / "part-00001", Part([], [], [], images=rows[:0]), "npy", "float32")
    assert sum(cluster(folder, tmp_path / "g", clusters=4, seed=seed)) == 102
    with pytest.raises(RecipeError, match="--clusters: 103 are more"):
        cluster(folder, tmp_path / "more", clusters=103, seed=seed)


@pytest.fixture(scope="module")
def staged(tmp_path_factory):
    folder = tmp_path_factory.mktemp("staged")
    write_shards(folder / "shards", num_shards=3, samples_per_shard=7)
    tiny_recipe(folder, f"{folder}/shards/*.tar")
    recipe, told = str(folder / "recipe.yaml"), (STEADY, "train.batch_size=4")
    return recipe, told, train_in_stages(recipe, told, stages=2, clusters=2)


def test_batches_of_the_second_stage_are_of_one_group(staged):
    home = staged[2].parent
    about = json.loads((home / "groups-1" / "groups.json").read_text())
    assert sum(about["sizes"]) == 21 and len(about["sizes"]) == 2
    last = json.loads((home / "stage-1" / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["epoch"] == pytest.approx(24 / sum(size // 4 * 4 for size in about["sizes"]))


def test_the_joined_model_has_the_embeddings_of_all_stages_side_by_side(staged):
    subject = find_subject(str(staged[2]))
    image, texts = Image.effect_noise((40, 30), 50).convert("RGB"), ["a cat", "two dogs"]
    members = [find_subject(str(staged[2] / f"stage-{stage}")).encoder("cpu") for stage in (0, 1)]
    for ours, theirs in (
        (
            subject.encoder("cpu", batch_size=2).embed_images([image] * 3),
            [e.embed_images([image] * 3) for e in members],
        ),
        (subject.encoder("cpu").embed_texts(texts), [e.embed_texts(texts) for e in members]),
    ):
        torch.testing.assert_close(ours, torch.cat(theirs, dim=1) / 2**0.5)
        torch.testing.assert_close(ours.norm(dim=1), torch.ones(len(ours)))
        assert (theirs[0] - theirs[1]).abs().max() > 1e-3
    assert subject.model.embed_dim == 32
    assert find_subject(f"{staged[2]}@16").encoder("cpu").embed_texts(texts).shape == (2, 16)


@pytest.mark.parametrize("lost", ["between", "inside"])
def test_a_stop_between_or_inside_stages_leaves_no_trace(staged, lost):
    recipe, told, model = staged
    home = model.parent
    whole = losses_of(home / "stage-1")
    weights = next(find_subject(str(home / "stage-1")).tensors()).clone()
    shutil.rmtree(model)
    if lost == "between":
        for name in ("stage-1", "groups-1", "embeddings-0"):
            shutil.rmtree(home / name)
    else:
        shutil.rmtree(home / "stage-1" / "checkpoints" / "step_00000006")
    assert train_in_stages(recipe, told, stages=2, clusters=2) == model
    assert losses_of(home / "stage-1") == whole
    assert torch.equal(next(find_subject(str(home / "stage-1")).tensors()), weights)


def test_an_export_of_other_weights_than_the_stage_has_is_written_anew(staged):
    recipe, told, model = staged
    right = next(find_subject(str(model / "stage-1")).tensors()).clone()
    shutil.rmtree(model / "stage-1")
    shutil.copytree(model / "stage-0", model / "stage-1")
    (model / "stage-0" / "open_clip_model.safetensors").write_bytes(b"torn")
    kept = (model / "joined.json").read_text()
    train_in_stages(recipe, told, stages=2, clusters=2)
    assert torch.equal(next(find_subject(str(model / "stage-1")).tensors()), right)
    assert find_subject(str(model)).model.embed_dim == 32 and (model / "joined.json").read_text() == kept
    before = (model / "stage-1" / "open_clip_config.json").stat().st_mtime_ns
    train_in_stages(recipe, told, stages=2, clusters=2)
    assert (model / "stage-1" / "open_clip_config.json").stat().st_mtime_ns == before


def test_groups_of_a_stage_that_was_trained_anew_are_refused(staged):
    recipe, told, model = staged
    path = model.parent / "embeddings-0" / "embeddings.json"
    before = path.read_text()
    path.write_text(json.dumps(json.loads(before) | {"checksum": 1.0}))
    with pytest.raises(
        RecipeError, match=r"embeddings-0 was written with another checksum: 1\.0, .*was trained anew, remove"
    ):
        train_in_stages(recipe, told, stages=2, clusters=2)
    path.write_text(before)


def _train_stages(_rank, _world_size, recipe, told):
    return str(train_in_stages(recipe, told, stages=2, clusters=2))


@pytest.mark.processes
def test_two_processes_equal_one(staged):
    recipe, told, model = staged
    (two, same) = run_processes(_train_stages, 2, recipe, (*told, "name=two"))
    one, home = model.parent, Path(two).parent
    assert two == same and home != one
    assert read_group_folder(home / "groups-1")[1].tolist() == read_group_folder(one / "groups-1")[1].tolist()
    for stage in ("stage-0", "stage-1"):
        for ours, theirs in zip(losses_of(home / stage), losses_of(one / stage), strict=True):
            assert ours == pytest.approx(theirs, rel=1e-4)  # float32, sums in another order
    assert find_subject(two).model.embed_dim == 32


def test_other_settings_than_before_are_refused_and_fewer_stages_are_joined(staged):
    recipe, told, _ = staged
    with pytest.raises(RecipeError, match=r"groups-1: was made with --clusters 2 and seed=0, not 3 and 0"):
        train_in_stages(recipe, told, stages=2, clusters=3)
    assert find_subject(str(train_in_stages(recipe, told, stages=1, clusters=2))).model.embed_dim == 16
    assert find_subject(str(train_in_stages(recipe, told, stages=2, clusters=2))).model.embed_dim == 32


def test_what_stages_cannot_do_is_refused_at_once(staged):
    recipe, told, _ = staged
    with pytest.raises(RecipeError, match="--stages: 0"):
        train_in_stages(recipe, told, stages=0)
    with pytest.raises(RecipeError, match=r"data\.train: stages group one card"):
        train_in_stages("quickstart", ())
    with pytest.raises(RecipeError, match=r"data\.groups: stages make groups"):
        train_in_stages(recipe, (*told, "data.groups=x"))
