"""A card by its name or path, and its shards."""

from __future__ import annotations

from vlp.data import Card
from vlp.ground import paths
from vlp.ground.yaml import read_yaml


def num_shards(number: int) -> str:
    """Return a number of shards in words."""
    return f"{number:,} shard{'' if number == 1 else 's'}"


def open_card(name: str) -> Card:
    """Return a card by its name under `data/` or by the path of its YAML file.

    Raises:
        RecipeError: No such card, or a mistake in it.
    """
    path = paths.find_card("data", name)
    return Card.from_mapping(read_yaml(path), path)
