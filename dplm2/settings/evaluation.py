"""Settings of evaluation: metrics, thresholds and backends."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, model_validator

from dplm2.settings.fields import LENIENT, Section, decides, operates, refers
from dplm2.settings.files import OBTAIN_ESMFOLD, OBTAIN_FOLDSEEK, WEIGHTS

UNCONDITIONAL = ("co-generation", "sequence", "backbone")
COMPARED = ("reconstruction", "co-generation", "backbone", "folding", "inverse-folding", "scaffolding")
DESIGNED = ("co-generation", "sequence", "backbone", "inverse-folding", "scaffolding")
FOLDED = (*UNCONDITIONAL, "folding", "inverse-folding", "scaffolding")
MEASURED = ("reconstruction", *FOLDED)


class SelfSettings(Section):
    """How the model folds its own sequences."""

    steps: int = decides(100, "Unmasking steps; each takes the likeliest tokens (paper, section 4.2: 100).", ge=1)
    batch_size: int = operates(16, "Sequences folded at a time.", ge=1)


class EsmfoldSettings(Section):
    """ESMFold by transformers' EsmForProteinFolding."""

    model: str = refers(
        "facebook/esmfold_v1",
        "Folder with the weights in transformers' format, or a hub id.",
        min_length=1,
        files=WEIGHTS,
        hub=True,
        obtain=OBTAIN_ESMFOLD,
    )
    precision: Literal["float32", "bfloat16"] = decides(
        "float32",
        "Arithmetic of its language model; the folding trunk stays in float32. (float16 gives NaN.)",
    )
    chunk_size: int | None = operates(
        None,
        "Rows of the pair representation worked on at a time: less memory, slower. null: all at once for "
        "chains up to 512 residues, 64 above.",
        ge=1,
    )
    recycles: int = decides(3, "Passes after the first one (ESMFold's own default: 3).", ge=0)
    residues_per_batch: int = operates(
        1024,
        "Residues folded at a time, padding counted; a longer chain goes alone.",
        ge=1,
    )


class CommandSettings(Section):
    """An external folding program: FASTA in, folder of structures out. config/folding_boltz.yaml, folding_chai.yaml
    and folding_colabfold.yaml are examples, to be combined with any configuration."""

    template: str = decides(
        ...,
        "The command line; {fasta} is the input file or folder, {out} the folder for structures, {id} the "
        "sequence's name (input: separate only). Run where the evaluation runs; begin it with `conda run "
        "--name NAME` for a program in an environment of its own.",
        min_length=1,
    )
    input: Literal["together", "folder", "separate"] = decides(
        "together",
        "One FASTA file with all sequences, a folder with a FASTA file for each sequence ({fasta} is the "
        "folder), or the command once for each sequence.",
    )
    header: str = decides(
        "{id}",
        "Header line of a sequence in the FASTA file, without '>'; {id} is its name.",
        min_length=1,
    )
    structures: str = decides(
        "**/*.pdb",
        "Pattern of the structure files below {out} (.pdb, .cif, .bcif). A file belongs to the sequence "
        "whose name occurs in its path; of several, the first by name counts.",
        min_length=1,
    )
    plddt: Literal["percent", "fraction", "none"] = decides(
        "percent",
        "What the files' B factors hold: pLDDT of 0 to 100, of 0 to 1, or something else.",
    )
    sequences_per_run: int = operates(
        100,
        "Sequences in one run of the command (input: together, folder): what is finished is kept when the "
        "next one fails.",
        ge=1,
    )
    timeout: int | None = decides(
        None,
        "Seconds after which a run of the command counts as failed. null: no limit.",
        ge=1,
    )


class ProteinMpnnSettings(Section):
    """ProteinMPNN by command, with the paper's settings."""

    template: str = decides(
        ...,
        "The command line; {pdb} is the backbone's file, {out} the folder below which the program writes "
        "seqs/*.fa (ProteinMPNN or LigandMPNN), {sequences}, {temperature} and {seed} the keys below.",
        min_length=1,
    )
    sequences: int = decides(
        1,
        "Sequences per backbone; the one that folds best counts (paper: 1; MultiFlow: 8).",
        ge=1,
    )
    temperature: float = decides(0.1, "Sampling temperature (paper: 0.1).", gt=0)
    seed: int = decides(
        38,
        "Seed of the program (released evaluator: 38). Not 0: for that the program draws one itself.",
        ge=1,
    )


class FoldseekSettings(Section):
    """Foldseek, for diversity or novelty."""

    program: str = decides(
        "foldseek",
        "Name on PATH, or path, of the program (envs/foldseek.yaml installs it).",
        min_length=1,
    )
    database: str | None = refers(
        None,
        "Foldseek database, or folder of structure files, of known structures; needed for novelty.",
        min_length=1,
        files=("*",),
        obtain=OBTAIN_FOLDSEEK,
    )
    threads: int = operates(2, "Threads of the program.", ge=1)


class EvaluationSettings(Section):
    """Metrics, thresholds and backends.

    The sections `self`, `esmfold`, `command`, `proteinmpnn` and `foldseek` may be
    given only where the backend of that name is chosen: elsewhere they would have no effect."""

    reconstruction: tuple[str, ...] = refers(
        (),
        "Workflow: datasets that every tokenizer is asked to reconstruct; of a dataset that it was trained "
        "on, the training split.",
    )
    likelihood: tuple[str, ...] = refers(
        (),
        "Workflow: datasets on whose masked tokens every model's cross-entropy is measured, beside its "
        "initial state's and the entropy of the tokens' frequencies; of a dataset that it was trained on, "
        "the training split.",
    )
    folding_backend: Literal["self", "esmfold", "command"] = decides(
        "self",
        "What folds designed sequences: self (the model that designed them; works offline), esmfold "
        "(transformers), command (an external program).",
        readers=FOLDED,
    )
    self: SelfSettings | None = decides(
        None,
        "How the model folds its own sequences. null: not given.",
        readers=FOLDED,
    )
    esmfold: EsmfoldSettings | None = decides(
        None,
        "ESMFold by transformers' EsmForProteinFolding. null: not given.",
        readers=FOLDED,
    )
    command: CommandSettings | None = decides(
        None,
        "An external folding program: FASTA in, folder of structures out. config/folding_boltz.yaml, "
        "folding_chai.yaml and folding_colabfold.yaml are examples, to be combined with any configuration.",
        readers=FOLDED,
    )
    folding_baseline: bool = decides(
        False,
        "Fold the natives of task folding with the folding backend too (columns baseline_...), to see the "
        "model's structures beside those of a folding program. Not with backend self.",
        readers=("folding",),
    )
    inverse_folding_backend: Literal["none", "self", "proteinmpnn"] = decides(
        "none",
        "What designs sequences for generated backbones (task backbone): self (the model), proteinmpnn "
        "(external). none: the backbones' own sequences are folded, if they have any.",
        readers=("backbone",),
    )
    proteinmpnn: ProteinMpnnSettings | None = decides(
        None, "ProteinMPNN by command, with the paper's settings.", readers=("backbone",)
    )
    diversity: Literal["none", "foldseek", "tm_align", "tm_score"] = decides(
        "none",
        "How the structures of a set are compared with one another: foldseek (clusters and searches, the "
        "paper's way), tm_align (all pairs; needs tmtools, USalign or TMalign), tm_score (all pairs of equal"
        " length, residue by residue: no program needed, but shifted similarity is not seen; searched "
        "quickly, 0.002 too low on average), none.",
        readers=UNCONDITIONAL,
    )
    cluster_tm_score: float = decides(
        0.5, "TM-score from which two structures are of one cluster (paper: 0.5).", gt=0, le=1, readers=UNCONDITIONAL
    )
    novelty: Literal["none", "foldseek"] = decides(
        "none",
        "Search each sample in known structures; the highest TM-score is what the paper calls pdb-TM.",
        readers=UNCONDITIONAL,
    )
    foldseek: FoldseekSettings | None = decides(None, "Foldseek, for diversity or novelty.", readers=UNCONDITIONAL)
    designable_sc_tm: tuple[Annotated[float, Field(gt=0, le=1)], ...] = decides(
        (0.5,),
        "A sample is designable if its self-consistency TM-score is at least this (the released evaluator: "
        "0.5). One column for each threshold.",
        readers=DESIGNED,
    )
    designable_sc_rmsd: tuple[Annotated[float, Field(gt=0)], ...] = decides(
        (2.0,),
        "A sample is designable if its self-consistency RMSD (N, CA, C) is at most this many angstrom (the "
        "field's usual: 2). One column for each threshold.",
        readers=DESIGNED,
    )
    match_tm_score: float = decides(
        0.8,
        "A prediction matches its native if their TM-score is at least this (the released evaluator: 0.8).",
        gt=0,
        le=1,
        readers=("folding",),
    )
    motif_rmsd: float = decides(
        1.0,
        "Scaffolding succeeds if the motif's C-alpha RMSD in the folded design is below this many angstrom, and ...",
        gt=0,
        readers=("scaffolding",),
    )
    motif_sc_tm: float = decides(
        0.8,
        "... the self-consistency TM-score is above this (designs with a structure).",
        gt=0,
        le=1,
        readers=("scaffolding",),
    )
    motif_plddt: float = decides(
        70,
        "... or the folding program's mean pLDDT is above this (designs by sequence alone).",
        ge=0,
        le=100,
        readers=("scaffolding",),
    )
    released_tm_score: bool = decides(
        False,
        "Add columns tm_score_released: what the authors' released evaluator computes, which is not a "
        "TM-score of the whole chain. For comparison with published figures. Needs tmtools, USalign or "
        "TMalign.",
        readers=COMPARED,
    )
    min_length: int = decides(
        1, "Shorter samples and chains are left out, and counted as such.", ge=1, readers=MEASURED
    )
    max_length: int | None = decides(
        None, "Longer samples and chains are left out, and counted as such. null: no limit.", ge=1, readers=MEASURED
    )
    excluded: tuple[str, ...] = decides(
        (), "Names of targets that are left out, and counted as such.", readers=MEASURED
    )
    bootstrap_samples: int = decides(
        1000, "Resamples for the 95 % intervals of means. 0: no intervals.", ge=0, readers=MEASURED
    )
    batch_size: int = operates(
        16, "Chains that networks of this package work on at a time.", ge=1, readers=("reconstruction",)
    )

    @model_validator(mode="before")
    @classmethod
    def _with_chosen_backends(cls, given: Any, info: ValidationInfo) -> Any:
        """A chosen backend whose section is not given has its defaults."""
        if not isinstance(given, Mapping):
            return given
        if (info.context or {}).get(LENIENT) and "template" not in (given.get("command") or {"template": ""}):
            # A stage that does not read the command is only told how it would work.
            given = {key: value for key, value in given.items() if key != "command"}
        chosen = {
            "self": "self" in (given.get("folding_backend", "self"), given.get("inverse_folding_backend")),
            "esmfold": given.get("folding_backend") == "esmfold",
            "foldseek": "foldseek" in (given.get("diversity"), given.get("novelty")),
        }
        return {**given, **{name: {} for name, used in chosen.items() if used and given.get(name) is None}}

    def _backends(self) -> Iterator[tuple[str, bool, str]]:
        """Name of each backend's section, whether the backend is chosen, and the key that chooses it."""
        folds, designs = self.folding_backend, self.inverse_folding_backend
        yield "self", "self" in (folds, designs), "folding_backend or inverse_folding_backend: self"
        yield "esmfold", folds == "esmfold", "folding_backend: esmfold"
        yield "command", folds == "command", "folding_backend: command"
        yield "proteinmpnn", designs == "proteinmpnn", "inverse_folding_backend: proteinmpnn"
        yield "foldseek", "foldseek" in (self.diversity, self.novelty), "diversity or novelty: foldseek"

    def idle(self) -> Iterator[str]:
        """Sections of backends that are not chosen."""
        for name, used, where in self._backends():
            if getattr(self, name) is not None and not used:
                yield f"{name}: has no effect without {where}; leave it out"

    def contradictions(self) -> Iterator[str]:
        """Backends without what they need."""
        for name, used, where in self._backends():
            if getattr(self, name) is None and used:
                yield f"{name}: missing; {where} needs it"
        if self.novelty == "foldseek" and self.foldseek is not None and self.foldseek.database is None:
            yield "foldseek.database: missing; novelty: foldseek needs known structures to search"
        if self.folding_baseline and self.folding_backend == "self":
            yield "folding_baseline: needs folding_backend: esmfold or command; the model is no baseline of itself"

    def without_effect(self, reader: str) -> set[str]:
        """Fields that a task reads only under a condition that does not hold."""
        idle = set()
        if reader == "folding" and not self.folding_baseline:
            idle |= {"folding_backend", "self", "esmfold", "command"}
        if self.diversity == "none":
            idle.add("cluster_tm_score")
        return idle
