"""The script that scores any model of open_clip: how it ends."""

from __future__ import annotations

import importlib.util
import sys

import pytest

from vlp.ground.paths import folders


def load_script(name):
    spec = importlib.util.spec_from_file_location(name, next(folders("eval")) / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("status", [0, 1])
def test_zero_shot_ends_with_the_status_of_the_evaluation(monkeypatch, tmp_path, status):
    script = load_script("zero_shot")
    calls = []
    monkeypatch.setattr(script, "evaluate_model", lambda *arguments: calls.append(arguments) or status)
    monkeypatch.setattr(sys, "argv", ["zero_shot.py", "model", "--tasks", "emoji24", "--to", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        script.main()
    assert ended.value.code == status
    assert calls == [("model", ["emoji24"], tmp_path)]
