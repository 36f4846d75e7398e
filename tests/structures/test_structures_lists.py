"""Lists and tables from users: byte-order marks, line endings, unmatched names."""

import csv
import logging

import pytest

from dplm2.core.errors import ConfigError, DPLM2Error
from dplm2.structures.clusters import find_clusters
from dplm2.structures.splits import LISTED_NAMES, Members, assign_splits
from dplm2.structures.targets import FetchSource, list_targets, read_sites, read_targets
from tests.structures.made import settings

NAMES = ["ubq_A", "poh_A", "other_A", "fourth_A"]
SEQUENCES = ["MQIFVKTLTGKTITLEVEPSD", "ACDEFGHIKLMNPQRSTVWY", "WWWWYYYYWWWWYYYYHHHH", "GPGPGPGPGPGPGPGPGPGP"]
ENCODINGS = ["utf-8", "utf-8-sig"]
ENDS = ["\n", "\r\n", "\r"]


def split_by(path, key="test_list", **more):
    members = Members(NAMES, [name.removesuffix("_A") for name in NAMES], SEQUENCES, [None] * 4, [None] * 4)
    return assign_splits(members, settings(split={key: str(path), **more}).split, seed=0)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("end", ENDS)
def test_split_lists_are_read(tmp_path, encoding, end):
    (tmp_path / "list").write_bytes(end.join(["ubq_A", "poh  # its entry", "", "# end"]).encode(encoding))
    for key, name in (("test_list", "test"), ("validation_list", "validation")):
        assert split_by(tmp_path / "list", key).splits == [name, name, "train", "train"]


def test_shared_split_list_is_read(cases_folder):
    with (cases_folder / "MANIFEST.csv").open() as stream:
        lists = [row["file"] for row in csv.DictReader(stream) if row["kind"] == "list"]
    assert lists == ["test_list_bom.txt"]
    found = split_by(cases_folder / lists[0])
    assert found.splits == ["test", "test", "train", "train"] and found.unmatched == {"test": 0}


def test_unmatched_names_are_listed(tmp_path, caplog):
    unknown = [f"unknown-{number}" for number in range(50)]
    path = tmp_path / "list"
    path.write_text("\n".join(["ubq_A", "nothing", "x" * 5000, *unknown]))
    with caplog.at_level(logging.WARNING):
        found = split_by(path)
    assert found.unmatched == {"test": 52}
    (record,) = caplog.records
    message = record.getMessage()
    assert message.startswith(f"split.test_list: {path}: 52 of 53 names match no chain: nothing, xxx")
    assert message.endswith(f"unknown-{LISTED_NAMES - 3} and {52 - LISTED_NAMES} more") and len(message) < 1000
    assert "ubq_A" not in message


def test_error_for_a_list_without_matches_shows_both_names(tmp_path):
    (tmp_path / "list").write_text("UBQ\nPOH\n")
    with pytest.raises(
        DPLM2Error, match="contains none of the 4 chains; it lists UBQ, POH, but .* ubq_A, poh_A, other_A"
    ):
        split_by(tmp_path / "list")


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("end", ENDS)
def test_fetch_lists_are_read(tmp_path, encoding, end):
    (tmp_path / "list").write_bytes(end.join(["1ubq", "P12345 # AlphaFold", "http://x.org/a.cif"]).encode(encoding))
    assert [target.name for target in read_targets(tmp_path / "list", FetchSource())] == [
        "1ubq", "P12345", "http://x.org/a.cif"
    ]  # fmt: skip


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("separator", [",", ", ", "\t"])
def test_cluster_tables_are_read(tmp_path, encoding, end, separator):
    rows = [("chain_id", "cluster"), ("ubq_A", "one"), ("poh", "one"), ("other_A", "two")]
    (tmp_path / "t").write_bytes(end.join(separator.join(row) for row in rows).encode(encoding))
    own = settings(clusters={"source": "file", "file": str(tmp_path / "t")}).clusters
    entries = [name.removesuffix("_A") for name in NAMES]
    assert find_clusters(NAMES, entries, SEQUENCES, own) == ["one", "one", "two", "fourth_A"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x89PNG\0\0", "not a text file"),
        ("1ubq\n".encode("utf-16"), "UTF-16 text; save it as UTF-8"),
        (b"x" * (3 << 20), "a line of more than"),
    ],
)
def test_invalid_lists_raise_a_one_line_error(tmp_path, content, message):
    path = tmp_path / "list"
    path.write_bytes(content)
    own = settings(clusters={"source": "file", "file": str(path)}).clusters
    for read in (
        lambda: split_by(path),
        lambda: read_targets(path, FetchSource()),
        lambda: find_clusters(NAMES, NAMES, SEQUENCES, own),
    ):
        with pytest.raises(DPLM2Error, match=f"{path}: {message}") as caught:
            read()
        assert len(str(caught.value)) < 300
    for wrong in ("http://[bad/x", "http://host:port/x", "file:///etc/passwd", "ftp://host/x"):
        path.write_text(wrong)
        with pytest.raises(ConfigError, match="list, line 1: .* is not a PDB id, UniProt accession or address"):
            read_targets(path, FetchSource())
    path.write_text("y" * 100_000)
    with pytest.raises(ConfigError, match="line 1: 'yyy") as caught:
        read_targets(path, FetchSource())
    assert len(str(caught.value)) < 300


def test_sites_go_to_every_shard(tmp_path):
    lines = ["https://files.example.org", "https://data.example.org/", "1abc", "2abc", "3abc", "https://a.org/x.pdb"]
    (tmp_path / "list").write_text("\n".join(lines))
    assert [target.name for target in read_targets(tmp_path / "list", FetchSource())] == lines[2:]
    assert read_sites(tmp_path / "list") == sorted(lines[:2])
    paths = list_targets(str(tmp_path / "list"), tmp_path / "lists", 8, FetchSource()).write()
    texts = [path.read_text() for path in paths]
    (tmp_path / "list").write_text("https://files.example.org\n1abc\n")
    (path,) = list_targets(str(tmp_path / "list"), tmp_path / "lists", 1, FetchSource()).write()
    assert path.read_text().split() == ["https://files.example.org", "1abc"]
    sites = ["https://a.org", "https://data.example.org", "https://files.example.org"]
    assert all(text == "" or text.splitlines()[:3] == sites for text in texts)
    assert sorted(line for text in texts for line in text.splitlines()[3:]) == sorted(lines[2:])
