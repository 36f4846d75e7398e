"""Inputs of tasks: single chains of a file, folders with other files in them, archives, FASTA."""

import gzip
import logging
import shutil
import tarfile

import numpy as np
import pytest
from biotite.structure.io import pdb

from dplm2.core.errors import DPLM2Error
from dplm2.generation.inputs import chains_of, read_targets, source_of
from dplm2.structures.writing import write_structure

SEQUENCES = {"A": "MKTAYIAKQR", "B": "GSHMLEDPVE", "C": "WWWGGGSSSA"}


def backbone_of(length, shift=0.0):
    """A straight chain with plausible distances."""
    alpha = (np.arange(length)[:, None] + 1) * np.array([3.8, 0.0, 0.0]) + shift + 5.0
    offsets = np.array([[-1.2, 0.8, 0.0], [0.0, 0.0, 0.0], [1.2, 0.9, 0.0], [1.3, 2.1, 0.0]])
    return (alpha[:, None] + offsets).astype(np.float32)


@pytest.fixture
def complex_file(tmp_path):
    """A structure of three chains."""
    lines = []
    for number, (chain, sequence) in enumerate(SEQUENCES.items()):
        write_structure(tmp_path / "one.pdb", sequence, backbone_of(len(sequence), 30.0 * number))
        atoms = pdb.PDBFile.read(tmp_path / "one.pdb").get_structure(model=1)
        atoms.chain_id[:] = chain
        file = pdb.PDBFile()
        file.set_structure(atoms)
        lines += [line for line in str(file).splitlines() if line.startswith("ATOM")] + ["TER"]
    (tmp_path / "one.pdb").unlink()
    path = tmp_path / "complex.pdb"
    path.write_text("\n".join([*lines, "END", ""]))
    return path


def by_name(targets):
    return {target.name: target.sequence for target in targets}


def test_chains_can_be_selected_from_a_file(complex_file):
    assert [chain.author_chain for chain in chains_of(complex_file)] == ["A", "B", "C"]
    assert by_name(read_targets([complex_file])) == {f"complex_{name}": text for name, text in SEQUENCES.items()}
    assert by_name(read_targets([f"{complex_file}:B"])) == {"complex_B": SEQUENCES["B"]}
    assert list(by_name(read_targets([f"{complex_file}:C,A"]))) == ["complex_A", "complex_C"]
    with pytest.raises(DPLM2Error, match="no protein chain 'X'; available: A, B, C"):
        read_targets([f"{complex_file}:X"])
    with pytest.raises(DPLM2Error, match="no such file"):
        read_targets([f"{complex_file}x:A"])


def test_file_name_with_a_colon_is_not_parsed(complex_file):
    named = complex_file.with_name("odd.pdb:A")
    shutil.copy(complex_file, named)
    assert source_of(named).path == named and source_of(named).chains is None
    assert len(read_targets([named])) == 3


def test_chains_can_be_selected_only_from_structures(tmp_path):
    (tmp_path / "p.fasta").write_text(">p\nMKT\n")
    with pytest.raises(DPLM2Error, match="chains can be selected from a structure, not from a FASTA file"):
        read_targets([f"{tmp_path / 'p.fasta'}:A"])


def test_folder_is_searched_recursively_and_skipped_files_are_listed(complex_file, tmp_path, caplog):
    folder = tmp_path / "mixed"
    (folder / "deep/deeper").mkdir(parents=True)
    (folder / "deep/deeper/first.pdb.gz").write_bytes(gzip.compress(complex_file.read_bytes()))
    (folder / "deep/seqs.faa").write_text(">written\nMKTAYIAK\n")
    (folder / "readme.md").write_text("about these files")
    (folder / ".hidden.pdb").write_text("not looked at")
    (folder / "broken.pdb").write_text("no structure at all\n")
    (folder / "picture").write_bytes(bytes(range(256)))
    with tarfile.open(folder / "more.tar.gz", "w:gz") as archive:
        archive.add(complex_file, "inside/second.pdb")
        archive.add(folder / "broken.pdb", "inside/bad.pdb")
    with caplog.at_level(logging.WARNING):
        targets = by_name(read_targets([folder]))
    assert set(targets) == {f"{name}_{chain}" for name in ("first", "second") for chain in "ABC"} | {"written"}
    assert targets["second_C"] == SEQUENCES["C"]
    said = caplog.text
    assert "3 files skipped" in said and "broken.pdb" in said and "picture" in said
    assert "more.tar.gz:inside/bad.pdb" in said and "readme.md" not in said and ".hidden" not in said
    with pytest.raises(DPLM2Error, match="broken.pdb"):  # a file that is given itself must be a structure
        read_targets([folder / "broken.pdb"])
    archive = by_name(read_targets([f"{folder / 'more.tar.gz'}:B"]))
    assert archive == {"second_B": SEQUENCES["B"]}


def test_a_folder_without_proteins_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(DPLM2Error, match="contains no protein chains"):
        read_targets([tmp_path])


@pytest.mark.parametrize("name", ["p.fasta", "p.fas", "p.fa", "p.faa", "p.fna", "p.txt", "p.FASTA.gz", "p.txt.gz", "p"])
def test_fasta_is_recognised_by_its_extensions(tmp_path, name):
    content = b">protein one\nMKTAYIAK\n"
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    assert by_name(read_targets([tmp_path / name])) == {"protein": "MKTAYIAK"}
