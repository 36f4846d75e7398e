"""Tokens of datasets: contents of the files, reuse of finished work, refused input."""

import json
import logging
import threading
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from dplm2.cli import main
from dplm2.core.artifacts import sha256_of_file
from dplm2.core.errors import DPLM2Error
from dplm2.settings.tokenizer import TokenizationSettings
from dplm2.structures.store import CHAINS
from dplm2.tokenizer import model
from dplm2.tokenizer import tokens as module
from dplm2.tokenizer.model import StructureTokenizer
from dplm2.tokenizer.tokens import decode_tokens, encode_part, encode_parts, read_tokens
from tests.tokenizer.synthetic import chain

SETTINGS = TokenizationSettings(token_budget=150, precision="float32")


def write_part(path, rows):
    """Write a chains file; each row is chain id, backbone, pLDDT, split."""
    defaults = {"source_file": "f", "source_sha256": "0", "source_id": "i", "author_chain": "A"}
    records = [
        {
            **defaults,
            "chain_id": name,
            "sequence": "A" * len(backbone),
            "length": len(backbone),
            "observed": int(np.isfinite(backbone).all((1, 2)).sum()),
            "residue_index": list(range(len(backbone))),
            "backbone": backbone.ravel(),
            "plddt": plddt,
            "cluster": f"cluster-{name}",
            "split": split,
        }
        for name, backbone, plddt, split in rows
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(records, schema=CHAINS), path)


@pytest.fixture
def dataset(tmp_path, chains):
    folder = tmp_path / "chains"
    write_part(folder / "part-00000.parquet", [("a", chains[0], None, None), ("b", chains[1], [80.0] * 40, None)])
    write_part(folder / "part-00001.parquet", [(f"c{i}", chain(30 + i, i), None, "test") for i in range(6)])
    return folder


@pytest.fixture
def saved(tmp_path, small_tokenizer):
    small_tokenizer.save_pretrained(tmp_path / "tokenizer")
    return tmp_path / "tokenizer"


def test_command_writes_the_tokenizers_tokens(dataset, saved, small_tokenizer, chains, tmp_path, capsys):
    out = tmp_path / "tokens"
    assert main(["tokens", "encode", str(dataset), "--tokenizer", str(saved), "--out", str(out)]) == 0
    assert str(out) in capsys.readouterr().out
    table = read_tokens(out)
    assert table["chain_id"].to_pylist() == ["a", "b", *(f"c{i}" for i in range(6))]
    assert table.schema.metadata[b"tokenizer_fingerprint"].decode() == small_tokenizer.codes_fingerprint
    assert table.schema.metadata[b"codebook_size"] == b"8192"
    rows = table.to_pylist()
    for row, backbone in zip(rows[:2], chains[:2], strict=True):
        assert row["structure_tokens"] == small_tokenizer.encode(backbone).tolist()
        assert row["observed"] == np.isfinite(backbone[:, :3]).all((1, 2)).tolist()
        assert row["length"] == len(backbone) == len(row["sequence"])
    assert [row["cluster"] for row in rows] == [f"cluster-{row['chain_id']}" for row in rows]
    assert [row["split"] for row in rows] == [None, None, *6 * ["test"]]
    assert rows[1]["observed"].count(False) == 4
    assert rows[0]["plddt_mean"] is None and rows[1]["plddt_mean"] == 80.0
    assert json.loads((out / "run.json").read_text())["inputs"]["tokenizer"] == small_tokenizer.codes_fingerprint
    assert read_tokens(out, split="test")["chain_id"].to_pylist() == [f"c{i}" for i in range(6)]


def test_one_shard_into_one_file(dataset, saved, tmp_path):
    part, out = dataset / "part-00001.parquet", tmp_path / "shard.parquet"
    settings = json.dumps({"tokenizers": {"t": {"datasets": ["d"], "tokenization": {"token_budget": 64}}}})
    arguments = ["tokens", "encode", str(part), "--tokenizer", str(saved), "--out", str(out), "--config", settings]
    assert main(arguments) == 0
    assert len(read_tokens(out)) == 6
    assert main([*arguments[:3], str(dataset / "part-00000.parquet"), *arguments[3:]]) == 2  # two shards, one file


def test_only_changed_files_are_encoded_again(dataset, saved, small_tokenizer, tmp_path, chains):
    out = tmp_path / "tokens"
    arguments = ["tokens", "encode", str(dataset), "--tokenizer", str(saved), "--out", str(out)]
    main(arguments)
    files = [out / "part-00000.parquet", out / "part-00001.parquet"]
    times = [file.stat().st_mtime_ns for file in files]
    content = [sha256_of_file(file) for file in files]
    main(arguments)
    assert [file.stat().st_mtime_ns for file in files] == times
    write_part(dataset / "part-00001.parquet", [("new", chains[3], None, None)])
    main(arguments)
    assert files[0].stat().st_mtime_ns == times[0] and files[1].stat().st_mtime_ns != times[1]
    files[0].unlink()
    main(arguments)
    assert sha256_of_file(files[0]) == content[0]  # reproducible byte for byte


def test_tokens_are_reused_for_another_budget_but_not_precision(dataset, small_tokenizer, tmp_path):
    part, out = dataset / "part-00000.parquet", tmp_path / "tokens.parquet"
    done = [
        encode_part(part, out, small_tokenizer, TokenizationSettings(token_budget=budget, precision=precision), print)
        for budget, precision in ((150, "float32"), (90, "float32"), (90, "bfloat16"), (90, "bfloat16"))
    ]
    assert done == [True, False, True, False]


def test_interrupted_shard_resumes(dataset, small_tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SECONDS_BETWEEN_SAVES", 0.0)
    part, lines = dataset / "part-00001.parquet", []
    encode_part(part, tmp_path / "whole.parquet", small_tokenizer, SETTINGS, lines.append)
    encoded = []

    class Interrupted(StructureTokenizer):
        def encode(self, backbones, *arguments):
            if len(encoded) >= 4:
                raise KeyboardInterrupt
            encoded.extend(backbones)
            return super().encode(backbones, *arguments)

    monkeypatch.setattr(small_tokenizer, "__class__", Interrupted)
    out = tmp_path / "tokens" / "part-00001.parquet"
    with pytest.raises(KeyboardInterrupt):
        encode_part(part, out, small_tokenizer, SETTINGS, lines.append)
    assert not out.exists() and len(encoded) == 4
    monkeypatch.setattr(small_tokenizer, "__class__", StructureTokenizer)
    again = []
    original = StructureTokenizer.encode
    monkeypatch.setattr(
        StructureTokenizer, "encode", lambda self, chains, *rest: again.extend(chains) or original(self, chains, *rest)
    )
    assert encode_part(part, out, small_tokenizer, SETTINGS, lines.append)
    assert len(again) == 2
    assert sha256_of_file(out) == sha256_of_file(tmp_path / "whole.parquet")
    assert [path.name for path in out.parent.iterdir()] == ["part-00001.parquet"]
    assert any("residues/s" in line for line in lines) and any("min left" in line for line in lines)


def test_file_in_use_by_another_process_is_skipped(dataset, small_tokenizer, tmp_path):
    work = [(part, tmp_path / "tokens" / part.name) for part in sorted(dataset.glob("*.parquet"))]
    (first, out), (_, other) = work
    lines = []
    with module._claimed(out, wait=False) as ours:
        assert ours
        thread = threading.Thread(target=encode_parts, args=(work, small_tokenizer, SETTINGS, lines.append))
        thread.start()
        for _ in range(600):
            if other.exists():
                break
            time.sleep(0.1)
        assert other.exists() and not out.exists() and any("another process" in line for line in lines)
        encode_part(first, out, small_tokenizer, SETTINGS, str)
        finished = out.stat().st_mtime_ns
    thread.join()
    assert f"{out}: already finished" in lines and out.stat().st_mtime_ns == finished
    assert sorted(path.name for path in out.parent.iterdir()) == [out.name, other.name]


def test_selections_drop_chains_and_set_cluster_and_split(dataset, saved, tmp_path):
    main(["tokens", "encode", str(dataset), "--tokenizer", str(saved), "--out", str(tmp_path / "tokens")])
    selection = pa.table({"chain_id": ["c4", "a"], "cluster": ["x", "y"], "split": ["validation", "train"]})
    pq.write_table(selection, tmp_path / "selection.parquet")
    table = read_tokens(tmp_path / "tokens", selections=[tmp_path / "selection.parquet"])
    rows = {row["chain_id"]: (row["cluster"], row["split"]) for row in table.to_pylist()}
    assert rows == {"c4": ("x", "validation"), "a": ("y", "train")}
    only = read_tokens(tmp_path / "tokens", "train", [tmp_path / "selection.parquet"], ["chain_id"])
    assert only.to_pydict() == {"chain_id": ["a"]}


def test_tokens_from_two_tokenizers_are_refused(dataset, small_tokenizer, tmp_path):
    encode_part(dataset / "part-00000.parquet", tmp_path / "one.parquet", small_tokenizer, SETTINGS, str)
    fingerprint = small_tokenizer.codes_fingerprint
    bias = small_tokenizer.pre_quant[1].bias.data
    bias += 0.1
    try:
        other = small_tokenizer.codes_fingerprint
        encode_part(dataset / "part-00001.parquet", tmp_path / "two.parquet", small_tokenizer, SETTINGS, str)
    finally:
        bias -= 0.1
    with pytest.raises(DPLM2Error, match=f"{fingerprint} and {other}"):
        read_tokens([tmp_path / "one.parquet", tmp_path / "two.parquet"])
    with pytest.raises(DPLM2Error, match=other):
        next(decode_tokens(read_tokens(tmp_path / "two.parquet"), small_tokenizer, 100))


def test_missing_and_invalid_files_are_named(dataset, saved, tmp_path, capsys):
    with pytest.raises(DPLM2Error, match="contains no tokens"):
        read_tokens(tmp_path)
    with pytest.raises(DPLM2Error, match="not a file of tokens"):
        read_tokens(dataset)
    selection = tmp_path / "part-00000.parquet"
    pq.write_table(pa.table({"chain_id": ["a"]}), selection)
    assert main(["tokens", "encode", str(selection), "--tokenizer", str(saved), "--out", str(tmp_path / "o")]) == 1
    assert "not a file of chains" in capsys.readouterr().err


def test_decoding_writes_structures(dataset, saved, small_tokenizer, tmp_path, chains):
    from biotite.structure.io import pdb

    main(["tokens", "encode", str(dataset), "--tokenizer", str(saved), "--out", str(tmp_path / "tokens")])
    arguments = ["--tokenizer", str(saved), "--out", str(tmp_path / "decoded"), "--format", "pdb"]
    assert main(["tokens", "decode", str(tmp_path / "tokens"), *arguments]) == 0
    assert len(list((tmp_path / "decoded").glob("*.pdb"))) == 8
    atoms = pdb.PDBFile.read(tmp_path / "decoded" / "b.pdb").get_structure(model=1)
    expected = small_tokenizer.decode(small_tokenizer.encode(chains[1])).backbone
    np.testing.assert_allclose(atoms.coord[atoms.atom_name == "CA"], expected[:, 1], atol=1.1e-3)


def test_a_failed_decoding_leaves_no_record_of_an_earlier_one(dataset, saved, tmp_path, monkeypatch, capsys):
    main(["tokens", "encode", str(dataset), "--tokenizer", str(saved), "--out", str(tmp_path / "tokens")])
    words = [
        "tokens",
        "decode",
        str(tmp_path / "tokens"),
        "--tokenizer",
        str(saved),
        "--out",
        str(tmp_path / "decoded"),
    ]
    assert main(words) == 0 and (tmp_path / "decoded/run.json").is_file()

    def fails(*arguments):
        raise DPLM2Error("no space")

    monkeypatch.setattr("dplm2.tokenizer.tokens.decode_tokens", fails)
    assert main([*words, "--set", "tokenization.precision=bfloat16"]) == 1
    assert "no space" in capsys.readouterr().err and not (tmp_path / "decoded/run.json").exists()


class TightMemory:
    """A part of the tokenizer on a machine with memory for a given number of chains."""

    def __init__(self, work, limit):
        self.work, self.limit, self.sizes = work, limit, []

    def __call__(self, batch, *others, **options):
        self.sizes.append(len(batch))
        if len(batch) > self.limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return self.work(batch, *others, **options)


@pytest.mark.parametrize("way", ["encode", "decode"])
def test_out_of_memory_halves_the_batch_without_losses(small_tokenizer, chains, monkeypatch, caplog, way):
    monkeypatch.setattr(model, "MAX_PAIRS", {})
    tokens = small_tokenizer.encode(chains)
    given, part = (chains, "values") if way == "encode" else (tokens, "_decode_batch")
    expected = getattr(small_tokenizer, way)(given)
    tight = TightMemory(getattr(small_tokenizer, part), 2)
    monkeypatch.setattr(small_tokenizer, part, tight)
    with caplog.at_level(logging.WARNING):
        found = getattr(small_tokenizer, way)(given)
    assert tight.sizes == [5, 3, 2, 1, 2]
    assert "out of memory with 5 chains of up to 95 residues: continuing with 3" in caplog.text
    for one, other in zip(found, expected, strict=True):
        if way == "encode":
            np.testing.assert_array_equal(one, other)
        else:
            np.testing.assert_allclose(one.backbone, other.backbone, atol=1e-3)
    tight.limit = 0
    with pytest.raises(DPLM2Error, match="chain 2 of 2: not enough memory for one chain of 61 residues"):
        getattr(small_tokenizer, way)([given[1], given[0]])


def test_part_is_encoded_completely_with_little_memory(dataset, saved, tmp_path, monkeypatch):
    tokenizer = StructureTokenizer.from_pretrained(saved)
    part = dataset / "part-00001.parquet"
    encode_part(part, tmp_path / "ample.parquet", tokenizer, SETTINGS)
    monkeypatch.setattr(tokenizer, "values", TightMemory(tokenizer.values, 1))
    encode_part(part, tmp_path / "tight.parquet", tokenizer, SETTINGS)
    assert pq.read_table(tmp_path / "tight.parquet").equals(pq.read_table(tmp_path / "ample.parquet"))
