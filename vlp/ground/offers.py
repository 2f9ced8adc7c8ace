"""What an object offers of a protocol, itself or through another one."""

from __future__ import annotations

from typing import Any, Protocol, TypeGuard, TypeVar

Kind = TypeVar("Kind")


def offers(thing: object, protocol: type[Kind]) -> TypeGuard[Kind]:
    """Whether an object has all that a protocol lists.

    `isinstance` sees since Python 3.12 only what stands in the class or the object; an encoder around another one hands
    on what it does not know.
    """
    return all(hasattr(thing, name) for kind in protocol.__mro__ if _is_protocol(kind) for name in _listed(kind))


def _is_protocol(kind: type) -> bool:
    return kind is not Protocol and getattr(kind, "_is_protocol", False)


def _listed(kind: Any) -> set[str]:
    return {name for name in (*vars(kind), *vars(kind).get("__annotations__", ())) if not name.startswith("_")}
