"""Dropout in the text tower for changed captions alone, never for the caption as it stands."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.nn import functional

from vlp.ground.types import RecipeError
from vlp.towers.blocks import blocks_of


class ViewDropout:
    """Drop numbers of what enters each block of a text tower, while it is asked for and the tower trains.

    Fini et al. 2023 (arXiv:2305.08675), whose global captions are read without dropout.

    Args:
        tower: A text tower.
        share: Of the numbers, drawn by torch's generator.

    Raises:
        RecipeError: It is no share, or the tower has no blocks.
    """

    def __init__(self, tower: nn.Module, share: float):
        if not 0 < share < 1:
            raise RecipeError(f"model.text_dropout: {share} is no share between 0 and 1: leave it out for none")
        self._tower = tower
        self._share = share
        self._is_asked_for = False
        blocks = list(blocks_of(tower))
        if not blocks:
            raise RecipeError("model.text_dropout: the text tower has no blocks that it knows: leave it out")
        for block in blocks:
            block.register_forward_pre_hook(self._drop, with_kwargs=True)

    @contextmanager
    def asked_for(self) -> Iterator[None]:
        """Drop within the block."""
        self._is_asked_for = True
        try:
            yield
        finally:
            self._is_asked_for = False

    def _drop(
        self, _block: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        if not (self._is_asked_for and self._tower.training):
            return None
        if inputs:
            return (functional.dropout(inputs[0], self._share), *inputs[1:]), named
        return inputs, {**named, "hidden_states": functional.dropout(named["hidden_states"], self._share)}
