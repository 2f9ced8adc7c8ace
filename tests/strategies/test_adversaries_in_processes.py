"""What an adversary finds is the same in one process and in two, in one piece and in micro-batches, sharded or not."""

import pytest

from tests.strategies.layouts import assert_alike, in_two_processes, steps_of
from tests.test_sharded import launched

STEADY = "model.image.patch_dropout=0.0"
WORDINGS = "data.text_views={synonyms: {count: 2, synonyms: 1.0}}"
CASES = {
    "images": ("vitb32_clip", (STEADY, "strategies.adversarial_images={steps: 2, probability: 0.7}")),
    "images alone": ("vitb32_clip", (STEADY, "strategies.adversarial_images={clean_weight: 0.0}")),
    "texts": ("vitb32_clip", (STEADY, "strategies.adversarial_texts={steps: 2, epsilon: 0.3}")),
    "words": ("vitb32_clip", (STEADY, "strategies.adversarial_words={}", WORDINGS)),
    "both": ("vitb32_clip", (STEADY, "strategies.adversarial_texts={}", "strategies.adversarial_images={}")),
    "purifier": ("finetune_purifier", (STEADY, "strategies.fare.steps=2", "train.micro_batches=1")),
}
TOLERANCE = {"purifier": 1e-3}  # its loss is all adversary: 0.004, of which a colour that turns is a part
LAYOUTS = {
    "whole": ({}, 1),
    "whole in pieces": ({}, 2),
    "sharded": (launched(), 1),
    "sharded in pieces": (launched(), 2),
}


@pytest.mark.parametrize("case", CASES)
def test_micro_batches_equal_one_pass(case):
    assert_alike(steps_of(*CASES[case], micro_batches=4), steps_of(*CASES[case]), TOLERANCE.get(case, 1e-4))


@pytest.fixture(scope="module")
def found():
    return in_two_processes(CASES, LAYOUTS)


@pytest.mark.processes
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("case", CASES)
def test_two_processes_equal_one(found, case, layout):
    expected = steps_of(*CASES[case])
    for of_a_process in found:
        assert_alike(of_a_process[layout][case], expected, TOLERANCE.get(case, 1e-4))
