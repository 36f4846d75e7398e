"""Finished samples, as objects and as a Parquet file.

Array axes: L residues, A atoms (N, CA, C, O), X Cartesian coordinates, M residues of a motif.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from dplm2.core import parquet
from dplm2.core.artifacts import atomic_path
from dplm2.core.errors import DPLM2Error
from dplm2.core.fasta import fasta_text
from dplm2.core.text import shortened
from dplm2.generation.task import Motif
from dplm2.viewer import Structure, viewer_html

SAMPLES_FILE = "samples.parquet"
STRUCTURES_FOLDER, TRAJECTORIES_FOLDER = "structures", "trajectories"

SAMPLES = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("model", pa.string(), nullable=False),
        pa.field("task", pa.string(), nullable=False),
        pa.field("problem", pa.string(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("length", pa.int32(), nullable=False),
        pa.field("sequence", pa.string()),
        pa.field("structure_tokens", pa.list_(pa.uint16())),
        pa.field("backbone", pa.list_(pa.float32())),
        pa.field("tokenizer_plddt", pa.list_(pa.float32())),
        pa.field("given_sequence", pa.list_(pa.bool_())),
        pa.field("given_structure", pa.list_(pa.bool_())),
        pa.field("motif_positions", pa.list_(pa.int32())),
        pa.field("motif_backbone", pa.list_(pa.float32())),
        pa.field("log_likelihood", pa.float64()),
        pa.field("steps", pa.int32(), nullable=False),
        pa.field("settings", pa.string(), nullable=False),
    ]
)


@dataclass(frozen=True, repr=False)
class Sample:
    """A generated protein. In a notebook it shows itself.

    Parameters
    ----------
    sample_id
        Unique in its file.
    task, problem
        Name of the task; chain, motif problem or length.
    seed
        The sample's own seed, derived from the run's seed and ``sample_id``.
    sequence
        One letter per residue; None for the task ``backbone``.
    structure_tokens
        (L,) uint16; None for the task ``sequence``.
    backbone
        (L, 4, 3) float32: N, CA, C, O in angstrom, decoded from the structure tokens; None without them.
    tokenizer_plddt
        (L,) float32, 0 to 100; None where the tokenizer's confidence head was not trained.
    given
        True (L,) where a token of a track was given.
    motif
        The motif of a scaffolding sample.
    log_likelihood
        Mean log-probability (nats per generated token) under the model; None unless ``likelihood`` or ``best_of`` asks
        for it.
    steps
        Number of steps run.
    settings
        The settings that determine the sample.
    trajectory
        (step, sequence, backbone) of intermediate predictions.
    """

    sample_id: str
    task: str
    problem: str
    seed: int
    sequence: str | None
    structure_tokens: np.ndarray | None
    backbone: np.ndarray | None
    tokenizer_plddt: np.ndarray | None
    given: Mapping[str, np.ndarray]
    steps: int
    settings: Mapping[str, Any]
    motif: Motif | None = None
    log_likelihood: float | None = None
    trajectory: Sequence[tuple[int, str | None, np.ndarray]] = field(default=())

    @property
    def length(self) -> int:
        """Number of residues."""
        return len(self.sequence if self.sequence is not None else self.structure_tokens)

    def write(self, path: str | os.PathLike) -> None:
        """Write the backbone as a structure file in the format of ``path``'s extension (.bcif, .cif, .pdb).

        Raises
        ------
        DPLM2Error
            If the sample has no backbone.
        """
        from dplm2.structures.writing import write_structure

        write_structure(path, *self._structure())

    def to_pdb(self) -> str:
        """The backbone as the text of a PDB file, with pLDDT as B factors.

        Raises
        ------
        DPLM2Error
            If the sample has no backbone, or exceeds the PDB format.
        """
        from dplm2.structures.writing import structure_text

        return structure_text("pdb", *self._structure(), entry=self.sample_id)

    def to_mmcif(self) -> str:
        """The backbone as the text of an mmCIF file; raises as `to_pdb`."""
        from dplm2.structures.writing import structure_text

        return structure_text("mmcif", *self._structure(), entry=self.sample_id)

    def to_atom_array(self):  # noqa: ANN201
        """The backbone as biotite's ``AtomArray``, with pLDDT as annotation ``b_factor``; raises as `to_pdb`."""
        from dplm2.structures.writing import atom_array

        return atom_array(*self._structure())

    def to_fasta(self) -> str:
        """The sequence as the text of a FASTA record.

        Raises
        ------
        DPLM2Error
            If the sample has no sequence.
        """
        if self.sequence is None:
            raise DPLM2Error(f"{self.sample_id}: a sample of the task {self.task} without sequence")
        return fasta_text([(self.sample_id, self.sequence)])

    def view(self):  # noqa: ANN201
        """The backbone in an interactive viewer, a ``py3Dmol.view`` to style further.

        Raises
        ------
        DPLM2Error
            If the sample has no backbone, or py3Dmol is not installed.
        """
        try:
            import py3Dmol
        except ImportError as error:
            raise DPLM2Error("view() needs py3Dmol; install it with: pip install 'dplm2[notebook]'") from error
        shown = py3Dmol.view(width=480, height=360)
        shown.addModel(self.to_pdb(), "pdb")
        shown.setStyle({"cartoon": {"color": "spectrum"}, "stick": {"radius": 0.1}})
        shown.zoomTo()
        return shown

    def _structure(self) -> tuple[str, np.ndarray, np.ndarray | None]:
        if self.backbone is None:
            raise DPLM2Error(f"{self.sample_id}: a sample of the task {self.task} without structure")
        # Without a sequence the residues are alanines, as in the tokenizer's decoder.
        return self.sequence or "A" * self.length, self.backbone, self.tokenizer_plddt

    def _repr_html_(self) -> str:
        """The sample in a notebook: a line and, with a backbone, a viewer."""
        line = f"<p><code>{escape(repr(self))}</code></p>"
        if self.backbone is None:
            return line
        marked = None
        if self.motif is not None:
            marked = np.zeros(self.length, dtype=bool)
            marked[self.motif.positions] = True
        sequence, backbone, plddt = self._structure()
        return line + viewer_html(Structure(self.sample_id, backbone, sequence, plddt, marked), title=self.sample_id)

    def __repr__(self) -> str:
        shown = shortened(self.sequence) if self.sequence else "no sequence"
        return f"Sample({self.sample_id!r}, {self.task}, {self.length} residues, {self.steps} steps, {shown})"

    def row(self, model: str) -> dict[str, Any]:
        """The sample as a row of ``samples.parquet``."""
        settings = dict(self.settings)
        if self.motif is not None:
            settings["sampled_contig"] = self.motif.contig

        def flat(values: np.ndarray | None) -> list | None:
            return None if values is None else np.asarray(values).ravel().tolist()

        return {
            "sample_id": self.sample_id,
            "model": model,
            "task": self.task,
            "problem": self.problem,
            "seed": self.seed,
            "length": self.length,
            "sequence": self.sequence,
            "structure_tokens": flat(self.structure_tokens),
            "backbone": flat(self.backbone),
            "tokenizer_plddt": flat(self.tokenizer_plddt),
            "given_sequence": flat(self.given.get("sequence")),
            "given_structure": flat(self.given.get("structure")),
            "motif_positions": None if self.motif is None else flat(self.motif.positions),
            "motif_backbone": None if self.motif is None else flat(self.motif.backbone),
            "log_likelihood": self.log_likelihood,
            "steps": self.steps,
            "settings": json.dumps(settings),
        }


def write_rows(
    path: str | os.PathLike, rows: Sequence[Mapping[str, Any]], metadata: Mapping[str, str] | None = None
) -> None:
    """Write rows as Parquet (zstd) atomically, with ``metadata`` in the file's schema."""
    table = pa.Table.from_pylist(list(rows), schema=SAMPLES)
    parquet.write_table(path, table.replace_schema_metadata(metadata))


def read_samples(path: str | os.PathLike) -> pa.Table:
    """Read the samples of a folder, or of a file.

    Raises
    ------
    DPLM2Error
        If there are none, or the file does not contain samples.
    """
    path = Path(path)
    path = path / SAMPLES_FILE if path.is_dir() else path
    if not path.is_file():
        raise DPLM2Error(f"{path}: contains no samples; generate them with 'dplm2 generate'")
    table = parquet.read_table(path)
    if missing := [name for name in SAMPLES.names if name not in table.column_names]:
        raise DPLM2Error(f"{path}: not a file of samples: missing columns {', '.join(missing)}")
    return table


def write_trajectory(path: str | os.PathLike, sample: Sample) -> None:
    """Write a sample's intermediate predictions as the models of one file, atomically.

    The extension of ``path`` (.pdb, .cif, .bcif) determines the format. All models have the residue names of the final
    sequence.

    Raises
    ------
    DPLM2Error
        If the sample has no trajectory.
    """
    from biotite.structure import stack
    from biotite.structure.io import pdb, pdbx

    from dplm2.structures.writing import atom_array

    if not sample.trajectory:
        raise DPLM2Error(f"{sample.sample_id}: no trajectory was recorded")
    path = Path(path)
    sequence = sample.sequence or "A" * sample.length
    models = stack([atom_array(sequence, backbone, None) for _, _, backbone in sample.trajectory])
    with atomic_path(path) as temporary:
        if path.suffix == ".pdb":
            file = pdb.PDBFile()
            file.set_structure(models)
            file.write(str(temporary))
        else:
            file = pdbx.CIFFile() if path.suffix == ".cif" else pdbx.BinaryCIFFile()
            pdbx.set_structure(file, models, data_block=sample.sample_id)
            (file if path.suffix == ".cif" else pdbx.compress(file)).write(str(temporary))
