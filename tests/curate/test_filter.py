"""A filter keeps what its rules say, copies nothing, and does nothing twice."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections import Counter

import fsspec
import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file

from tests.curate.pairs import captions_in, photo, write_pairs
from tests.evaluators.sets import write_classes
from tests.shards import image_bytes, write_tar
from tests.towers.tiny import tiny_export, tiny_model
from vlp.cli import main
from vlp.curate.facts.fact_files import FactFiles
from vlp.curate.facts.facts import LENGTH
from vlp.curate.filter import filter_card
from vlp.curate.inspect_facts import inspect_samples
from vlp.curate.rules.base import rules
from vlp.data import Card, SampleSet
from vlp.data.shards.cards import load_card
from vlp.evaluators.dataset import DataSource, open_set
from vlp.ground.types import RecipeError

WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight"]


@pytest.fixture
def keep(tmp_path):
    """Filter some pairs by the text of a rules file, and return the captions left."""

    def run(pairs, text, *, shard=3, workers=1, to="kept.yaml"):
        card = write_pairs(tmp_path, pairs, shard)
        return captions_in(filter_by(tmp_path, card, text, workers=workers, to=to).card)

    return run


def filter_by(folder, card, text, *, workers=1, to="kept.yaml"):
    path = folder / "rules.yaml"
    path.write_text(text)
    return filter_card(load_card(str(card)), folder / to, path, workers=workers)


def tinted(number, *shares, size=64):
    """Return a picture whose grey is the same, up to a factor, with any shares of red, green and blue."""
    grey = Image.open(io.BytesIO(photo(number, size))).convert("L")
    file = io.BytesIO()
    Image.merge("RGB", [grey.point(lambda value, share=share: int(value * share)) for share in shares]).save(
        file, "JPEG"
    )
    return file.getvalue()


def test_small_and_long_images_go(keep):
    pairs = [
        (photo(0, 20), "short"),
        (photo(1, 21), "tall"),
        (photo(2, 21, width=63), "long"),
        (photo(3, 21, width=62), "wide"),
    ]
    assert keep(pairs, "size: {short_side_over: 20, aspect_under: 3}") == ["tall", "wide"]


def test_short_and_long_captions_go(keep):
    pairs = [(photo(number), " ".join(WORDS[:number])) for number in (1, 2, 3, 4)]
    assert keep(pairs, "length: {fewest: 2, most: 3}") == ["one two", "one two three"]


def test_an_image_with_too_many_captions_goes_but_repeated_captions_count_once(keep):
    pairs = [(photo(0), "a"), (photo(0), "b"), (photo(0), "c"), (photo(1), "d"), (photo(1), "D"), (photo(1), "e")]
    assert keep(pairs, "captions_per_image: {most: 2}") == ["d", "D", "e"]


def test_a_caption_of_too_many_images_goes_whatever_its_case(keep):
    pairs = [(photo(number), caption) for number, caption in enumerate(["Sale", "sale", "boat", "SALE", "boat"])]
    assert keep(pairs, "images_per_caption: {most: 2}") == ["boat", "boat"]


def test_a_cap_keeps_the_same_samples_wherever_they_stand(tmp_path):
    pairs = [(photo(number), "sale") for number in range(8)]
    kept = {}
    for name, ordered in (("there", pairs), ("back", pairs[::-1])):
        card = write_pairs(tmp_path / name, ordered)
        filter_by(tmp_path / name, card, "caption_cap: {most: 3}")
        numbers = np.load(tmp_path / name / "kept.keep.npz")["kept"].tolist()
        kept[name] = {ordered[number][0] for number in numbers}
    assert kept["there"] == kept["back"]
    assert len(kept["there"]) == 3


def test_rare_words_agree_with_a_slow_reading(keep):
    draw = np.random.default_rng(0)
    captions = [" ".join(draw.choice(WORDS, 4, p=np.arange(1, 9) / 36)) for _ in range(60)]
    grams = {text: {*text.split(), *zip(text.split(), text.split()[1:], strict=False)} for text in captions}
    counts = Counter(
        gram for text in captions for gram in [*text.split(), *zip(text.split(), text.split()[1:], strict=False)]
    )
    fewest = min(n for n in counts.values() if sum(m >= n for m in counts.values()) <= 20)
    expected = [text for text in captions if all(counts[gram] >= fewest for gram in grams[text])]
    pairs = [(photo(number, 16), text) for number, text in enumerate(captions)]
    assert keep(pairs, "rare_words: {frequent: 20, megabytes: 1}", shard=7) == expected
    assert 0 < len(expected) < 60


def test_too_little_memory_for_the_words_is_refused(tmp_path):
    draw = np.random.default_rng(0)
    captions = [" ".join(f"{number:x}" for number in draw.integers(0, 2**60, 60)) for _ in range(400)]
    card = write_pairs(tmp_path, [(photo(0, 16), caption) for caption in captions], 400)
    with pytest.raises(RecipeError, match=r"megabytes=1 count 32,768 different words and pairs well.* double it"):
        filter_by(tmp_path, card, "rare_words: {frequent: 100, megabytes: 1}")
    assert filter_by(tmp_path, card, "rare_words: {frequent: 100_000, megabytes: 4}").kept == 400


def test_the_first_of_equal_images_stays_at_any_size_and_quality(keep):
    pairs = [(photo(0), "first"), (photo(1), "other"), (photo(0, 128, 60), "again"), (photo(0, 48), "once more")]
    assert keep(pairs, "duplicate_images: {distance: 4}") == ["first", "other"]


def test_images_of_another_colour_are_no_duplicates_unless_asked(keep):
    pairs = [
        (tinted(0, 1, 0.6, 0.6), "red"),
        (tinted(0, 0.6, 0.6, 1), "blue"),
        (tinted(0, 1, 0.6, 0.6, size=80), "again"),
    ]
    assert keep(pairs, "duplicate_images: {distance: 6}") == ["red", "blue"]
    assert keep(pairs, "duplicate_images: {distance: 6, color: 255}") == ["red"]


def test_images_of_an_evaluation_set_go(keep, tmp_path):
    write_classes(tmp_path / "set")
    task = tmp_path / "task.yaml"
    task.write_text(f"version: 1\nevaluator: zero_shot\nmain_metric: acc1\ndata: {{root: {tmp_path / 'set'}}}\n")
    image = open_set(DataSource(root=str(tmp_path / "set"))).image(0).resize((96, 96), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90)
    pairs = [(photo(0), "unseen"), (file.getvalue(), "leaked")]
    assert keep(pairs, f"evaluation_images: {{tasks: [{task}]}}") == ["unseen"]


def test_captions_in_another_language_go_and_unclear_ones_stay(keep):
    pytest.importorskip("py3langid")
    captions = ["a red boat on the lake", "ein rotes Boot liegt am Ufer des Sees", "IMG 2031"]
    pairs = [(photo(number), caption) for number, caption in enumerate(captions)]
    assert keep(pairs, "language: {languages: [en], among: [en, de, fr]}") == [captions[0], captions[2]]
    assert keep(pairs, "language: {languages: [de], among: [en, de, fr]}") == captions[1:]


@pytest.fixture
def export(tmp_path):
    """A tiny model in open_clip's folder format."""
    return tiny_export(tmp_path / "export")


def test_scores_are_the_cosines_of_the_model(keep, tmp_path, export):
    from vlp.towers.encoder import TowerEncoder
    from vlp.towers.load import load_model

    pairs = [(photo(number), WORDS[number]) for number in range(8)]
    encoder = TowerEncoder(load_model(str(export)))
    images = encoder.embed_images([Image.open(io.BytesIO(image)) for image, _ in pairs])
    cosines = (images * encoder.embed_texts([text for _, text in pairs])).sum(1).numpy()
    best = np.sort(np.argsort(-cosines)[:4])
    assert keep(pairs, f"score: {{model: {export}, share: 0.5}}") == [WORDS[number] for number in best]
    least = float(np.sort(cosines)[3:5].mean())
    assert keep(pairs, f"score: {{model: {export}, least: {least}}}") == [WORDS[number] for number in best]


@pytest.mark.parametrize("limit", ["least: 0.1", "least: -1.0", "share: 0.5"])
def test_what_a_model_has_no_number_for_does_not_stay(keep, tmp_path, limit):
    broken = tiny_export(tmp_path / "broken", shift=1e37)  # whose products overflow
    with pytest.raises(RecipeError, match="nothing is left of card"):
        keep([(photo(number), WORDS[number]) for number in range(4)], f"score: {{model: {broken}, {limit}}}")


def test_other_weights_are_measured_anew(tmp_path, export):
    from vlp.curate.rules import score

    name = score.Cosine(str(export)).name
    weights = {name: value + 0.5 for name, value in tiny_model().core.state_dict().items()}
    save_file({n: v.contiguous() for n, v in weights.items()}, export / "open_clip_model.safetensors")
    score._encoder.cache_clear()
    assert score.Cosine(str(export)).name != name


def test_the_same_weights_used_otherwise_are_measured_anew(tmp_path, export):
    from vlp.curate.rules import score

    name = score.Cosine(str(export)).name
    path = export / "open_clip_config.json"
    config = json.loads(path.read_text())
    config["model_cfg"]["quick_gelu"] = not config["model_cfg"].get("quick_gelu", False)
    path.write_text(json.dumps(config))
    score._encoder.cache_clear()
    assert score.Cosine(str(export)).name != name


def test_a_rule_sees_what_those_before_it_left(keep):
    pairs = [(photo(0), "tiny"), (photo(0, 128), "large and the same picture"), (photo(1), "x"), (photo(2), "x")]
    text = "length: {fewest: 2}\nduplicate_images: {distance: 4}"
    assert keep(pairs, text) == ["large and the same picture"]
    assert keep(pairs, "duplicate_images: {distance: 4}\nlength: {fewest: 1}") == ["tiny", "x", "x"]


def test_one_rule_may_stand_twice_under_two_labels(tmp_path):
    pairs = [(photo(number), " ".join(WORDS[:number])) for number in (1, 2, 3, 4)]
    card = write_pairs(tmp_path, pairs)
    found = filter_by(tmp_path, card, "short: {type: length, fewest: 2}\nlong: {type: length, fewest: 1, most: 3}")
    assert [(step.rule, step.dropped) for step in found.steps] == [("short", 1), ("long", 1)]


ALL_RULES = """
size: {short_side_over: 20}
captions_per_image: {most: 2}
images_per_caption: {most: 5}
caption_cap: {most: 3}
duplicate_images: {distance: 2}
rare_words: {frequent: 6, megabytes: 1}
length: {fewest: 2, most: 4}
"""


def many_pairs():
    draw = np.random.default_rng(3)
    return [
        (
            photo(int(draw.integers(20)), int(draw.choice([16, 48, 64]))),
            " ".join(draw.choice(WORDS[:4], draw.integers(1, 5))),
        )
        for _ in range(60)
    ]


@pytest.mark.parametrize(("shard", "workers"), [(1, 1), (60, 1), (7, 2), (7, 3)])
def test_the_list_depends_on_the_samples_alone(tmp_path, shard, workers):
    kept = {}
    for name, size, processes in (("one", 10, 1), ("two", shard, workers)):
        card = write_pairs(tmp_path / name, many_pairs(), size)
        filter_by(tmp_path / name, card, ALL_RULES, workers=processes)
        kept[name] = np.load(tmp_path / name / "kept.keep.npz")["kept"].tolist()
    assert kept["one"] == kept["two"]
    assert 0 < len(kept["one"]) < 60


def test_what_cannot_be_judged_is_counted_and_goes(tmp_path, capsys):
    card = write_pairs(tmp_path, [(photo(0), "one two"), (photo(1)[:200], "three"), (photo(2), " ")])
    write_tar(tmp_path / "shards" / "9.tar", [("9.txt", b"no image")])
    found = filter_by(tmp_path, card, "length: {fewest: 1}\nduplicate_images: {}")
    assert found.unusable == {"corrupt_image": 1, "empty_caption": 1, "missing_image": 1}
    assert captions_in(found.card) == ["one two"]
    found = filter_by(tmp_path, card, "length: {fewest: 1}")
    assert found.unusable == {"empty_caption": 1}


def test_remote_shards_keep_their_addresses_and_checksums(tmp_path):
    write_pairs(tmp_path, [(photo(0), "one two"), (photo(1), "three")])
    shard = tmp_path / "shards" / "000000.tar"
    card = tmp_path / "far.yaml"
    checksum = hashlib.sha256(shard.read_bytes()).hexdigest()
    fsspec.filesystem("memory").pipe_file("/far/000000.tar", shard.read_bytes())
    card.write_text(f"name: far\nshards: memory://far/000000.tar\nsha256: {{000000.tar: {checksum}}}\n")
    found = filter_by(tmp_path, card, "length: {fewest: 2}", to="there/kept.yaml")
    assert captions_in(found.card) == ["one two"]
    written = load_card(str(found.card))
    assert (written.shards, written.sha256) == (("memory://far/000000.tar",), {"000000.tar": checksum})
    assert (tmp_path / "there" / "kept.shards.json").is_file()


def test_a_filtered_card_can_be_filtered(tmp_path):
    pairs = [(photo(number), " ".join(WORDS[:number])) for number in (1, 2, 3, 4)]
    first = filter_by(tmp_path, write_pairs(tmp_path, pairs), "length: {fewest: 2}", to="first.yaml")
    second = filter_by(tmp_path, first.card, "length: {fewest: 1, most: 3}", to="deeper/second.yaml")
    assert (second.samples, second.kept) == (3, 2)
    assert captions_in(second.card) == ["one two", "one two three"]


def test_a_filtered_card_is_inspected_as_training_sees_it(tmp_path):
    pairs = [(photo(number), " ".join(WORDS[:number])) for number in (4, 1, 3, 2)]
    found = filter_by(tmp_path, write_pairs(tmp_path, pairs), "length: {fewest: 2, most: 3}")
    card = load_card(str(found.card))
    seen = inspect_samples(SampleSet({card.name: card}), FactFiles(card, tmp_path / ".measured"), 1)
    assert (seen.samples, seen.ids.tolist(), seen.of(LENGTH)["pieces"].tolist()) == (2, [0, 1], [3, 2])


def columns_of(folder):
    return {path: path.stat().st_mtime_ns for path in (folder / ".measured").rglob("*.npz")}


def test_nothing_is_measured_twice_and_only_what_is_missing_again(tmp_path):
    card = write_pairs(tmp_path, many_pairs(), 20)
    filter_by(tmp_path, card, "length: {fewest: 2}\ncaption_cap: {most: 3}")
    before = columns_of(tmp_path)
    assert len(before) == 3 * 3
    filter_by(tmp_path, card, "length: {fewest: 3}", to="other.yaml")
    assert columns_of(tmp_path) == before
    gone, cut = sorted(before)[:2]
    gone.unlink()
    cut.write_bytes(cut.read_bytes()[:100])
    filter_by(tmp_path, card, "length: {fewest: 2}\ncaption_cap: {most: 3}")
    after = columns_of(tmp_path)
    assert after.keys() == before.keys()
    assert {path for path in after if after[path] != before[path]} == {gone, cut}


def test_a_changed_shard_is_measured_again(tmp_path):
    card = write_pairs(tmp_path, [(photo(0), "one two"), (photo(1), "three four")])
    assert filter_by(tmp_path, card, "length: {fewest: 2}").kept == 2
    write_pairs(tmp_path, [(photo(0), "one two"), (photo(1), "three")])
    assert filter_by(tmp_path, card, "length: {fewest: 2}").kept == 1


def test_facts_of_other_members_are_not_taken_for_those_of_the_card(tmp_path):
    members = [("0.jpg", photo(0, 20)), ("0.png", image_bytes(1, "png", 90, 90)), ("0.txt", b"one")]
    write_tar(tmp_path / "shards" / "0.tar", members)
    kept = []
    for image in ("jpg", "png"):
        (tmp_path / "both.yaml").write_text(f"name: both\nshards: shards/*.tar\nimages: [{image}]\n")
        try:
            kept.append(filter_by(tmp_path, tmp_path / "both.yaml", "size: {short_side_over: 50}").kept)
        except RecipeError:
            kept.append(0)
    assert kept == [0, 1]


def test_facts_of_the_first_caption_are_not_taken_for_those_of_another_that_comes_first(tmp_path):
    write_tar(tmp_path / "shards" / "0.tar", [("0.jpg", photo(0)), ("0.txt", b"one"), ("0.alt.txt", b"one two three")])
    kept = []
    for keys in ("{txt: 1, alt.txt: 1}", "{alt.txt: 1, txt: 1}"):
        (tmp_path / "both.yaml").write_text(f"name: both\nshards: shards/*.tar\ncaptions: {keys}\n")
        try:
            kept.append(filter_by(tmp_path, tmp_path / "both.yaml", "length: {fewest: 2}").kept)
        except RecipeError:
            kept.append(0)
    assert kept == [0, 1]


def test_the_command_prints_a_table_and_writes_a_report(tmp_path, capsys):
    card = write_pairs(tmp_path, [(photo(0), "one two"), (photo(1), "three")])
    (tmp_path / "rules.yaml").write_text("length: {fewest: 2}")
    main(["data", "filter", card, "--to", str(tmp_path / "new.yaml"), "--rules", str(tmp_path / "rules.yaml")])
    printed = capsys.readouterr().out
    assert "2  samples of pairs" in printed and "-1  length" in printed and "1  kept, 50.0%" in printed
    report = json.loads((tmp_path / "new.report.json").read_text())
    assert report["steps"][0]["examples"] == [
        {"id": 1, "shard": "000000.tar", "key": "000001", "caption": "three", "reason": "1 words"}
    ]


def test_the_new_card_keeps_comments_and_finds_its_shards_from_elsewhere(tmp_path):
    card = write_pairs(tmp_path / "here", [(photo(0), "one two"), (photo(1), "three")])
    text = (tmp_path / "here" / "pairs.yaml").read_text()
    (tmp_path / "here" / "pairs.yaml").write_text(f"# taken in May\n{text}licence: CC0-1.0\n")
    found = filter_by(tmp_path, card, "length: {fewest: 2}", to="there/new.yaml")
    assert found.card.read_text().startswith("# taken in May\nname: new\n")
    assert "licence: CC0-1.0" in found.card.read_text()
    assert captions_in(found.card) == ["one two"]


def test_a_card_that_is_edited_meanwhile_counts_as_it_was_opened(tmp_path):
    """Measuring takes hours; what is kept fits the shards and captions that were measured."""
    card = load_card(write_pairs(tmp_path, [(photo(0), "one two"), (photo(1), "three")]))
    card.file.write_text("name: pairs\nshards: other/*.tar\ncaptions: {json.text: 1.0}\n")
    (tmp_path / "rules.yaml").write_text("length: {fewest: 2}")
    found = filter_card(card, tmp_path / "kept.yaml", tmp_path / "rules.yaml", workers=1)
    assert captions_in(found.card) == ["one two"]


def test_a_card_behind_a_link_keeps_its_shards(tmp_path):
    write_pairs(tmp_path / "here", [(photo(0), "one two"), (photo(1), "three")])
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "here" / "pairs.yaml").rename(tmp_path / "elsewhere" / "pairs.yaml")
    link = tmp_path / "here" / "linked.yaml"
    link.symlink_to(tmp_path / "elsewhere" / "pairs.yaml")
    found = filter_by(tmp_path / "here", link, "length: {fewest: 2}", to="there/kept.yaml")
    assert captions_in(found.card) == ["one two"]


def test_a_card_made_in_python_can_be_filtered(tmp_path):
    write_pairs(tmp_path, [(photo(0), "one two"), (photo(1), "three")])
    (tmp_path / "rules.yaml").write_text("length: {fewest: 2}")
    made = Card(name="made", shards="shards/*.tar", licence="CC0-1.0", folder=tmp_path)
    found = filter_card(made, tmp_path / "there" / "kept.yaml", tmp_path / "rules.yaml", workers=1)
    assert captions_in(found.card) == ["one two"] and load_card(str(found.card)).licence == "CC0-1.0"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lenght: {fewest: 2}", r"rules\.yaml: lenght: unknown rule 'lenght'; did you mean 'length'"),
        ("length: {fewst: 2}", r"rules\.yaml: length: fewst: unknown key; did you mean 'fewest'"),
        ("length: {fewest: many}", r"rules\.yaml: length: fewest: .*given: 'many'"),
        ("length: 2", r"length: expected settings"),
        ("length: {fewest: 9, most: 3}", r"length: fewest: 9 is above most, 3"),
        ("size: {aspect_under: 1}", r"size: aspect_under: 1 must be above 1"),
        ("language: {languages: []}", r"language: languages: none is named"),
        ("a: {type: score, model: x}", r"rules\.yaml: a: give one of least"),
        ("a: {type: score}", r"a: model: is required"),
        ("evaluation_images: {tasks: []}", r"tasks: none is named"),
        ("evaluation_images: {tasks: [emoji25]}", r"no task 'emoji25'.*did you mean 'emoji24'"),
        ("duplicate_images: {distance: 9}", r"distance: 9 is not between 0 and 8"),
        ("", r"no rule in it \(known: caption_cap, captions_per_image"),
        ("length: {fewest: 20}", r"nothing is left of card 'pairs'"),
    ],
)
def test_a_mistake_names_the_key_and_a_way_out(tmp_path, text, message):
    card = write_pairs(tmp_path, [(photo(0), "one two")])
    with pytest.raises(RecipeError, match=message):
        filter_by(tmp_path, card, text)
    assert not (tmp_path / "kept.yaml").exists()


def test_no_card_is_overwritten_but_an_earlier_result(tmp_path):
    card = write_pairs(tmp_path, [(photo(0), "one two")])
    (tmp_path / "mine.yaml").write_text("name: mine\nshards: '*.tar'\n")
    for target, message in (("pairs.yaml", "the card itself"), ("mine.yaml", "no earlier result"), ("x.npz", "YAML")):
        with pytest.raises(RecipeError, match=message):
            filter_by(tmp_path, card, "length: {fewest: 1}", to=target)
    filter_by(tmp_path, card, "length: {fewest: 1}")
    filter_by(tmp_path, card, "length: {fewest: 2}")


def test_the_rules_of_align_are_valid_and_the_page_explains_rules_that_are_there():
    from pathlib import Path

    from vlp.curate.rules.base import read_rules

    root = Path(__file__).parents[2]
    assert list(read_rules(root / "recipes" / "filters" / "align.yaml"))
    page = (root / "docs" / "filtering.md").read_text()
    explained = re.findall(r"^\| `(\w+)` \|", page, flags=re.MULTILINE)
    assert len(explained) > 5 and set(explained) <= set(rules)
