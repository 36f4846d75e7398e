"""Settings of the choice among designs: filters before folding, and the ranking after it."""

from collections.abc import Iterator, Mapping
from typing import Literal

from dplm2.settings.fields import Section, decides
from dplm2.settings.generation import TaskName

# Metrics of single samples, as they are declared in dplm2.evaluation.metrics.
RankedMetric = Literal[
    "sc_tm", "sc_rmsd", "sc_ca_rmsd", "sc_lddt_ca", "plddt", "motif_rmsd", "motif_rmsd_generated", "tm_score",
    "ca_rmsd", "bb_rmsd", "lddt_ca", "recovery", "pdb_tm", "tokenizer_plddt", "log_likelihood", "sequence_entropy",
    "clashes_per_100_residues", "broken_bonds", "bond_deviation", "helix", "strand", "coil", "length",
]  # fmt: skip
Values = dict[RankedMetric, float]

_SELF_CONSISTENT: Values = {"sc_tm": 1.0, "sc_rmsd": 1.0, "plddt": 1.0}
# Weights of each task, used for null. A task without evaluation has none.
RANKINGS: Mapping[TaskName, Values] = {
    "co-generation": _SELF_CONSISTENT,
    "backbone": _SELF_CONSISTENT,
    "sequence": {"plddt": 1.0},
    "folding": {"tm_score": 1.0},
    "inverse-folding": _SELF_CONSISTENT,
    "scaffolding": {"motif_rmsd": 1.0, **_SELF_CONSISTENT},
}
WITH_SEQUENCE = ("co-generation", "sequence", "inverse-folding", "scaffolding")
WITH_DESIGNED_STRUCTURE = ("co-generation", "backbone", "scaffolding")


class FilterSettings(Section):
    """Filters that samples pass before they are folded; those that fail are left out of all metrics and counted.

    null: no such filter."""

    min_sequence_entropy: float | None = decides(
        None,
        "Minimum entropy of a sequence's amino acids, in nats (native chains: about 2.8; a single amino acid: 0).",
        ge=0,
        readers=WITH_SEQUENCE,
    )
    max_repeat: int | None = decides(None, "Maximum length of a run of one amino acid.", ge=1, readers=WITH_SEQUENCE)
    max_clashes_per_100_residues: float | None = decides(
        None,
        "Maximum number of clashes between backbone atoms of the generated structure, per 100 residues.",
        ge=0,
        readers=WITH_DESIGNED_STRUCTURE,
    )
    max_broken_bonds: float | None = decides(
        None,
        "Maximum fraction of broken peptide bonds in the generated structure.",
        ge=0,
        le=1,
        readers=WITH_DESIGNED_STRUCTURE,
    )
    min_log_likelihood: float | None = decides(
        None,
        "Minimum mean log-probability of the generated tokens under the model, in nats; the samples need "
        "`generation.<name>.likelihood: true` (or `best_of` above 1).",
        le=0,
        readers=(*WITH_SEQUENCE, "backbone"),
    )


class RankingSettings(Section):
    """The ranking of evaluated designs, and the choice of the best. Changing these keys evaluates nothing again.

    A design's score is the weighted mean, over the metrics of `weights`, of the fraction of the other designs that are
    worse (equal ones count half): 1 for one that is best in everything. Designs that pass `at_least` and `at_most` come
    before all others."""

    weights: Values | None = decides(
        None,
        "Weight of each metric, by name. What is better counts: a low RMSD, a high scTM; of metrics that are neither "
        "(helix, length, ...) high values, or low ones with a negative weight. Metrics that a task or folding program "
        "does not give are left out, which is reported. null: scTM, scRMSD and pLDDT with equal weights, and motif "
        "RMSD for scaffolding; TM-score for folding.",
    )
    at_least: Values = decides(
        {},
        "Minimum of metrics, by name, for example {plddt: 70}. A design without the metric does not pass; a metric "
        "that no design of the task has is left out, which is reported.",
    )
    at_most: Values = decides({}, "Maximum of metrics, by name, for example {sc_rmsd: 2.0}; otherwise as `at_least`.")
    best: int = decides(10, "Maximum number of designs in best/: the first that pass. 0: none.", ge=0)
    format: Literal["pdb", "mmcif", "bcif"] = decides(
        "pdb", "Format of the structure files in best/: of each design, and of its prediction superimposed on it."
    )

    def contradictions(self) -> Iterator[str]:
        """Weights without effect, thresholds that nothing passes."""
        if self.weights == {}:
            yield "weights: {} gives no ranking; name a metric, or null for the defaults"
        for name, weight in (self.weights or {}).items():
            if weight == 0:
                yield f"weights.{name}: 0 has no effect; omit it"
        for name, least in self.at_least.items():
            if name in self.at_most and self.at_most[name] < least:
                yield f"at_least.{name}: {least:g} is above at_most ({self.at_most[name]:g})"

    def weights_of(self, task: TaskName) -> Values:
        """The weights for a task."""
        return dict(RANKINGS.get(task, {})) if self.weights is None else dict(self.weights)
