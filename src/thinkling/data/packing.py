"""Rows into batches of at most so many tokens: as few batches as can be had, and then as even as they can be.

Best fit (Johnson et al. 1974, SIAM J. Comput. 3:299): each row in its turn goes into the fullest batch that still takes
it. The longest row first (best fit decreasing) would fill the batches a little better still, but gather the long rows
in some of them and the short ones in others, and a step should see a sample of all. Fewer batches at one budget are
fuller ones; and once their number is known the budget is lowered as long as the number stays, so that the last batch is
seldom a small, noisy step.
"""

from __future__ import annotations

from collections.abc import Sequence


def packed(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Places of the rows in each batch; a row longer than the budget stands alone.

    Never more batches than filling one after the other in the given order would make. Rows keep their order within a
    batch.
    """
    way = min((_best_fit, _next_fit), key=lambda fill: len(fill(lengths, budget)))
    fewest = len(way(lengths, budget))
    low, high = max(1, -(-sum(lengths) // max(fewest, 1))), budget
    while low < high:
        middle = (low + high) // 2
        # Fewer than fewest can happen, for best fit is no perfect packing: but so many batches have been promised.
        if len(way(lengths, middle)) == fewest:
            high = middle
        else:
            low = middle + 1
    return [sorted(batch) for batch in way(lengths, high)]


def fewest_batches(lengths: Sequence[int], budget: int) -> int:
    """How many batches `packed` makes."""
    return min(len(_best_fit(lengths, budget)), len(_next_fit(lengths, budget)))


def _next_fit(lengths: Sequence[int], budget: int) -> list[list[int]]:
    batches: list[list[int]] = []
    room = -1
    for place, length in enumerate(lengths):
        if length > room:
            batches.append([])
            room = budget
        batches[-1].append(place)
        room -= length
    return batches


def _best_fit(lengths: Sequence[int], budget: int) -> list[list[int]]:
    batches: list[list[int]] = []
    with_room: dict[int, list[int]] = {}
    """Room in tokens to the batches that have just so much left, the newest last."""
    rooms = 0
    """Bit r is set where some batch has room for r tokens more: the least room that suffices is found in one look."""
    for place, length in enumerate(lengths):
        enough = rooms >> length
        if enough:
            room = length + (enough & -enough).bit_length() - 1
            chosen = with_room[room].pop()
            if not with_room[room]:
                rooms ^= 1 << room
        else:
            room, chosen = max(budget, length), len(batches)
            batches.append([])
        batches[chosen].append(place)
        left = room - length
        if left:
            with_room.setdefault(left, []).append(chosen)
            rooms |= 1 << left
    return batches
