"""Files of attacks: those that ship load, and a mistake in one is named."""

from __future__ import annotations

import pytest

from vlp.ground.types import RecipeError
from vlp.robust.attack_file import attack_files, load_attacks
from vlp.robust.attacks.base import attacks
from vlp.robust.planned_attacks import planned


def test_every_file_that_ships_loads_and_says_what_it_is():
    assert {"quick", "standard", "texts", "universal", "blind"} <= set(attack_files())
    for name, path in attack_files().items():
        assert path.read_text().startswith("# ")
        chosen = load_attacks(name)
        assert chosen.name == name and planned(chosen)


def test_every_attack_stands_in_a_file_that_ships():
    used = {listed.type for name in attack_files() for listed in load_attacks(name).listed}
    assert set(attacks) - used == {"random_signs"}  # which gates bring along


def test_gates_bring_what_they_ask():
    plan = planned(load_attacks("quick"))
    probes = [(each.listed.label, each.radius) for each in plan if each.is_probe]
    assert probes == [("pgd", 0), ("pgd", 64), *(("random_signs", radius) for radius in (1, 2, 4))]
    assert [(each.listed.label, each.radius) for each in plan if each.keeps_layers] == [("pgd", 4), ("pgd", 0)]


def test_attacks_without_gradients_have_no_extremes():
    assert {each.listed.label for each in planned(load_attacks("blind")) if each.is_probe} == {"random_signs"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("version: 1\n", "attacks: is required"),
        ("version: 1\nattacks: {pgdd: {}}", "attacks.pgdd: unknown attack 'pgdd'; did you mean 'pgd'"),
        ("version: 1\nattacks: {pgd: {step: 0}}", r"attacks.pgd: step: .*greater than 0"),
        ("version: 1\nattacks: {pgd: {stepps: 3}}", "unknown key; did you mean 'steps'"),
        ("version: 1\nattacks: {universal: {}}", "card: is required"),
        ("version: 1\nradii: [2, 1]\nattacks: {pgd: }", "radii must be positive and ascend"),
        ("version: 1\nradii: []\nattacks: {pgd: }", "radii"),
        ("version: 1\nattacks: {}", "attacks"),
    ],
)
def test_mistakes_are_named(tmp_path, text, message):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=message):
        load_attacks(str(path))


def test_an_attack_may_have_any_label(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("version: 1\nattacks: {strong: {type: pgd, steps: 50}, weak: {type: pgd, steps: 1}}")
    assert [(listed.label, listed.type, listed.settings["steps"]) for listed in load_attacks(str(path)).listed] == [
        ("strong", "pgd", 50),
        ("weak", "pgd", 1),
    ]
    with pytest.raises(RecipeError, match="there is no file 'nosuch'"):
        load_attacks("nosuch")
