"""Published numbers: what counts as reproduced, and what a file of them must hold."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from tests.evaluators.test_scripts import load_script
from tests.towers.tiny import tiny_export
from vlp.cli import build_parser, main
from vlp.evaluators.base import load_task
from vlp.evaluators.published import judge, read_published, verdict_table
from vlp.ground.paths import folders
from vlp.ground.types import RecipeError
from vlp.ground.yaml import read_yaml

SHIPPED = next(folders("eval")) / "results" / "published.yaml"
PAGE = (Path(__file__).resolve().parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")
TASKS = ["clipart-folders", "clipart-retrieval"]


def published(tmp_path, *numbers, digits=4, **keys):
    """Read a file with numbers of a model `m` on a task `t`."""
    rows = [{"model": "m", "task": "t", "metric": "acc1", "value": 0.5, "source": "s"} | number for number in numbers]
    file = {"sources": {"s": {"address": "https://somewhere", "digits": digits}}, "numbers": rows} | keys
    path = tmp_path / "published.yaml"
    path.write_text(json.dumps(file))
    return path


def record(value, low=None, high=None):
    return {"task": "t", "metrics": {"acc1": {"value": value, "low": low, "high": high, "count": 100}}}


@pytest.mark.parametrize(
    ("value", "low", "high", "digits", "judgement"),
    [
        (0.5, 0.4, 0.6, 4, "equal"),
        (0.50004, 0.4, 0.6, 4, "equal"),
        (0.50005, 0.4, 0.6, 4, "equal"),
        (0.50006, 0.4, 0.6, 4, "within the interval"),
        (0.5049, 0.4, 0.6, 2, "equal"),
        (0.5049, 0.5048, 0.5050, 3, "different"),
        (0.58, 0.5, 0.66, 4, "within the interval"),
        (0.58, 0.50004, 0.66, 4, "within the interval"),
        (0.58, 0.51, 0.66, 4, "different"),
        (0.42, 0.34, 0.49, 4, "different"),
        (0.501, None, None, 4, "different"),
    ],
)
def test_a_number_is_equal_within_rounding_or_in_the_interval_or_different(
    tmp_path, value, low, high, digits, judgement
):
    found = read_published(str(published(tmp_path, {}, digits=digits)), "m", ["t"])
    (verdict,) = judge([record(value, low, high)], found)
    assert verdict.judgement == judgement
    line = verdict_table([verdict], found).splitlines()[1]
    assert f"{value:.4f}" in line and f"{0.5:.{digits}f}" in line and line.endswith(judgement)


def test_a_number_may_have_a_tolerance_of_its_own(tmp_path):
    found = read_published(str(published(tmp_path, {"tolerance": 0.01})), "m", ["t"])
    assert judge([record(0.51, 0.505, 0.52)], found)[0].judgement == "equal"
    assert judge([record(0.5102, 0.505, 0.52)], found)[0].judgement == "different"


@pytest.mark.parametrize("records", [[], [{"task": "t", "error": "no data"}], [{"task": "t", "metrics": {}}]])
def test_a_task_that_failed_is_not_measured_and_not_counted(tmp_path, records):
    found = read_published(str(published(tmp_path, {})), "m", [])
    (verdict,) = judge(records, found)
    assert verdict.judgement == "not measured"
    assert "0 of 0 numbers reproduced" in verdict_table([verdict], found)


def test_only_the_model_and_the_tasks_that_are_scored_are_looked_at(tmp_path):
    numbers = [{}, {"task": "u"}, {"model": "other"}]
    path = str(published(tmp_path, *numbers, models={"m": ["hf-hub:org/m"]}))
    assert [number.task for number in read_published(path, "m", ["t"]).numbers] == ["t"]
    assert read_published(path, "m", []).tasks == ("t", "u")
    assert read_published(path, "hf-hub:org/m", ["u"]).tasks == ("u",)
    assert read_published(f"{path}#other", "runs/mine", []).tasks == ("t",)


@pytest.mark.parametrize(
    ("numbers", "model", "tasks", "said"),
    [
        ([{}], "n", [], r"no numbers of 'n'.*it has: m.*#NAME"),
        ([{}], "m", ["u"], r"for these tasks; --tasks t has"),
        ([{"source": "z"}], "m", [], r"numbers\.0\.source.*'z'"),
        ([{}, {}], "m", [], r"numbers\.1: a second number of m, t, acc1"),
        ([{"metrik": 1}], "m", [], r"metrik.*metric"),
        ([{"value": "high"}], "m", [], r"numbers\.0\.value"),
    ],
)
def test_mistakes_are_named(tmp_path, numbers, model, tasks, said):
    with pytest.raises(RecipeError, match=f"(?s)published.yaml.*{said}"):
        read_published(str(published(tmp_path, *numbers)), model, tasks)


def test_what_ships_is_of_tasks_that_ship():
    file = read_yaml(SHIPPED)
    counts = Counter(number["model"] for number in file["numbers"])
    assert min(counts.values()) > 20
    for model in (min(counts), max(counts)):
        assert len(read_published("results/published.yaml", model, []).numbers) == counts[model]
    assert all(0 < number["value"] < 1 for number in file["numbers"])
    told = {(number["task"], number["metric"]) for number in file["numbers"]}
    for task in {task for task, _ in told}:
        assert (task, load_task(task).main_metric) in told, task
    assert all(len(source["commit"]) == 40 for source in file["sources"].values())


def test_the_means_of_both_tables_that_ship_agree():
    """The one table has the mean of what the other has for both directions, each rounded to four digits."""
    found = read_published("results/published.yaml", "ViT-B-32:openai", ["flickr30k", "mscoco_captions"])
    values = {(number.task, number.metric): number.value for number in found.numbers}
    for task in found.tasks:
        mean = (values[task, "image_to_text_recall@1"] + values[task, "text_to_image_recall@1"]) / 2
        assert values[task, "mean_recall@1"] == pytest.approx(mean, abs=1.01e-4)


def test_the_script_reads_the_tables_of_a_checkout(tmp_path):
    script = load_script("prepare/published")
    (tmp_path / "docs").mkdir()
    for table, columns in script.COLUMNS.items():
        lines = [["name", "pretrained", *columns]]
        lines += [[name, tag, *["0.1230"] * len(columns)] for name, tag in script.MODELS]
        (tmp_path / "docs" / f"{table}.csv").write_text("\n".join(",".join(line) for line in lines))
    for words in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=b", "commit", "-qm", "c"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    lines = list(script.write(tmp_path))
    shipped = SHIPPED.read_text().splitlines()
    assert [line.split(", value")[0] for line in lines if "value" in line] == [
        line.split(", value")[0] for line in shipped if "value" in line
    ], "run eval/prepare/published.py again"
    assert all("0.1230" in line for line in lines if "value" in line)


def test_the_file_on_the_page_is_understood(tmp_path):
    (block,) = re.findall(r"```yaml\n(sources:.*?)```", PAGE, flags=re.S)
    (tmp_path / "published.yaml").write_text(block)
    found = read_published(str(tmp_path / "published.yaml"), "runs/mine", [])
    assert found.tasks == ("imagenet1k", "cifar10")


@pytest.mark.parametrize("line", re.findall(r"^vlp .*", PAGE, flags=re.M))
def test_the_commands_on_the_page_are_understood(line):
    words = shlex.split(line.split(">")[0], comments=True)[1:]
    assert build_parser().parse_args(words).command


@pytest.fixture
def export(tmp_path):
    """A small model in open_clip's folder format."""
    return str(tiny_export(tmp_path / "export"))


def test_the_shipped_sets_are_held_against_a_file(export, tmp_path, capsys):
    def run(*words):
        with pytest.raises(SystemExit) as stopped:
            main(["eval", export, *words])
        return stopped.value.code, capsys.readouterr().out

    assert run("--tasks", *TASKS, "--to", str(tmp_path / "out"))[0] == 0
    found = {task: json.loads((tmp_path / "out" / f"{task}.json").read_text())["metrics"] for task in TASKS}
    accuracy, recall = found["clipart-folders"]["acc1"], found["clipart-retrieval"]["mean_recall@1"]
    rows = [
        {"model": export, "task": "clipart-folders", "value": round(accuracy["value"], 4)},
        {"model": export, "task": "clipart-folders", "metric": "acc1_strict", "value": round(accuracy["high"], 4)},
        {"model": export, "task": "clipart-retrieval", "metric": "mean_recall@1", "value": recall["value"]},
    ]
    path = str(published(tmp_path, *rows))
    status, printed = run("--against", path)
    assert status == 0, "the tasks of the file are scored"
    assert "3 of 3 numbers reproduced" in printed
    assert "within the interval" in printed and "https://somewhere" in printed

    rows[0]["value"] = 0.99
    status, printed = run("--tasks", TASKS[0], "--against", str(published(tmp_path, *rows)))
    assert status == 1
    (line,) = [line for line in printed.splitlines() if line.endswith("different")]
    assert f"{accuracy['value']:.4f}" in line and "0.9900" in line
    assert "1 of 2 numbers reproduced" in printed
