"""Byte pair encoding of one word in almost linear time, so that no caption can hold up a batch."""

from __future__ import annotations

import heapq
from collections.abc import Mapping

END_OF_WORD = "</w>"


def merge(word: str, ranks: Mapping[tuple[str, str], int]) -> list[str]:
    """Return the tokens of a word: in each round, the neighbours of the lowest rank become one wherever they stand.

    Sennrich et al. 2016 (arXiv:1508.07909). The same tokens as open_clip's search of the whole word in every round,
    which takes a quarter of a minute for 100,000 letters without a space.

    Args:
        ranks: Which neighbours become one, the smallest number first.
    """
    if not word:
        return []
    tokens = [*word[:-1], word[-1] + END_OF_WORD]
    end = len(tokens)
    after, before = list(range(1, end + 1)), list(range(-1, end - 1))
    alive = [True] * end

    def rank(place: int) -> int | None:
        return ranks.get((tokens[place], tokens[after[place]])) if after[place] < end else None

    waiting = [(number, place) for place in range(end) if (number := rank(place)) is not None]
    heapq.heapify(waiting)
    while waiting:
        lowest, places = waiting[0][0], []
        while waiting and waiting[0][0] == lowest:
            places.append(heapq.heappop(waiting)[1])
        merged = []
        for place in places:
            if not alive[place] or rank(place) != lowest:
                continue
            gone = after[place]
            tokens[place] += tokens[gone]
            alive[gone], after[place] = False, after[gone]
            if after[place] < end:
                before[after[place]] = place
            merged.append(place)
        # Only now: what this round has made may not take part in it.
        for place in merged:
            for left in (before[place], place):
                if left >= 0 and alive[left] and (number := rank(left)) is not None:
                    heapq.heappush(waiting, (number, left))
    return [token for token, stays in zip(tokens, alive, strict=True) if stays]
