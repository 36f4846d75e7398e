"""Settings of one dataset; what each means, and its default, stand in ``dplm2/schema/dataset.json``."""

from collections.abc import Mapping
from dataclasses import dataclass

# Filters that look at the whole dataset: `structures select` applies them, cleaning a shard does not depend on them.
SELECTION_FILTERS = ("deduplicate", "radius_of_gyration_quantile", "one_per_cluster")


@dataclass(frozen=True)
class Filters:
    """Which chains are kept; None switches a filter off."""

    min_length: int | None
    max_length: int | None
    min_observed_fraction: float | None
    max_unknown_fraction: float | None
    min_plddt: float | None
    max_plddt_deviation: float | None
    trim_plddt: float | None
    max_coil: float | None
    monomers_only: bool
    max_resolution: float | None
    released_after: str | None
    released_before: str | None
    deduplicate: bool
    radius_of_gyration_quantile: float | None
    one_per_cluster: bool


@dataclass(frozen=True)
class Reading:
    """How files are read, and the bounds that protect against broken or hostile ones."""

    plddt: str
    max_numbering_gap: int
    max_megabytes: int
    max_atoms: int
    max_models: int
    max_line_length: int


@dataclass(frozen=True)
class Split:
    """Which chains validate and test."""

    validation_fraction: float
    test_fraction: float
    by: str
    validation_list: str | None
    test_list: str | None
    validation_from: str | None
    test_from: str | None
    leaks: str
    leak_identity: float


@dataclass(frozen=True)
class Clusters:
    """Where the clusters of chains come from."""

    source: str
    file: str | None
    identity: float
    coverage: float
    sensitivity: float


@dataclass(frozen=True)
class DatasetSettings:
    """One dataset: its files or what to fetch, what is kept of them, how they are divided."""

    files: str | tuple[str, ...] | None
    fetch: Mapping | None
    shards: int
    reading: Reading
    filters: Filters
    clusters: Clusters
    split: Split
