"""Settings of evaluation: metrics, thresholds and backends."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from dplm2.settings.designs import FilterSettings, RankingSettings
from dplm2.settings.fields import Section, decides, operates, refers, section
from dplm2.settings.files import OBTAIN_ESMFOLD, OBTAIN_ESMFOLD2, OBTAIN_FOLDSEEK, WEIGHTS
from dplm2.settings.generation import UNCONDITIONAL

COMPARED = ("reconstruction", "co-generation", "backbone", "folding", "inverse-folding", "scaffolding")
DESIGNED = ("co-generation", "sequence", "backbone", "inverse-folding", "scaffolding")
FOLDED = (*UNCONDITIONAL, "folding", "inverse-folding", "scaffolding")
MEASURED = ("reconstruction", *FOLDED)
RANKING = "ranking"  # reader of the keys that the stage rank_designs alone reads


class SelfSettings(Section):
    """Folding by the model itself."""

    steps: int = decides(100, "Unmasking steps; each takes the most probable tokens (paper, section 4.2: 100).", ge=1)
    batch_size: int = operates(16, "Number of sequences folded at a time.", ge=1)


class EsmfoldSettings(Section):
    """ESMFold by transformers' EsmForProteinFolding."""

    model: str = refers(
        "facebook/esmfold_v1",
        "Folder with weights in transformers' format, or a hub id.",
        min_length=1,
        files=WEIGHTS,
        hub=True,
        obtain=OBTAIN_ESMFOLD,
    )
    precision: Literal["float32", "bfloat16"] = decides(
        "float32", "Arithmetic of its language model; the folding trunk remains in float32. (float16 gives NaN.)"
    )
    chunk_size: int | None = operates(
        None,
        "Rows of the pair representation processed at a time: smaller values need less memory and more time. null: "
        "all at once for chains up to 512 residues, 64 above.",
        ge=1,
    )
    recycles: int = decides(3, "Number of passes after the first (ESMFold's default: 3).", ge=0)
    residues_per_batch: int = operates(
        1024, "Maximum number of residues per batch, including padding; a longer chain forms a batch of its own.", ge=1
    )


class Esmfold2Settings(Section):
    """ESMFold2 by transformers' EsmFold2Model, which releases of transformers before August 2026 lack."""

    model: str = refers(
        "biohub/ESMFold2",
        "Folder with weights in transformers' format, or a hub id: biohub/ESMFold2 or biohub/ESMFold2-Fast.",
        min_length=1,
        files=WEIGHTS,
        hub=True,
        obtain=OBTAIN_ESMFOLD2,
    )
    precision: Literal["float32", "bfloat16"] = decides(
        "bfloat16", "Arithmetic of the weights; its authors recommend bfloat16."
    )
    samples: int | None = decides(
        None,
        "Structures drawn for each sequence, of which the one with the highest predicted TM-score is taken. null: as "
        "the model's configuration says (8).",
        ge=1,
    )
    steps: int | None = decides(
        None, "Steps of the diffusion of coordinates. null: as the model's configuration says (68).", ge=1
    )
    loops: int | None = decides(None, "Passes of the trunk. null: as the model's configuration says (10).", ge=1)
    seed: int = decides(0, "Seed of the diffusion; the seed of a sequence follows from it and the sequence.", ge=0)


class CommandSettings(Section):
    """External folding program with FASTA input and a folder of structures as output.

    Examples, to be combined with any configuration: config/folding_boltz.yaml, folding_chai.yaml and
    folding_colabfold.yaml.
    """

    template: str = decides(
        ...,
        "Command line; {fasta} is the input file or folder, {out} the output folder, {id} the name of the sequence "
        "(input: separate only). It runs in the environment of the evaluation; start it with `conda run --name "
        "NAME` for a program in its own environment.",
        min_length=1,
    )
    input: Literal["together", "folder", "separate"] = decides(
        "together",
        "Input of the command: one FASTA file with all sequences, a folder with one FASTA file per sequence "
        "({fasta} is the folder), or one run of the command per sequence.",
    )
    header: str = decides(
        "{id}", "Header line of a sequence in the FASTA file, without '>'; {id} is its name.", min_length=1
    )
    structures: str = decides(
        "**/*.pdb",
        "Pattern of the structure files below {out} (.pdb, .cif, .bcif). A file belongs to the sequence whose name "
        "occurs in its path; of several files, the first by name is used.",
        min_length=1,
    )
    plddt: Literal["percent", "fraction", "none"] = decides(
        "percent", "Content of the files' B factors: pLDDT from 0 to 100, from 0 to 1, or something else."
    )
    sequences_per_run: int = operates(
        100,
        "Number of sequences per run of the command (input: together, folder); finished runs are kept if a later "
        "one fails.",
        ge=1,
    )
    timeout: int | None = decides(
        None, "Time after which a run of the command fails, in seconds. null: no limit.", ge=1
    )


class ProteinMpnnSettings(Section):
    """ProteinMPNN by command, with the paper's settings."""

    template: str = decides(
        ...,
        "Command line; {pdb} is the backbone's file, {out} the folder in which the program writes seqs/*.fa "
        "(ProteinMPNN or LigandMPNN), {sequences}, {temperature} and {seed} the keys below.",
        min_length=1,
    )
    sequences: int = decides(
        1, "Number of sequences per backbone; the one that folds best is used (paper: 1; MultiFlow: 8).", ge=1
    )
    temperature: float = decides(0.1, "Sampling temperature (paper: 0.1).", gt=0)
    seed: int = decides(
        38, "Seed of the program (released evaluator: 38). Not 0, which makes the program draw a seed.", ge=1
    )


class FoldseekSettings(Section):
    """Foldseek, for diversity or novelty."""

    program: str = decides(
        "foldseek", "Name on PATH, or path, of the program (envs/foldseek.yaml installs it).", min_length=1
    )
    database: str | None = refers(
        None,
        "Foldseek database, or folder of structure files, of known structures; required for novelty.",
        min_length=1,
        files=("*",),
        obtain=OBTAIN_FOLDSEEK,
    )
    threads: int = operates(2, "Number of threads of the program.", ge=1)


class EvaluationSettings(Section):
    """Metrics, thresholds and backends.

    The sections `self`, `esmfold`, `esmfold2`, `command`, `proteinmpnn` and `foldseek` may be
    given only where the backend of that name is chosen: elsewhere they would have no effect."""

    reconstruction: tuple[str, ...] = refers(
        (),
        "Workflow: datasets that every tokenizer reconstructs; of a dataset that it was trained on, the training "
        "split.",
    )
    likelihood: tuple[str, ...] = refers(
        (),
        "Workflow: datasets on which the cross-entropy of masked tokens is measured for every model, for its "
        "initial state and for a unigram baseline; of a dataset that it was trained on, the training split.",
    )
    folding_backend: Literal["self", "esmfold", "esmfold2", "command"] = decides(
        "self",
        "Method that folds designed sequences: self (the model that designed them; works offline), esmfold or "
        "esmfold2 (transformers), command (an external program).",
        readers=FOLDED,
    )
    self: SelfSettings | None = decides(
        None, "Folding by the model itself. null: default settings if the backend is chosen.", readers=FOLDED
    )
    esmfold: EsmfoldSettings | None = decides(
        None,
        "ESMFold by transformers' EsmForProteinFolding. null: default settings if the backend is chosen.",
        readers=FOLDED,
    )
    esmfold2: Esmfold2Settings | None = decides(
        None,
        "ESMFold2 by transformers' EsmFold2Model. null: default settings if the backend is chosen.",
        readers=FOLDED,
    )
    command: CommandSettings | None = decides(
        None,
        "External folding program with FASTA input and a folder of structures as output. Examples, to be combined "
        "with any configuration: config/folding_boltz.yaml, folding_chai.yaml and folding_colabfold.yaml.",
        readers=FOLDED,
    )
    folding_baseline: bool = decides(
        False,
        "Also fold the natives of the folding task with the folding backend (columns baseline_...), to compare the "
        "model's structures with those of a folding program. Not with backend self.",
        readers=("folding",),
    )
    inverse_folding_backend: Literal["none", "self", "proteinmpnn"] = decides(
        "none",
        "Method that designs sequences for generated backbones (task backbone): self (the model), proteinmpnn "
        "(external). none: the backbones' own sequences are folded, if they have any.",
        readers=("backbone",),
    )
    proteinmpnn: ProteinMpnnSettings | None = decides(
        None, "ProteinMPNN by command, with the paper's settings.", readers=("backbone",)
    )
    diversity: Literal["none", "foldseek", "tm_align", "tm_score"] = decides(
        "none",
        "Comparison of the structures within a set: foldseek (clusters and searches, as in the paper), tm_align "
        "(all pairs; requires tmtools, USalign or TMalign), tm_score (all pairs of equal length, residue by "
        "residue: requires no program, but does not detect shifted similarity; fast search, 0.002 too low on "
        "average), none.",
        readers=UNCONDITIONAL,
    )
    cluster_tm_score: float = decides(
        0.5,
        "TM-score above which two structures belong to the same cluster (paper: 0.5).",
        gt=0,
        le=1,
        readers=UNCONDITIONAL,
    )
    novelty: Literal["none", "foldseek"] = decides(
        "none",
        "Search for each sample among known structures; the highest TM-score is the paper's pdb-TM.",
        readers=UNCONDITIONAL,
    )
    foldseek: FoldseekSettings | None = decides(
        None, "Settings of Foldseek, for diversity or novelty.", readers=UNCONDITIONAL
    )
    designable_sc_tm: tuple[Annotated[float, Field(gt=0, le=1)], ...] = decides(
        (0.5,),
        "Minimum self-consistency TM-score of designable samples (the released evaluator: 0.5). One column per "
        "threshold.",
        readers=DESIGNED,
    )
    designable_sc_rmsd: tuple[Annotated[float, Field(gt=0)], ...] = decides(
        (2.0,),
        "Maximum self-consistency RMSD (N, CA, C) of designable samples, in angstrom (commonly 2). One column per "
        "threshold.",
        readers=DESIGNED,
    )
    match_tm_score: float = decides(
        0.8,
        "Minimum TM-score at which a prediction matches its native structure (the released evaluator: 0.8).",
        gt=0,
        le=1,
        readers=("folding",),
    )
    motif_rmsd: float = decides(
        1.0,
        "Scaffolding succeeds if the motif's C-alpha RMSD in the folded design is below this value, in angstrom, "
        "and ...",
        gt=0,
        readers=("scaffolding",),
    )
    motif_sc_tm: float = decides(
        0.8,
        "... the self-consistency TM-score is above this value (designs with a structure).",
        gt=0,
        le=1,
        readers=("scaffolding",),
    )
    motif_plddt: float = decides(
        70,
        "... or the mean pLDDT of the folding program is above this value (designs of sequences alone).",
        ge=0,
        le=100,
        readers=("scaffolding",),
    )
    released_tm_score: bool = decides(
        False,
        "Add columns tm_score_released: the value computed by the authors' released evaluator, which is not a "
        "TM-score of the whole chain. For comparison with published figures. Requires tmtools, USalign or TMalign.",
        readers=COMPARED,
    )
    min_length: int = decides(
        1, "Minimum length; shorter samples and chains are excluded and counted.", ge=1, readers=MEASURED
    )
    max_length: int | None = decides(
        None,
        "Maximum length; longer samples and chains are excluded and counted. null: no limit.",
        ge=1,
        readers=MEASURED,
    )
    excluded: tuple[str, ...] = decides((), "Names of targets that are excluded and counted.", readers=MEASURED)
    filters: FilterSettings = section(
        "Filters that samples pass before they are folded; those that fail are left out of all metrics and counted.",
        readers=DESIGNED,
    )
    ranking: RankingSettings = section(
        "The ranking of evaluated designs, and the choice of the best. Changing these keys evaluates nothing again.",
        readers=(RANKING,),
    )
    bootstrap_samples: int = decides(
        1000,
        "Number of bootstrap samples for the 95 % confidence intervals of means. 0: no intervals.",
        ge=0,
        readers=MEASURED,
    )
    batch_size: int = operates(
        16, "Number of chains per batch for networks of this package.", ge=1, readers=("reconstruction",)
    )

    @model_validator(mode="before")
    @classmethod
    def _with_chosen_backends(cls, given: Any) -> Any:
        """Add the default section of a chosen backend."""
        if not isinstance(given, Mapping):
            return given
        chosen = {
            "self": "self" in (given.get("folding_backend", "self"), given.get("inverse_folding_backend")),
            "esmfold": given.get("folding_backend") == "esmfold",
            "esmfold2": given.get("folding_backend") == "esmfold2",
            "foldseek": "foldseek" in (given.get("diversity"), given.get("novelty")),
        }
        return {**given, **{name: {} for name, used in chosen.items() if used and given.get(name) is None}}

    def _backends(self) -> Iterator[tuple[str, bool, str]]:
        """Name of each backend's section, whether the backend is chosen, and the key that chooses it."""
        folds, designs = self.folding_backend, self.inverse_folding_backend
        yield "self", "self" in (folds, designs), "folding_backend or inverse_folding_backend: self"
        yield "esmfold", folds == "esmfold", "folding_backend: esmfold"
        yield "esmfold2", folds == "esmfold2", "folding_backend: esmfold2"
        yield "command", folds == "command", "folding_backend: command"
        yield "proteinmpnn", designs == "proteinmpnn", "inverse_folding_backend: proteinmpnn"
        yield "foldseek", "foldseek" in (self.diversity, self.novelty), "diversity or novelty: foldseek"

    def idle(self) -> Iterator[str]:
        """Sections of backends that are not chosen."""
        for name, used, where in self._backends():
            if getattr(self, name) is not None and not used:
                yield f"{name}: has no effect without {where}; omit it"

    def contradictions(self) -> Iterator[str]:
        """Backends that lack a required key."""
        for name, used, where in self._backends():
            if getattr(self, name) is None and used:
                yield f"{name}: missing; {where} needs it"
        if self.novelty == "foldseek" and self.foldseek is not None and self.foldseek.database is None:
            yield "foldseek.database: missing; novelty: foldseek needs a database of known structures"
        if self.folding_baseline and self.folding_backend == "self":
            yield "folding_baseline: needs another folding_backend than self; the model cannot be its own baseline"

    def without_effect(self, reader: str) -> set[str]:
        """Fields that a task reads only under a condition that does not hold."""
        idle = set()
        if reader == "folding" and not self.folding_baseline:
            idle |= {"folding_backend", "self", "esmfold", "esmfold2", "command"}
        if self.diversity == "none":
            idle.add("cluster_tm_score")
        return idle
