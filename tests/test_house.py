"""The house: imports point downwards, siblings do not know each other, collectives live in one file."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterable, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.house import FILES, FLOOR, FLOORS, MODULES, PACKAGE, ROOT, imports, room_of, trees
from vlp.ground.types import VlpWarning


def circle_in(arrows: Mapping[str, set[str]]) -> list[str]:
    """Return modules that import each other in a circle; none where there is no such."""
    sorter = TopologicalSorter(arrows)
    try:
        sorter.prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def test_there_are_files_to_check():
    assert len(FILES) > 30
    assert {room_of(module) for module in MODULES if module != "vlp"} == set(FLOOR)


def test_imports_point_downwards():
    arrows = [(module, other) for module, others in imports().items() if module != "vlp" for other in others]
    assert [f"{module} imports {other}, which is no module" for module, other in arrows if other not in MODULES] == []
    between = [(module, other) for module, other in arrows if room_of(module) != room_of(other)]
    wrong = [(module, other) for module, other in between if FLOOR[room_of(other)] >= FLOOR[room_of(module)]]
    assert [f"{module} imports {other}, which lies no floor below" for module, other in wrong] == []


def test_no_modules_import_each_other_in_a_circle():
    assert circle_in({"a": {"b"}, "b": {"c"}, "c": {"a"}}) != []
    assert circle_in(imports()) == []


def test_the_engine_is_met_by_its_public_face():
    """Other rooms import from `vlp.pairs`, whose engine may change behind it."""
    users = [module for module, others in imports().items() if any(".pairs.engine" in other for other in others)]
    assert users and [module for module in users if not module.startswith("vlp.pairs")] == []


SAME_FILES = {"base.py": "what every part of a registry is, in the registry's room"}
"""File names that stand for several things, and why that confuses nobody."""


def more_than_once(names: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    """Return each name that stands in several places, with these."""
    places: dict[str, list[str]] = {}
    for name, place in names:
        places.setdefault(name, []).append(place)
    return {name: found for name, found in places.items() if len(found) > 1}


def test_a_file_name_stands_once():
    found = more_than_once((path.name, module) for module, path in MODULES.items() if path.name != "__init__.py")
    assert {name: places for name, places in found.items() if name not in SAME_FILES} == {}
    assert SAME_FILES.keys() <= found.keys()


def test_a_class_name_stands_once():
    found = more_than_once(
        (node.name, module)
        for module, path in MODULES.items()
        for node in trees()[path].body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    assert found == {}


def test_the_map_shows_the_floors():
    """`docs/architecture.md` has the floors, the highest first: change the one when the other changes."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    drawing = "\n".join(" · ".join(rooms) for rooms in reversed(FLOORS))
    assert drawing in page, drawing


def test_collectives_live_in_one_file():
    collective = re.compile(
        r"\b(all_reduce|all_gather(?:_object|_single|_into_tensor)?|broadcast(?:_object_list)?|reduce_scatter)\("
    )
    found = {str(path): collective.findall(path.read_text(encoding="utf-8")) for path in FILES}
    assert [path for path, calls in found.items() if calls and Path(path).name != "dist.py"] == []
    assert any(found.values())


def test_files_are_short_and_ascii():
    lines = {path: path.read_text(encoding="utf-8").splitlines() for path in FILES}
    assert [path for path in FILES if len(lines[path]) > 350] == []
    assert [(path, line) for path in FILES for line in lines[path] if not line.isascii()] == []


def test_warnings_have_the_class_that_tests_refuse():
    """Warnings of this package are errors in its tests: pass VlpWarning as the category."""
    calls = [
        (path, node)
        for path, tree in trees().items()
        for node in ast.walk(tree)
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
        if casts and scales and getattr(parents[call], "attr", "") not in ("clamp", "clamp_", "clip"):
            lines.append(call.lineno)
    return lines


def test_an_index_made_of_a_product_has_a_limit():
    """Random numbers become indices in `pick`; whoever multiplies on his own must clamp too."""
    assert unclamped(ast.parse("(draws * count).long()")) == [1]
    assert unclamped(ast.parse("(draws * count).to(torch.int64)[0]")) == [1]
    assert unclamped(ast.parse("(draws * count).long().clamp(max=count - 1)")) == []
    found = {str(path.relative_to(ROOT)): unclamped(tree) for path, tree in trees().items()}
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
