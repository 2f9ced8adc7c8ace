"""The page is whole, true to the records, loads nothing, and says what is missing."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from itertools import pairwise
from xml.etree import ElementTree

import pytest
import torch

from tests.synthetic_run import KnowingEncoder, draw_pairs, make_record, write_run
from vlp.data.faults import Fault, Quarantine
from vlp.evaluators.base import load_task
from vlp.evaluators.dataset import open_set
from vlp.evaluators.retrieval import retrieve
from vlp.ground.types import RecipeError
from vlp.ground.yaml import parse_yaml
from vlp.html.axes import Axis, smooth, thin
from vlp.html.words import number, quantity, ticks
from vlp.recipe.compose import load_recipe, lock_text
from vlp.recipe.model import build_model
from vlp.report import write_report
from vlp.report.appendix import yaml_lines
from vlp.report.charts import Series, line_chart, push_apart
from vlp.report.forest import chance, recall_chart
from vlp.report.gallery import SHOWN, Gallery, Hit, Shown, build_gallery, draw
from vlp.report.page import page
from vlp.report.reading import read_run
from vlp.report.sections import charts_of
from vlp.run.checkpoint import save

VOID = {"meta", "img", "br", "circle", "line", "path", "rect"}
HOSTILE = "</q><script>alert('caption')</script>\" onerror=\"alert(1)"
SECTIONS = ["learning", "evaluation", "geometry", "gallery", "data", "recipe"]


class Reader(HTMLParser):
    """Collect what a test asks about, and fail on tags that do not close in order."""

    def __init__(self):
        super().__init__()
        self.open, self.sections, self.loads, self.numbers, self.scripts, self.handlers = [], [], [], [], 0, []

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.loads += [value for name, value in attributes if name in ("src", "href", "srcset", "data", "action")]
        self.handlers += [name for name, _ in attributes if name.startswith("on")]
        self.scripts += tag == "script"
        if tag == "section":
            self.sections.append(given["id"])
        if tag == "data":
            self.numbers.append(float(given["value"]))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes nothing"


def read_page(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    reader.close()
    assert reader.open == []
    return reader


def make_gallery(query: str = "red fox") -> Gallery:
    hits = tuple(Hit(rank, 0.5, rank == 2, "AAAA", query) for rank in range(1, 6))
    return Gallery("emoji-retrieval", 400, "ema", "all 500 images", (("1 drawn", (Shown(query, 2, hits),)),))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs"), evaluations=3)


@pytest.fixture(scope="module")
def html(run):
    return page(read_run(run), make_gallery())


def test_the_page_is_well_formed_and_has_every_section(html):
    assert read_page(html).sections == SECTIONS


def test_the_page_loads_nothing(html):
    loads = read_page(html).loads
    assert loads and all(value.startswith("data:image/webp;base64,") for value in loads)
    assert not re.search(r"@import|url\(|<link|<iframe|https?://", html)


def test_every_chart_is_valid_and_described(html):
    charts = re.findall(r"<svg viewBox.*?</svg>", html)
    assert len(charts) > 15
    for chart in charts:
        root = ElementTree.fromstring(chart)
        assert root.get("role") == "img"
        assert root.find("title").text and root.find("desc").text
        assert "nan" not in chart.lower().replace("nance", "")


def test_numbers_are_those_of_the_records(run, html):
    told = set(read_page(html).numbers)
    newest = sorted((run / "evaluations").iterdir())[-1]
    records = [json.loads(path.read_text()) for path in newest.iterdir()]
    assert len(records) == 3
    for record in records:
        for name, metric in record["metrics"].items():
            assert metric["value"] in told, (record["task"], name)
            assert quantity(name, metric["value"]) in html
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["loss"] for line in lines if "loss" in line][-1] in told


def test_hostile_words_stay_words(run):
    reader = read_page(page(read_run(run), make_gallery(HOSTILE)))
    assert reader.scripts == 1
    assert reader.handlers == []
    assert read_page(page(read_run(run), HOSTILE)).scripts == 1


def test_a_run_before_its_first_step_says_what_is_missing(tmp_path):
    run = write_run(tmp_path, lines=1, evaluations=0)
    (run / "metrics.jsonl").unlink()
    (run / "quarantine.jsonl").unlink()
    html = write_report(run, tmp_path / "deep" / "page.html").read_text()
    assert read_page(html).sections == SECTIONS
    for said in ("no step was logged", "No evaluation was recorded", "Not measured", "holds no complete checkpoint"):
        assert said in html


def test_an_interrupted_run_is_called_unfinished(tmp_path):
    run = write_run(tmp_path, evaluations=0)
    path = run / "metrics.jsonl"
    path.write_text("\n".join(path.read_text().splitlines()[:10]) + '\n{"step": 44, "lo')
    html = page(read_run(run), "none")
    assert f"unfinished: step 40 of {number(400)}" in html
    assert len(read_run(run).lines) == 10


@pytest.mark.parametrize("logged", [{"workers": 3.0}, {}])
def test_a_run_that_waited_for_data_says_for_what(tmp_path, logged):
    run = write_run(tmp_path / "waiting")
    path = run / "metrics.jsonl"
    if not logged:  # as before there was `auto`
        lock = run / "recipe.lock.yaml"
        assert "workers: auto" in lock.read_text()
        lock.write_text(lock.read_text().replace("workers: auto", "workers: 3"))
    lines = [json.loads(line) | {"data_wait": 0.5} | logged for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "-bound: " in (said := write_report(run).read_text())
    assert "3 workers" in said or "data.workers" in said


def test_a_device_that_waited_for_launches_is_told_and_its_idle_time_is_drawn(tmp_path):
    run = write_run(tmp_path / "launches")
    path = run / "metrics.jsonl"
    logged = {"data_wait": 0.01, "device_idle": 0.03, "work_ahead": 0.02}
    lines = [json.loads(line) | logged for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    said = write_report(run).read_text()
    assert "The run is launch-bound" in said
    assert "device idle" in said


def test_a_failed_task_is_told(tmp_path):
    run = write_run(tmp_path, evaluations=1)
    (path,) = run.glob("evaluations/*/emoji24.json")
    failed = {"task": "emoji24", "version": 1, "evaluator": "zero_shot", "step": 400, "error": "RecipeError: no <b>"}
    path.write_text(json.dumps(failed))
    html = page(read_run(run), "none")
    assert "emoji24 failed: RecipeError: no &lt;b&gt;" in html
    assert "One evaluation so far" in html


def test_a_damaged_record_names_its_file(tmp_path):
    run = write_run(tmp_path, evaluations=1)
    (path,) = run.glob("evaluations/*/emoji24.json")
    path.write_text(path.read_text()[:40])
    with pytest.raises(RecipeError, match=r"emoji24\.json: not an evaluation record"):
        read_run(run)
    with pytest.raises(RecipeError, match="is no run folder"):
        write_report(tmp_path)


def test_bad_samples_are_counted_by_reason(run, html):
    assert read_run(run).faults == {("embedded", "corrupt_image"): 3, ("embedded", "empty_caption"): 1}
    assert '<td>corrupt image</td><td class="n">3</td>' in html


def test_guessing_searches_no_more_than_a_fold():
    """In 5 folds of 50 images each, guessing finds one of 10 first, and ranks end at 10."""
    images, texts = draw_pairs(50, skill=0.3)
    found = retrieve(images, texts, torch.arange(50), num_folds=5)
    record = make_record("coco", "retrieval", "mean_recall@1", found, 100)
    for name in ("text_to_image_recall@1", "image_to_text_recall@1", "mean_recall@1"):
        assert chance(record, name) == 0.1
    assert chance(record, "mean_recall@10") == 1.0
    assert "chance: 10.0\u202f% at k 1, 100.0\u202f% at 10" in recall_chart(record)


def test_a_chart_of_what_was_not_measured_is_called_by_what_it_shows():
    images, texts = draw_pairs(50, skill=0.3)
    found = retrieve(images, texts, torch.arange(50), recall_at=(1, 10))
    drawn = charts_of("sets", [make_record("sets", "retrieval", "mean_recall@1", found, step) for step in (1, 2)])
    assert "<b>sets: mean recall at 1</b>" in drawn and "recall at 5" not in drawn


def test_the_printed_recipe_is_the_recipe():
    """Patterns of names have brackets, and captions commas, which end entries of a list that nothing quotes."""
    settings = {
        "freeze": ["visual.blocks.[0-3]*", "text, all", "{x}", "a: b", "#1", "1e3", None, 1e-6, True],
        "labels": {"1": {"on": "yes, no", "null": []}, "a: b": 2},
        "stages": [{"batch_size": 8, "note": "one, two"}],
        "long": ["word " * 60],
        "lines": "one\ntwo",
        "empty": {},
    }
    assert parse_yaml("\n".join(yaml_lines(settings)), "the page") == settings


def test_a_shard_that_is_gone_counts_as_all_samples_that_were_in_it(tmp_path):
    run = write_run(tmp_path, evaluations=0)
    (run / "quarantine.jsonl").unlink()
    listed = Quarantine(run / "quarantine.jsonl", 0)
    listed.add([Fault("embedded", "shard_error", "0.tar", "", -1, "gone", samples=10_000)])
    listed.add([Fault("embedded", "corrupt_image", "1.tar", "a", 3, "bad")])
    assert '<td>shard error</td><td class="n">10000</td>' in page(read_run(run), "none")
    assert read_run(run).faults == {("embedded", "shard_error"): 10_000, ("embedded", "corrupt_image"): 1}


def test_the_gallery_shows_what_the_evaluator_ranked():
    task = load_task("clipart-retrieval")
    data = open_set(task.data)
    captions = [captions[0] for captions in data.captions]
    encoder = KnowingEncoder(captions, noise=2.0)
    gallery = build_gallery(task, data, encoder, step=1, weights="model")
    images, texts = encoder.embed_images(data.samples), encoder.embed_texts(captions)
    ranks = retrieve(images, texts, torch.arange(len(data))).details["ranks"]["text_to_image"]
    answers = [answer for _, answers in gallery.groups for answer in answers]
    assert len(answers) == 8
    for answer in answers:
        assert answer.rank == ranks[captions.index(answer.query)]
        assert [hit.rank for hit in answer.hits if hit.is_right] == [answer.rank]
        assert [hit.rank for hit in answer.hits][:SHOWN] == [1, 2, 3, 4, 5]
    assert gallery == build_gallery(task, data, encoder, step=1, weights="model")


def test_classes_are_queries_where_there_are_no_captions():
    task = load_task("photos-cc0")
    data = open_set(task.data)
    prompts = [template.replace("{c}", name) for name in data.class_names for template in data.templates]
    prompts += ["padding"] * max(0, len(data) - len(prompts))
    gallery = build_gallery(task, data, KnowingEncoder(prompts), step=1, weights="model")
    for answer in (answer for _, answers in gallery.groups for answer in answers):
        assert all(hit.is_right == (hit.caption == answer.query) for hit in answer.hits)
        assert next(hit.rank for hit in answer.hits if hit.is_right) == answer.rank


def test_queries_are_drawn_as_the_page_says():
    ranks = [1, 9, 1, 2, 30, 1, 7, 4, 1, 12] * 5
    (all_of_them, some), (found, first), (missed, late) = draw(ranks, "queries")
    assert (all_of_them, len(some)) == ("4 drawn at random from all 50 queries", 4)
    assert found.startswith("2 drawn at random from the 20 queries with a right image in first place")
    assert missed.startswith("2 drawn at random from the 20 queries without a right image")
    assert all(ranks[query] == 1 for query in first) and all(ranks[query] > SHOWN for query in late)
    assert len({*some, *first, *late}) == 8
    assert draw([1, 3], "classes") == [("2 drawn at random from all 2 classes", [0, 1])]


def test_a_trained_run_gets_its_gallery(tmp_path):
    overrides = ["evaluation.tasks=[clipart-retrieval]", "evaluation.weights=model", "strategies.ema=null"]
    recipe = load_recipe("smoke", [*overrides, f"runs={tmp_path}"])
    recipe.folder.mkdir()
    (recipe.folder / "recipe.lock.yaml").write_text(lock_text(recipe))
    torch.manual_seed(0)
    weights = {"model": build_model(recipe.model).state_dict()}
    save(recipe.folder, step=3, position=384, weights=weights, training={}, keep=1)
    target = write_report(recipe.folder)
    html = target.read_text()
    assert target == recipe.folder / "report.html"
    assert target.stat().st_size < 2_000_000
    assert "4 drawn at random from all 138 queries" in html
    assert len(read_page(html).loads) >= 8 * SHOWN
    assert "<dt>parameters</dt>" in html


def test_a_step_without_a_number_breaks_the_line():
    chart = line_chart("Loss", [Series("", [(1, 2.0), (2, 1.5), (3, None), (4, 1.0), (5, 0.9)])])
    (drawn,) = re.findall(r'class="line ink" d="([^"]+)"', chart)
    assert drawn.count("M") == 2
    assert "no numbers were logged" in line_chart("Loss", [Series("", [(1, None)])])


def test_wide_ranges_get_a_logarithmic_axis():
    assert "log scale" in line_chart("Loss", [Series("", [(1, 100.0), (2, 1.0)])], allow_log=True)
    assert "log scale" not in line_chart("Loss", [Series("", [(1, 5.0), (2, 1.0)])], allow_log=True)
    assert Axis(0.9, 1100, 0, 100, log=True).ticks() == [1, 10, 100, 1000]


def test_tick_labels_differ():
    assert ticks([14.22, 14.225, 14.23]) == ["14.22", "14.225", "14.23"]
    assert ticks([0, 5e-4, 1e-3]) == ["0", "5e\N{MINUS SIGN}4", "1e\N{MINUS SIGN}3"]


def test_labels_do_not_overlap():
    places = push_apart([50, 51, 52, 180], 10, 188)
    assert all(after - before >= 13 for before, after in pairwise(places))
    assert push_apart([188, 188], 10, 188) == [175, 188]


def test_long_curves_are_thinned_and_noisy_ones_smoothed():
    points = [(float(step), float(step % 2)) for step in range(1000)]
    thinned = thin(points, 100)
    assert len(thinned) == 100
    assert thinned[0] == (4.5, 0.5)
    assert {value for _, value in smooth([(x, 5.0 if x == 50 else 1.0) for x in range(100)])} == {1.0}


@pytest.mark.parametrize(
    ("value", "said"), [(0.0, "0"), (4.1827, "4.18"), (100.4, "100"), (1234.5, "1\N{NARROW NO-BREAK SPACE}234")]
)
def test_numbers_are_short(value, said):
    assert number(value) == said
    assert number(-value) == (f"\N{MINUS SIGN}{said}" if value else said)
