"""CSV and TSV as people write them: one broken line costs one row."""

from __future__ import annotations

import codecs
import csv
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vlp.types import RecipeError

SEPARATORS = (",", ";", "\t", "|")
BOMS = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16", codecs.BOM_UTF8: "utf-8-sig"}
LONGEST_RECORD = 200_000  # letters; a quote that is open for longer was never meant to be one


@dataclass(frozen=True)
class Line:
    """A line of a file, or the first of a record of several.

    Args:
        number: Its number; the first is 1.
        fields: What stands in it; empty where `fault` says what is wrong.
    """

    number: int
    fields: tuple[str, ...]
    fault: str = ""


class _OpenQuoteError(Exception):
    """A quote that does not close."""


def separator_of(path: Path) -> str:
    """Return what separates the fields of a table: tabs in a TSV, else the first of SEPARATORS in its first line.

    Raises:
        RecipeError: It cannot be read.
    """
    if path.suffix.lower() == ".tsv":
        return "\t"
    head = next((text for _, text, _ in _lines(path)), "")
    return next((separator for separator in SEPARATORS if separator in head), ",")


def has_columns(path: Path) -> bool:
    """Whether the first line of a text names several columns, as that of a table does."""
    head = next((text for _, text, fault in _lines(path) if not fault), "")
    return any(separator in head for separator in SEPARATORS)


def read_delimited(path: Path, separator: str) -> Iterator[Line]:
    """Yield the records of a table, the header first; what cannot be read is a record with a fault.

    A TSV has no quotes. Elsewhere a field in quotes may hold separators, doubled quotes and line ends; a quote that
    never closes, or closes within a field, costs its own line and no other.

    Raises:
        RecipeError: The file cannot be read.
    """
    quoting: Literal[0, 3] = csv.QUOTE_NONE if path.suffix.lower() == ".tsv" else csv.QUOTE_MINIMAL
    csv.field_size_limit(sys.maxsize)
    lines = _lines(path)
    waiting: deque[tuple[int, str, str]] = deque()
    width = 0
    while line := (waiting.popleft() if waiting else next(lines, None)):
        number, text, fault = line
        if fault or not text.strip():
            if fault:
                yield Line(number, (), fault)
            continue
        taken = [line]

        def feed(taken: list[tuple[int, str, str]] = taken) -> Iterator[str]:
            yield taken[0][1]
            letters = 0
            while more := (waiting.popleft() if waiting else next(lines, None)):
                taken.append(more)
                letters += len(more[1])
                if more[2] or letters > LONGEST_RECORD:
                    raise _OpenQuoteError
                yield more[1]

        try:
            fields = next(csv.reader(feed(), delimiter=separator, quoting=quoting, strict=True))
        except (csv.Error, _OpenQuoteError, StopIteration, RuntimeError) as error:
            fault = "a quote that does not close" if len(taken) > 1 else str(error)
        else:
            fault = _wrong_number(fields, width)
        if fault:
            waiting.extendleft(reversed(taken[1:]))
            yield Line(number, (), fault)
            continue
        is_padded = separator == "|" or width == 0
        width = width or len(fields)
        yield Line(number, tuple(field.strip() if is_padded else field for field in fields))


def _wrong_number(fields: Sequence[str], width: int) -> str:
    if not width or len(fields) == width:
        return ""
    way = "; put fields with a separator in them into quotes" if len(fields) > width else ""
    return f"{len(fields)} fields under {width} names{way}"


def _lines(path: Path) -> Iterator[tuple[int, str, str]]:
    """Yield number, text and fault of each line."""
    try:
        with path.open("rb") as file:
            head = file.read(4)
        encoding = next((name for bom, name in BOMS.items() if head.startswith(bom)), "utf-8")
        if encoding == "utf-16":
            with path.open(encoding=encoding, newline="", errors="replace") as file:
                yield from ((number, line, "") for number, line in enumerate(file, 1))
            return
        with path.open("rb") as file:
            for number, data in enumerate(file, 1):
                try:
                    yield number, data.decode("utf-8-sig" if number == 1 else "utf-8"), ""
                except UnicodeDecodeError as error:
                    yield number, "", f"not UTF-8 ({error.reason} at byte {error.start})"
    except (OSError, UnicodeError) as error:
        raise RecipeError(f"{path}: {error}") from error
