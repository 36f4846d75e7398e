"""Batches of items of different lengths under a budget."""

from collections.abc import Hashable, Iterator, Sequence


def by_length(
    lengths: Sequence[int],
    budget: int,
    pair_budget: int | None = None,
    *,
    kinds: Sequence[Hashable] | None = None,
    longest_first: bool = True,
) -> Iterator[list[int]]:
    """Group items of similar length so that no padded group exceeds the budgets.

    Parameters
    ----------
    lengths
        Length, or cost, of each item.
    budget
        Maximum padded length of a group: its longest item times the number of items. An item that exceeds it forms a
        group of its own.
    pair_budget
        The same for the squares of the lengths. None: no limit.
    kinds
        Kind of each item (sortable); all items of a group are of one kind.
    longest_first
        Whether the longest come first (those that may exceed the memory), or the shortest.

    Yields
    ------
    list of int
        Indices of a group's items. Every item is in exactly one group.
    """
    kinds = [0] * len(lengths) if kinds is None else kinds
    sign = -1 if longest_first else 1
    group: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: (kinds[i], sign * lengths[i], i)):
        if group:
            longest, count = max(lengths[group[0]], lengths[index]), len(group) + 1
            too_many_pairs = pair_budget is not None and longest**2 * count > pair_budget
            if kinds[index] != kinds[group[0]] or longest * count > budget or too_many_pairs:
                yield group
                group = []
        group.append(index)
    if group:
        yield group
