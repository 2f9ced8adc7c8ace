import importlib
import pkgutil

import pytest
from pydantic import BaseModel, ValidationError

import vlp
from vlp.evaluators.typos import Typos
from vlp.ground.strict import Strict
from vlp.step.optimizer import GroupSettings


def all_below(model):
    for below in model.__subclasses__():
        yield below
        yield from all_below(below)


def test_whatever_somebody_wrote_is_strict():
    for module in pkgutil.walk_packages(vlp.__path__, "vlp."):
        importlib.import_module(module.name)
    ours = {model.__name__: model.model_config for model in all_below(BaseModel) if model.__module__.startswith("vlp.")}
    assert len(ours) > 50
    assert [name for name, config in ours.items() if not config.items() >= Strict.model_config.items()] == []


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -1.0])
@pytest.mark.parametrize(
    ("model", "key", "rest"),
    [
        (GroupSettings, "learning_rate_factor", {"match": ("*",)}),
        (GroupSettings, "weight_decay", {"match": ("*",)}),
        (Typos, "rate", {}),
    ],
)
def test_numbers_are_numbers(model, key, rest, number):
    with pytest.raises(ValidationError, match=key):
        model(**rest, **{key: number})
