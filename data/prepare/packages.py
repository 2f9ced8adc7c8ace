"""Fetch the packages that drawings and names come from, or find them where somebody unpacked them."""

from __future__ import annotations

import json
import shutil
import subprocess
import tarfile
from pathlib import Path

from vlp.ground.types import RecipeError

NPM = {"@iconify/json": "2.2.535", "emojibase-data": "17.0.0", "emojilib": "4.0.3"}
DEBIAN = "openclipart-svg"


def fetch_npm(folder: Path, name: str) -> Path:
    """Return the folder of an npm package below a `node_modules` folder; fetch it with `npm pack` if it is not there.

    Raises:
        RecipeError: npm is missing or fails.
    """
    target = folder / name
    if not (target / "package.json").is_file():
        parts = _partial(folder, target)
        _run(["npm", "pack", "--silent", f"{name}@{NPM[name]}", "--pack-destination", str(parts)], folder, name)
        with tarfile.open(next(parts.glob("*.tgz"))) as archive:
            archive.extraction_filter = getattr(tarfile, "data_filter", None)  # Python 3.11.4 and newer have it
            archive.extractall(parts)
        (parts / "package").rename(target)
        shutil.rmtree(parts)
    return target


def fetch_debian(folder: Path) -> Path:
    """Return the folder of the unpacked Debian package; fetch it with `apt-get download` if it is not there.

    Raises:
        RecipeError: apt-get or dpkg are missing or fail.
    """
    target = folder / DEBIAN
    if not (target / "usr").is_dir():
        parts = _partial(folder, target)
        _run(["apt-get", "download", DEBIAN], folder, DEBIAN, parts)
        package = next(parts.glob("*.deb"))
        version = package.name.split("_")[1].replace("%3a", ":")
        _run(["dpkg", "-x", package.name, "unpacked"], folder, DEBIAN, parts)
        (parts / "unpacked" / "VERSION").write_text(version + "\n", encoding="utf-8")
        (parts / "unpacked").rename(target)
        shutil.rmtree(parts)
    return target


def npm_version(package: Path) -> str:
    """Return the version that a package says it has."""
    return str(json.loads((package / "package.json").read_text(encoding="utf-8"))["version"])


def debian_version(package: Path) -> str:
    """Return the version that was fetched; unknown where somebody else unpacked it."""
    path = package / "VERSION"
    return path.read_text(encoding="utf-8").strip() if path.is_file() else "unknown"


def _partial(folder: Path, target: Path) -> Path:
    parts = folder / f".{target.name}.partial"
    shutil.rmtree(parts, ignore_errors=True)
    parts.mkdir(parents=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    return parts


def _run(command: list[str], folder: Path, name: str, where: Path | None = None) -> None:
    way_out = f"unpack {name} into {folder / name} by other means, or leave its drawings out with --sources"
    try:
        subprocess.run(command, check=True, cwd=where, stdout=subprocess.DEVNULL)
    except FileNotFoundError as error:
        raise RecipeError(f"{command[0]} is not installed; install it, or {way_out}") from error
    except subprocess.CalledProcessError as error:
        raise RecipeError(f"`{' '.join(command)}` failed; {way_out}") from error
