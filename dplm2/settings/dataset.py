"""Settings of one dataset: files, reading, filters, clusters and splits."""

from collections.abc import Iterator
from typing import Literal

from dplm2.settings.fields import Address, Day, Section, Text, decides, operates, refers, section
from dplm2.settings.files import OBTAIN_LIST, OBTAIN_STRUCTURES
from dplm2.settings.hub import Hub

# Filters of chains without coordinates.
_WITHOUT_COORDINATES = frozenset(
    {
        "min_length", "max_length", "max_unknown_fraction", "min_plddt", "max_plddt_deviation", "trim_plddt",
        "max_resolution", "deduplicate", "one_per_cluster", "min_observed_fraction",
    }
)  # fmt: skip


class Fetch(Section):
    """Structures to download, instead of 'files'.

    Failed downloads are listed in rejected.parquet. A new entry in a list downloads one file and reruns one shard.
    """

    list: str | tuple[Text, ...] = refers(
        ...,
        "Text file, or several: PDB ids, UniProt accessions (from AlphaFold DB) or addresses, one per line; # "
        "starts a comment.",
        min_length=1,
        files=("*",),
    )
    pdb_address: Address = decides(
        "https://models.rcsb.org/{id}.bcif.gz", "Address of a PDB entry (http or https), with {id} for the entry."
    )
    alphafold_address: Address = decides(
        "https://alphafold.ebi.ac.uk/api/prediction/{id}",
        "Address that lists the files of AlphaFold DB for an accession (http or https), with {id} for the accession.",
    )
    concurrency: int = operates(8, "Number of simultaneous downloads in each job.", ge=1, le=256)
    tries: int = operates(
        5, "Maximum number of attempts per file; the waiting time doubles after each, up to one minute.", ge=1
    )
    first_wait: float = operates(1.0, "Waiting time before the second attempt, in seconds.", ge=0)
    timeout: float = operates(30.0, "Time without a response after which an attempt fails, in seconds.", gt=0)
    max_megabytes: int = decides(1024, "Maximum size of a file, in MiB.", ge=1)
    allow_missing: bool = operates(
        True,
        "Continue if downloads fail. false: stop; finished downloads are kept, and the next run retries the others.",
    )


class Reading(Section):
    """How files are read, and limits that protect against damaged or malicious files."""

    plddt: Literal["auto", "b_factor", "none"] = decides(
        "auto",
        "Whether B factors are pLDDT values. auto: in predicted models (ModelCIF quality categories, an AlphaFold "
        "DB header, method 'theoretical model', Foldcomp). Values between 0 and 1 are multiplied by 100.",
    )
    max_numbering_gap: int = decides(
        100,
        "Maximum number of unobserved residues inferred from a jump in residue numbers alone (at a broken C-N bond,"
        " in files without a polymer sequence); a larger jump is treated as a numbering convention and adds no "
        "residues.",
        ge=0,
        le=10000,
    )
    max_megabytes: int = decides(1024, "Maximum decompressed size of a file or archive member, in MiB.", ge=1)
    max_atoms: int = decides(4000000, "Maximum number of atoms in a file, over all models.", ge=1)
    max_models: int = decides(10000, "Maximum number of models in a file; only the first is used.", ge=1)
    max_line_length: int = decides(20000, "Maximum length of a line of a text file, in bytes.", ge=80)


class Filters(Section):
    """Which chains are kept; null disables a filter."""

    min_length: int | None = decides(
        40,
        "Minimum number of residues of a chain, from the first to the last observed one, including unobserved "
        "residues between them.",
        ge=1,
    )
    max_length: int | None = decides(512, "Maximum number of residues of a chain, counted in the same way.", ge=1)
    min_observed_fraction: float | None = decides(
        0.75, "Minimum fraction of residues with observed N, CA and C.", ge=0, le=1
    )
    max_unknown_fraction: float | None = decides(0.1, "Maximum fraction of X among the observed residues.", ge=0, le=1)
    max_chain_breaks: int | None = decides(
        None,
        "Maximum number of breaks without missing residues: neighbouring observed residues that no peptide bond "
        "links (C-N above 2 angstrom). They hide an unnumbered gap, and teach wrong geometry.",
        ge=0,
    )
    min_plddt: float | None = decides(
        None,
        "Minimum mean pLDDT (0 to 100) before the ends are trimmed; chains without pLDDT pass. Paper: 85.",
        ge=0,
        le=100,
    )
    max_plddt_deviation: float | None = decides(
        None,
        "Maximum standard deviation of pLDDT along the chain before the ends are trimmed; chains without pLDDT "
        "pass. Authors' code: 15.",
        ge=0,
        le=100,
    )
    trim_plddt: float | None = decides(
        None,
        "Trim the ends to the first and last residue with at least this pLDDT; chains without pLDDT are not "
        "trimmed. Paper: 50, authors' code: 70.",
        ge=0,
        le=100,
    )
    max_coil: float | None = decides(
        None, "Maximum fraction of residues that are neither helix nor strand (P-SEA). MultiFlow: 0.5.", ge=0, le=1
    )
    monomers_only: bool = decides(
        False,
        "Keep only entries with one protein chain, according to the first biological assembly if the file describes"
        " it, otherwise to the chains in the file.",
    )
    max_resolution: float | None = decides(
        None,
        "Maximum resolution value, in angstrom. Experimental chains without a resolution are excluded, predicted "
        "ones pass.",
        gt=0,
    )
    released_after: Day | None = decides(
        None, "Keep only chains released on or after this day (YYYY-MM-DD); chains without a date are excluded."
    )
    released_before: Day | None = decides(
        None, "Keep only chains released before this day (YYYY-MM-DD); chains without a date are excluded."
    )
    deduplicate: bool = decides(
        True,
        "Keep one chain per sequence: the most completely observed, then the one with the best resolution, then the"
        " first by chain_id.",
        readers=("select",),
    )
    radius_of_gyration_quantile: float | None = decides(
        None,
        "Exclude chains whose radius of gyration exceeds this quantile for their length (residuals of a fit of log "
        "radius on log length). MultiFlow: 0.96.",
        gt=0,
        le=1,
        readers=("select",),
    )
    one_per_cluster: bool = decides(
        False, "Keep one chain per cluster, selected as for 'deduplicate'; requires 'clusters'.", readers=("select",)
    )


class Clusters(Section):
    """Groups of related chains, for splits, one_per_cluster and sampling."""

    source: Literal["none", "file", "mmseqs2"] = decides(
        "none", "Source of the clusters: none, a table (file), or MMseqs2 (found on PATH; see envs/mmseqs2.yaml)."
    )
    file: str | None = refers(
        None,
        "For source 'file': CSV or TSV with a header line and the columns chain_id and cluster; chain_id may also "
        "be the name of an entry, for all of its chains.",
        min_length=1,
        files=("*",),
    )
    identity: float = decides(0.3, "For source 'mmseqs2': minimum sequence identity within a cluster.", ge=0, le=1)
    coverage: float = decides(0.5, "For source 'mmseqs2': minimum aligned fraction of both chains.", ge=0, le=1)
    sensitivity: float = decides(7.5, "For source 'mmseqs2': sensitivity (-s).", ge=1, le=9)

    def contradictions(self) -> Iterator[str]:
        if self.source == "file" and self.file is None:
            yield "file: missing; source: file needs it"

    def idle(self) -> Iterator[str]:
        keys = {"file": ("file",), "mmseqs2": ("identity", "coverage", "sensitivity")}
        for source, unread in keys.items():
            for key in unread:
                if self.source != source and self.differs(key):
                    yield f"{key}: has no effect without source: {source}; omit it"


class Split(Section):
    """Which chains are used for validation and testing; all others are used for training."""

    validation_fraction: float = decides(
        0.0, "Fraction of chains (or clusters) randomly assigned to validation.", ge=0, lt=1
    )
    test_fraction: float = decides(0.0, "Fraction of chains (or clusters) randomly assigned to testing.", ge=0, lt=1)
    by: Literal["chain", "cluster"] = decides(
        "chain", "Unit of the random assignment. Near-identical sequences are always assigned together."
    )
    validation_list: str | None = refers(
        None,
        "Text file with the chain ids or entry names of the validation chains, one per line.",
        min_length=1,
        files=("*",),
        obtain=OBTAIN_LIST,
    )
    test_list: str | None = refers(
        None,
        "Text file with the chain ids or entry names of the test chains, one per line.",
        min_length=1,
        files=("*",),
        obtain=OBTAIN_LIST,
    )
    validation_from: Day | None = decides(
        None, "Chains released on or after this day (YYYY-MM-DD) are used for validation."
    )
    test_from: Day | None = decides(None, "Chains released on or after this day (YYYY-MM-DD) are used for testing.")
    leaks: Literal["drop", "stop", "keep"] = decides(
        "drop",
        "Treatment of training chains that share a cluster, or a near-identical sequence, with a chain held out by "
        "a list or a date: exclude them, stop with a message, or keep them.",
    )
    leak_identity: float = decides(
        0.9,
        "Sequence identity above which sequences count as near-identical (estimated from shared k-mers).",
        ge=0.5,
        le=1,
    )

    @property
    def is_drawn(self) -> bool:
        """Whether validation and test chains are drawn at random."""
        return self.validation_fraction > 0 or self.test_fraction > 0

    def contradictions(self) -> Iterator[str]:
        if self.validation_fraction + self.test_fraction >= 1:
            yield "validation_fraction: with test_fraction no training chains are left; the sum must be less than 1"


class DatasetSettings(Section):
    """One dataset of structures."""

    files: str | tuple[Text, ...] | None = refers(
        None,
        "Structure files, folders (searched recursively) or patterns such as 'models/**/*.cif.gz'; one or a list. "
        "Formats: PDB, mmCIF and BinaryCIF, plain or gzipped, recognised by content; Foldcomp files and databases; "
        ".tar and .tar.gz archives of such files. Give either this, 'fetch' or 'hub'.",
        min_length=1,
        files=("*",),
        obtain=OBTAIN_STRUCTURES,
    )
    fetch: Fetch | None = decides(
        None,
        "Structures to download, instead of 'files'. Failed downloads are listed in rejected.parquet. A new entry "
        "in a list downloads one file and reruns one shard.",
    )
    hub: Hub | None = decides(
        None,
        "Chains that come as structure tokens, without coordinates, from tables on the hub, instead of 'files': the "
        "authors' training set, or one of yours. Models of the named tokenizer can train on them; reconstruction, "
        "folding and inverse folding need coordinates.",
    )
    shards: int = decides(
        1,
        "Number of parts in which the dataset is cleaned and tokenized; a new or changed file reruns only the part "
        "that contains it. About 10,000 chains per part work well. Changing this number reruns all parts.",
        ge=1,
        le=10000,
    )
    reading: Reading = section("How files are read, and limits that protect against damaged or malicious files.")
    filters: Filters = section("Which chains are kept; null disables a filter.")
    clusters: Clusters = section("Groups of related chains, for splits, one_per_cluster and sampling.")
    split: Split = section("Which chains are used for validation and testing; all others are used for training.")

    def contradictions(self) -> Iterator[str]:
        if [self.files, self.fetch, self.hub].count(None) < 2:
            yield "files: give one of 'files', 'fetch' (a list of what to download) and 'hub', not several"
        if self.hub is not None:
            yield from self._needs_coordinates()
        lengths = self.filters.min_length, self.filters.max_length
        if None not in lengths and lengths[0] > lengths[1]:
            yield f"filters.min_length: {lengths[0]} is above max_length ({lengths[1]})"
        if self.filters.one_per_cluster and self.clusters.source == "none":
            yield "filters.one_per_cluster: needs clusters; set clusters.source to file or mmseqs2"

    def _needs_coordinates(self) -> Iterator[str]:
        for key in type(self.filters).model_fields:
            if key not in _WITHOUT_COORDINATES and self.filters.differs(key):
                yield f"filters.{key}: tokens from the hub have no coordinates, dates or assemblies; omit it"
        for key in ("min_plddt", "max_plddt_deviation", "trim_plddt"):
            if getattr(self.filters, key) is not None and self.hub.columns.plddt is None:
                yield f"filters.{key}: needs hub.columns.plddt, the column of pLDDT"
        if self.filters.max_resolution is not None and self.hub.columns.resolution is None:
            yield "filters.max_resolution: needs hub.columns.resolution, the column of the resolution"
