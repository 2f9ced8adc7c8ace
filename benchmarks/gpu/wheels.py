"""Packages for a machine without a network: fetched here into a folder, unpacked there and put on the path.

    python -m benchmarks.gpu.wheels --to wheels --python 3.12      # or: make gpu-wheels

Nothing is installed there. A package that the machine has is left alone, whatever its version.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

NAMES = (
    *("open_clip_torch", "ftfy", "wcwidth", "webdataset", "braceexpand", "pydantic", "pydantic-core"),
    *("annotated-types", "typing-inspection", "ruamel.yaml", "simplejpeg"),
)
"""What machines that are made for PyTorch tend to lack."""
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
MOST_BYTES = 64 * 2**20  # that travel to the machine


def main(arguments: Sequence[str] | None = None) -> None:
    """Fetch the wheels of the versions that are installed here, which the tests ran with."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.wheels", description=__doc__)
    parser.add_argument("--to", type=Path, default=Path("wheels"), help="default: %(default)s")
    parser.add_argument("--python", default="3.12", help="of the other machine; default: %(default)s")
    parsed = parser.parse_args(arguments)
    wanted = [f"{name}=={metadata.version(name)}" for name in NAMES]
    subprocess.run(command(wanted, parsed.to, parsed.python), check=True)
    found = sorted(parsed.to.glob("*.whl"))
    size = sum(path.stat().st_size for path in found)
    print(f"{parsed.to}: {len(found)} wheels, {size / 2**20:.1f} MiB of at most {MOST_BYTES / 2**20:.0f}")
    if len(found) < len(NAMES) or size > MOST_BYTES:
        sys.exit(f"{parsed.to}: {len(NAMES)} wheels were expected, of {MOST_BYTES / 2**20:.0f} MiB at most")


def command(wanted: Sequence[str], folder: Path, python: str) -> list[str]:
    """Return what fetches wheels for another Python, whatever runs here."""
    platforms = [word for name in PLATFORMS for word in ("--platform", name)]
    options = ["--quiet", "--no-deps", "--only-binary=:all:", "--implementation", "cp", "--python-version", python]
    return [sys.executable, "-m", "pip", "download", *options, *platforms, "--dest", str(folder), *wanted]


def unpack(folder: Path, target: Path) -> list[str]:
    """Unpack the wheels of a folder that this machine needs and can run; return a line about each."""
    said = []
    for wheel in sorted(folder.glob("*.whl")):
        name, version, *_, python, abi, _ = wheel.stem.split("-")
        if (installed := _installed(name)) is not None:
            said.append(f"{name} {version}: left alone, {installed} is installed")
        elif not _runs_here(python, abi):
            said.append(f"{name} {version}: not for this Python but for {python}")
        else:
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(target)
            said.append(f"{name} {version}: unpacked")
    return said


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _runs_here(python: str, abi: str) -> bool:
    ours = f"cp{sys.version_info.major}{sys.version_info.minor}"
    return abi == "abi3" or any(tag == ours or tag.startswith("py3") for tag in python.split("."))


if __name__ == "__main__":
    main()
