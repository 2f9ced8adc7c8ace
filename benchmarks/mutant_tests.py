"""Which tests belong to which file: those of its name, and a few rows for what has none or several."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

STEP = (
    "vlp/step/*.py",
    "vlp/run/clock.py",
    "vlp/train.py",
    "vlp/run/assemble.py",
    "vlp/strategies/*.py",
)
ROOMS: dict[str, tuple[str, ...]] = {
    "pairs": ("vlp/pairs/*.py",),
    "objectives": ("vlp/objectives/*.py",),
    "step": STEP,
    "checkpoints": ("vlp/run/checkpoint.py", "vlp/run/state.py", "vlp/run/folder.py", "vlp/run/log.py"),
    "data": ("vlp/data/*.py",),
}
PAIRS = (
    "tests/pairs/test_walk.py tests/pairs/test_pairs.py tests/pairs/test_products_at.py",
    "tests/pairs/test_properties.py",
    "tests/objectives/test_contract.py -k 'clip or cwcl or groco'",
    "tests/pairs/test_processes.py",
)
FUSED = ("tests/pairs/test_triton.py", "tests/pairs/test_fused_widths.py", "tests/pairs/test_twins.py -k triton")
RUNS = ("tests/test_golden.py", "tests/test_train.py -m 'not processes' -k 'not compiled'")
SHARDS = (
    "tests/data/test_faults.py",
    "tests/data/test_remote.py",
    "tests/data/test_cards.py tests/data/test_shards.py tests/data/test_tar.py",
)
TEXTS = ("tests/data/test_captions.py tests/data/test_negatives.py tests/data/test_text_augment.py",)
TERMS = "tests/objectives/test_contract.py tests/objectives/test_behaviour.py tests/objectives/test_twins.py"
# What a file is tested by beside the tests of its name; each text is one call of pytest, the quickest first.
ROWS: dict[str, tuple[str, ...]] = {
    "vlp/pairs/engine/triton_kernels.py": FUSED,
    "vlp/pairs/engine/triton_tiles.py": FUSED,
    "vlp/pairs/engine/fused_plan.py": FUSED,
    "vlp/pairs/engine/fused.py": FUSED,
    "vlp/pairs/engine/*sums.py": FUSED,
    "vlp/pairs/*.py": PAIRS,
    "vlp/pairs/pairs.py": (
        "tests/objectives/test_mann_whitney.py tests/objectives/test_alignment.py",
        "tests/pairs/test_twins.py -k 'not triton'",
        "tests/objectives/test_twins.py -k processes",
    ),
    "vlp/objectives/needs.py": ("tests/objectives/test_contract.py -k clip",),
    "vlp/objectives/ask.py": ("tests/objectives/test_widths.py", "tests/objectives/test_head.py"),
    "vlp/objectives/base.py": (f"{TERMS} -k 'clip or siglip'", "tests/objectives/test_behaviour.py"),
    "vlp/objectives/projections/*.py": ("tests/objectives/test_head.py",),
    "vlp/objectives/schedule.py": ("tests/test_golden.py",),
    "vlp/step/*.py": ("tests/step -m 'not processes'", *RUNS),
    "vlp/run/clock.py": RUNS,
    "vlp/train.py": (*RUNS, "tests/test_train.py -m processes", "tests/test_mixture_run.py"),
    "vlp/run/assemble.py": (*RUNS, "tests/test_sharded.py -k one_process", "tests/test_recipes.py"),
    "vlp/strategies/*.py": ("tests/strategies -m 'not processes'", "tests/test_golden.py"),
    "vlp/run/checkpoint.py": (*RUNS, "tests/run/test_checkpoint_run.py -m 'not processes'"),
    "vlp/run/state.py": (*RUNS, "tests/run/test_older_runs.py tests/run/test_checkpoint_run.py"),
    "vlp/run/folder.py": RUNS,
    "vlp/run/micro_batch_count.py": ("tests/step/test_kept_bytes.py tests/plan/test_holding.py",),
    "vlp/data/*.py": ("tests/data/test_stream.py tests/data/test_samples.py",),
    "vlp/data/processes/pool.py": ("tests/data/test_pool.py",),
    "vlp/data/processes/worker.py": ("tests/data/test_pool.py",),
    "vlp/data/batches.py": ("tests/data/test_pool.py",),
    "vlp/data/order/*.py": ("tests/data/test_order.py", "tests/data/test_windows.py tests/data/test_mixture.py"),
    "vlp/data/shards/*.py": SHARDS,
    "vlp/data/shards/homes.py": ("tests/data/test_object_stores.py",),
    "vlp/data/pixels/*.py": ("tests/data/test_views.py tests/data/test_decode.py",),
    "vlp/data/texts/*.py": TEXTS,
}


def files_of(room: str, root: Path) -> list[str]:
    """Return the files of a room that hold more than a docstring, from the root of the project."""
    found = {str(path.relative_to(root)) for path in (root / "vlp").rglob("*.py") if path.name != "__init__.py"}
    return sorted(path for path in found if any(fnmatch(path, pattern) for pattern in ROOMS[room]))


def calls_of(path: str, root: Path) -> list[str]:
    """Return what tests a file: the arguments of one pytest after the other."""
    found = [
        *_of_its_name(path, root),
        *(_of_a_part(path, root) if "/objectives/shared/" in path else _of_a_term(path, root)),
    ]
    for pattern, calls in ROWS.items():
        found += calls if fnmatch(path, pattern) else ()
    return list(dict.fromkeys(found))


def _of_its_name(path: str, root: Path) -> Iterator[str]:
    top = Path(path).parts[1]
    folder = root / "tests" / (top if (root / "tests" / top).is_dir() else "")
    for test in sorted(folder.rglob(f"test_{Path(path).stem}.py")):
        yield str(test.relative_to(root))


def _of_a_term(path: str, root: Path) -> Iterator[str]:
    """Yield the contract that every registered term is held to."""
    names = re.findall(r'^@terms\.register\("(\w+)"\)', (root / path).read_text(encoding="utf-8"), re.MULTILINE)
    for name in names:
        yield f"{TERMS} -k {name}"  # and those whose names hold this one, which costs time alone


def _of_a_part(path: str, root: Path) -> Iterator[str]:
    """Yield the tests of the terms that use a part."""
    module = path.removesuffix(".py").replace("/", ".")
    for user in sorted((root / "vlp" / "objectives").glob("*.py")):
        if re.search(rf"^from {module} import", user.read_text(encoding="utf-8"), re.MULTILINE):
            yield from _of_its_name(str(user.relative_to(root)), root)
            yield from _of_a_term(str(user.relative_to(root)), root)
