"""Tables in Markdown, and numbers that are never shown better than they are."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from statistics import median

import numpy as np

from vlp.ground import tabular

Table = list[list[str]]


def markdown(table: Table) -> str:
    """Lay out a table, its first row being the heading."""
    return tabular.markdown(table, right=range(1, len(table[0])))


def percent(share: float) -> str:
    """Return a share in percent with one digit, cut and never rounded up."""
    return f"{math.floor(round(share * 1000, 9)) / 10:.1f} %"


def ratio(over: Sequence[float], under: Sequence[float]) -> float:
    """Return the ratio of two medians."""
    return median(over) / median(under)


def spread(values: Sequence[float]) -> str:
    """Return median, tenth and ninetieth percentile."""
    low, high = np.percentile(values, [10, 90])
    return f"{median(values):.2f} ({low:.2f} .. {high:.2f})"


def listed(values: dict[str, str]) -> str:
    """Return `name value` pairs."""
    return ", ".join(f"{name} {value}" for name, value in values.items())


def beside(versions: Mapping[str, str]) -> str:
    """Say which open_clip a page compares with; nothing where it compares with none."""
    name = versions.get("open_clip_torch")
    return f" Beside open_clip {name}." if name else ""


def slug(text: str) -> str:
    """Return lower-case words joined by hyphens, for a file name."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
