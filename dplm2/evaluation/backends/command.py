"""Folding backend ``command``: any external program, by a template: FASTA in, folder of structures out."""

import gzip
import shlex
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import biotite.structure as structure
import numpy as np
from biotite import InvalidFileError
from biotite.structure.io import pdb, pdbx

from dplm2.core.artifacts import fingerprint
from dplm2.core.errors import DPLM2Error
from dplm2.evaluation.backends.folding import Failure, Folded, name_of
from dplm2.settings.evaluation import CommandSettings

BACKBONE = ("N", "CA", "C", "O")
LAST_WORDS = 400  # characters of a failed program's output in messages
PLDDT_SCALE = {"percent": 1.0, "fraction": 100.0}


class CommandBackend:
    """An external folding program.

    Parameters
    ----------
    settings
        The template, the pattern of its results, and the meaning of their B factors.
    """

    name = "command"

    def __init__(self, settings: CommandSettings) -> None:
        self.settings = settings
        decisive = [settings.template, settings.input, settings.header, settings.structures, settings.plddt]
        self.fingerprint = fingerprint(decisive)

    def batches(self, sequences: Sequence[str]) -> Iterable[Sequence[str]]:
        """Groups for one run of the command each."""
        size = 1 if self.settings.input == "separate" else self.settings.sequences_per_run
        return [sequences[start : start + size] for start in range(0, len(sequences), size)]

    def fold(self, sequences: Sequence[str]) -> list[Folded | Failure]:
        """Run the command once and collect what it wrote; a sequence without a structure is a failure."""
        with tempfile.TemporaryDirectory(prefix="dplm2-fold-") as folder:
            fasta, out = self._write(Path(folder), sequences), Path(folder) / "structures"
            out.mkdir()
            places = {"fasta": str(fasta), "out": str(out), "id": name_of(sequences[0])}
            run_command("evaluation.command.template", self.settings.template, places, self.settings.timeout)
            return [self._collect(out, sequence) for sequence in sequences]

    def _write(self, folder: Path, sequences: Sequence[str]) -> Path:
        """The input of one run, written below ``folder``: a FASTA file, or a folder of them."""
        entries = {name_of(sequence): f">{self._header(sequence)}\n{sequence}\n" for sequence in sequences}
        if self.settings.input == "together":
            fasta = folder / "sequences.fasta"
            fasta.write_text("".join(entries.values()))
            return fasta
        inputs = folder / "sequences"
        inputs.mkdir()
        for name, entry in entries.items():
            (inputs / f"{name}.fasta").write_text(entry)
        return inputs if self.settings.input == "folder" else inputs / f"{name_of(sequences[0])}.fasta"

    def _header(self, sequence: str) -> str:
        return self.settings.header.replace("{id}", name_of(sequence))

    def _collect(self, out: Path, sequence: str) -> Folded | Failure:
        found = sorted(path for path in out.glob(self.settings.structures) if path.is_file())
        if self.settings.input != "separate":
            found = [path for path in found if name_of(sequence) in str(path.relative_to(out))]
        if not found:
            return Failure(f"the program wrote no structure that matches {self.settings.structures}")
        try:
            backbone, b_factors = read_backbone(found[0])
        except DPLM2Error as error:
            return Failure(str(error))
        scale = PLDDT_SCALE.get(self.settings.plddt)
        return Folded(backbone, None if scale is None else (scale * b_factors).astype(np.float32))


def run_command(key: str, template: str, places: Mapping[str, object], timeout: int | None = None) -> str:
    """Run an external program; returns its output.

    Parameters
    ----------
    key
        Of the configuration, for messages.
    template
        The command line, split as a shell would; then each ``{name}`` of ``places`` is filled in, quoting not needed.
    places
        What to fill in.
    timeout
        Seconds.

    Raises
    ------
    DPLM2Error
        If the program is missing, fails or times out; with the end of its output.
    """
    words = shlex.split(template)
    for name, value in places.items():
        words = [word.replace(f"{{{name}}}", str(value)) for word in words]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=timeout, check=False)
    except FileNotFoundError as error:
        raise DPLM2Error(f"{key}: the program {words[0]!r} is not on PATH") from error
    except subprocess.TimeoutExpired as error:
        raise DPLM2Error(f"{key}: {words[0]} took longer than {timeout} s") from error
    if done.returncode:
        said = " ".join((done.stderr.strip() or done.stdout.strip()).split())[-LAST_WORDS:]
        raise DPLM2Error(f"{key}: {words[0]} failed with exit status {done.returncode}: {said}")
    return done.stdout


def read_backbone(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Backbone (L, 4, 3) and the C-alpha's B factor (L,) of a structure file with one protein chain.

    Raises
    ------
    DPLM2Error
        If it cannot be read.
    """
    try:
        atoms = _read_atoms(path)
    except (InvalidFileError, ValueError, KeyError, IndexError, OSError) as error:
        raise DPLM2Error(f"{path.name}: cannot be read ({error})") from error
    atoms = atoms[structure.filter_amino_acids(atoms)]
    starts = structure.get_residue_starts(atoms)
    residue = np.searchsorted(starts, np.arange(atoms.array_length()), side="right") - 1
    backbone = np.full((len(starts), len(BACKBONE), 3), np.nan, dtype=np.float32)
    b_factors = np.full(len(starts), np.nan, dtype=np.float32)
    for column, name in enumerate(BACKBONE):
        chosen = atoms.atom_name == name
        backbone[residue[chosen], column] = atoms.coord[chosen]
    is_trace = atoms.atom_name == "CA"
    b_factors[residue[is_trace]] = atoms.b_factor[is_trace]
    return backbone, b_factors


def _read_atoms(path: Path) -> structure.AtomArray:
    name = path.name.removesuffix(".gz")
    opener = gzip.open if path.name.endswith(".gz") else open
    if name.endswith(".pdb"):
        with opener(path, "rt") as stream:
            return pdb.PDBFile.read(stream).get_structure(model=1, extra_fields=["b_factor"])
    reader, mode = (pdbx.BinaryCIFFile, "rb") if name.endswith(".bcif") else (pdbx.CIFFile, "rt")
    with opener(path, mode) as stream:
        return pdbx.get_structure(reader.read(stream), model=1, extra_fields=["b_factor"])
