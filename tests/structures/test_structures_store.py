"""The Parquet store: round trips, selections, invalid input."""

import numpy as np
import pyarrow as pa
import pytest

from dplm2.core.errors import DPLM2Error
from dplm2.structures.cleaning import Chain
from dplm2.structures.formats.archives import Item
from dplm2.structures.shards import Names, _record_batch
from dplm2.structures.store import CHAINS, SELECTION, backbones, read_chains, write_chains, write_table


def made_chain(length: int, plddt: bool = False) -> Chain:
    backbone = np.random.default_rng(length).normal(size=(length, 4, 3)).astype(np.float32)
    backbone[1] = np.nan
    confidence = np.linspace(50, 90, length, dtype=np.float32) if plddt else None
    numbers = np.arange(length, dtype=np.int32) - 3
    return Chain("A", "B", "A" * length, numbers, None, backbone, confidence, None, 1.5, "2020-01-01", plddt)


@pytest.fixture
def dataset(tmp_path):
    """A dataset folder of two parts with three chains, and the chains."""
    chains = [made_chain(5), made_chain(7, plddt=True), made_chain(3)]
    names = Names()
    for part, members in enumerate((chains[:2], chains[2:])):
        rows = [(Item(f"{len(chain)}.pdb", "0" * 64, f"e{len(chain)}"), chain) for chain in members]
        write_chains(tmp_path / f"part-{part:05d}.parquet", [names.apply(_record_batch(rows), "mine")])
    return tmp_path, chains


def test_store_survives_a_round_trip(dataset):
    folder, chains = dataset
    table = read_chains(folder)
    assert table.schema.equals(CHAINS, check_metadata=False)
    assert table["chain_id"].to_pylist() == ["e5_A", "e7_A", "e3_A"]
    assert table["length"].to_pylist() == [5, 7, 3]
    assert table["observed"].to_pylist() == [4, 6, 2]
    assert table["dataset"].to_pylist() == ["mine"] * 3
    for chain, found in zip(chains, backbones(table), strict=True):
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, chain.backbone_LAX)
    assert table["plddt"].to_pylist()[0] is None
    np.testing.assert_array_equal(table["plddt"].to_pylist()[1], chains[1].plddt)
    assert table["residue_index"].to_pylist()[2] == [-3, -2, -1]


def test_backbones_of_filtered_and_sliced_tables_are_correct(dataset):
    folder, chains = dataset
    table = read_chains(folder).slice(1)
    np.testing.assert_array_equal(backbones(table)[0], chains[1].backbone_LAX)
    rows = table.take([1])
    np.testing.assert_array_equal(backbones(rows)[0], chains[2].backbone_LAX)


def test_selection_drops_chains_and_overrides_columns(dataset):
    folder, _ = dataset
    rows = {"chain_id": ["e3_A", "e5_A"], "cluster": ["c1", None], "split": ["validation", "train"]}
    write_table(folder / "selection.parquet", pa.table(rows, schema=SELECTION))
    table = read_chains(folder, ["chain_id", "cluster", "split"])
    assert table.to_pylist() == [
        {"chain_id": "e5_A", "cluster": None, "split": "train"},
        {"chain_id": "e3_A", "cluster": "c1", "split": "validation"},
    ]
    assert read_chains(folder, ["length"], split="validation").to_pylist() == [{"length": 3}]
    assert read_chains(folder / "part-00001.parquet", ["chain_id"]).to_pylist() == [{"chain_id": "e3_A"}]
    assert read_chains([folder], ["chain_id"], split="test").num_rows == 0


def test_invalid_input_is_named(dataset, tmp_path):
    folder, _ = dataset
    with pytest.raises(DPLM2Error, match="no such file or folder"):
        read_chains(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DPLM2Error, match="no part"):
        read_chains(tmp_path / "empty")
    with pytest.raises(DPLM2Error, match="no column colour"):
        read_chains(folder, ["colour"])
    with pytest.raises(DPLM2Error, match="unknown split"):
        read_chains(folder, split="training")
    (folder / "part-00002.parquet").write_bytes(b"no Parquet")
    with pytest.raises(DPLM2Error, match=r"part-00002.parquet: not readable as Parquet"):
        read_chains(folder)
    pa.parquet.write_table(pa.table({"a": [1]}), folder / "part-00002.parquet")
    with pytest.raises(DPLM2Error, match="not a store of chains"):
        read_chains(folder)


def test_names_are_made_unique_reproducibly():
    chains = [made_chain(3), made_chain(3)]
    items = [Item("a/1abc.cif", "0", "1abc"), Item("b/1ABC.cif", "0", "1ABC")]
    batch = _record_batch(list(zip(items, chains, strict=True)))
    ids = Names().apply(batch, "d")["chain_id"].to_pylist()
    assert ids[0] == "1abc_A"
    assert ids[1].startswith("1ABC_A-")
    assert Names().apply(batch, "d")["chain_id"].to_pylist() == ids
