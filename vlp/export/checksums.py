"""Checksums of an exported folder."""

from __future__ import annotations

from pathlib import Path

from vlp.ground.files import sha256_of

CHECKSUMS = "SHA256SUMS"
CARD = "README.md"


def write_checksums(folder: Path) -> None:
    """Write the SHA-256 of every file, as `sha256sum --check` reads it."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != CHECKSUMS)
    lines = [f"{sha256_of(path)}  {path.relative_to(folder).as_posix()}\n" for path in paths]
    (folder / CHECKSUMS).write_text("".join(lines), encoding="ascii")


def changed_files(folder: Path) -> list[str]:
    """Return which files are missing, or not those whose checksums were written; the card may be edited."""
    path = folder / CHECKSUMS
    lines = path.read_text(encoding="ascii", errors="replace").splitlines() if path.is_file() else []
    told = {name: digest for digest, _, name in (line.partition("  ") for line in lines) if name != CARD}
    return [name for name in sorted(told) if not (folder / name).is_file() or sha256_of(folder / name) != told[name]]
