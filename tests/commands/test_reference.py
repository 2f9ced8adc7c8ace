"""What `vlp describe` prints, and the pages in docs that it makes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from vlp.cli import main
from vlp.commands.reference import PAGES, describe, everything, fields_of
from vlp.commands.settings_text import default_of, kind_of, sentences_of
from vlp.ground.registry import Registry
from vlp.objectives.base import terms

DOCS = Path(__file__).resolve().parent.parent.parent / "docs"


def said(capsys, *words):
    main(["describe", *words])
    return capsys.readouterr().out


def test_everything_is_listed_with_a_line_each(capsys):
    lines = said(capsys).splitlines()
    listed = [line.split()[0] for line in lines if line.startswith("  ")]
    assert listed == [each.name for each in everything()]
    assert set(terms) < set(listed)
    assert all(len(line.split()) > 3 for line in lines if line.startswith("  "))


def test_every_registry_is_described():
    import vlp.commands.reference as reference

    registries = [thing for thing in vars(reference).values() if isinstance(thing, Registry)]
    assert len(registries) >= 7
    assert {each.kind for each in everything()} == {"section", "file", *(registry.noun for registry in registries)}


@pytest.mark.parametrize("each", everything(), ids=lambda each: each.name)
def test_every_setting_has_a_sentence_a_kind_and_a_default(each):
    for setting in fields_of(each):
        field = each.settings.model_fields[setting]
        assert each.sentence(setting).endswith((".", ")")), f"say under Args what {setting} does"
        assert "typing" not in kind_of(field.annotation) and "class" not in kind_of(field.annotation), setting
        assert default_of(field), setting


def test_sentences_end_where_the_next_setting_begins():
    class Thing:
        """One line.

        Args:
            one: First
                and more.
            two: Second.

        Raises:
            ValueError: Never.
        """

    assert sentences_of(Thing) == {"one": "First and more.", "two": "Second."}


def test_a_term_is_explained(capsys):
    text = said(capsys, "siglip")
    assert "softplus(-z_ii - bias)" in text
    assert "arXiv:2303.15343" in text
    assert "objective: {siglip: {}}" in text
    assert "Reads: image_text" in text


def test_a_name_of_two_kinds_gives_both(capsys):
    text = said(capsys, "open_clip")
    assert "model: {image: {type: open_clip" in text and "model: {text: {type: open_clip" in text


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("train.batch_size", "train.batch_size (whole number; default: 1024): Pairs in one batch of the whole job"),
        ("data.train.photos.share", "data.train.photos.share (number or section or null; default: null): Its share"),
        ("seed", "seed (whole number; default: 0): Source of all randomness."),
        ("model.image", "model.image (section; default: required): The image tower"),
        ("optimizer.betas", "optimizer.betas of lion ([number, number]; default: [0.9, 0.99]): Share of the momentum"),
        ("clip_negatives.nothing", None),
    ],
)
def test_a_setting_is_explained(capsys, path, expected):
    if expected is None:
        with pytest.raises(SystemExit, match="nothing is called"):
            main(["describe", path])
    else:
        assert expected in said(capsys, path)


def test_a_word_finds_parts_and_settings(capsys):
    lines = said(capsys, "--search", "learning rate").splitlines()
    assert any(line.startswith("schedule (section): ") for line in lines)
    assert any(line.startswith("optimizer.learning_rate: ") for line in lines)
    with pytest.raises(SystemExit, match="no documentation has 'xyzzy'"):
        main(["describe", "--search", "xyzzy"])


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(SystemExit, match="did you mean 'siglip'"):
        main(["describe", "siglib"])


def test_a_command_is_not_taken_for_a_part():
    with pytest.raises(SystemExit, match="'stages' is a command, and no part of a recipe: vlp stages --help"):
        main(["describe", "stages"])


@pytest.mark.parametrize("page", PAGES)
def test_the_pages_in_docs_are_up_to_date(page):
    """Of the parts that it has: whoever adds a file of his own need not renew it; `.ci/run` asks for all."""
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"^##+ (\S+)$", text, flags=re.MULTILINE))
    assert text == PAGES[page](lambda part: part.name in shown), "renew it: make pages"


def test_the_glossary_names_what_is_there():
    text = (DOCS / "glossary.md").read_text(encoding="utf-8")
    paths = re.findall(r"`((?:data|train|model|objective|strategies|evaluation)\.[\w.]+)[`:]", text)
    assert len(paths) > 15
    for path in paths:
        section, _, name = path.partition(".")
        if path not in ("data.class_names", "model.image.patch_dropout"):  # of a task; of a tower
            assert describe(name if section == "strategies" else path)
