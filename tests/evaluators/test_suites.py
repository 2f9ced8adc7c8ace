"""Suites name tasks that exist, and average as those who quote them do."""

from __future__ import annotations

from itertools import product

import pytest

from vlp.evaluators.base import TaskFile, load_task
from vlp.evaluators.corruptions import CORRUPTIONS
from vlp.evaluators.suites import Suite, load_suite, match_tasks, suite_files
from vlp.evaluators.variants import read_task, task_names
from vlp.ground.types import RecipeError

# DataComp's tasklist.yml: size, classes, main metric, random score; by the names that its tasks have here.
DATACOMP = {
    "caltech101": (6085, 102, "mean_per_class_recall", 0.009804),
    "cifar10": (10000, 10, "acc1", 0.1),
    "cifar100": (10000, 100, "acc1", 0.01),
    "clevr_count_all": (15000, 8, "acc1", 0.125061),
    "clevr_closest_object_distance": (15000, 6, "acc1", 0.19052),
    "country211": (21100, 211, "acc1", 0.004739),
    "dtd": (1880, 47, "acc1", 0.021277),
    "eurosat": (5400, 10, "acc1", 0.101483),
    "fgvc_aircraft": (3333, 100, "mean_per_class_recall", 0.01),
    "food101": (25250, 101, "acc1", 0.009901),
    "gtsrb": (12630, 43, "acc1", 0.037604),
    "imagenet1k": (50000, 1000, "acc1", 0.001),
    "imagenet_sketch": (50889, 1000, "acc1", 0.001),
    "imagenetv2": (10000, 1000, "acc1", 0.001),
    "imagenet-a": (7500, 200, "acc1", 0.008056),
    "imagenet-o": (2000, 200, "acc1", 0.006047),
    "imagenet-r": (30000, 200, "acc1", 0.006163),
    "kitti_closest_vehicle_distance": (711, 4, "acc1", 0.295289),
    "mnist": (10000, 10, "acc1", 0.10035),
    "objectnet": (18574, 113, "acc1", 0.009481),
    "flowers": (6149, 102, "mean_per_class_recall", 0.009804),
    "pets": (3669, 37, "mean_per_class_recall", 0.027027),
    "voc2007": (14976, 20, "acc1", 0.154038),
    "pcam": (32768, 2, "acc1", 0.5),
    "renderedsst2": (1821, 2, "acc1", 0.500001),
    "resisc45": (6300, 45, "acc1", 0.022342),
    "cars": (8041, 196, "acc1", 0.00516),
    "stl10": (8000, 10, "acc1", 0.1),
    "sun397": (108754, 397, "acc1", 0.004645),
    "svhn": (26032, 10, "acc1", 0.117897),
    "flickr30k": (1000, None, "mean_recall@1", None),
    "mscoco_captions": (5000, None, "mean_recall@1", None),
    "winogavil": (3563, None, "jaccard_score_10-12", 0.205),
    "iwildcam": (42791, 182, "F1-macro_all", 0.143056),
    "camelyon17": (85054, 2, "acc1", 0.5),
    "fmow": (22108, 62, "acc_worst_region", 0.027193),
    "dollar_street": (3503, 58, "acc_top5_wg", None),
    "geode": (12488, 40, "acc_wg", None),
}
METRICS = {
    "F1-macro_all": "macro_f1",
    "acc_worst_region": "worst_group_acc1",
    "acc_wg": "worst_group_acc1",
    "acc_top5_wg": "worst_group_acc5",
    "jaccard_score_10-12": "jaccard_10_12",
}
OTHER_RANDOM = {"iwildcam"}  # its list has the random accuracy beside F1
CORRUPTED = {"imagenet-c": "imagenet1k-c", "quick-c": "photos-cc0-c"}
WRITES = {"caption_metrics", "grounding"}  # captions and boxes
INSTANCES = {"winogavil"}  # its list counts instances of several images


def write(tmp_path, text, name="mine"):
    (tmp_path / "eval" / "suites").mkdir(parents=True, exist_ok=True)
    path = tmp_path / "eval" / "suites" / f"{name}.yaml"
    path.write_text(text)
    return str(path)


def test_there_are_the_suites_that_people_ask_for():
    asked = {"quick", "imagenet-shifts", "vtab", "retrieval", "multilingual", "compositional", "datacomp38", "all"}
    assert asked <= set(suite_files())


@pytest.mark.parametrize("name", suite_files())
def test_every_suite_names_tasks_that_exist(name):
    suite = load_suite(name)
    assert set(suite.tasks) <= set(task_names())
    assert len(suite.tasks) == len(set(suite.tasks)) > 0
    assert suite.note.endswith((".", "?"))
    scores = {task: 0.5 for task in suite.tasks}
    assert suite.averages(scores) == pytest.approx(dict.fromkeys([*suite.groups, "average"], 0.5))


def test_datacomp_has_its_tasks_their_sizes_and_main_metrics():
    suite = load_suite("datacomp38")
    assert list(suite.tasks) == list(DATACOMP)
    assert len(suite.tasks) == 38
    for name, (size, classes, metric, random) in DATACOMP.items():
        task = TaskFile.model_validate(read_task(name)[1])
        assert task.main_metric == METRICS.get(metric, metric), name
        assert name in INSTANCES or task.data.samples == size, name
        assert task.data.classes == classes, name
        assert random is None or name in OTHER_RANDOM or task.random == pytest.approx(random), name


def test_the_average_of_datacomp_is_that_of_its_script():
    """Plain means of main metrics; a task may count in a group and does count once in the average."""
    suite = load_suite("datacomp38")
    scores = {task: number / 100 for number, task in enumerate(suite.tasks)}
    means = suite.averages(scores)
    assert means["average"] == pytest.approx(sum(range(38)) / 38 / 100)
    assert means["ImageNet"] == scores["imagenet1k"]
    shifts = ("imagenet_sketch", "imagenetv2", "imagenet-a", "imagenet-o", "imagenet-r", "objectnet")
    assert means["ImageNet dist. shifts"] == pytest.approx(sum(scores[task] for task in shifts) / 6)
    assert len(suite.groups["VTAB"]) == 13
    assert suite.groups["Retrieval"] == ("flickr30k", "mscoco_captions", "winogavil")


def test_a_mean_over_some_of_its_tasks_is_none():
    suite = load_suite("datacomp38")
    scores = {task: 0.5 for task in suite.tasks if task != "objectnet"}
    assert suite.averages(scores) == {"ImageNet": 0.5, "VTAB": 0.5, "Retrieval": 0.5}
    assert suite.averages({}) == {}


def test_an_average_of_groups_gives_each_group_one_voice():
    suite = Suite("s", "", ("a", "b", "c"), {"one": ("a", "b"), "two": ("c",)}, "groups")
    assert suite.averages({"a": 0.0, "b": 1.0, "c": 1.0}) == {"one": 0.5, "two": 1.0, "average": 0.75}
    assert suite.averages({"a": 0.0, "b": 1.0}) == {"one": 0.5}


def test_all_is_every_task_in_one_reading():
    every = set(load_suite("all").tasks)
    whole = {name for name in task_names() if read_task(name)[2].endswith(f"/{name}.yaml")}
    corrupted = {name for name in whole if "corruption" in read_task(name)[1]["data"]}
    written = {name for name in whole if read_task(name)[1]["evaluator"] in WRITES}  # by few models
    assert every == whole - {"geometry", "diagnostics", "tolerance"} - corrupted - written
    for name in suite_files():
        assert name in {"multilingual", *CORRUPTED} or set(load_suite(name).tasks) <= every, name


@pytest.mark.parametrize(("name", "stem"), CORRUPTED.items())
def test_a_corrupted_suite_has_every_kind_in_every_severity_once(name, stem):
    suite = load_suite(name)
    plain = load_task(stem)
    found = [load_task(task) for task in suite.tasks]
    corruptions = [task.data.corruption for task in found]
    assert {(each.kind, each.severity) for each in corruptions} == set(product(CORRUPTIONS, range(1, 6)))
    for task, corruption in zip(found, corruptions, strict=True):
        assert task.name == f"{stem}-{corruption.kind}-{corruption.severity}"
        assert task.name in suite.groups[corruption.kind]
        assert task.data == plain.data.model_copy(update={"corruption": corruption})
        assert corruption.jpeg == plain.data.corruption.jpeg
    clean = load_task(stem.removesuffix("-c"))
    assert (plain.data.as_is(), plain.random, plain.settings) == (clean.data, clean.random, clean.settings)
    assert plain.data.corruption.kind is None
    assert list(suite.groups) == list(CORRUPTIONS)
    assert all(len(members) == 5 for members in suite.groups.values())


def test_no_english_is_in_the_multilingual_suite():
    tasks = load_suite("multilingual").tasks
    assert len(tasks) > 40
    assert not [task for task in tasks if task.endswith("-en") or task == "imagenet1k"]
    assert set(match_tasks(["crossmodal3600-*", "xtd10-*"], "here")) - set(tasks) == {"crossmodal3600-en", "xtd10-en"}


def test_a_suite_of_ones_own_is_found_by_name_and_by_path(tmp_path, monkeypatch):
    path = write(tmp_path, "# Mine.\nsuites: [quick]\ntasks: [cifar10, emoji24, imagenet1k-it]\n")
    monkeypatch.chdir(tmp_path)
    for name in ("mine", path):
        suite = load_suite(name)
        assert suite.note == "Mine."
        assert suite.tasks == (*load_suite("quick").tasks, "cifar10", "imagenet1k-it")


@pytest.mark.parametrize(
    "text, says",
    [
        ("tasks: [emoji42]", r"no task 'emoji42'; did you mean 'emoji24'"),
        ("tasks: [nothing-*]", r"no task 'nothing-\*'"),
        ("tasks: []", "names no tasks"),
        ("tasks: [emoji24]\ntask: [cifar10]", r"task.*did you mean 'tasks'"),
        ("tasks: [emoji24]\ngroups: {g: [cifar10]}", r"groups\.g has cifar10, which is none"),
        ("tasks: [emoji24, cifar10]\ngroups: {g: [cifar10]}\naverage: groups", "emoji24 is in none"),
        ("tasks: [emoji24]\ngroups: {average: [emoji24]}", "rename the group"),
        ("suites: [quik]", r"no suite 'quik'; did you mean 'quick'\? \(there are: all, "),
        ("suites: [mine]", "mine -> mine name each other"),
        ("tasks: [emoji24]\naverage: median", "average"),
    ],
)
def test_a_mistake_names_the_file_and_the_way_out(tmp_path, monkeypatch, text, says):
    path = write(tmp_path, text)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RecipeError, match=says):
        load_suite(path)


def test_an_unknown_suite_says_what_there_is():
    with pytest.raises(RecipeError, match=r"no suite 'datacomp'; did you mean 'datacomp38'\? \(there are: all, .*vtab"):
        load_suite("datacomp")
    with pytest.raises(RecipeError, match=r"no file 'nowhere\.yaml'"):
        load_suite("nowhere.yaml")
