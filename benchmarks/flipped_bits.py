"""Flip bits of a run folder, one at a time, and ask what a resume would make of it.

    python -m benchmarks.flipped_bits                 # every bit of small files, 2,000 bits of each large one
    python -m benchmarks.flipped_bits --large 100

A resume reads the lock, the newest whole checkpoint and the metrics, and goes on from these. So a flip is harmless
where all three are read as before, and detected where the resume refuses or warns; anything else would be silent. All
bits are judged by what is read; some of them are also resumed and trained to the end.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import random
import shutil
import signal
import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import torch
from tqdm import tqdm

from benchmarks.dated_report import command_line, write_page
from benchmarks.forked_runs import (
    TIMES,
    Scene,
    differences,
    make_reference,
    run_once,
    set_up,
    warm_up,
    whole_checkpoints,
)
from benchmarks.instruments import Instruments
from benchmarks.quick import add_quick, settle
from benchmarks.tables import markdown
from vlp.data import SampleSet
from vlp.data.shards.cards import load_card
from vlp.ground.provenance import commit
from vlp.ground.types import RecipeError
from vlp.recipe.compose import load_recipe
from vlp.run import checkpoint
from vlp.run.folder import claim_folder
from vlp.run.log import Log

STEPS, EVERY, DIES_AT = 6, 2, 6
SMALL = 20_000  # bytes
METRICS = "metrics.jsonl"
VERDICTS = ("same", "said", "refused", "traceback", "silent")
BROKEN = ("traceback", "silent")


@dataclass(frozen=True)
class Flip:
    """One bit, and what a resume makes of it.

    Args:
        verdict: One of VERDICTS: all is read as before; it warned, and reads what an older state gives; it refused with
            words; it fell over something that nobody had put into words; or none of these.
        detail: What is read otherwise, or the words.
    """

    file: str
    bit: int
    verdict: str
    detail: str


@dataclass(frozen=True)
class Read:
    """What a resume takes from a folder: digests of a checkpoint by name, and the lines of metrics without times."""

    state: dict[str, str]
    lines: list[str]


def main(arguments: Sequence[str] | None = None) -> None:
    """Flip and judge, write a report; leave with 1 where something goes on silently with other values."""
    parsed = settle(build_parser().parse_args(arguments))
    scene = make_scene(parsed.work.absolute() / commit())
    flips = list(flip_all(scene, parsed.small, parsed.large))
    resumed, broken = resume_some(scene, flips, parsed.resumes)
    wrong = [flip for flip in flips if flip.verdict in BROKEN]
    if parsed.to is not None:
        words = command_line("flipped_bits", arguments)
        print(write_report(parsed.to, words, flips, resumed, broken), file=sys.stderr)
    for one in wrong[:50]:
        print(f"{one.verdict}: bit {one.bit} of {one.file}: {one.detail}")
    print("\n".join(broken))
    print(f"{len(flips)} bits, {len(wrong)} broken; {resumed} resumed, {len(broken)} broken")
    sys.exit(1 if wrong or broken or not flips else 0)


def build_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", type=int, metavar="N", help="bits of each small file; default: all")
    parser.add_argument("--large", type=int, default=2000, metavar="N", help="bits of each large file")
    parser.add_argument("--resumes", type=int, default=100, metavar="N", help="flips that are also trained to the end")
    parser.add_argument("--work", type=Path, default=Path("runs/flipped_bits"), help="folder of the run")
    parser.add_argument("--to", type=Path, help="folder of the report, such as benchmarks/reports; default: none")
    add_quick(parser, small=20, large=20, resumes=5)
    return parser


def make_scene(folder: Path) -> Scene:
    """Return a run that was killed, made now or by an earlier start; a copy of it lies under `before`."""
    scene = set_up(folder, ranks=1, steps=STEPS, every=EVERY, keep=2)
    warm_up(scene)
    if not before(scene).exists():
        shutil.rmtree(scene.run, ignore_errors=True)
        run_once(scene, folder / "before.log", Instruments(scene, stops_at=DIES_AT, number=signal.SIGKILL))
        read_as_resume(scene)  # what it tidies up is no business of the flips
        shutil.copytree(scene.run, folder / "half")
        (folder / "half").rename(before(scene))
    return scene


def before(scene: Scene) -> Path:
    """Return the folder of the copy."""
    return scene.folder / "before"


# ---------------------------------------- what a resume reads
def flip_all(scene: Scene, num_small: int | None, num_large: int) -> Iterator[Flip]:
    """Yield the verdict on every bit of small files, or so many, and on so many of large ones."""
    begin_again(scene)
    expected, words = read_as_resume(scene)
    if words:
        raise RuntimeError(f"the folder is not sound before the first flip: {words}")
    states = [{"step": str(found.step), **found.sha256} for found in whole_checkpoints(scene.run)]
    record = scene.folder / "flips.jsonl"
    lines = record.read_text(encoding="utf-8").splitlines() if record.exists() else []
    known = {(one["file"], one["bit"]): Flip(**one) for one in map(json.loads, lines)}
    dice = random.Random(0)
    with record.open("a", encoding="utf-8", buffering=1) as file:
        for path in sorted(path for path in scene.run.rglob("*") if path.is_file()):
            name, content = str(path.relative_to(scene.run)), path.read_bytes()
            size = 8 * len(content)
            wanted = num_small if len(content) <= SMALL else num_large
            bits = range(size) if wanted is None or wanted >= size else sorted(dice.sample(range(size), wanted))
            for bit in tqdm(bits, desc=name, unit="bit", disable=None):
                found = known.get((name, bit))
                if found is None:
                    flip(path, content, bit)
                    found = judge(scene, path, bit, expected, states)
                    file.write(json.dumps(asdict(found)) + "\n")
                    restore_all(scene, path, content)
                yield found


def judge(scene: Scene, path: Path, bit: int, expected: Read, states: Sequence[dict[str, str]]) -> Flip:
    """Return what a resume makes of the folder as it is now.

    Args:
        expected: What it read before.
        states: What the folder's checkpoints hold; after words, any of them may be read, or none.
    """
    name = str(path.relative_to(scene.run))
    try:
        found, words = read_as_resume(scene)
    except RecipeError as error:
        return Flip(name, bit, "refused", str(error)[-200:])
    except Exception as error:
        return Flip(name, bit, "traceback", f"{type(error).__name__}: {error}"[:200])
    if words and found.state in (*states, {}) and set(found.lines) <= set(expected.lines):
        return Flip(name, bit, "said", words[-200:])
    wrong = [
        key for key in sorted(expected.state.keys() | found.state) if expected.state.get(key) != found.state.get(key)
    ]
    wrong += [] if found.lines == expected.lines else ["metrics"]
    return Flip(name, bit, "silent" if wrong else "same", ", ".join(wrong))


def read_as_resume(scene: Scene) -> tuple[Read, str]:
    """Return what a resume takes from the folder, and what it warns of; it changes files as a resume does."""
    recipe = read_recipe(str(scene.recipe))
    with warnings.catch_warnings(record=True) as said, contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("always")
        samples = SampleSet({label: load_card(source.card) for label, source in recipe.data.train.items()})
        claim = claim_folder(recipe, samples, resume=True, allow_changes=False)
        newest = checkpoint.latest(recipe.folder)  # whose bytes are those of its checksums
        state = {} if newest is None else {"step": str(newest.step), **newest.sha256}
        claim.confirm()
        log = Log(
            recipe.folder / "metrics.jsonl",
            num_steps=STEPS,
            first_step=newest.step if newest else 0,
            is_main=True,
            track=None,
        )
        log.close()
    lines = (recipe.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return Read(state, [without_times(line) for line in lines]), "\n".join(str(one.message) for one in said)


read_recipe = cache(load_recipe)


def without_times(line: str) -> str:
    """Return a line of metrics without what depends on the machine's mood."""
    return json.dumps({name: value for name, value in json.loads(line).items() if name not in TIMES})


def flip(path: Path, content: bytes, bit: int) -> None:
    """Write the content with one bit changed."""
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << bit % 8
    path.write_bytes(changed)


def restore_all(scene: Scene, path: Path, content: bytes) -> None:
    """Put back the file, and whatever reading has changed."""
    if names_in(scene.run) != names_in(before(scene)):
        begin_again(scene)
        return
    path.write_bytes(content)
    for name in ("metrics.jsonl", checkpoint.LOCK):
        shutil.copy(before(scene) / name, scene.run / name)


def begin_again(scene: Scene) -> None:
    """Put the whole run folder back."""
    shutil.rmtree(scene.run, ignore_errors=True)
    shutil.copytree(before(scene), scene.run)


def names_in(folder: Path) -> set[str]:
    """Return the names of all that lies in a folder."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


# ---------------------------------------- what a resume computes
def resume_some(scene: Scene, flips: Sequence[Flip], num_resumes: int) -> tuple[int, list[str]]:
    """Train on from some flips of each file and verdict; return how many, and what broke."""
    shutil.rmtree(scene.folder / "reference", ignore_errors=True)
    reference = make_reference(scene.folder / "reference", ranks=1, steps=STEPS)
    kinds: dict[tuple[str, str], list[Flip]] = {}
    for one in flips:
        kinds.setdefault((one.file, one.verdict), []).append(one)
    dice = random.Random(1)
    drawn = [one for kind in kinds.values() for one in dice.sample(kind, min(len(kind), num_resumes // len(kinds)))]
    broken = []
    for one in tqdm(drawn, desc="resumes", unit="flip", disable=None):
        begin_again(scene)
        content = (scene.run / one.file).read_bytes()
        flip(scene.run / one.file, content, one.bit)
        ended = run_once(scene, scene.folder / "resume.log")
        problems = differences(reference, scene.run, finished=True) if ended.finished else []
        if one.file == METRICS and one.verdict == "said":  # that the damaged line is left out
            problems = [
                problem for problem in problems if problem != f"metrics of the steps {_steps_without(content, one.bit)}"
            ]
        if ended.hung or (one.verdict in ("refused", "traceback")) != (not ended.finished):
            problems.append(f"ended with {ended.codes} though the verdict was '{one.verdict}'")
        broken += [f"bit {one.bit} of {one.file}: {problem}" for problem in problems]
    return len(drawn), broken


def _steps_without(metrics: bytes, bit: int) -> list[int]:
    """Return the steps of a finished run's metrics when the line of a bit, or the two that it parts, are gone."""
    which = metrics[: bit // 8].count(b"\n")
    lost = metrics.splitlines()[which : which + 1 + (metrics[bit // 8] == ord("\n"))]
    return sorted(set(range(1, STEPS + 1)) - {int(json.loads(line)["step"]) for line in lost})


def write_report(folder: Path, command: str, flips: Sequence[Flip], resumed: int, broken: Sequence[str]) -> Path:
    """Write what was found as a page and as JSON; return the page."""
    count = Counter((flip.file, flip.verdict) for flip in flips)
    table = [["file", "bits", *VERDICTS]]
    for file in dict.fromkeys(flip.file for flip in flips):
        cells = [f"{count[file, verdict]:,}" for verdict in VERDICTS]
        table.append([f"`{file}`", f"{sum(count[file, verdict] for verdict in VERDICTS):,}", *cells])
    details = Counter(f"{flip.verdict}: {flip.detail[:60]}" for flip in flips if flip.verdict in BROKEN)
    sections = [
        f"{len(flips):,} bits were flipped, one at a time. `same`: a resume reads what it read before; `said`: it "
        "warns and goes on from what is whole; `refused`: it ends with words; `traceback`: it ends with none; "
        "`silent`: none of these. "
        f"{resumed:,} of the flips were also resumed and trained to the end; {len(broken):,} broke a promise.",
        markdown(table),
    ]
    if details:
        sections.append("\n".join(f"- {number:,} x {name}" for name, number in details.most_common()))
    if broken:
        sections += ["## Broken", "\n".join(f"- {one}" for one in broken)]
    found = {
        "bits": [{"file": file, "verdict": verdict, "bits": bits} for (file, verdict), bits in count.items()],
        "broken": [asdict(flip) for flip in flips if flip.verdict in BROKEN],
        "resumed": list(broken),
    }
    return write_page(folder, "flipped-bits", "Flipped bits", command, sections, found)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
