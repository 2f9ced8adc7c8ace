"""Strict YAML 1.2: `5e-4` is a number, `no` is a word, and a key that stands twice is an error."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from vlp.ground.errors import first_line
from vlp.ground.types import RecipeError

DEEPEST = 50  # levels of settings in settings
MOST_ENTRIES = 1_000_000


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file.

    Raises:
        RecipeError: Not YAML, not a mapping, or a key stands twice; names the file and the line.
    """
    return parse_settings(read_text(path), str(path))


def read_text(path: Path) -> str:
    """Return the text of a file that people write.

    Raises:
        RecipeError: It cannot be read, or is not text.
    """
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: not text in UTF-8 ({error})") from error
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read ({error})") from error


def parse_settings(text: str, where: str) -> dict[str, Any]:
    """Return the mapping in a YAML text; `where` names its source in errors.

    Raises:
        RecipeError: Not YAML, not a mapping, or a key stands twice.
    """
    mapping = parse_yaml(text, where)
    if mapping is None:
        return {}
    if not isinstance(mapping, dict):
        raise RecipeError(f"{where}: expected `key: value` lines at the top level")
    return mapping


def parse_yaml(text: str, where: str) -> Any:
    """Return the value of a YAML text; `where` names its source in errors.

    Raises:
        RecipeError: Not YAML, or nothing that settings could be: endless, of millions of entries, or too deep.
    """
    try:
        value = YAML(typ="safe", pure=True).load(text)
        _count(value, where, 0, {})
        return value
    except DuplicateKeyError as error:
        raise RecipeError(f"{where}: line {_line(error)}: {str(error.problem).split(' with value')[0]}") from error
    except MarkedYAMLError as error:
        raise RecipeError(f"{where}: line {_line(error)}: {error.problem or 'not valid YAML'}") from error
    except (YAMLError, ValueError, RecursionError) as error:
        raise RecipeError(f"{where}: not valid YAML ({first_line(error)})") from error


def write_yaml(value: Any) -> str:
    """Return block-style YAML text of plain mappings, lists, numbers and strings."""
    return _written(value, flow=False, width=120)


def yaml_on_one_line(value: Any) -> str:
    """Return a value as YAML that can stand in a line, behind a key or as one, with quotes where it needs them."""
    return _written([value], flow=True, width=sys.maxsize).strip()[1:-1]


def _written(value: Any, *, flow: bool, width: int) -> str:
    writer: Any = YAML(typ="safe", pure=True)
    writer.default_flow_style = flow
    writer.width = width
    writer.sort_base_mapping_type_on_output = False
    buffer = io.StringIO()
    writer.dump(value, buffer)
    return buffer.getvalue()


def _count(value: Any, where: str, depth: int, known: dict[int, int]) -> int:
    """Return how many entries a value has once its aliases are written out.

    Raises:
        RecipeError: There are too many, too deep ones, or text that no file can hold.
    """
    if isinstance(value, str):
        if "\0" in value or any("\ud800" <= letter <= "\udfff" for letter in value):
            raise RecipeError(f"{where}: {value[:20]!r} holds a character that no text may have")
        return 1
    if not isinstance(value, dict | list | set):
        return 1
    if depth > DEEPEST:
        raise RecipeError(f"{where}: more than {DEEPEST} levels deep, or an alias inside of what it stands for")
    if id(value) not in known:
        parts = [*value, *value.values()] if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_count(part, where, depth + 1, known) for part in parts)
    if known[id(value)] > MOST_ENTRIES:
        raise RecipeError(f"{where}: more than {MOST_ENTRIES:,} entries once its aliases are written out")
    return known[id(value)]


def _line(error: MarkedYAMLError) -> int:
    return error.problem_mark.line + 1 if error.problem_mark else 0
