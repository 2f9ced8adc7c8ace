"""A forecast goes into a file and stands in a report beside what came true."""

from __future__ import annotations

import json

import pytest

from tests.plan.test_forecast import plan as forecast_of
from tests.synthetic_run import write_run
from vlp.cli import main
from vlp.ground.types import RecipeError
from vlp.plan.saved_plan import SavedPlan
from vlp.report import write_report
from vlp.report.reading import read_run


def saved(path, **changes):
    expected = SavedPlan.of(forecast_of("train.batch_size=1024")).model_copy(update=changes)
    expected.save(path)
    return expected


def test_a_plan_is_read_as_it_was_written(tmp_path):
    expected = saved(tmp_path / "plan.json")
    assert SavedPlan.load(tmp_path / "plan.json") == expected
    assert expected.basis == "assumed, not measured" and expected.device == "H100"
    assert expected.pairs_per_second == pytest.approx(forecast_of("train.batch_size=1024").pairs_per_second)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", r"--plan: .*plan.json: JSONDecodeError.*`vlp plan RECIPE --to FILE` writes one"),
        ("[1]", r"--plan: "),
        ('{"recipe": "x"}', r"--plan: .*device"),
        ('{"pairs_per_second": NaN}', r"pairs_per_second"),
    ],
)
def test_what_is_no_plan_is_refused(tmp_path, content, said):
    (tmp_path / "plan.json").write_text(content)
    with pytest.raises(RecipeError, match=said):
        SavedPlan.load(tmp_path / "plan.json")
    with pytest.raises(RecipeError, match="FileNotFoundError"):
        SavedPlan.load(tmp_path / "none.json")


def test_the_report_says_how_far_off_the_plan_was(tmp_path):
    folder = write_run(tmp_path)
    measured = {"peak_memory_gb": 30.0, "memory_gb/weights": 8.0, "memory_gb/passing": 3.0}
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line | measured) + "\n" for line in lines))
    speeds = sorted(value for _, value in read_run(folder).curve("samples_per_second"))
    parts = {"weights, float32": 2.0, "pixels": 1.0, "libraries (assumed)": 1.5}
    saved(tmp_path / "plan.json", pairs_per_second=2 * speeds[len(speeds) // 2], memory_gb=20.0, memory_parts_gb=parts)
    page = write_report(folder, tmp_path / "page.html", plan=tmp_path / "plan.json").read_text()
    (section,) = [part for part in page.split("<section")[1:] if 'id="plan"' in part]
    assert section.count("0.50</td>") == 1 and section.count("1.50</td>") == 1
    assert section.count("4.00</td>") == 1 and section.count("1.20</td>") == 1  # weights, and all that passes
    assert "Memory of a process in GB: 8 weights, 3 passing." in page
    assert 'id="plan"' not in write_report(folder, tmp_path / "other.html").read_text()


def test_the_command_writes_what_the_report_reads(tmp_path, capsys):
    main(["plan", "smoke", "--to", str(tmp_path / "plan.json")])
    assert "for vlp report --plan" in capsys.readouterr().out
    assert SavedPlan.load(tmp_path / "plan.json").recipe == "smoke"
