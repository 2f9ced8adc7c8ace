"""What an object hands on counts as its own, whichever Python asks."""

from __future__ import annotations

from typing import Protocol

from vlp.ground.offers import offers


class Named(Protocol):
    name: str


class Talker(Named, Protocol):
    @property
    def voice(self) -> str: ...

    def say(self, words: str) -> str: ...


class Person:
    name = "A"
    voice = "low"

    def say(self, words: str) -> str:
        return words


class Around:
    def __init__(self, other, hidden=()):
        self.other, self.hidden = other, hidden

    def __getattr__(self, name):
        if name in self.hidden:
            raise AttributeError(name)
        return getattr(self.other, name)


def test_all_that_a_protocol_lists_counts():
    assert offers(Person(), Talker)
    assert offers(Around(Person()), Talker)
    for missing in ("name", "voice", "say"):
        assert not offers(Around(Person(), {missing}), Talker)
    assert offers(Around(Person(), {"say"}), Named)
    assert not offers(object(), Named)
