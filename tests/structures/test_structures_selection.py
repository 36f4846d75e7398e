"""Selection over a dataset: duplicates, size, clusters, splits without leaks."""

import csv
import itertools
import random
import shutil
import stat

import numpy as np
import pyarrow.parquet as pq
import pytest

from dplm2.core.artifacts import RunRecord, read_json
from dplm2.core.errors import ConfigError, DPLM2Error
from dplm2.structures.cleaning import Chain
from dplm2.structures.clusters import parse_clusters, run_mmseqs2
from dplm2.structures.formats.archives import Item
from dplm2.structures.selection import select_chains
from dplm2.structures.shards import Names, _record_batch
from dplm2.structures.similarity import WordIndex
from dplm2.structures.splits import Members, assign_splits
from dplm2.structures.store import REJECTED, read_chains, read_rejected, write_chains, write_table
from tests.structures.made import settings

LETTERS = "ACDEFGHIKLMNPQRSTVWY"


def sequences(count: int, length: int = 120, seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    return ["".join(draw.choices(LETTERS, k=length)) for _ in range(count)]


def mutated(sequence: str, identity: float, seed: int = 0) -> str:
    """A related sequence with exactly this fraction of identical letters."""
    draw = random.Random(seed)
    letters = list(sequence)
    for place in draw.sample(range(len(letters)), round(len(letters) * (1 - identity))):
        letters[place] = draw.choice(LETTERS.replace(letters[place], ""))
    return "".join(letters)


HELD_OUT = ("validation", "test")


def made(sequence: str, missing: int = 0, resolution: float | None = 2.0, radius: float | None = None) -> Chain:
    length = len(sequence)
    backbone = np.ones((length, 4, 3), np.float32)
    backbone[1 : 1 + missing] = np.nan
    numbers = np.arange(length, dtype=np.int32)
    chain = Chain("A", "A", sequence, numbers, None, backbone, None, None, resolution, "2020-01-01", False)
    chain.radius_of_gyration = 2.2 * length**0.38 if radius is None else radius
    return chain


def store(folder, chains: dict[str, Chain], parts: int = 2):
    """A dataset folder with these chains by entry, distributed over the parts."""
    names = list(chains)
    for part in range(parts):
        rows = [(Item(f"{name}.cif", "0" * 64, name), chains[name]) for name in names[part::parts]]
        write_chains(folder / f"part-{part:05d}.parquet", [Names().apply(_record_batch(rows), "d")])
        write_table(folder / "shards" / f"rejected-{part:05d}.parquet", REJECTED.empty_table())
    return folder


def select(folder, seed: int = 0, **sections) -> dict:
    return select_chains(folder, settings(**sections), seed, RunRecord("structures select", {}, {}))


def kept(folder, split=None) -> set[str]:
    return set(read_chains(folder, ["chain_id"], split=split)["chain_id"].to_pylist())


def test_best_observed_and_resolved_duplicate_is_kept(tmp_path):
    first, second = sequences(2)
    chains = {
        "a": made(first, missing=2), "b": made(first, resolution=None), "c": made(first, resolution=2.5),
        "d": made(first, resolution=1.5), "e": made(second),
    }  # fmt: skip
    counts = select(store(tmp_path, chains))
    assert kept(tmp_path) == {"d_A", "e_A"}
    assert counts == {"chains": 2, "train": 2, "rejected": 3}
    rejects = read_rejected(tmp_path).to_pylist()
    assert {(row["source_file"], row["code"], row["reason"]) for row in rejects} == {
        (f"{name}.cif", "duplicate", "same sequence as d_A") for name in "abc"
    }
    assert read_json(tmp_path / "run.json")["rejected"] == {"duplicate": 3}
    select(store(tmp_path, chains), filters={"deduplicate": False})
    assert len(kept(tmp_path)) == 5


def test_radius_quantile_depends_on_the_length(tmp_path):
    chains = {f"n{i}": made("A" * length, radius=2.2 * length**0.38) for i, length in enumerate(range(50, 450, 4))}
    chains["wide"] = made("A" * 60, radius=2.2 * 300**0.38)  # no outlier in itself, but for its length
    select(store(tmp_path, chains), filters={"radius_of_gyration_quantile": 0.99, "deduplicate": False})
    rejects = read_rejected(tmp_path).to_pylist()
    assert [row["source_file"] for row in rejects if row["code"] == "radius_of_gyration"][:1] == ["wide.cif"]
    assert len(rejects) <= 2


@pytest.mark.parametrize(("count", "kept_of_them"), [(21, 20), (20, 19), (19, 19)])
def test_radius_quantile_is_inclusive_and_needs_twenty_chains(tmp_path, count, kept_of_them):
    """The 0.95 quantile of 21 values is the second largest; that of 20 is just below the largest."""
    chains = {f"n{number}": made("A" * 100, radius=10 + number / 10) for number in range(count)}
    select(store(tmp_path, chains), filters={"radius_of_gyration_quantile": 0.95, "deduplicate": False})
    assert kept(tmp_path) == {f"n{number}_A" for number in range(kept_of_them)}
    assert len(read_rejected(tmp_path)) == count - kept_of_them


def test_no_usable_chain_is_a_one_line_error(tmp_path):
    write_chains(tmp_path / "part-00000.parquet", [])
    row = {
        "source_file": ["x.pdb"],
        "source_sha256": ["0"],
        "chain": [""],
        "code": ["unreadable"],
        "reason": ["an empty file"],
    }
    write_table(tmp_path / "shards/rejected-00000.parquet", REJECTED.empty_table().from_pydict(row, schema=REJECTED))
    with pytest.raises(DPLM2Error, match=r"no usable chain; 1 unreadable \(first: x.pdb: an empty file\)"):
        select(tmp_path)


def test_same_name_in_two_parts_is_refused(tmp_path):
    store(tmp_path, {"a": made("ACD"), "b": made("CDE")})
    table = pq.read_table(tmp_path / "part-00000.parquet")
    pq.write_table(table, tmp_path / "part-00001.parquet")
    with pytest.raises(DPLM2Error, match="two chains are named a_A"):
        select(tmp_path)


def test_one_chain_per_cluster_of_a_table_is_kept(tmp_path):
    texts = sequences(5)
    chains = {name: made(text, missing=i) for i, (name, text) in enumerate(zip("abcde", texts, strict=True))}
    table = tmp_path / "clusters.csv"
    table.write_text("chain_id,cluster\na_A,one\nb,one\nc_A,two\nd_A,two\n")
    store(tmp_path / "d", chains)
    clusters = {"source": "file", "file": str(table)}
    select(tmp_path / "d", clusters=clusters)
    found = {
        row["chain_id"]: row["cluster"] for row in read_chains(tmp_path / "d", ["chain_id", "cluster"]).to_pylist()
    }
    assert found == {"a_A": "one", "b_A": "one", "c_A": "two", "d_A": "two", "e_A": "e_A"}
    select(tmp_path / "d", clusters=clusters, filters={"one_per_cluster": True})
    assert kept(tmp_path / "d") == {"a_A", "c_A", "e_A"}
    with pytest.raises(ConfigError, match="needs clusters"):
        select(tmp_path / "d", filters={"one_per_cluster": True})
    table.write_text("name,group\n1,2\n")
    with pytest.raises(DPLM2Error, match="columns chain_id and cluster"):
        select(tmp_path / "d", clusters=clusters)


def test_mmseqs2_is_called_and_its_table_parsed(tmp_path, monkeypatch):
    """A mock on PATH that clusters by first letter: the call and the table's format are tested."""
    program = tmp_path / "mmseqs"
    clusters = 'k = substr($0, 1, 1); if (!(k in r)) r[k] = n; print r[k] "\\t" n'
    program.write_text(
        f"#!/bin/sh\necho \"$@\" > '{tmp_path}/call'\n"
        f"awk '/^>/ {{n = substr($1, 2); next}} {{{clusters}}}' $2 > $3_cluster.tsv\n"
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    own = settings(clusters={"source": "mmseqs2", "identity": 0.4, "coverage": 0.6, "sensitivity": 5}).clusters
    named = run_mmseqs2({"p|q r": "AAA", "s": "CCC", "t": "ACC"}, own, threads=3)
    assert named == {"p|q r": "p|q r", "s": "s", "t": "p|q r"}
    call = (tmp_path / "call").read_text()
    assert call.startswith("easy-cluster ")
    assert "--min-seq-id 0.4 -c 0.6 --cov-mode 0 -s 5.0 --threads 3" in call
    program.write_text("#!/bin/sh\necho 'no space left' >&2\nexit 3\n")
    with pytest.raises(DPLM2Error, match="status 3: no space left"):
        run_mmseqs2({"a": "AAA"}, own, 1)
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(DPLM2Error, match="not on PATH"):
        run_mmseqs2({"a": "AAA"}, own, 1)


def test_mmseqs2_table_must_contain_every_sequence():
    assert parse_clusters("0\t0\n0\t1\n", ["a", "b"]) == {"a": "a", "b": "a"}
    with pytest.raises(DPLM2Error, match="without a cluster"):
        parse_clusters("0\t0\n", ["a", "b"])
    with pytest.raises(DPLM2Error, match="not a pair"):
        parse_clusters("0\tx\n", ["a", "b"])


def test_mmseqs2_joins_only_related_sequences():
    if shutil.which("mmseqs") is None:
        pytest.skip("needs mmseqs on PATH")
    one, other = sequences(2)
    own = settings(clusters={"source": "mmseqs2"}).clusters
    named = run_mmseqs2({"a": one, "b": mutated(one, 0.8), "c": other}, own, 2)
    assert named["a"] == named["b"] != named["c"]


def test_only_near_identical_sequences_are_found():
    base = sequences(30, length=200)
    index = WordIndex(base, identity=0.9)
    for i, sequence in enumerate(base):
        assert index.related(mutated(sequence, 0.97, seed=i)).tolist() == [i]
        assert index.related(sequence[30:170]).tolist() == [i]  # a piece of it
        assert index.related(mutated(sequence, 0.6, seed=i)).tolist() == []
    assert WordIndex([], 0.9).related(base[0]).tolist() == []
    assert index.related("AC").tolist() == []


def members(texts: list[str], clusters=None, dates=None) -> Members:
    names = [f"c{i}" for i in range(len(texts))]
    return Members(names, names, texts, dates or [None] * len(texts), clusters or [None] * len(texts))


def split(**keys):
    return settings(split=keys).split


def test_random_split_depends_only_on_seed_and_names():
    texts = sequences(200, length=60)
    own = split(validation_fraction=0.1, test_fraction=0.05)
    first = assign_splits(members(texts), own, seed=1).splits
    assert first.count("validation") == 20
    assert first.count("test") == 10
    assert first == assign_splits(members(texts), own, seed=1).splits
    assert first != assign_splits(members(texts), own, seed=2).splits
    more = assign_splits(members(texts + sequences(4, 60, seed=9)), own, seed=1)
    assert sum(a != b for a, b in zip(first, more.splits, strict=False)) <= 6
    # Validation and test chains are drawn independently.
    alone = [assign_splits(members(texts), split(**{f"{name}_fraction": 0.1}), seed=1).splits for name in HELD_OUT]
    drawn = [{i for i, one in enumerate(each) if one == name} for name, each in zip(HELD_OUT, alone, strict=True)]
    assert len(drawn[0]) == len(drawn[1]) == 20 and len(drawn[0] & drawn[1]) < 10


def test_selection_uses_the_seed_of_its_split(tmp_path):
    chains = {f"n{number:02d}": made(text) for number, text in enumerate(sequences(40))}
    held_out = []
    for place, seed in enumerate((0, 0, 1)):
        select(store(tmp_path / str(place), chains), seed, split={"validation_fraction": 0.3})
        held_out.append(kept(tmp_path / str(place), "validation"))
    assert held_out[0] == held_out[1] != held_out[2]
    assert [len(names) for names in held_out] == [12, 12, 12]


def test_near_identical_sequences_share_a_split():
    base = sequences(50)
    texts = base + [mutated(text, 0.97, seed=i) for i, text in enumerate(base)]
    splits = assign_splits(members(texts), split(validation_fraction=0.2), seed=0).splits
    assert splits[:50] == splits[50:]
    assert 20 <= splits.count("validation") <= 22


def test_clusters_share_a_split():
    texts = sequences(90)
    clusters = [f"k{i % 30}" for i in range(90)]
    splits = assign_splits(members(texts, clusters), split(validation_fraction=0.2, by="cluster"), seed=0).splits
    sides = {cluster: {splits[i] for i in range(90) if clusters[i] == cluster} for cluster in clusters}
    assert all(len(side) == 1 for side in sides.values())
    assert splits.count("validation") == 18
    with pytest.raises(ConfigError, match="split.by: cluster needs clusters"):
        assign_splits(members(texts), split(validation_fraction=0.2, by="cluster"), seed=0)


def test_splits_by_list_and_date_find_leaks(tmp_path):
    base = sequences(4)
    texts = [*base, mutated(base[0], 0.97), sequences(1, seed=5)[0]]
    dates = ["2019-01-01", "2019-01-01", "2022-01-01", None, "2018-01-01", "2018-01-01"]
    clusters = ["x", "y", "z", "w", "v", "z"]
    (tmp_path / "test.txt").write_text("c0  # the benchmark\nc99\n\n")
    keys = {"test_list": str(tmp_path / "test.txt"), "validation_from": "2022-01-01"}
    found = assign_splits(members(texts, clusters, dates), split(**keys), seed=0)
    assert found.splits == ["test", "train", "validation", "train", "train", "train"]
    assert found.leaks == {4: 0, 5: 2}  # c4 is nearly c0, c5 is of the cluster of c2
    assert found.unmatched == {"test": 1}
    assert assign_splits(members(texts, clusters, dates), split(**keys, leaks="keep"), seed=0).leaks == {}
    with pytest.raises(DPLM2Error, match="2 training chains are related"):
        assign_splits(members(texts, clusters, dates), split(**keys, leaks="stop"), seed=0)
    (tmp_path / "validation.txt").write_text("c0\n")
    with pytest.raises(ConfigError, match="c0 is in both test_list and validation_list"):
        assign_splits(members(texts), split(**keys, validation_list=str(tmp_path / "validation.txt")), seed=0)


def test_dates_hold_out_from_the_day_itself():
    dates = ["2021-12-31", "2022-01-01", "2022-12-31", "2023-01-01", None]
    own = split(validation_from="2022-01-01", test_from="2023-01-01")
    found = assign_splits(members(sequences(5), dates=dates), own, seed=0)
    assert found.splits == ["train", "validation", "validation", "test", "train"]


def test_leaks_are_rejected_with_their_reason(tmp_path):
    base = sequences(3)
    chains = {"a": made(base[0]), "b": made(base[1]), "c": made(mutated(base[0], 0.97))}
    (tmp_path / "list").write_text("a\n")
    folder = store(tmp_path / "d", chains)
    counts = select(folder, split={"validation_list": str(tmp_path / "list")})
    assert counts == {"chains": 2, "train": 1, "validation": 1, "rejected": 1}
    assert kept(folder, "validation") == {"a_A"}
    assert read_rejected(folder).to_pylist()[0]["reason"] == "related to a_A, which is held out (validation)"


def test_split_of_real_chains_keeps_mmseqs2_clusters_together(corpus_folder):
    """The corpus's clusters at 95 % identity, from MMseqs2, are the reference for near-identity by shared words."""
    with (corpus_folder / "metadata.csv").open(newline="", encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream) if row["split"] == "train"]
    chains = members([row["sequence"] for row in rows], [row["cluster30"] for row in rows])
    for by, kinds in (("chain", ("cluster95",)), ("cluster", ("cluster95", "cluster30"))):
        splits = assign_splits(chains, split(validation_fraction=0.1, by=by), seed=0).splits
        assert 0.09 < splits.count("validation") / len(rows) < 0.15
        for kind in kinds:
            sides = {
                side: {row[kind] for row, own in zip(rows, splits, strict=True) if own == side} for side in set(splits)
            }
            assert not sides["train"] & sides["validation"], (by, kind)


def test_mmseqs2_reproduces_the_clusters_of_real_chains(corpus_folder):
    """Pairs that share a cluster nearly always share one in the corpus's table, and most of the table's are found.

    The table is from another version of MMseqs2 and more chains, so that single chains differ.
    """
    if shutil.which("mmseqs") is None:
        pytest.skip("needs mmseqs on PATH")
    with (corpus_folder / "metadata.csv").open() as stream:
        rows = [row for row in csv.DictReader(stream) if row["split"] == "train"][::5]
    own = settings(clusters={"source": "mmseqs2"}).clusters
    named = run_mmseqs2({row["chain_id"]: row["sequence"] for row in rows}, own, 1)

    def pairs(cluster_of):
        both = itertools.combinations(sorted(cluster_of), 2)
        return {pair for pair in both if cluster_of[pair[0]] == cluster_of[pair[1]]}

    found, listed = pairs(named), pairs({row["chain_id"]: row["cluster30"] for row in rows})
    assert len(listed) > 100
    assert len(found & listed) >= 0.98 * len(found)
    assert len(found & listed) >= 0.6 * len(listed)
