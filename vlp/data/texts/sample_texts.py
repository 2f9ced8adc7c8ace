"""What stands under a key of a sample: in a member of its own, or in a JSON member."""

from __future__ import annotations

import json
from typing import Any

from vlp.data.faults import BadSampleError
from vlp.data.samples import Sample
from vlp.data.shards.cards import is_record

LARGEST_CAPTION = 100_000
LARGEST_JSON = 10_000_000


def values_under(sample: Sample, key: str, records: dict[str, dict[str, Any]]) -> list[Any]:
    """Return what stands under a key, in a list; an empty one where nothing does.

    Args:
        records: JSON members that were read already; further ones are put there.
    """
    if key in sample.members and not is_record(key):
        return [_read_text(sample, key, LARGEST_CAPTION)]
    for member in sorted(filter(is_record, sample.members), key=len, reverse=True):
        if key.startswith(f"{member}."):
            records[member] = records[member] if member in records else read_record(sample, member)
            return _within(records[member], key.removeprefix(f"{member}."))
    return []


def _within(record: Any, path: str) -> list[Any]:
    """Look a key up, or keys of mappings within joined by dots; of a list of mappings, in each."""
    if isinstance(record, list):
        found = [value for part in record for value in _within(part, path)]
        texts = [text for value in found for text in (value if isinstance(value, list) else [value])]
        return [texts] if found else []
    if not isinstance(record, dict):
        return []
    if path in record:
        return [record[path]]
    for place, letter in enumerate(path):
        if letter == "." and path[:place] in record:
            return _within(record[path[:place]], path[place + 1 :])
    return []


def read_record(sample: Sample, member: str) -> dict[str, Any]:
    """Return the content of a JSON member.

    Raises:
        BadSampleError: It is no mapping, or too large.
    """
    try:
        record = json.loads(_read_text(sample, member, LARGEST_JSON))
    except (ValueError, RecursionError) as error:  # among them integers of 5,000 digits
        raise BadSampleError("bad_caption", f"{member}: {error}") from error
    if not isinstance(record, dict):
        raise BadSampleError("bad_caption", f"{member}: not a mapping")
    return record


def _read_text(sample: Sample, extension: str, largest: int) -> str:
    if sample.size(extension) > largest:
        raise BadSampleError("bad_caption", f"{extension}: {sample.size(extension)} bytes, more than {largest}")
    try:
        return sample.read(extension).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadSampleError("bad_caption", f"{extension}: {error}") from error
