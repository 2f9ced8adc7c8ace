"""What the README says can be typed."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from vlp.cli import build_parser, main
from vlp.ground.yaml import parse_yaml
from vlp.recipe.compose import load_recipe

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, flags=re.S)
COMMANDS = [
    line.split("#")[0].strip()
    for language, block in BLOCKS
    if language == "bash"
    for line in block.splitlines()
    if line.split("#")[0].strip()
]


def test_there_are_commands():
    assert len(COMMANDS) >= 12


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("vlp ")])
def test_every_vlp_command_is_understood(command):
    words = shlex.split(command)[1:]
    if words == ["--help"]:
        with pytest.raises(SystemExit, match="0"):
            main(words)
    else:
        assert build_parser().parse_args(words).command


@pytest.mark.parametrize("command", [command for command in COMMANDS if not command.startswith(("vlp ", "pip "))])
def test_every_other_command_names_what_exists(command):
    words = shlex.split(command)
    if words[0] == "make":
        assert re.search(rf"^{re.escape(words[1])}:", (ROOT / "Makefile").read_text(), flags=re.M)
        return
    files = [word for word in words if word.endswith((".py", ".sh", ".sbatch", ".yaml")) and "mine" not in word]
    assert files or "mine" in command
    assert all((ROOT / name).is_file() for name in files), files


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(([^)#:]+)\)", README))))
def test_every_link_leads_somewhere(link):
    assert (ROOT / link).exists()


def test_the_recipe_and_card_of_the_readme_load(tmp_path, monkeypatch):
    card, recipe = [block for language, block in BLOCKS if language == "yaml"]
    assert parse_yaml(card, "README")["name"] == "mine"
    path = tmp_path / "mine.yaml"
    path.write_text(recipe)
    loaded = load_recipe(str(path))
    assert list(loaded.data.train) == ["mine"]
    assert loaded.train.micro_batches == 4


def test_the_loss_of_the_readme_works():
    import torch
    from jaxtyping import Float
    from torch import Tensor

    from vlp.ground.registry import Registry
    from vlp.ground.types import Embeddings
    from vlp.objectives.base import Term
    from vlp.pairs import Pairs, Stats

    (source,) = [block for language, block in BLOCKS if language == "python"]
    terms: Registry[Term] = Registry("term", "vlp.objectives")
    names = {"terms": terms, "Term": Term, "Pairs": Pairs, "Stats": Stats, "Float": Float, "Tensor": Tensor}
    exec(source, names)
    image, text = torch.eye(2), torch.eye(2).flip(0)
    pairs = Pairs(
        Embeddings(image, text, torch.tensor(1.0), torch.tensor(0.0)), ids=torch.arange(2), caption_ids=torch.arange(2)
    )
    assert float(names["DistanceTerm"](power=2.0)(pairs, {})) == pytest.approx(2.0)


def test_what_troubleshooting_quotes_is_said_somewhere():
    text = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    table = text.partition("## Resuming is refused")[2].partition("##")[0]
    quoted = [row.split("|")[1].strip() for row in table.splitlines() if row.startswith("| ")][1:]
    assert len(quoted) >= 5
    code = " ".join(" ".join(path.read_text(encoding="utf-8").split()) for path in (ROOT / "vlp").rglob("*.py"))
    for words in quoted:
        assert words in code, words
