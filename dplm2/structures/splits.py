"""Division into training, validation and test chains, without related chains across splits."""

import hashlib
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from dplm2.core.errors import ConfigError, DPLM2Error
from dplm2.core.text import read_lines, some
from dplm2.settings.dataset import Split
from dplm2.structures.similarity import WordIndex

TRAIN, VALIDATION, TEST = "train", "validation", "test"
LISTED_NAMES = 20
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Members:
    """Properties used for splitting, one item per chain."""

    ids: Sequence[str]
    entries: Sequence[str]
    sequences: Sequence[str]
    dates: Sequence[str | None]
    clusters: Sequence[str | None]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass
class Assignment:
    """The split of each chain; ``leaks`` maps training chains to the held-out chain to which they are related."""

    splits: list[str]
    leaks: dict[int, int] = field(default_factory=dict)
    unmatched: dict[str, int] = field(default_factory=dict)


def assign_splits(members: Members, settings: Split, seed: int) -> Assignment:
    """Divide chains.

    Lists are applied first, then dates, then random draws from the remaining chains. A random draw includes
    near-identical sequences (and, by cluster, the whole cluster); training chains related to chains held out by a list
    or a date are reported as leaks. A draw depends only on the seed and the names, so that a new chain does not change
    the split of others.

    Raises
    ------
    ConfigError
        If settings are contradictory.
    DPLM2Error
        If a list cannot be read, or there are leaks and ``settings.leaks`` is ``stop``.
    """
    if (
        settings.by == "cluster"
        and not any(members.clusters)
        and settings.validation_fraction + settings.test_fraction > 0
    ):
        raise ConfigError("split.by: cluster needs clusters; set clusters.source to file or mmseqs2")
    if settings.validation_fraction + settings.test_fraction >= 1:
        raise ConfigError("split: validation_fraction and test_fraction leave no training chains")
    assignment = Assignment([TRAIN] * len(members))
    _by_list(members, settings, assignment)
    _by_date(members, settings, assignment)
    if settings.leaks != "keep":
        assignment.leaks = find_leaks(members, assignment.splits, settings.leak_identity)
    if assignment.leaks and settings.leaks == "stop":
        chain, other = next(iter(assignment.leaks.items()))
        raise DPLM2Error(
            f"split.leaks is stop: {len(assignment.leaks)} training chains are related to held-out ones, for example "
            f"{members.ids[chain]} to {members.ids[other]}"
        )
    for name, fraction in ((TEST, settings.test_fraction), (VALIDATION, settings.validation_fraction)):
        if fraction > 0:
            _draw(members, settings, assignment, name, fraction, seed)
    return assignment


def _by_list(members: Members, settings: Split, assignment: Assignment) -> None:
    for name, path in ((TEST, settings.test_list), (VALIDATION, settings.validation_list)):
        if path is None:
            continue
        listed = dict.fromkeys(line.split("#")[0].strip() for line in read_lines(path))
        listed.pop("", None)
        used: set[str] = set()
        for i, own in enumerate(zip(members.ids, members.entries, strict=True)):
            matching = listed.keys() & set(own)
            if not matching:
                continue
            if assignment.splits[i] != TRAIN:
                raise ConfigError(f"split: {members.ids[i]} is in both test_list and validation_list")
            assignment.splits[i] = name
            used |= matching
        if not used:
            raise DPLM2Error(
                f"split.{name}_list: {path} contains none of the {len(members)} chains; it lists {some([*listed], 3)}, "
                f"but the chains are named {some(members.ids, 3)}"
            )
        unmatched = [one for one in listed if one not in used]
        assignment.unmatched[name] = len(unmatched)
        if unmatched:
            text = "split.%s_list: %s: %d of %d names match no chain: %s"
            _log.warning(text, name, path, len(unmatched), len(listed), some(unmatched, LISTED_NAMES))


def _by_date(members: Members, settings: Split, assignment: Assignment) -> None:
    for i, date in enumerate(members.dates):
        if date is None or assignment.splits[i] != TRAIN:
            continue
        if settings.test_from is not None and date >= settings.test_from:
            assignment.splits[i] = TEST
        elif settings.validation_from is not None and date >= settings.validation_from:
            assignment.splits[i] = VALIDATION


def find_leaks(members: Members, splits: Sequence[str], identity: float) -> dict[int, int]:
    """Training chains that share a cluster or a near-identical sequence with a held-out chain, and that chain."""
    held = [i for i, split in enumerate(splits) if split != TRAIN]
    train = [i for i, split in enumerate(splits) if split == TRAIN]
    return {chain: others[0] for chain, others in _related(members, held, train, identity, clusters=True).items()}


def _related(
    members: Members, queries: list[int], pool: Iterable[int], identity: float, clusters: bool
) -> dict[int, list[int]]:
    """Chains of ``pool`` that are related to members of ``queries``, each with these."""
    if not queries:
        return {}
    index = WordIndex([members.sequences[i] for i in queries], identity)
    by_cluster: dict[str, list[int]] = {}
    for i in queries if clusters else ():
        if members.clusters[i] is not None:
            by_cluster.setdefault(members.clusters[i], []).append(i)
    found = {}
    for chain in pool:
        others = [queries[i] for i in index.related(members.sequences[chain]).tolist()]
        others += by_cluster.get(members.clusters[chain], []) if by_cluster else []
        if others:
            found[chain] = others
    return found


def _draw(members: Members, settings: Split, assignment: Assignment, name: str, fraction: float, seed: int) -> None:
    """Move a fraction of the training chains (or clusters) to the split ``name``, related chains together."""
    by_cluster = settings.by == "cluster"
    train = [i for i, split in enumerate(assignment.splits) if split == TRAIN and i not in assignment.leaks]
    units: dict[str, list[int]] = {}
    for i in train:
        cluster = members.clusters[i] if by_cluster else None
        units.setdefault(members.ids[i] if cluster is None else cluster, []).append(i)
    ranked = sorted(units, key=lambda unit: hashlib.sha256(f"{seed}\t{name}\t{unit}".encode()).digest())
    target = max(1, round(fraction * len(members))) if len(train) > 1 else 0
    drawn, count = [], 0
    for unit in ranked:
        if count >= target:
            break
        drawn.append(unit)
        count += len(units[unit])
    relatives: dict[int, set[int]] = {}
    queries = [i for unit in drawn for i in units[unit]]
    for chain, others in _related(members, queries, train, settings.leak_identity, by_cluster).items():
        for other in others:
            relatives.setdefault(other, set()).add(chain)
    held: set[int] = set()
    for unit in drawn:
        if len(held) >= target:
            break
        held.update(units[unit], *(relatives.get(i, ()) for i in units[unit]))
    new = held
    while new:
        rest = [i for i in train if i not in held]
        new = set(_related(members, sorted(new), rest, settings.leak_identity, by_cluster))
        held |= new
    for i in held:
        assignment.splits[i] = name


def count_splits(splits: Iterable[str]) -> dict[str, int]:
    """Number of chains in each split."""
    names, counts = np.unique(list(splits) or [TRAIN], return_counts=True)
    return dict(zip(names.tolist(), counts.tolist(), strict=True))
