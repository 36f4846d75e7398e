"""Settings of one dataset: its files, how they are read, which chains are kept, how these are divided."""

from collections.abc import Iterator
from typing import Literal

from dplm2.settings.fields import Address, Day, Section, Text, decides, operates, refers, section


class Fetch(Section):
    """Structures to download, in place of 'files'. What cannot be had stands in rejected.parquet. A new entry of a
    list fetches one file and cleans one shard."""

    list: str | tuple[Text, ...] = refers(
        ...,
        "Text file, or several: PDB ids, UniProt accessions (from AlphaFold DB) or addresses, one a line; # "
        "begins a comment.",
        min_length=1,
        files=("*",),
    )
    pdb_address: Address = decides(
        "https://models.rcsb.org/{id}.bcif.gz",
        "Address of a PDB entry: http or https, with {id} for the entry.",
    )
    alphafold_address: Address = decides(
        "https://alphafold.ebi.ac.uk/api/prediction/{id}",
        "Address that names AlphaFold DB's files for an accession: http or https, with {id} for the accession.",
    )
    concurrency: int = operates(8, "Downloads at a time, in each job.", ge=1, le=256)
    tries: int = operates(5, "Tries for each file; the wait doubles from one to the next, up to a minute.", ge=1)
    first_wait: float = operates(1.0, "Seconds before the second try.", ge=0)
    timeout: float = operates(30.0, "Seconds without an answer after which a try has failed.", gt=0)
    max_megabytes: int = decides(1024, "Largest file, in MiB.", ge=1)
    allow_missing: bool = operates(
        True,
        "Go on without what cannot be had. false: stop; what came is kept, and the next run tries the rest again.",
    )


class Reading(Section):
    """How files are read, and the bounds that protect against broken or hostile ones."""

    plddt: Literal["auto", "b_factor", "none"] = decides(
        "auto",
        "Whether B factors are pLDDT. auto: in predicted models (ModelCIF quality categories, an AlphaFold "
        "DB header, method 'theoretical model', Foldcomp). Values of 0 to 1 are taken times 100.",
    )
    max_numbering_gap: int = decides(
        100,
        "Longest run of unobserved residues that a jump in residue numbers alone stands for (with a broken "
        "C-N bond, in files without a polymer sequence); a larger jump counts as a numbering convention and "
        "adds no residue.",
        ge=0,
        le=10000,
    )
    max_megabytes: int = decides(1024, "Largest decompressed file or archive member, in MiB.", ge=1)
    max_atoms: int = decides(4000000, "Most atoms of one file, all models together.", ge=1)
    max_models: int = decides(10000, "Most models of one file; only the first is used.", ge=1)
    max_line_length: int = decides(20000, "Longest line of a text file, in bytes.", ge=80)


class Filters(Section):
    """Which chains are kept; null switches a filter off."""

    min_length: int | None = decides(
        40,
        "Fewest residues of a chain, counted from the first to the last observed one, unobserved ones "
        "between them included.",
        ge=1,
    )
    max_length: int | None = decides(512, "Most residues of a chain, counted in the same way.", ge=1)
    min_observed_fraction: float | None = decides(
        0.75,
        "Least fraction of residues whose N, CA and C were observed.",
        ge=0,
        le=1,
    )
    max_unknown_fraction: float | None = decides(
        0.1,
        "Largest fraction of X among the observed residues.",
        ge=0,
        le=1,
    )
    min_plddt: float | None = decides(
        None,
        "Least mean pLDDT (0 to 100) before ends are trimmed; chains without pLDDT pass. Paper: 85.",
        ge=0,
        le=100,
    )
    max_plddt_deviation: float | None = decides(
        None,
        "Largest standard deviation of pLDDT along the chain before ends are trimmed; chains without pLDDT "
        "pass. Authors' code: 15.",
        ge=0,
        le=100,
    )
    trim_plddt: float | None = decides(
        None,
        "Ends are cut back to the first and last residue of at least this pLDDT; chains without pLDDT stay "
        "whole. Paper: 50, authors' code: 70.",
        ge=0,
        le=100,
    )
    max_coil: float | None = decides(
        None,
        "Largest fraction of residues that are neither helix nor strand (P-SEA). MultiFlow: 0.5.",
        ge=0,
        le=1,
    )
    monomers_only: bool = decides(
        False,
        "Keep only entries with one protein chain: by the first biological assembly where the file describes"
        " it, by the chains in the file otherwise.",
    )
    max_resolution: float | None = decides(
        None,
        "Poorest resolution in angstrom. Experimental chains without one are left out, predicted ones pass.",
        gt=0,
    )
    released_after: Day | None = decides(
        None, "Keep only chains released on this day (YYYY-MM-DD) or later; chains without a date are left out."
    )
    released_before: Day | None = decides(
        None, "Keep only chains released before this day (YYYY-MM-DD); chains without a date are left out."
    )
    deduplicate: bool = decides(
        True,
        "Of chains of equal sequence keep one: the most completely observed, then the best resolved, then "
        "the first by chain_id.",
        readers=("select",),
    )
    radius_of_gyration_quantile: float | None = decides(
        None,
        "Leave out chains whose radius of gyration is above this quantile for their length (residuals of a "
        "fit of log radius on log length). MultiFlow: 0.96.",
        gt=0,
        le=1,
        readers=("select",),
    )
    one_per_cluster: bool = decides(
        False, "Keep one chain of each cluster, chosen as for 'deduplicate'; needs 'clusters'.", readers=("select",)
    )


class Clusters(Section):
    """Groups of related chains, for splits, for one_per_cluster and for sampling."""

    source: Literal["none", "file", "mmseqs2"] = decides(
        "none",
        "Where clusters come from: nowhere, a table of the user's, or MMseqs2 (found on PATH; see envs/mmseqs2.yaml).",
    )
    file: str | None = refers(
        None,
        "For source 'file': CSV or TSV with the columns chain_id and cluster (a header line); chain_id may "
        "also be the entry's name, for all of its chains.",
        min_length=1,
        files=("*",),
    )
    identity: float = decides(0.3, "For source 'mmseqs2': least sequence identity within a cluster.", ge=0, le=1)
    coverage: float = decides(
        0.5,
        "For source 'mmseqs2': least fraction of either chain that is aligned.",
        ge=0,
        le=1,
    )
    sensitivity: float = decides(7.5, "For source 'mmseqs2': its sensitivity (-s).", ge=1, le=9)

    def contradictions(self) -> Iterator[str]:
        """Contradictions between the values."""
        if self.source == "file" and self.file is None:
            yield "file: missing; source: file needs it"

    def idle(self) -> Iterator[str]:
        """Keys that have no effect beside the others."""
        keys = {"file": ("file",), "mmseqs2": ("identity", "coverage", "sensitivity")}
        for source, unread in keys.items():
            for key in unread:
                if self.source != source and self.differs(key):
                    yield f"{key}: has no effect without source: {source}; leave it out"


class Split(Section):
    """Which chains validate and test; the others train."""

    validation_fraction: float = decides(
        0.0,
        "Fraction of chains (or clusters) drawn at random for validation.",
        ge=0,
        lt=1,
    )
    test_fraction: float = decides(0.0, "Fraction of chains (or clusters) drawn at random for testing.", ge=0, lt=1)
    by: Literal["chain", "cluster"] = decides(
        "chain",
        "What is drawn at random. Near-identical sequences always go to the same side.",
    )
    validation_list: str | None = refers(
        None, "Text file of chain ids or entry names, one a line: these chains validate.", min_length=1, files=("*",)
    )
    test_list: str | None = refers(
        None, "Text file of chain ids or entry names, one a line: these chains test.", min_length=1, files=("*",)
    )
    validation_from: Day | None = decides(None, "Chains released on this day (YYYY-MM-DD) or later validate.")
    test_from: Day | None = decides(None, "Chains released on this day (YYYY-MM-DD) or later test.")
    leaks: Literal["drop", "stop", "keep"] = decides(
        "drop",
        "Training chains that share a cluster, or a near-identical sequence, with a chain that a list or a "
        "date holds out: leave them out, stop with a message, or keep them.",
    )
    leak_identity: float = decides(
        0.9,
        "Sequence identity from which sequences count as near-identical (judged by the k-mers that they share).",
        ge=0.5,
        le=1,
    )

    @property
    def is_drawn(self) -> bool:
        """Whether chance decides which chains validate and test."""
        return self.validation_fraction > 0 or self.test_fraction > 0

    def contradictions(self) -> Iterator[str]:
        """Contradictions between the values."""
        if self.validation_fraction + self.test_fraction >= 1:
            yield "validation_fraction: with test_fraction nothing is left to train on; they must sum to less than 1"


class DatasetSettings(Section):
    """One dataset of structures."""

    files: str | tuple[Text, ...] | None = refers(
        None,
        "Structure files, folders (searched at every depth) or patterns such as 'models/**/*.cif.gz'; one or"
        " a list. PDB, mmCIF and BinaryCIF, plain or gzipped, told by content; Foldcomp files and databases;"
        " .tar and .tar.gz of such files. This or 'fetch'.",
        min_length=1,
        files=("*",),
    )
    fetch: Fetch | None = decides(
        None,
        "Structures to download, in place of 'files'. What cannot be had stands in rejected.parquet. A new "
        "entry of a list fetches one file and cleans one shard.",
    )
    shards: int = decides(
        1,
        "Number of parts in which the dataset is cleaned and tokenized; a new or changed file redoes the one"
        " part that it is in. About 10,000 chains a part is a good size. Changing it redoes all parts.",
        ge=1,
        le=10000,
    )
    reading: Reading = section("How files are read, and the bounds that protect against broken or hostile ones.")
    filters: Filters = section("Which chains are kept; null switches a filter off.")
    clusters: Clusters = section("Groups of related chains, for splits, for one_per_cluster and for sampling.")
    split: Split = section("Which chains validate and test; the others train.")

    def contradictions(self) -> Iterator[str]:
        """Contradictions between the values."""
        if self.files is not None and self.fetch is not None:
            yield "files: give either 'files', or 'fetch' with a list of what to download, not both"
        lengths = self.filters.min_length, self.filters.max_length
        if None not in lengths and lengths[0] > lengths[1]:
            yield f"filters.min_length: {lengths[0]} is above max_length ({lengths[1]})"
        if self.filters.one_per_cluster and self.clusters.source == "none":
            yield "filters.one_per_cluster: needs clusters; set clusters.source to file or mmseqs2"
