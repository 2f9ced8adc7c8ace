"""The last sections: what the model finds, what was wrong with the data, and what would repeat the run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from vlp.ground.yaml import yaml_on_one_line
from vlp.html.frame import gap, section, table
from vlp.html.words import text
from vlp.report.gallery import SEED, SHOWN, Gallery, Hit, Shown
from vlp.report.reading import Record, RecordedRun


def retrievals(found: Gallery | str) -> str:
    """Show queries and the images the model puts first."""
    title = "Gallery"
    if isinstance(found, str):
        return section(title, "", gap(f"No gallery: {found}"))
    note = (
        f"Text to image on {text(found.task)}, {text(found.scope)}, weights <code>{text(found.weights)}</code> of step "
        f'{found.step}. No hand in the choice: seed {SEED}. <span class="right-key">Framed</span>: the right image.'
    )
    groups = "".join(
        f'<h3>{text(rule)}</h3><div class="answers">{"".join(map(_answer, answers))}</div>'
        for rule, answers in found.groups
    )
    return section(title, note, groups)


def _answer(answer: Shown) -> str:
    where = "right image first" if answer.rank == 1 else f"right image at {answer.rank}"
    hits = "".join(_hit(hit, is_apart=place >= SHOWN) for place, hit in enumerate(answer.hits))
    good = " good" if answer.rank == 1 else ""
    return (
        f'<article class="answer"><h4><q>{text(answer.query)}</q> <span class="rank{good}">{where}</span></h4>'
        f"<ol>{hits}</ol></article>"
    )


def _hit(hit: Hit, *, is_apart: bool) -> str:
    kinds = " ".join(kind for kind, is_so in (("right", hit.is_right), ("apart", is_apart)) if is_so)
    said = f"{hit.rank}: {hit.caption} (cosine {hit.score:.3f}{', right' if hit.is_right else ''})"
    return (
        f'<li class="{kinds}"><img src="data:image/webp;base64,{hit.thumbnail}" '
        f'alt="{text(said)}" title="{text(said)}"><span>{hit.rank}</span></li>'
    )


def data(run: RecordedRun) -> str:
    """List the training data with their checksums, and bad samples by source and reason."""
    sums = run.provenance.get("data") or {}
    sources = run.settings.get("data", {}).get("train", {})
    facts = "".join(
        f"<div><dt>{text(label)}</dt><dd>card {text(source.get('card', label))}, "
        f"checksum <code>{text(sums.get(label, 'unknown'))}</code></dd></div>"
        for label, source in sources.items()
    )
    note = "Training pairs, and samples that could not be used (each is listed in quarantine.jsonl)."
    return section("Data", note, f'<dl class="checks">{facts}</dl>{_faults(run)}')


def _faults(run: RecordedRun) -> str:
    if not run.faults:
        met = run.last("bad_samples")
        if met:
            return gap(f"{met:.0f} bad samples were counted, but none is listed in quarantine.jsonl.")
        return gap("No bad sample was met." if run.lines else "Nothing was read yet.")
    counts = run.faults.most_common()
    rows = [(source, reason.replace("_", " "), str(number)) for (source, reason), number in counts]
    return table(("source", "reason", "samples"), rows)


def recipe(run: RecordedRun) -> str:
    """Print the recipe, the versions and the checksums."""
    versions = run.provenance.get("versions", {})
    rows = "".join(f"<div><dt>{text(name)}</dt><dd>{text(version)}</dd></div>" for name, version in versions.items())
    facts = f'<dl class="versions">{rows}</dl>' if rows else gap("The lock file names no versions.")
    lines = "\n".join(yaml_lines(run.settings))
    checks = "".join(_provenance(record) for record in run.newest().values() if record.get("metrics"))
    sums = f'<details><summary>Records of the evaluations</summary><dl class="checks">{checks}</dl></details>'
    body = f"{facts}<details open><summary>Resolved recipe</summary><pre>{text(lines)}</pre></details>"
    note = "Everything that decides what the run computes; training from it repeats the run."
    return section("Recipe", note, body + (sums if checks else ""))


def yaml_lines(mapping: Mapping[str, Any], depth: int = 0) -> Iterator[str]:
    """Write a mapping as YAML with lists on one line."""
    for key, value in mapping.items():
        if isinstance(value, Mapping) and value:
            yield f"{'  ' * depth}{yaml_on_one_line(key)}:"
            yield from yaml_lines(value, depth + 1)
        else:
            yield f"{'  ' * depth}{yaml_on_one_line(key)}: {yaml_on_one_line(value)}"


def _provenance(record: Record) -> str:
    facts = [
        ("version", record.get("version")),
        ("data sha256", record.get("data_sha256")),
        ("prompts sha256", record.get("prompts_sha256")),
        ("commit", record.get("commit")),
        ("date", record.get("date")),
    ]
    told = "<br>".join(f"{name} <code>{text(value)}</code>" for name, value in facts if value is not None)
    return f"<div><dt>{text(record['task'])}</dt><dd>{told}</dd></div>"
