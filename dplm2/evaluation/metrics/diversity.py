"""Metrics of a set of designs: clusters, similarity within the set, similarity to known structures."""

from dataclasses import replace

from dplm2.evaluation.metrics.design import DESIGNABLE_SC_RMSD, DESIGNABLE_SC_TM
from dplm2.evaluation.metrics.metric import AT_LEAST, SHARE, Metric

SOURCE = "DPLM-2, section 4.1; dplm2.evaluation.benchmarks.diversity"
CRITERION = f"{{program}}, TM-score {AT_LEAST} {{cluster_threshold}}"
CLUSTERS = Metric(
    "clusters_{program}_{cluster_threshold}", f"clusters ({CRITERION})", "", "higher", of="clustered structures",
    source=SOURCE,
)  # fmt: skip
MAX_CLUSTER = Metric(
    "max_cluster_{program}_{cluster_threshold}", f"clusters per sample ({CRITERION})", SHARE, "higher", of="samples",
    published={"MaxCluster_frac": 1.0, "foldseek_clusters_of_100": 0.01, "clusters_per_100": 0.01}, source=SOURCE,
)  # fmt: skip
INNER_TM = Metric(
    "inner_tm_{program}", "TM-score between samples ({program})", "", "lower", limits=(0, 1),
    published={"inner-TM": 1.0}, source=SOURCE,
)  # fmt: skip
PDB_TM = Metric(
    "pdb_tm", "highest TM-score to a known structure", "", "lower", limits=(0, 1), published={"pdb-TM": 1.0},
    source=SOURCE,
)  # fmt: skip


def of_designable(metric: Metric, designable: Metric) -> Metric:
    """``clusters`` or ``max_cluster`` where only designable structures are clustered."""
    closed = metric.title.removesuffix(")")
    return replace(metric, name=f"{metric.name}_{designable.name}", title=f"{closed}, {designable.title})")


DESIGNABLE_CLUSTERS = tuple(
    of_designable(metric, designable)
    for metric in (CLUSTERS, MAX_CLUSTER)
    for designable in (DESIGNABLE_SC_TM, DESIGNABLE_SC_RMSD)
)

METRICS = (CLUSTERS, MAX_CLUSTER, *DESIGNABLE_CLUSTERS, INNER_TM, PDB_TM)
