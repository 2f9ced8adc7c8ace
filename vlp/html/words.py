"""Numbers and names as people read them."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from typing import Any

MINUS, THIN = "\N{MINUS SIGN}", "\N{NARROW NO-BREAK SPACE}"
ARROW, DASH, DOT, TIMES = "\N{RIGHTWARDS ARROW}", "\N{EN DASH}", "\N{MIDDLE DOT}", "\N{MULTIPLICATION SIGN}"
SHARES = re.compile(r"(^|_)(acc\d*|recall|map|auc|accuracy|overlap|f1|data_wait|device_idle)(@|_|\d|$)", re.IGNORECASE)
NAMES = {
    "acc1": "top-1 accuracy",
    "acc5": "top-5 accuracy",
    "acc1_strict": "top-1 accuracy, ties count as wrong",
    "mean_per_class_recall": "mean per-class recall",
    "auc": "AUC: a matching pair scores more",
    "overlap": "overlap of the two distributions",
    "modality_accuracy": "linear probe tells image from text",
    "mean_cosine_cross": "mean cosine, image to text",
    "mean_cosine_image": "mean cosine, image to image",
    "mean_cosine_text": "mean cosine, text to text",
    "cross_uniformity": "uniformity, image to text",
    "uniformity_image": "uniformity, image",
    "uniformity_text": "uniformity, text",
    "effective_rank_image": "effective rank, image",
    "effective_rank_text": "effective rank, text",
    "gap_mmd": "modality gap as MMD",
    "positive_mean": "cosine of matching pairs",
    "negative_mean": "cosine of all other pairs",
}


def text(value: Any) -> str:
    """Escape anything for HTML text and attributes."""
    return html.escape(str(value), quote=True)


def is_share(name: str) -> bool:
    """Whether a metric is a share of one, better read as a percentage."""
    return SHARES.search(name) is not None


def metric_name(name: str) -> str:
    """Spell out the name of a metric."""
    if name in NAMES:
        return NAMES[name]
    spelled = name.replace("image_to_text", f"image {ARROW} text,").replace("text_to_image", f"text {ARROW} image,")
    return spelled.replace("@", " at ").replace("_", " ").replace(", ,", ",").strip()


def number(value: float | None) -> str:
    """Three significant digits, thousands apart; the page keeps full precision in `data` elements."""
    if value is None:
        return "none"
    size = abs(value)
    if size >= 999.5:
        plain = f"{size:,.0f}".replace(",", THIN)
    elif size and size < 1e-3:
        digits, _, power = f"{size:.1e}".partition("e")
        plain = f"{digits}e{int(power)}".replace("-", MINUS)
    else:
        plain = f"{size:.3g}" if size < 100 else f"{size:.0f}"
    return f"{MINUS if value < 0 else ''}{plain}"


def percent(value: float) -> str:
    """A share as a percentage with one decimal."""
    return f"{100 * value:.1f}{THIN}%"


def quantity(name: str, value: float | None) -> str:
    """A value of a metric as its name asks for."""
    return percent(value) if value is not None and is_share(name) else number(value)


def exact(name: str, value: float) -> str:
    """A value that carries its full precision for programs."""
    return f'<data value="{value!r}">{quantity(name, value)}</data>'


def interval(name: str, metric: Mapping[str, float | None]) -> str:
    """The 95 % interval of a metric; empty where it has none."""
    low, high = metric.get("low"), metric.get("high")
    if low is None or high is None:
        return ""
    if is_share(name):
        return f"{100 * low:.1f}{DASH}{100 * high:.1f}{THIN}%"
    return f"{number(low)} to {number(high)}"


def short(value: float, digits: int = 4) -> str:
    """A tick label."""
    size = abs(value)
    for limit, unit, suffix in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if size >= limit:
            return f"{value / unit:.{digits}g}{suffix}".replace("-", MINUS)
    if 0 < size < 2e-3:
        mantissa, _, power = f"{value:.{digits - 2}e}".partition("e")
        return f"{float(mantissa):g}e{int(power)}".replace("-", MINUS)
    return f"{value:.{digits}g}".replace("-", MINUS)


def ticks(values: Sequence[float]) -> list[str]:
    """Labels of an axis, with as few digits as tell them apart."""
    found: list[str] = []
    for digits in range(4, 9):
        found = [short(value, digits) for value in values]
        if len(set(found)) == len(found):
            break
    return found


def duration(seconds: float) -> str:
    """Seconds as hours, minutes or seconds."""
    if seconds >= 5400:
        return f"{seconds / 3600:.1f}{THIN}h"
    return f"{seconds / 60:.1f}{THIN}min" if seconds >= 90 else f"{seconds:.0f}{THIN}s"


def count(value: float) -> str:
    """A large count in words of at most four characters and a unit."""
    for limit, unit in ((1e9, "billion"), (1e6, "million")):
        if value >= limit:
            return f"{value / limit:.3g} {unit}"
    return number(value)
