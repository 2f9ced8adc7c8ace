"""Strict YAML 1.2: `5e-4` is a number, `no` is a word, and a key that stands twice is an error."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from vlp.types import RecipeError


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML file.

    Raises:
        RecipeError: Not YAML, not a mapping, or a key stands twice; names the file and the line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path}: not text in UTF-8 ({error})") from error
    mapping = parse_yaml(text, str(path))
    if mapping is None:
        return {}
    if not isinstance(mapping, dict):
        raise RecipeError(f"{path}: expected `key: value` lines at the top level")
    return mapping


def parse_yaml(text: str, where: str) -> Any:
    """Return the value of a YAML text; `where` names its source in errors."""
    try:
        return YAML(typ="safe", pure=True).load(text)
    except DuplicateKeyError as error:
        raise RecipeError(f"{where}: line {_line(error)}: {str(error.problem).split(' with value')[0]}") from error
    except MarkedYAMLError as error:
        raise RecipeError(f"{where}: line {_line(error)}: {error.problem or 'not valid YAML'}") from error
    except (YAMLError, ValueError, RecursionError) as error:
        raise RecipeError(f"{where}: not valid YAML ({str(error).splitlines()[0]})") from error


def write_yaml(value: Any) -> str:
    """Return block-style YAML text of plain mappings, lists, numbers and strings."""
    writer: Any = YAML(typ="safe", pure=True)
    writer.default_flow_style = False
    writer.width = 120
    writer.sort_base_mapping_type_on_output = False
    buffer = io.StringIO()
    writer.dump(value, buffer)
    return buffer.getvalue()


def _line(error: MarkedYAMLError) -> int:
    return error.problem_mark.line + 1 if error.problem_mark else 0
