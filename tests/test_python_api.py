"""The page about Python runs as it stands, and what `vlp` offers is there."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from PIL import Image

import vlp

ROOT = Path(__file__).resolve().parent.parent
RUN = ROOT / "tests" / "run" / "before_the_move.tar.xz"
PAGE = (ROOT / "docs" / "python-api.md").read_text(encoding="utf-8")


def test_everything_that_is_offered_is_there():
    assert {"load", "score", "train_recipe"} <= set(dir(vlp))
    for name in vlp.__all__:
        assert getattr(vlp, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = vlp.nothing


def test_importing_the_package_loads_no_library():
    script = "import sys, vlp; print(sorted({'torch', 'numpy', 'open_clip'} & set(sys.modules)))"
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert told.stdout.strip() == "[]"


def test_a_training_waits_for_no_package_that_it_does_not_use():
    """Each of these takes a second or more, on every process."""
    heavy = {"sklearn", "pandas", "pyarrow", "matplotlib", "transformers.modeling_utils"}
    heavy |= {"scipy.optimize", "scipy.signal", "scipy.stats", "scipy.ndimage"}
    script = (
        "import sys, vlp.train; from vlp.evaluators.base import load_task; load_task('emoji24'); "
        f"print(sorted({heavy} & set(sys.modules)))"
    )
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert said.stdout.strip() == "[]"


@pytest.mark.filterwarnings("ignore:objective.sogclr")
def test_the_page_about_python_works(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with tarfile.open(RUN) as tar:
        tar.extraction_filter = getattr(tarfile, "data_filter", None)  # Python 3.11.4 and newer have it
        tar.extractall("runs")
    (tmp_path / "runs" / "before_the_move").rename(tmp_path / "runs" / "mine")
    known = {"photographs": [Image.new("RGB", (40, 30), colour) for colour in ("red", "blue", "green")]}
    for block in re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL):
        exec(block, known)
    assert known["logits"].shape == (3, 2)
    assert known["images"].norm(dim=1).sub(1).abs().max() < 1e-5
    assert 0 <= known["record"]["metrics"]["acc1"]["value"] <= 1
    assert (known["folder"] / "export" / "README.md").is_file()
    assert "did you mean 'steps'" in capsys.readouterr().out
