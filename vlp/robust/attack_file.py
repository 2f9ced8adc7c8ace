"""Files of attacks: which ones, how large, on how many samples."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from vlp.ground import paths
from vlp.ground.explain import validated
from vlp.ground.registry import nearest, settings_of
from vlp.ground.strict import Strict
from vlp.ground.types import RecipeError
from vlp.ground.yaml import read_yaml
from vlp.robust.attacks.base import Attack, attacks

FOLDER = "attacks"


class AttackFile(Strict):
    """The keys of `eval/attacks/<name>.yaml`.

    Args:
        version: Raised whenever numbers under these attacks stop being comparable.
        radii: How far attacks may move each value of a pixel, in steps of 8-bit colours (1/255), ascending.
        unbounded: Radius at which nothing should be left, in the same steps: a gate.
        samples: How many of a set's samples are attacked, evenly spaced; null is all.
        batch_size: Images per forward and backward pass.
        attacks: By label: the settings of an attack, and its name as `type` where the label is another word.
    """

    version: int
    radii: tuple[float, ...] = Field((1, 2, 4), min_length=1)
    unbounded: float = Field(64, gt=0)
    samples: int | None = Field(None, ge=1)
    batch_size: int = Field(64, ge=1)
    attacks: dict[str, dict[str, object] | None] = Field(min_length=1)


@dataclass(frozen=True)
class Listed:
    """One attack of a file.

    Args:
        type: Its registered name.
        settings: All of them, as plain values.
    """

    label: str
    type: str
    settings: Mapping[str, Any]

    def build(self) -> Attack:
        """Return the attack."""
        return attacks.build(self.type, self.settings)


@dataclass(frozen=True)
class AttackList:
    """A checked file."""

    name: str
    file: AttackFile
    listed: tuple[Listed, ...]


def load_attacks(name: str) -> AttackList:
    """Return what a file of attacks says.

    Args:
        name: Under `eval/attacks/`, or a YAML file.

    Raises:
        RecipeError: No such file, or a mistake in it; names the key.
    """
    path = _find(name)
    mapping = read_yaml(path)
    file = validated(AttackFile, mapping, str(path))
    if list(file.radii) != sorted(set(file.radii)) or file.radii[0] <= 0:
        raise RecipeError(f"{path}: radii must be positive and ascend, each once")
    return AttackList(
        path.stem, file, tuple(_listed(label, each or {}, str(path)) for label, each in file.attacks.items())
    )


def attack_files() -> dict[str, Path]:
    """Map the name of every file of attacks to its path; the working directory wins."""
    return paths.cards("eval", FOLDER)


def _find(name: str) -> Path:
    if Path(name).suffix in (".yaml", ".yml"):
        return paths.find_file("eval", name)
    known = attack_files()
    if name not in known:
        there = ", ".join(sorted(known)) or "none"
        raise RecipeError(f"--attacks: there is no file '{name}'{nearest(name, known)} (there are: {there})")
    return known[name]


def _listed(label: str, given: Mapping[str, Any], where: str) -> Listed:
    kind = str(given.get("type", label))
    try:
        part: Any = attacks[kind]
    except RecipeError as error:
        raise RecipeError(f"{where}: attacks.{label}: {error}") from error
    own = {key: value for key, value in given.items() if key != "type"}
    checked = validated(settings_of(part), own, f"{where}: attacks.{label}")
    try:
        attacks.build(kind, dict(checked))
    except ValueError as error:
        raise RecipeError(f"{where}: attacks.{label}: {error}") from error
    return Listed(label, kind, checked.model_dump(mode="json"))
