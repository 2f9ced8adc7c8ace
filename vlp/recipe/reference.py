"""What the registered terms are: a line each, or one in full."""

from __future__ import annotations

import inspect
import json
from contextlib import suppress
from typing import Any

from vlp.ground.registry import settings_of
from vlp.objectives.base import Term, terms

PREFACE = """\
Made by `vlp describe --page` from the documentation of the terms; `vlp describe TERM` prints one entry. Letters:
x_i and y_i are the embeddings of image and text i, z_ij = scale * x_i.y_j, lse is log-sum-exp, B the pairs in a batch.
Means over i are over the whole job's batch, and "in both directions" is the mean of rows and columns of z. A sample
that stands twice in a batch is no negative of itself: j skips the other rows of sample i."""


def describe_all() -> str:
    """Return every term with the first line of its documentation."""
    width = max(len(name) for name in terms)
    return "\n".join(f"{name:{width}}  {_documentation(name).splitlines()[0]}" for name in terms)


def describe(name: str) -> str:
    """Return what a term computes, where it comes from, its settings, and what it needs.

    Raises:
        RecipeError: There is no such term; names the nearest.
    """
    parts = [f"{name}: {_documentation(name)}", f"In a recipe:\n    objective: {{{name}: {{{_defaults(name)}}}}}"]
    with suppress(TypeError):  # a setting without a default decides them
        parts.append(_properties(terms.build(name, {})))
    return "\n\n".join(parts)


def describe_page() -> str:
    """Return all terms as one page of Markdown."""
    entries = [f"## {name}\n\n```text\n{describe(name)}\n```" for name in terms]
    return "\n\n".join(["# Terms", PREFACE, *entries]) + "\n"


def _documentation(name: str) -> str:
    return inspect.getdoc(terms[name]) or "(undocumented)"


def _defaults(name: str) -> str:
    part: Any = terms[name]
    fields = settings_of(part).model_fields.items()
    shown = (key if field.is_required() else f"{key}: {json.dumps(field.get_default())}" for key, field in fields)
    return ", ".join(shown)


def _properties(term: Term) -> str:
    lines = [f"Reads: {', '.join(term.requests)}"] if term.requests else []
    if term.needs:
        lines.append(f"Needs: {', '.join(sorted(term.needs))}")
    if term.min_pairs > 1:
        lines.append(f"Fewest pairs: {term.min_pairs}")
    if term.reads_views:
        lines.append("Reads further views of images and texts (data.views, data.text_views, strategies.image_views)")
    if term.fixed_scale_advised:
        lines.append("A learnable scale runs to its largest value under this term: prefer model.learn_scale=false")
    if not term.gradient_is_slope:
        lines.append("Weights in the formula carry no gradient")
    return "\n".join(lines)
