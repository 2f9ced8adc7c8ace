"""Captions in other languages."""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import numpy as np

from vlp.curate.facts.facts import Number
from vlp.curate.facts.gather import FactTable
from vlp.curate.facts.view import View
from vlp.curate.rules.base import Flags, rules
from vlp.ground.ranges import Share
from vlp.ground.registry import nearest
from vlp.ground.types import RecipeError


@rules.register("language")
class Language:
    """Drop captions that are surely in another language.

    Two or three words rarely tell: they get a low probability, and stay.

    Args:
        languages: Codes such as `en` and `de` of those that stay.
        sure: Least probability of another language for a caption to go.
        among: Codes of all languages that the set may hold; of the 139 known ones, some are mistaken for English.
    """

    def __init__(self, *, languages: tuple[str, ...] = ("en",), sure: Share = 0.7, among: tuple[str, ...] = ()):
        if not languages:
            raise RecipeError("languages: none is named, so that no caption would stay; name some")
        known = _identifier(()).labels
        for code in (*languages, *among):
            if code not in known:
                raise RecipeError(f"unknown language '{code}'{nearest(code, known)} (known: {', '.join(known)})")
        if among and not set(languages) < set(among):
            raise RecipeError(f"among: must hold {', '.join(languages)} and at least one other language")
        expected = tuple(sorted(set(among)))
        fields = [("code", "U8"), ("probability", "f4")]
        self.fact = Number("-".join(("language", *expected)), fields, partial(_language, expected))
        self.facts = (self.fact,)
        self.languages = languages
        self.sure = sure

    def drops(self, table: FactTable, alive: Flags) -> Flags:
        """Compare the likeliest language and its probability."""
        found = table.values(self.fact)
        return ~np.isin(found["code"], self.languages) & (found["probability"] >= self.sure)

    def reason(self, table: FactTable, number: int) -> str:
        """Name the language."""
        code, probability = table.value(self.fact, number)
        return f"{code} with probability {probability:.2f}"


def _language(among: tuple[str, ...], view: View) -> tuple[str, float]:
    code, probability = _identifier(among).classify(view.caption)
    return code, probability


@cache
def _identifier(among: tuple[str, ...]) -> Any:
    try:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier
    except ImportError as error:
        raise RecipeError("needs the package py3langid: pip install 'vlp[filter]', or leave the rule out") from error
    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    identifier.set_languages(among or None)
    return identifier
