"""CSV and TSV as people write them: one broken line costs one row."""

from __future__ import annotations

import codecs
import csv
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from vlp.ground.types import RecipeError

SEPARATORS = (",", ";", "\t", "|")
UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
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


class _Text(NamedTuple):
    """A line before it is divided into fields."""

    number: int
    text: str
    fault: str = ""


class _OpenQuoteError(Exception):
    """A quote that does not close."""


def separator_of(path: Path, encoding: str = "") -> str:
    """Return what separates the fields of a table: tabs in a TSV, else the first of SEPARATORS in its first line.

    Raises:
        RecipeError: It cannot be read.
    """
    if path.suffix.lower() == ".tsv":
        return "\t"
    head = next((line.text for line in _lines(path, encoding)), "")
    return next((separator for separator in SEPARATORS if separator in head), ",")


def has_columns(path: Path) -> bool:
    """Whether the first line of a text names several columns, as that of a table does."""
    head = next((line.text for line in _lines(path)), "")
    return any(separator in head for separator in SEPARATORS)


def read_delimited(path: Path, separator: str, encoding: str = "") -> Iterator[Line]:
    """Yield the records of a table, the header first; what cannot be read is a record with a fault.

    A TSV has no quotes. Elsewhere a field in quotes may hold separators, doubled quotes and line ends; a quote that
    never closes, or closes within a field, costs its own line and no other.

    Args:
        encoding: As Python names it; empty for UTF-8, or UTF-16 where the file begins as such.

    Raises:
        RecipeError: The file cannot be read.
    """
    quoting: Literal[0, 3] = csv.QUOTE_NONE if path.suffix.lower() == ".tsv" else csv.QUOTE_MINIMAL
    csv.field_size_limit(sys.maxsize)
    lines = _lines(path, encoding)
    waiting: deque[_Text] = deque()
    width = 0
    while line := (waiting.popleft() if waiting else next(lines, None)):
        if not line.fault and not line.text.strip():
            continue
        taken = [line]
        fault = line.fault
        if not fault:
            try:
                further = _further(taken, waiting, lines)
                fields = next(csv.reader(further, delimiter=separator, quoting=quoting, strict=True))
                fault = _wrong_number(fields, width)
            except (csv.Error, _OpenQuoteError) as error:
                fault = "a quote that does not close" if len(taken) > 1 else str(error)
        if fault:
            waiting.extendleft(reversed(taken[1:]))
            yield Line(line.number, (), fault)
            continue
        is_padded = separator == "|" or width == 0
        width = width or len(fields)
        yield Line(line.number, tuple(field.strip() if is_padded else field for field in fields))


def _further(taken: list[_Text], waiting: deque[_Text], lines: Iterator[_Text]) -> Iterator[str]:
    """Yield the first line of a record, and as many further ones as its quotes ask for.

    Args:
        taken: Holds the first line; further ones are put there.
        waiting: Lines that come before `lines`.

    Raises:
        _OpenQuoteError: A line cannot be read, or the record grows too long.
    """
    yield taken[0].text
    while line := (waiting.popleft() if waiting else next(lines, None)):
        taken.append(line)
        if line.fault or sum(len(each.text) for each in taken) > LONGEST_RECORD:
            raise _OpenQuoteError
        yield line.text


def _wrong_number(fields: Sequence[str], width: int) -> str:
    if not width or len(fields) == width:
        return ""
    way = "; put fields with a separator in them into quotes" if len(fields) > width else ""
    return f"{len(fields)} fields under {width} names{way}"


def _lines(path: Path, encoding: str = "") -> Iterator[_Text]:
    try:
        with path.open("rb") as file:
            is_utf16 = file.read(2) in UTF16
        if is_utf16 and not encoding:
            with path.open(encoding="utf-16", newline="", errors="replace") as file:
                yield from (_Text(number, line) for number, line in enumerate(file, 1))
            return
        with path.open("rb") as file:
            for number, data in enumerate(file, 1):
                try:
                    yield _Text(number, data.decode(encoding or ("utf-8-sig" if number == 1 else "utf-8")))
                except UnicodeDecodeError as error:
                    why = f"not {encoding or 'UTF-8'} ({error.reason} at byte {error.start})"
                    yield _Text(number, "", why if encoding else f"{why}; say --encoding cp1252 if it is from Windows")
    except OSError as error:
        raise RecipeError(f"{path}: {error.strerror}") from error


def check_encoding(name: str) -> str:
    """Return the name of an encoding that marks line ends as ASCII does.

    Raises:
        RecipeError: There is none of that name.
    """
    try:
        if not name or "\n".encode(name) == b"\n":
            return name
    except (LookupError, UnicodeError) as error:
        raise RecipeError(f"--encoding {name}: there is no such encoding; there are cp1252, latin-1, gbk...") from error
    raise RecipeError(f"--encoding {name}: has line ends of its own; save the table as UTF-8")
