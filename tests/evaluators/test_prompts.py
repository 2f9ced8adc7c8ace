"""Prompts from templates and from dictionaries; what is wrong in a file is named."""

from __future__ import annotations

import json

import pytest
import torch

from tests.evaluators.sets import HashEncoder, opened, unit, write_classes
from vlp.evaluators.prompts import average, class_embeddings, prompts_of
from vlp.evaluators.shared import SharedEncoder
from vlp.evaluators.zero_shot import ZeroShot
from vlp.ground.types import RecipeError

LISTED = {
    "red cat": ["a red cat sleeps", "fur the colour of rust"],
    "green dog": ["a green dog"],
    "blue bird": ["a blue bird sings", "feathers like the sky", "a bird that is blue"],
    "grey mouse": ["of another set"],
}


@pytest.fixture
def data(tmp_path):
    return opened(write_classes(tmp_path / "set"))


def write(tmp_path, name, listed):
    path = tmp_path / name
    if name.endswith(".json"):
        path.write_text(json.dumps(listed))
    else:
        lines = [f"{key}:\n" + "".join(f"  - {text}\n" for text in texts) for key, texts in listed.items()]
        path.write_text("".join(lines))
    return str(path)


@pytest.mark.parametrize("name", ["cupl.json", "cupl.yaml"])
def test_each_class_has_its_own_prompts(tmp_path, data, name):
    prompts = prompts_of(data, write(tmp_path, name, LISTED))
    assert prompts.counts == (2, 1, 3)
    assert prompts.texts == tuple(text for key in ("red cat", "green dog", "blue bird") for text in LISTED[key])
    evaluator = ZeroShot(data, prompts=write(tmp_path, name, LISTED))
    assert evaluator.texts == prompts.texts
    assert evaluator.run(SharedEncoder(HashEncoder())).details["templates"] == 3


def test_classes_are_averaged_one_at_a_time(tmp_path, data):
    prompts = prompts_of(data, write(tmp_path, "cupl.json", LISTED))
    encoder = HashEncoder()
    found = class_embeddings(SharedEncoder(encoder), prompts)
    for row, name in zip(found, data.class_names, strict=True):
        mean = torch.stack([encoder.embed_texts([text])[0] for text in LISTED[name]]).mean(0)
        assert torch.allclose(row, mean / mean.norm(), atol=1e-5)


def test_prompts_of_some_classes(data):
    assert prompts_of(data, None, ["blue bird"]).texts == ("a photo of a blue bird.", "a blue bird")


def test_the_average_of_unequal_numbers():
    rows = unit(torch.tensor([[1.0, 0.0], [0.0, 1.0], [3.0, 4.0]]))
    assert torch.allclose(average(rows, (2, 1)), torch.tensor([[0.5**0.5, 0.5**0.5], [0.6, 0.8]]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            '{"red cat": ["x"], "green dgo": ["y"]}',
            r"cupl.json: no prompts for class 'green dog'; did you mean 'green dgo",
        ),
        ('{"red cat": ["x"], "green dog": []}', "prompts of class 'green dog' must be a list of texts"),
        ('{"red cat": ["x"], "green dog": "y"}', "prompts of class 'green dog' must be a list of texts"),
        ('{"red cat": ["x"], "green dog": ["y", " "]}', "prompts of class 'green dog' must be a list of texts"),
        ('{"red cat": ["x"], "red cat": ["y"]}', "cupl.json: key 'red cat' stands twice"),
        ('["red cat"]', "expected a JSON object"),
        ('{"red cat": ', "cupl.json: Expecting value"),
    ],
)
def test_what_is_wrong_in_a_dictionary_is_named(tmp_path, data, content, message):
    (tmp_path / "cupl.json").write_text(content)
    with pytest.raises(RecipeError, match=message):
        prompts_of(data, str(tmp_path / "cupl.json"))
