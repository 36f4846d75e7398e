"""FASTA files with features of other programs: the same rules in every command and in Python.

The expected results of the files in ``cases`` are in their MANIFEST.csv; synthetic files have the same features.
"""

import csv
import logging
import re

import numpy as np
import pyarrow.parquet as pq
import pytest

from dplm2.cli import main
from dplm2.core.errors import DPLM2Error
from dplm2.core.fasta import read_fasta
from dplm2.generation.samples import read_samples
from dplm2.language.sequences import SequenceStore
from dplm2.language.vocabulary import Vocabulary

SEQUENCE = "MQIFVKTLTGKTITLEVEPSD"
MADE = {
    "aligned.fas": b">one\n--MQIF..VKTL-\n>two\nMQ-IFVKTL--TG\n",
    "notepad.txt": "\ufeff>one\r\nMQIFVKTL\r\n>two\r\nTITLEVEPSD\r\n".encode(),
    "soft_masked.fna": b">one\nmqifVKTL\n>two\ntitle*\n",
    "one_empty.faa": b">nothing\n>one\nMQIFVKTL\n>two\nTITLEV\n>last\n",
    "same_word.fa": b">design 1\nMQIFVKTL\n>design 2\nTITLEV\n>design 2\nKTITLEV\n",
    "clash.fasta": b">a/b\nMQIFVKTL\n>a:b\nTITLEV\n>a_b\nKTITLEV\n>A_B\nMQIF\n",
    "long.fasta": b">" + b"x" * 400 + b"\nMQIFVKTL\n>" + b"x" * 399 + b"y\nTITLEV\n",
}
READ = ("gap.fasta", "lower.fasta", "empty_record.fasta", "bom.fasta", "long_name.fasta", "dup_first_word.fasta")
EXPECTED = {
    "gap.fasta": ({"gap": SEQUENCE}, "removed gaps .* from: gap"),
    "lower.fasta": ({"low": SEQUENCE}, None),
    "empty_record.fasta": ({"a": SEQUENCE, "b": SEQUENCE[:17]}, "records without a sequence: empty"),
    "bom.fasta": ({"bom": SEQUENCE}, None),
    "long_name.fasta": ({"ok": SEQUENCE[:11], "x" * 250: SEQUENCE[:11]}, None),
    "dup_first_word.fasta": ({"protein 1": SEQUENCE[:11], "protein 2": SEQUENCE[:14]}, "whole headers: protein 1, p"),
    "pipe_slash.fasta": ({"sp|P0CG48|UBC/A": SEQUENCE[:11], "sp|P0CG48|UBC_A": SEQUENCE[:14]}, None),
}


def generate(folders, out, *chains):
    call = ["generate", "folding", "--model", str(folders / "model"), "--out", str(out), "--device", "cpu"]
    return main([*call, "--chains", *map(str, chains), "--set", "steps=1"])


def embed(folders, out, *inputs):
    return main(["embed", *map(str, inputs), "--model", str(folders / "model"), "--out", str(out), "--device", "cpu"])


def check_everywhere(path, expected, folders, model, tmp_path):
    """Folding, embedding, the sequence stage and Python read ``expected`` from a file."""
    assert generate(folders, tmp_path / "out", path) == 0
    rows = read_samples(tmp_path / "out").to_pylist()
    assert {row["problem"]: row["sequence"] for row in rows} == expected
    files = {file.name.removesuffix(".pdb") for file in (tmp_path / "out/structures").iterdir()}
    assert files == {row["sample_id"] for row in rows} and len({name.lower() for name in files}) == len(expected)
    assert embed(folders, tmp_path / "e", path) == 0
    table = pq.read_table(tmp_path / "e" / "part-00000.parquet").to_pylist()
    assert {row["chain_id"]: row["length"] for row in table} == {name: len(text) for name, text in expected.items()}
    assert all(np.isfinite(row["sequence_embedding"]).all() for row in table)
    store = SequenceStore.build([path], tmp_path / "store")
    assert [Vocabulary().decode_sequence(store[n]) for n in range(len(store))] == list(expected.values())
    samples = model.generate("folding", sequences=expected, steps=1)
    assert [(sample.problem, sample.sample_id) for sample in samples] == [(r["problem"], r["sample_id"]) for r in rows]


def check_refused_everywhere(path, message, folders, model, tmp_path, capsys):
    """Folding, embedding, the sequence stage and Python refuse a file with one line."""
    for call in (generate, embed):
        assert call(folders, tmp_path / "out", path) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert re.search(message, line)
    for read in (read_fasta, lambda path: SequenceStore.build([path], tmp_path / "store")):
        with pytest.raises(DPLM2Error, match=message):
            read(path)


@pytest.mark.parametrize("name", EXPECTED)
def test_shared_cases_are_handled_as_expected(name, cases_folder, folders, model, tmp_path, caplog):
    expected, said = EXPECTED[name]
    with caplog.at_level(logging.WARNING):
        check_everywhere(cases_folder / name, expected, folders, model, tmp_path)
    assert said is None or re.search(f"{name}: .*{said}", caplog.text)


def test_case_with_the_letter_j_is_refused(cases_folder, folders, model, tmp_path, capsys):
    message = r"J.fasta, record 1 \(gapJ\): 'J' .*\(position 5\)"
    check_refused_everywhere(cases_folder / "J.fasta", message, folders, model, tmp_path, capsys)


def test_every_case_is_tested(cases_folder):
    with (cases_folder / "MANIFEST.csv").open() as stream:
        names = {row["file"] for row in csv.DictReader(stream) if row["kind"] == "fasta"}
    assert names <= {*EXPECTED, "J.fasta"}


@pytest.mark.parametrize("name", MADE)
def test_synthetic_files_are_read_the_same_everywhere(name, folders, model, tmp_path, caplog):
    path = tmp_path / name
    path.write_bytes(MADE[name])
    expected = {
        "aligned.fas": {"one": "MQIFVKTL", "two": "MQIFVKTLTG"},
        "notepad.txt": {"one": "MQIFVKTL", "two": "TITLEVEPSD"},
        "soft_masked.fna": {"one": "MQIFVKTL", "two": "TITLE"},
        "one_empty.faa": {"one": "MQIFVKTL", "two": "TITLEV"},
        "same_word.fa": {"design 1": "MQIFVKTL", "design 2": "TITLEV", "design 2-2": "KTITLEV"},
        "clash.fasta": {"a/b": "MQIFVKTL", "a:b": "TITLEV", "a_b": "KTITLEV", "A_B": "MQIF"},
        "long.fasta": {"x" * 400: "MQIFVKTL", "x" * 399 + "y": "TITLEV"},
    }[name]
    with caplog.at_level(logging.WARNING):
        check_everywhere(path, expected, folders, model, tmp_path)
    said = {
        "aligned.fas": "one, two",
        "one_empty.faa": "records without a sequence: nothing, last",
        "same_word.fa": "design 2-2",
    }
    assert said.get(name, "") in caplog.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b">a\nMQ\n>b\nMQIFVJ\n", r"record 2 \(b\): 'J' .*position 6"),
        (b">a\nMQ*IF\n", r"record 1 \(a\): '\*' .*position 3"),
        (b">a\n>b\n", "no sequence"),
        (b"\x89PNG\0", "not a text file"),
        (b">a\n" + b"A" * (3 << 20), "a line of more than"),
    ],
)
def test_invalid_files_are_refused_everywhere(content, message, folders, model, tmp_path, capsys):
    (tmp_path / "x.fasta").write_bytes(content)
    check_refused_everywhere(tmp_path / "x.fasta", message, folders, model, tmp_path, capsys)


def test_python_api_names_the_invalid_input(model):
    for sequences, message in [
        ({"p": "MQIFJ"}, "p: 'J' .*position 5"),
        (["MQ", ""], "protein-1: no residues"),
        (["MQ", None], "protein-1: a sequence is text"),
    ]:
        with pytest.raises(DPLM2Error, match=message):
            model.generate("folding", sequences=sequences)
    lower, gapped = model.generate("folding", sequences=["mqif", "MQ-IF"], steps=1)
    assert lower.sequence == gapped.sequence == "MQIF"


def test_folders_and_several_files_are_read(folders, tmp_path, caplog):
    (tmp_path / "in").mkdir()
    for name in ("a.fasta", "b.txt"):
        (tmp_path / "in" / name).write_text(">one\nMQIF\n")
    with caplog.at_level(logging.WARNING):
        assert generate(folders, tmp_path / "out", tmp_path / "in") == 0
    assert [row["problem"] for row in read_samples(tmp_path / "out").to_pylist()] == ["one", "one-2"]
    assert "numbered proteins with the same name: one-2" in caplog.text
