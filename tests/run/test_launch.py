"""Every launch command that this project shows, outside in: real launchers, a clean environment, one model."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks.ports import free_port
from tests.shards import write_shards
from tests.tiny import tiny_recipe
from vlp.cli import main
from vlp.recipe.compose import lock_text
from vlp.run.clock import PREEMPTED
from vlp.train import train

ROOT = Path(__file__).resolve().parent.parent.parent
LAUNCH = ROOT / "recipes" / "launch"
# What of this process a launcher may see: nothing that tests, torch or Accelerate have set.
PASSED_ON = ("HOME", "LANG", "TMPDIR", "SYSTEMROOT")

pytestmark = pytest.mark.processes


@pytest.fixture
def recipe(tmp_path):
    write_shards(tmp_path / "shards", num_shards=3, samples_per_shard=7)
    made = tiny_recipe(tmp_path, f"{tmp_path}/shards/*.tar", "model.image.patch_dropout=0.0")
    (tmp_path / "recipe.yaml").write_text(lock_text(made))
    return made


def environment(**more: str) -> dict[str, str]:
    """Return the environment of somebody who has just opened a terminal."""
    clean = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**clean, "PATH": path, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1", **more}


def launch(command: str, folder: Path, *settings: str, **more: str) -> subprocess.Popen:
    """Start a launch command as it is printed, with RECIPE replaced, from the project's root."""
    words = command.replace("RECIPE", str(folder / "recipe.yaml")).split()
    return subprocess.Popen(
        [*words, *settings],
        cwd=ROOT,
        env=environment(**more),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=hear_hang_ups,
    )


def hear_hang_ups() -> None:
    """Undo what `nohup` does, under which these tests may run: vlp leaves a signal alone that is ignored."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def finish(process: subprocess.Popen, timeout: float = 480) -> str:
    """Wait for a command that must succeed; return what it printed."""
    said = said_by(process, timeout)
    assert process.returncode == 0, said
    return said


def said_by(process: subprocess.Popen, timeout: float = 480) -> str:
    """Wait for a command; return what it printed."""
    try:
        return process.communicate(timeout=timeout)[0]
    except subprocess.TimeoutExpired:
        end(process)
        raise AssertionError(f"still running after {timeout} s: {process.communicate()[0]}") from None


def end(process: subprocess.Popen) -> None:
    """Kill a launcher and what it started; torchrun puts each process into a session of its own."""
    for number in ranks(process):
        os.kill(number, signal.SIGKILL)
    os.killpg(process.pid, signal.SIGKILL)


def ranks(process: subprocess.Popen) -> list[int]:
    """Return the processes that a launch command has started to train, first rank first."""
    recipe = next(word for word in process.args if word.endswith("recipe.yaml")).encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
            names = dict(pair.split(b"=", 1) for pair in (folder / "environ").read_bytes().split(b"\0") if b"=" in pair)
        except OSError:
            continue  # gone in the meantime
        if recipe in words and b"LOCAL_RANK" in names:
            found.append((int(names[b"LOCAL_RANK"]), int(folder.name)))
    return [number for _, number in sorted(found)]


def lines(folder: Path, name: str) -> list[dict]:
    records = map(json.loads, (folder / "runs" / name / "metrics.jsonl").read_text().splitlines())
    return [record for record in records if "loss" in record]


def assert_same_run(found: list[dict], expected: list[dict], *, sharded: bool = False) -> None:
    """Losses, gradient norms and weights follow the same path; sums of other layouts round differently."""
    assert [line["step"] for line in found] == [line["step"] for line in expected]
    for one, other in zip(found, expected, strict=True):
        for key in ("loss", "scale", "gradient_norm/image", "gradient_norm/text", "gradient_norm/scale"):
            assert one[key] == pytest.approx(other[key], rel=2e-4, abs=2e-6), key  # that of the scale nearly cancels
        if not sharded:  # then no rank holds what another holds
            assert one["weights_checksum"] > 0  # all ranks had the same, or the run would have ended


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process computes."""
    folder = tmp_path_factory.mktemp("alone")
    write_shards(folder / "shards", num_shards=3, samples_per_shard=7)
    made = tiny_recipe(folder, f"{folder}/shards/*.tar", "model.image.patch_dropout=0.0")
    (folder / "recipe.yaml").write_text(lock_text(made))
    finish(launch("vlp train RECIPE", folder))
    return lines(folder, "tiny")


ON_TWO = "--num_processes 2 -m vlp.train --config RECIPE"
COMMANDS = {
    "accelerate, as in the README": "accelerate launch -m vlp.train --config RECIPE",
    "1gpu": "accelerate launch --config_file recipes/launch/1gpu.yaml -m vlp.train --config RECIPE",
    "8gpu on 2": f"accelerate launch --config_file recipes/launch/8gpu.yaml {ON_TWO}",
    "fsdp2 on 2": f"accelerate launch --config_file recipes/launch/fsdp2.yaml {ON_TWO}",
}
TORCHRUN = "recipes/launch/torchrun.sh RECIPE"


@pytest.mark.parametrize("label", COMMANDS)
def test_a_launch_command_trains_one_model(label, recipe, tmp_path, alone):
    finish(launch(COMMANDS[label], tmp_path))
    assert_same_run(lines(tmp_path, "tiny"), alone, sharded="fsdp2" in label)


@pytest.mark.long
def test_two_machines_train_one_model(recipe, tmp_path, alone):
    command = (
        "accelerate launch --config_file recipes/launch/multinode.yaml --num_machines 2 --num_processes 2 "
        f"--main_process_ip 127.0.0.1 --main_process_port {free_port()} "
    )
    machines = [launch(f"{command} --machine_rank {k} -m vlp.train --config RECIPE", tmp_path) for k in range(2)]
    for machine in machines:
        finish(machine)
    assert_same_run(lines(tmp_path, "tiny"), alone)


SHIMS = {
    "srun": '#!/usr/bin/env bash\nwhile [[ "$1" == --* ]]; do shift; done\nexec "$@"\n',
    "scontrol": '#!/usr/bin/env bash\n[ "$1" = show ] && echo 127.0.0.1 || echo "$@" >> "$QUEUE"\n',
}


@contextmanager
def slurm(folder: Path, *settings: str, devices: int):
    """Run the batch script as Slurm does on one machine; srun and scontrol are stand-ins."""
    shims = folder / "shims"
    shims.mkdir()
    for name, text in SHIMS.items():
        (shims / name).write_text(text)
        (shims / name).chmod(0o755)
    script = folder / "slurm.sbatch"
    text = (LAUNCH / "slurm.sbatch").read_text().replace(":29400", f":{free_port()}")
    script.write_text(text.replace("--max-restarts 3", "--max-restarts 0"))
    more = {"SLURM_JOB_ID": "7", "SLURM_NNODES": "1", "SLURM_GPUS_ON_NODE": str(devices), "SLURM_JOB_NODELIST": "here"}
    more |= {"SLURM_STEP_NUM_TASKS": "1", "QUEUE": str(folder / "queue")}
    path = f"{shims}:{environment()['PATH']}"
    yield launch(f"bash {script} RECIPE", folder, *settings, **{**more, "PATH": path})


@pytest.mark.long
def test_a_slurm_job_that_ends_is_not_queued_again(recipe, tmp_path, alone):
    with slurm(tmp_path, devices=2) as job:
        finish(job)
    assert_same_run(lines(tmp_path, "tiny"), alone)
    assert not (tmp_path / "queue").exists()


@pytest.mark.long
def test_a_slurm_job_with_a_mistake_is_not_queued_again(recipe, tmp_path):
    with slurm(tmp_path, "train.micro_batches=3", devices=1) as job:
        assert "train.batch_size: 8 pairs do not divide" in said_by(job)
    assert job.returncode != 0
    assert not (tmp_path / "queue").exists()


def wait_for_lines(folder: Path, count: int, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 200
    path = folder / "runs" / "tiny" / "metrics.jsonl"
    while time.monotonic() < deadline and process.poll() is None:
        if path.exists() and len(path.read_text().splitlines()) >= count:
            return
        time.sleep(0.02)
    end(process)
    raise AssertionError(process.communicate()[0])


LONG = ("train.steps=60", "checkpoint.every=5", "checkpoint.keep=20")


@pytest.fixture
def alone_for_long(tmp_path_factory):
    folder = tmp_path_factory.mktemp("long")
    write_shards(folder / "shards", num_shards=3, samples_per_shard=7)
    train(tiny_recipe(folder, f"{folder}/shards/*.tar", "model.image.patch_dropout=0.0", *LONG))
    return lines(folder, "tiny")


def test_a_job_outlives_a_rank_that_is_killed_one_that_hangs_and_a_signal(recipe, tmp_path, alone_for_long):
    """A rank that hangs is found by the others' time-out, which prints where they wait."""
    settings = (*LONG, "train.timeout=15")  # a busy machine may need seconds for a step, and for a checkpoint
    job = launch(TORCHRUN, tmp_path, *settings, PROCESSES="2", PATIENCE="10")
    for number, count in ((signal.SIGKILL, 7), (signal.SIGSTOP, 14)):
        wait_for_lines(tmp_path, count, job)
        os.kill(ranks(job)[1], number)
    wait_for_lines(tmp_path, 21, job)
    job.send_signal(signal.SIGTERM)
    said = said_by(job)
    assert job.returncode != 0
    assert re.search(r"Timeout \(0:00:15\)!\nThread .*most recent call first", said), said
    assert re.search(r"vlp/train.py\", line \d+ in train\b", said), said  # where the other rank waits
    assert "saved; continue with --resume" in said
    assert len(lines(tmp_path, "tiny")) < 60, "the signal came too late to test anything"
    finish(launch(TORCHRUN, tmp_path, *settings, PROCESSES="2"))
    assert_same_run(lines(tmp_path, "tiny"), alone_for_long)


def test_a_signal_to_accelerate_with_one_process_saves_too(recipe, tmp_path):
    job = launch(COMMANDS["accelerate, as in the README"], tmp_path, *LONG, "train.steps=4000")
    wait_for_lines(tmp_path, 7, job)
    job.send_signal(signal.SIGTERM)
    assert "saved; continue with --resume" in said_by(job)


def test_a_signal_to_a_slurm_script_saves_and_queues_it_again(recipe, tmp_path):
    with slurm(tmp_path, *LONG, "train.steps=4000", devices=1) as job:
        wait_for_lines(tmp_path, 7, job)
        job.send_signal(signal.SIGUSR1)
        assert "saved; continue with --resume" in said_by(job)
    assert (tmp_path / "queue").read_text() == "requeue 7\n"


def test_processes_that_do_not_know_of_each_other_are_refused(recipe, tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    with pytest.raises(SystemExit, match="2 processes were launched, 1 of them work together"):
        main(["train", str(tmp_path / "recipe.yaml")])


def test_the_exit_code_of_one_process_says_that_it_was_preempted(recipe, tmp_path):
    job = launch("vlp train RECIPE", tmp_path, *LONG, "train.steps=4000")
    wait_for_lines(tmp_path, 7, job)
    job.send_signal(signal.SIGHUP)
    said = said_by(job)
    assert job.returncode == PREEMPTED, said


def test_no_launch_command_of_the_readme_is_left_out():
    text = (ROOT / "README.md").read_text() + "".join(path.read_text() for path in LAUNCH.iterdir())
    shown = {name for name in re.findall(r"recipes/launch/([\w.]+)", text) if (LAUNCH / name).is_file()}
    tested = " ".join([Path(__file__).read_text(), *COMMANDS.values()])
    assert shown == {path.name for path in LAUNCH.iterdir()}
    assert [name for name in sorted(shown) if name not in tested] == []


LEAVES_EARLY = """
import time
import torch
import torch.distributed as dist
from vlp.run.launch import join

join()
value = torch.ones(10)
if dist.get_rank() == 0:
    time.sleep(1)
work = dist.all_reduce(value, async_op=True)
if dist.get_rank() == 0:
    work.wait()
del value, work  # from here on a thread of the collective holds them
"""


@pytest.mark.long
def test_a_process_that_leaves_first_waits_for_its_collectives(tmp_path):
    # without that its threads meet an interpreter that ends: SIGABRT on some machines, a broken connection on others
    (tmp_path / "early.py").write_text(LEAVES_EARLY)
    command = f"torchrun --nproc_per_node 2 --rdzv-backend c10d --rdzv-endpoint localhost:{free_port()}"
    finish(launch(f"{command} {tmp_path}/early.py", tmp_path))


TELLS_ITS_THREADS = """
import atexit, sys
from pathlib import Path

def tell():
    names = " ".join(path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm"))
    with Path(sys.argv[1]).with_name("threads.txt").open("a") as file:
        print(names, file=file)

atexit.register(tell)  # asked after what is registered later
from vlp.train import train_recipe

train_recipe(sys.argv[1], "train.steps=2")
tell()
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are told apart by their names in /proc")
@pytest.mark.usefixtures("recipe")
def test_no_thread_of_a_collective_outlives_the_leaving_of_a_job(tmp_path):
    # a model that processes share holds on to its group, in a circle: its threads would meet an interpreter that ends
    (tmp_path / "threads.py").write_text(TELLS_ITS_THREADS)
    command = f"torchrun --nproc_per_node 2 --rdzv-backend c10d --rdzv-endpoint localhost:{free_port()}"
    finish(launch(f"{command} {tmp_path}/threads.py RECIPE", tmp_path))
    told = ["gloo" in line for line in (tmp_path / "threads.txt").read_text().splitlines()]
    assert sorted(told) == [False, False, True, True]
