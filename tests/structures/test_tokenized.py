"""Chains that come as structure tokens in tables."""

import csv
import gzip
import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dplm2.core.errors import ConfigError, DPLM2Error
from dplm2.language.sequences import SequenceStore, read_sequences
from dplm2.settings import load
from dplm2.settings.dataset import DatasetSettings
from dplm2.structures.store import backbones, read_chains
from dplm2.structures.tokenized import clean_tables, place_on_hub, read_rows, source_files
from dplm2.tokenizer.model import StructureTokenizer
from dplm2.tokenizer.tokens import encode_part, read_tokens

COLUMNS = {
    "sequence": "aa_seq",
    "structure_tokens": "struct_seq",
    "chain_id": "pdb_name",
    "plddt": "plddt",
    "cluster": "cluster",
}
LENGTHS = {"1abc_A": 50, "P12345": 60, "2xyz_B": 45}


def rows() -> list[dict]:
    """Rows in the layout of the authors' training set: tokens as text, a pLDDT per residue."""
    rng, found = np.random.default_rng(0), []
    for name, length in LENGTHS.items():
        sequence = "".join(rng.choice(list("ACDEFGHIKLMNPQRSTVWY"), length))
        tokens = rng.integers(0, 8192, length)
        plddt = np.full(length, 90.0)
        plddt[:4], plddt[-3:] = 50.0, 60.0
        text = ",".join(f"{token:04d}" for token in tokens)
        found.append(
            {"pdb_name": name, "aa_seq": sequence, "struct_seq": text, "plddt": plddt.tolist(), "cluster": str(length)}
        )
    return found


def settings(**filters) -> DatasetSettings:
    hub = {"repository": "someone/chains", "tokenizer": "small", "columns": COLUMNS}
    return DatasetSettings.make(hub=hub, filters={"min_length": 40, **filters})


def write(path, table: list[dict]) -> None:
    """Write rows in the format of the file name's ending."""
    text, kind = io.StringIO(), path.name.removesuffix(".gz").rsplit(".")[-1]
    if kind == "parquet":
        return pq.write_table(pa.Table.from_pylist(table), path)
    if kind == "arrow":
        table = pa.Table.from_pylist(table)
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
            return stream.write_table(table, max_chunksize=2)
    if kind == "jsonl":
        text.writelines(json.dumps(row) + "\n" for row in table)
    else:
        writer = csv.DictWriter(text, list(table[0]), delimiter="\t" if kind == "tsv" else ",")
        writer.writeheader()
        writer.writerows(table)
    data = text.getvalue().encode()
    return path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def cleaned(folder, path, chosen: DatasetSettings):
    counts = clean_tables(source_files([path]), chosen, "authors", folder / "part-00000.parquet", folder / "r.parquet")
    return counts, pq.read_table(folder / "part-00000.parquet"), pq.read_table(folder / "r.parquet").to_pylist()


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.csv", "a.tsv", "a.csv.gz", "a.jsonl", "a.jsonl.gz"])
def test_every_format_gives_the_tokens_that_were_written(tmp_path, name):
    write(tmp_path / name, rows())
    counts, chains, _ = cleaned(tmp_path, tmp_path / name, settings())
    assert counts.chains == 3 and not counts.rejects
    for given, chain in zip(rows(), chains.to_pylist(), strict=True):
        assert (chain["chain_id"], chain["sequence"]) == (given["pdb_name"], given["aa_seq"])
        assert ",".join(f"{token:04d}" for token in chain["structure_tokens"]) == given["struct_seq"]
        assert (chain["cluster"], chain["plddt"]) == (given["cluster"], given["plddt"])


def test_ends_are_trimmed_by_confidence_in_both_tracks(tmp_path):
    """The authors' preprocessing: from the first to the last residue with pLDDT of at least 70."""
    write(tmp_path / "a.parquet", rows())
    counts, chains, rejects = cleaned(tmp_path, tmp_path / "a.parquet", settings(trim_plddt=70.0))
    assert counts.chains == 2
    for given, chain in zip(rows(), chains.to_pylist(), strict=False):
        assert chain["sequence"] == given["aa_seq"][4:-3]
        assert chain["structure_tokens"] == [int(token) for token in given["struct_seq"].split(",")[4:-3]]
        assert chain["residue_index"] == list(range(5, len(given["aa_seq"]) - 2))
    assert [(reject["chain"], reject["code"]) for reject in rejects] == [("2xyz_B", "too_short")]


@pytest.mark.parametrize(
    ("column", "value", "reason"),
    [
        ("struct_seq", "1,2", "2 structure tokens, but 50 residues"),
        ("struct_seq", "", "no structure tokens"),
        ("struct_seq", None, "no structure tokens"),
        ("struct_seq", ",".join(["-1"] * 50), "-1 is not a structure token"),
        ("struct_seq", ",".join(["70000"] * 50), "70000 is not a structure token"),
        ("struct_seq", ",".join(["1.5"] * 50), "1.5 is not a structure token"),
        ("struct_seq", ",".join(["nan"] * 50), "is not a list of numbers"),
        ("aa_seq", "J" * 50, "'J' is leucine or isoleucine"),
        ("aa_seq", "", "no sequence"),
        ("plddt", [90.0, 80.0], "2 values of pLDDT, but 50 residues"),
    ],
)
def test_invalid_row_is_listed_and_the_others_are_kept(tmp_path, column, value, reason):
    table = rows()
    table[0][column] = value
    write(tmp_path / "a.parquet", table)
    counts, chains, rejects = cleaned(tmp_path, tmp_path / "a.parquet", settings())
    assert chains["chain_id"].to_pylist() == ["P12345", "2xyz_B"]
    assert counts.rejects == {"invalid_row": 1}
    assert rejects[0]["chain"] == "1abc_A" and reason in rejects[0]["reason"]


def test_missing_column_is_an_error_that_lists_the_columns(tmp_path):
    for name in ("a.parquet", "a.arrow", "a.csv", "a.jsonl"):
        write(tmp_path / name, rows())
        with pytest.raises(DPLM2Error, match="has no column sequence; it has pdb_name, aa_seq.*hub.columns"):
            list(read_rows(tmp_path / name, ["sequence"]))


def test_tokens_pass_unchanged_and_coordinates_are_refused(tmp_path):
    write(tmp_path / "a.parquet", rows())
    cleaned(tmp_path, tmp_path / "a.parquet", settings())
    tokenizer = StructureTokenizer.from_pretrained("small")
    encode_part(tmp_path / "part-00000.parquet", tmp_path / "t.parquet", tokenizer, tokenizer.settings.tokenization)
    table = read_tokens(tmp_path / "t.parquet")
    assert table.schema.metadata[b"tokenizer_fingerprint"].decode() == tokenizer.codes_fingerprint
    assert [",".join(f"{token:04d}" for token in row) for row in table["structure_tokens"].to_pylist()] == [
        row["struct_seq"] for row in rows()
    ]
    assert all(map(all, table["observed"].to_pylist()))
    with pytest.raises(DPLM2Error, match="no coordinates"):
        backbones(read_chains(tmp_path / "part-00000.parquet"))


def test_tokens_beyond_the_codebook_are_refused(tmp_path):
    table = rows()
    table[1]["struct_seq"] = ",".join(["8192"] * 60)
    write(tmp_path / "a.parquet", table)
    cleaned(tmp_path, tmp_path / "a.parquet", settings())
    tokenizer = StructureTokenizer.from_pretrained("small")
    with pytest.raises(DPLM2Error, match="chain P12345 has the structure token 8192, but the tokenizer has 8192 codes"):
        encode_part(tmp_path / "part-00000.parquet", tmp_path / "t.parquet", tokenizer, tokenizer.settings.tokenization)


def test_sequences_are_read_from_the_named_column(tmp_path):
    write(tmp_path / "a.parquet", rows())
    path = str(tmp_path / "a.parquet")
    assert list(read_sequences(path, "aa_seq")) == [row["aa_seq"] for row in rows()]
    assert SequenceStore.build([path], tmp_path / "store", {path: "aa_seq"}).lengths.tolist() == list(LENGTHS.values())


def test_place_of_a_table_is_independent_of_the_cache():
    commit = "a" * 40
    path = f"/home/someone/hub/datasets--airkingbd--pdb_swissprot/snapshots/{commit}/train/a.parquet"
    assert place_on_hub(path) == f"airkingbd/pdb_swissprot@{commit}/train/a.parquet"
    assert place_on_hub("tables/a.parquet") == "tables/a.parquet"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"files": "x"}, "give one of 'files', 'fetch' .* and 'hub'"),
        ({"filters": {"max_coil": 0.5}}, "filters.max_coil: tokens from the hub have no coordinates"),
        ({"filters": {"max_resolution": 3.0}}, "filters.max_resolution: needs hub.columns.resolution"),
        ({"hub": {"repository": "no id", "tokenizer": "small"}}, "must be a hub id, owner/name"),
        ({"hub": {"repository": "a/b", "tokenizer": "other"}}, "hub.tokenizer: tokenizers has no 'other'"),
    ],
)
def test_contradictions_of_a_dataset_from_the_hub_are_named(change, message):
    with pytest.raises(ConfigError, match=message):
        load(configuration(**change))


def test_uses_that_need_coordinates_or_other_codes_are_named():
    with pytest.raises(ConfigError) as refused:
        load(
            configuration()
            | {
                "tokenizers": {"small": {"pretrained": "small"}, "mine": {"datasets": ["authors"]}},
                "models": {"m": {"tokenizer": "mine", "datasets": ["authors"], "warmup": {"source": "x"}}},
                "generation": {"f": {"task": "folding", "dataset": "authors"}},
                "evaluation": {"reconstruction": ["authors"], "likelihood": ["authors"]},
            }
        )
    for place in (
        "tokenizers.mine.datasets", "models.m", "generation.f.dataset", "evaluation.reconstruction",
        "evaluation.likelihood",
    ):  # fmt: skip
        assert f"{place}: dataset 'authors' comes from the hub as structure tokens" in str(refused.value)


def configuration(**change) -> dict:
    hub = {"repository": "someone/chains", "tokenizer": "small", "columns": COLUMNS}
    return {"datasets": {"authors": {"hub": hub, **change}}, "tokenizers": {"small": {"pretrained": "small"}}}
