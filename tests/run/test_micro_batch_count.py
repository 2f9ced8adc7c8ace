"""Where memory runs out, a step is repeated in more micro-batches, and the run is the one that had them at once."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from pathlib import Path

import pytest
import torch

from tests.processes import run_processes
from tests.shards import write_shards
from tests.small_steps import small_parts, small_recipe
from tests.test_train import forget, lines, losses, weights
from tests.tiny import tiny_recipe
from vlp.ground import dist
from vlp.ground.types import RecipeError
from vlp.plan.counts import count
from vlp.plan.holding import Holding
from vlp.run import assemble, micro_batch_count
from vlp.run.micro_batch_count import NAME, MicroBatchCount
from vlp.step.kept_bytes import KeptBytes
from vlp.train import train

AUTO = "train.micro_batches=auto"
FULL_STEP = 3  # of six; with one micro-batch it does not fit
REMEMBERS = "objective.isogclr={budget: 1.0}"


@pytest.fixture
def shards(tmp_path):
    write_shards(tmp_path / "shards", num_shards=3, samples_per_shard=7)
    return f"{tmp_path}/shards/*.tar"


class Scripted(MicroBatchCount):
    """A number that was known before."""

    def at(self, step, pairs=None):
        return 1 if step < FULL_STEP else 2


def use(monkeypatch, made):
    monkeypatch.setattr(assemble, "count_micro_batches", lambda recipe, *_: made(recipe))


def tight_at(attempt, budget):
    """Return budgets of which one is too small for a pass."""
    attempts = iter(range(1000))
    return lambda: KeptBytes(budget) if next(attempts) == attempt else nullcontext()


def known_before(monkeypatch, folder, shards, *overrides):
    with monkeypatch.context() as patched:
        use(patched, lambda _: Scripted(1, 8, grows=True))
        return train(tiny_recipe(folder, shards, "name=scripted", AUTO, REMEMBERS, *overrides))


@pytest.mark.parametrize("budget", [2_000, 100_000])
def test_a_step_that_runs_out_of_memory_is_repeated_as_if_nothing_had_been(
    tmp_path, shards, monkeypatch, capsys, budget
):
    expected = known_before(monkeypatch, tmp_path, shards)
    use(monkeypatch, lambda _: MicroBatchCount(1, 8, grows=True, budget=tight_at(FULL_STEP, budget)))
    recipe = tiny_recipe(tmp_path, shards, AUTO, REMEMBERS)
    run = train(recipe)
    assert "step 3: out of memory with 1 micro-batches; 2 from here on" in capsys.readouterr().err
    assert (losses(run), weights(run)) == (losses(expected), weights(expected))
    assert [line["micro_batches"] for line in lines(run)] == [1, 1, 1, 2, 2, 2]
    forget(run, 6)
    use(monkeypatch, lambda _: MicroBatchCount(1, 8, grows=True))
    train(recipe, resume=True)
    assert (losses(run), weights(run)) == (losses(expected), weights(expected))


@pytest.mark.parametrize("last_pass", [False, True])
def test_so_is_one_that_does_in_the_backward_pass(tmp_path, shards, monkeypatch, last_pass):
    class Count(Scripted):
        def at(self, step, pairs=None):
            return 2 if step < FULL_STEP else 4

    with monkeypatch.context() as patched:
        use(patched, lambda _: Count(1, 8, grows=True))
        expected = train(tiny_recipe(tmp_path, shards, "name=scripted", AUTO, REMEMBERS))
    calls, real = iter(range(1000)), torch.Tensor.backward  # each step: of the objective, and of two pieces

    def backward(loss):
        real(loss)
        if next(calls) == 3 * FULL_STEP + 1 + last_pass:
            raise torch.OutOfMemoryError("too much")

    monkeypatch.setattr(torch.Tensor, "backward", backward)
    use(monkeypatch, lambda _: MicroBatchCount(2, 8, grows=True))
    run = train(tiny_recipe(tmp_path, shards, AUTO, REMEMBERS))
    assert (losses(run), weights(run)) == (losses(expected), weights(expected))


def _one_runs_out(rank, world_size, folder, shards):
    home = Path(folder) / str(rank)
    overrides = (f"runs={folder}/runs", "train.batch_size=16", AUTO, REMEMBERS)
    budget = tight_at(FULL_STEP, 2_000) if rank == 1 else nullcontext
    counts = {
        "auto": lambda _: MicroBatchCount(1, 8, grows=True, budget=budget),
        "scripted": lambda _: Scripted(1, 8, grows=True),
        "overlapping": lambda _: Overlapping(1, 8),
    }
    found = {}
    for name, made in counts.items():
        pytest.MonkeyPatch().setattr(assemble, "count_micro_batches", lambda recipe, *_, made=made: made(recipe))
        run = train(tiny_recipe(home, shards, f"name={name}", *overrides))
        found[name] = losses(run), weights(run)
        dist.barrier()
    return found, (Path(folder) / "runs" / "auto" / NAME).read_text().count("micro_batches")


class Overlapping(Scripted):
    """With gradients that are exchanged during the backward pass, as a fixed number has."""

    exchanges_alone = False


@pytest.mark.processes
def test_when_one_process_runs_out_all_take_more(tmp_path, shards):
    for rank in range(2):
        (tmp_path / str(rank)).mkdir()
    for found, num_lines in run_processes(_one_runs_out, 2, str(tmp_path), shards):
        assert found["auto"] == found["scripted"] == found["overlapping"]
        assert num_lines == 2


def test_a_run_begins_with_its_plan_and_keeps_to_its_memory(tmp_path, shards, monkeypatch, capsys):
    """The plan expects short captions, and these are not."""
    monkeypatch.setattr(micro_batch_count, "USUAL_LENGTH", 2)
    wide = "model.text.width=32"  # so that the length of captions says how much memory is needed
    recipe = tiny_recipe(tmp_path, shards, AUTO, wide)
    holding = Holding(count(recipe, tokens=2), 8)
    two, one = (sum(holding.memory(number).values()) for number in (2, 1))
    memory = f"train.memory_gb={(two + 0.5 * (one - two)) / 1e9}"
    run = train(tiny_recipe(tmp_path, shards, AUTO, wide, memory))
    numbers = [line["micro_batches"] for line in lines(run)]
    assert numbers[0] > 2 and "out of memory with 2 micro-batches" in capsys.readouterr().err
    fixed = train(tiny_recipe(tmp_path, shards, "name=fixed", wide, f"train.micro_batches={int(numbers[0])}"))
    assert numbers == 6 * numbers[:1] and (losses(run), weights(run)) == (losses(fixed), weights(fixed))


def test_when_no_number_does_or_none_may_be_taken_the_way_out_is_named(tmp_path, shards, monkeypatch):
    with pytest.raises(RecipeError, match=r"step 0: out of memory .*: model\.grad_checkpointing=selective keeps less"):
        train(tiny_recipe(tmp_path, shards, AUTO, "train.memory_gb=0.001"))
    use(monkeypatch, lambda _: MicroBatchCount(1, 8, budget=tight_at(0, 2_000)))
    with pytest.raises(
        RecipeError, match=r"step 0: out of memory .*: train\.micro_batches=auto embeds the batch in more"
    ):
        train(tiny_recipe(tmp_path, shards, "name=fixed"))


ONE_OR_AUTO = (("one", ()), ("auto", (AUTO,)))


def test_batch_norm_has_no_micro_batches(tmp_path, shards, monkeypatch):
    image = "model.image={type: timm, name: test_resnet}"
    with pytest.raises(RecipeError, match="batch norm mixes the samples"):
        train(tiny_recipe(tmp_path, shards, image, "train.micro_batches=2"))
    one, auto = (train(tiny_recipe(tmp_path, shards, image, f"name={name}", *more)) for name, more in ONE_OR_AUTO)
    assert losses(one) == losses(auto) and weights(one) == weights(auto)
    out_of_memory = partial(MicroBatchCount, budget=tight_at(0, 2_000))
    monkeypatch.setattr(micro_batch_count, "MicroBatchCount", out_of_memory)
    with pytest.raises(RecipeError, match=r"out of memory .*: model\.grad_checkpointing=selective"):
        train(tiny_recipe(tmp_path, shards, image, "name=tight", AUTO))


def test_one_that_runs_out_where_others_wait_for_it_says_so_to_its_next_start(tmp_path, monkeypatch):
    monkeypatch.setattr(MicroBatchCount, "exchanges_alone", True)

    def attempt(number):
        raise torch.OutOfMemoryError("too much")

    asked = MicroBatchCount(1, 8, grows=True)
    asked.open(tmp_path, print)
    with pytest.raises(RecipeError, match=r"step 5: out of memory \(too much\): --resume takes 2 micro-batches"):
        asked(5, 8, attempt, lambda: None)
    again = MicroBatchCount(4, 8, grows=True)
    again.open(tmp_path, print)
    assert [again.at(step) for step in (0, 4, 5, 6)] == [1, 1, 2, 2]


def test_lines_that_are_torn_or_nonsense_are_passed_over(tmp_path):
    count = MicroBatchCount(2, 12, grows=True)
    count.open(tmp_path, print)
    path = tmp_path / NAME
    (line,) = path.read_bytes().splitlines()
    path.write_bytes(line.replace(b"2", b"4", 1) + b"\n" + line + b'\n{"step": 1, "micro')
    again = MicroBatchCount(1, 12, grows=True)
    again.open(tmp_path, print)
    assert again.at(7) == 2


def test_sharded_parameters_need_a_number(monkeypatch):
    monkeypatch.setattr(assemble, "is_sharded", lambda: True)
    with pytest.raises(RecipeError, match=r"train\.micro_batches: auto repeats a step .* \(vlp plan --sharded"):
        small_parts(monkeypatch, small_recipe("smoke", AUTO))
