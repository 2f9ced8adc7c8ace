"""The house: imports point downwards, siblings do not know each other, collectives live in one file."""

from __future__ import annotations

import ast
import re
import warnings
from pathlib import Path

import pytest

from vlp.types import VlpWarning

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "vlp"
FILES = sorted(PACKAGE.rglob("*.py"))

FLOORS = [
    {
        "types",
        "registry",
        "paths",
        "dist",
        "pairs",
        "yaml",
        "patterns",
        "explain",
        "provenance",
        "undo",
        "files",
        "manifest",
        "rendezvous",
    },
    {"objectives", "towers", "data", "optim", "log", "accumulate", "moments", "launch", "watchdog"},
    {"evaluators", "strategies"},
    {
        "recipe",
        "layers",
        "config",
        "checkpoint",
        "claim",
        "fit",
        "feed",
        "assemble",
        "state",
        "trained",
        "ready",
        "trackers",
    },
    {"train", "evaluate", "export", "report", "describe", "curate", "listing"},
    {"doctor", "cli_data"},
    {"cli"},
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
SHARED_FLOORS = {0, 3}  # rooms of these floors may use each other; elsewhere siblings do not


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(path: Path) -> set[str]:
    """Return the rooms that a file imports at its top level."""
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"vlp.{name.name}" for name in node.names] if node.module == "vlp" else [node.module]
        elif isinstance(node, ast.Import):
            names = [name.name for name in node.names]
        rooms |= {name.split(".")[1] for name in names if name.startswith("vlp.")}
    return rooms


def test_there_are_files_to_check():
    assert len(FILES) > 30
    assert all(room_of(path) in FLOOR for path in FILES if room_of(path) != "__init__")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_downwards(path):
    room = room_of(path)
    if room in ("__init__", "cli"):
        return
    launcher = {"cli"} if path.name == "train.py" else set()  # `python -m vlp.train` hands over to the command line
    for other in imports_of(path) - {room} - launcher:
        assert other in FLOOR, f"{room} imports vlp.{other}, which is no room"
        if FLOOR[room] in SHARED_FLOORS:
            assert FLOOR[other] <= FLOOR[room], f"{room} imports {other} from a higher floor"
        else:
            assert FLOOR[other] < FLOOR[room], f"{room} imports {other} from its own floor or a higher one"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_collectives_live_in_one_file(path):
    text = path.read_text(encoding="utf-8")
    collectives = re.findall(r"\b(all_reduce|all_gather(?:_object)?|broadcast(?:_object_list)?|reduce_scatter)\(", text)
    if path.name != "dist.py":
        assert not collectives, f"{path}: {collectives}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_are_short_and_ascii(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 350
    assert text.isascii(), [line for line in text.splitlines() if not line.isascii()]


def test_warnings_have_the_class_that_tests_refuse():
    """Warnings of this package are errors in its tests: pass VlpWarning as the category."""
    calls = [
        (path, node)
        for path in FILES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "warnings.warn"
    ]
    assert calls
    wrong = [
        f"{path}:{call.lineno}" for path, call in calls if [ast.unparse(a) for a in call.args[1:]] != ["VlpWarning"]
    ]
    assert wrong == []


def test_a_warning_of_this_package_is_an_error_here():
    with pytest.raises(VlpWarning, match="said"):
        warnings.warn("said", VlpWarning, stacklevel=1)


WHOLE = {"long", "int", "floor", "int32", "int64"}


def unclamped(tree: ast.AST) -> list[int]:
    """Return the lines on which a product becomes an index without a limit: rounding may put it past the end."""
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    lines = []
    for call in ast.walk(tree):
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute)):
            continue
        casts = call.func.attr in WHOLE or (
            call.func.attr in ("to", "type", "astype")
            and any(getattr(argument, "attr", None) in WHOLE for argument in call.args)
        )
        scales = any(isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult) for node in ast.walk(call.func))
        if casts and scales and getattr(parents[call], "attr", "") not in ("clamp", "clamp_"):
            lines.append(call.lineno)
    return lines


def test_an_index_made_of_a_product_has_a_limit():
    """Random numbers become indices in `pick`; whoever multiplies on his own must clamp too."""
    assert unclamped(ast.parse("(draws * count).long()")) == [1]
    assert unclamped(ast.parse("(draws * count).to(torch.int64)[0]")) == [1]
    assert unclamped(ast.parse("(draws * count).long().clamp(max=count - 1)")) == []
    found = {str(path.relative_to(ROOT)): unclamped(ast.parse(path.read_text(encoding="utf-8"))) for path in FILES}
    assert {path: lines for path, lines in found.items() if lines} == {}


def test_random_numbers_are_rounded_in_one_place():
    """Whoever takes `uniform` numbers to another type goes by `below_one`, so that none becomes 1."""
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        assert not re.search(
            r"\buniform\((?:[^()]|\([^()]*\))*\)\.(?:to\((?!\w+\.device)|float\(|half\(|bfloat16\(|type)", text
        ), path


def test_the_training_page_reads_aloud_in_two_minutes():
    module = ast.parse((PACKAGE / "train.py").read_text(encoding="utf-8"))
    train = next(node for node in module.body if isinstance(node, ast.FunctionDef) and node.name == "train")
    assert train.end_lineno - train.lineno <= 60
