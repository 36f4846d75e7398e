"""Sequences from files: reading, and memory independent of their number."""

import gzip
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dplm2.core.errors import DPLM2Error
from dplm2.language.sequences import SequenceStore, read_sequences
from dplm2.language.vocabulary import Vocabulary

FASTA = ">one some words\nMKV\nLLA\n\n>two\nmxb*\n>empty\n>three\nACDEFGHIKLMNPQRSTVWY\n"
SEQUENCES = ["MKVLLA", "MXB", "ACDEFGHIKLMNPQRSTVWY"]


def test_fasta_is_read_plain_and_compressed(tmp_path):
    (tmp_path / "a.fasta").write_text(FASTA)
    with gzip.open(tmp_path / "a.fa.gz", "wt") as stream:
        stream.write(FASTA)
    assert list(read_sequences(tmp_path / "a.fasta")) == SEQUENCES
    assert list(read_sequences(tmp_path / "a.fa.gz")) == SEQUENCES


def test_parquet_is_read(tmp_path):
    pq.write_table(pa.table({"id": [1, 2, 3], "sequence": ["MKV", None, "aa"]}), tmp_path / "a.parquet")
    assert list(read_sequences(tmp_path / "a.parquet")) == ["MKV", "AA"]
    pq.write_table(pa.table({"id": [1]}), tmp_path / "b.parquet")
    with pytest.raises(DPLM2Error, match="no column 'sequence'"):
        list(read_sequences(tmp_path / "b.parquet"))


def test_store_returns_the_sequences(tmp_path):
    (tmp_path / "a.fasta").write_text(FASTA)
    store = SequenceStore.build([tmp_path / "a.fasta"], tmp_path / "store")
    in_memory = SequenceStore.of(SEQUENCES)
    for one in (store, in_memory):
        assert len(one) == 3 and one.lengths.tolist() == [6, 3, 20]
        assert [Vocabulary().decode_sequence(one[index]) for index in range(3)] == SEQUENCES


def test_store_is_rebuilt_only_for_other_files(tmp_path):
    source = tmp_path / "a.fasta"
    source.write_text(FASTA)
    SequenceStore.build([source], tmp_path / "store")
    made = (tmp_path / "store/ids.bin").stat().st_mtime_ns
    SequenceStore.build([source], tmp_path / "store")
    assert (tmp_path / "store/ids.bin").stat().st_mtime_ns == made
    source.write_text(">x\nMM\n")
    assert len(SequenceStore.build([source], tmp_path / "store")) == 1


def test_sequences_are_named_by_file_and_number(tmp_path):
    """An empty file and a file without valid sequences must not shift later numbers."""
    (tmp_path / "a.fasta").write_text(FASTA)
    (tmp_path / "empty.fasta").write_text("")
    (tmp_path / "b.fasta").write_text(">x\nMM\n>y\nKK\n")
    files = [str(tmp_path / name) for name in ("a.fasta", "empty.fasta", "b.fasta")]
    store = SequenceStore.build(files, tmp_path / "store")
    numbered = [("a.fasta", 1), ("a.fasta", 2), ("a.fasta", 3), ("b.fasta", 1), ("b.fasta", 2)]
    assert list(store.names) == [f"sequence {number} of {tmp_path / name}" for name, number in numbered]
    assert len(store.names) == len(store)
    assert list(SequenceStore.of(["MKV"], ["chain"]).names) == ["chain"]


def test_one_of_two_processes_builds_the_store(tmp_path, monkeypatch):
    (tmp_path / "a.fasta").write_text(FASTA)
    made, write = [], SequenceStore._write

    def slow(sources, folder, columns):
        made.append(folder)
        time.sleep(0.3)
        return write(sources, folder, columns)

    monkeypatch.setattr(SequenceStore, "_write", staticmethod(slow))
    with ThreadPoolExecutor(2) as pool:
        stores = list(pool.map(lambda _: SequenceStore.build([tmp_path / "a.fasta"], tmp_path / "store"), range(2)))
    assert len(made) == 1 and [len(store) for store in stores] == [3, 3]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("MKV\n", "not FASTA"),
        (">a\nMK1\n", r"a.fasta, record 1 \(a\): .1. is not .*position 3"),
        (">a\n", "no sequence in"),
    ],
)
def test_invalid_sequence_files_are_refused(tmp_path, text, message):
    (tmp_path / "a.fasta").write_text(text)
    with pytest.raises(DPLM2Error, match=message):
        SequenceStore.build([tmp_path / "a.fasta"], tmp_path / "store")
    with pytest.raises(DPLM2Error, match="no such sequence file"):
        SequenceStore.build([tmp_path / "b.fasta"], tmp_path / "store")


PROGRAM = """
import resource, sys
from dplm2.language.sequences import SequenceStore
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
store = SequenceStore.build([sys.argv[1]], sys.argv[2])
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(len(store), after - before)
"""


def test_memory_does_not_grow_with_the_number_of_sequences(tmp_path):
    """10 MB of sequences (50,000) are read with a few MB of memory."""
    rng = np.random.default_rng(0)
    line = "".join(rng.choice(list("ACDEFGHIKLMNPQRSTVWY"), 200))
    with gzip.open(tmp_path / "a.fasta.gz", "wt", compresslevel=1) as stream:
        for number in range(50_000):
            stream.write(f">{number}\n{line}\n")
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "a.fasta.gz"), str(tmp_path / "store")]
    count, grown = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    unit = 1 if sys.platform == "darwin" else 1024
    assert int(count) == 50_000
    assert int(grown) * unit < 6e6
