"""Things of different lengths put together into batches under a budget."""

from collections.abc import Hashable, Iterator, Sequence


def by_length(
    lengths: Sequence[int],
    budget: int,
    pair_budget: int | None = None,
    *,
    kinds: Sequence[Hashable] | None = None,
    longest_first: bool = True,
) -> Iterator[list[int]]:
    """Group things of similar length so that no padded group exceeds the budgets.

    Parameters
    ----------
    lengths
        Length, or cost, of each thing.
    budget
        Of a group's lengths together, padding counted: the longest times their number. A thing that alone is above it
        goes alone.
    pair_budget
        Of the squares of the lengths, likewise. None: no such bound.
    kinds
        A kind of each thing, which can be ordered: a group holds one kind only.
    longest_first
        Whether the longest come first (those that memory may not suffice for), or the shortest.

    Yields
    ------
    list of int
        The places of a group's things. Every thing is in exactly one group.
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
