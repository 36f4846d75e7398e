"""81 awkward and broken files against their manifest: every chain is accounted for, every reject has the right code."""

import csv
from collections import Counter, defaultdict

import numpy as np
import pytest

from dplm2.structures.manifest import SourceFile
from dplm2.structures.rejects import CODES
from dplm2.structures.shards import clean_shard
from dplm2.structures.store import backbones, read_chains
from tests.structures.made import settings

# Bounds of usable chains in the manifest.
BOUNDS = {"min_length": 40, "max_length": 1022, "min_observed_fraction": 0.75, "max_unknown_fraction": 0.1}
# Where the manifest's notes allow more than one answer, ours: (protein chains, usable chains).
OURS = {
    "pdb2nwl-opm.pdb": (4, 3),  # chain D: three free aspartates in ATOM records
    "4m48_bound.pdb": (3, 3),  # chain B is the light and the heavy chain of an antibody, renumbered
    "2kl8_clean.pdb": (1, 1),  # twenty models in one chain: the first is kept
    "broken_mmcif_named.pdb": (1, 1),  # read by content, whatever the ending says
    "broken_pdb_named.cif": (2, 2),
    "broken_plain_text.pdb.gz": (1, 1),
    "broken_all_nan.cif": (1, 0),  # a chain, but no residue has coordinates
}
CODE_OF_FILE = {
    "1lzh.pdb.gz": "no_backbone", "pdb1gdr.ent": "no_backbone", "pdb1ubi_ca.pdb": "no_backbone",
    "BaceCgMartini.pdb": "no_backbone", "1A2K_r_u_cg.pdb": "no_backbone", "broken_all_nan.cif": "no_backbone",
    "1SSU_mod.cif": "no_protein", "ions.pdb": "no_protein", "HEM.pdb": "no_protein", "304d.pdb": "no_protein",
    "1bna.pdb": "no_protein", "4gxy.bcif": "no_protein", "388d_v23.pdb": "no_protein",
    "broken_hetatm_only.pdb": "no_protein", "1y1vS": "too_many_missing", "2BEG.pdb": "too_short",
    "1l2y.bcif": "too_short", "3zyb_truncated.pdb.gz": "too_short", "4oz7.pdb": "too_short",
}  # fmt: skip


@pytest.fixture(scope="module")
def cleaned(corpus_folder, tmp_path_factory):
    """The manifest's rows by file, the chains and the rejects of all files together."""
    import pyarrow.parquet as pq

    folder = tmp_path_factory.mktemp("raw")
    with (corpus_folder / "raw" / "MANIFEST.csv").open(newline="") as stream:
        rows = {row["file"]: row for row in csv.DictReader(stream)}
    files = [
        SourceFile(str(corpus_folder / "raw" / name), int(row["bytes"]), row["sha256"]) for name, row in rows.items()
    ]
    chains, rejected = folder / "part-00000.parquet", folder / "rejected.parquet"
    clean_shard(files, settings(filters=BOUNDS), "raw", chains, rejected, workers=0)
    return rows, read_chains(chains), pq.read_table(rejected).to_pylist()


def test_every_chain_is_accepted_or_rejected(cleaned):
    rows, chains, rejects = cleaned
    usable = Counter(path.rsplit("/", 1)[-1] for path in chains["source_file"].to_pylist())
    refused = defaultdict(list)
    for reject in rejects:
        refused[reject["source_file"].rsplit("/", 1)[-1]].append(reject)
    wrong = {}
    for name, row in rows.items():
        proteins = usable[name] + sum(
            bool(reject["chain"]) or reject["code"] == "no_backbone" for reject in refused[name]
        )
        unreadable = [reject for reject in refused[name] if reject["code"] == "unreadable"]
        found = "error" if unreadable else (proteins, usable[name])
        expected = row["expected_protein_chains"]
        expected = "error" if expected == "error" else (int(expected), int(row["expected_usable_chains"] or 0))
        if found != OURS.get(name, expected):
            wrong[name] = (found, expected, refused[name])
        assert usable[name] + len(refused[name]) >= 1, f"{name} vanished"
        assert len(unreadable) <= 1
    assert not wrong
    assert len(chains) + len(rejects) == sum(usable.values()) + sum(map(len, refused.values()))


def test_each_reject_has_a_documented_code_and_a_sentence(cleaned):
    _, _, rejects = cleaned
    by_file = defaultdict(set)
    for reject in rejects:
        assert reject["code"] in CODES
        assert len(reject["reason"]) > 10
        assert len(reject["source_sha256"]) == 64
        by_file[reject["source_file"].rsplit("/", 1)[-1]].add(reject["code"])
    assert {name: by_file[name] for name in CODE_OF_FILE} == {name: {code} for name, code in CODE_OF_FILE.items()}


def test_observed_residues_equal_the_manifests(cleaned):
    rows, chains, _ = cleaned
    expected = {}
    for name, row in rows.items():
        for chain in row["chains"].split():
            letter, residues, fraction = chain.split(":")
            expected[name, letter] = int(residues), float(fraction)
    differing = {}
    for row in chains.select(["source_file", "author_chain", "observed"]).to_pylist():
        path, letter, observed = row.values()
        name = path.rsplit("/", 1)[-1]
        if (name, letter) in expected and name not in OURS:
            residues, fraction = expected[name, letter]
            if abs(observed - residues * fraction) > 0.005 * residues + 1:
                differing[name, letter] = observed, residues, fraction
    assert not differing
    assert len(expected) > 100


def test_atoms_are_finite_or_completely_missing(cleaned):
    _, chains, _ = cleaned
    for backbone in backbones(chains):
        finite = np.isfinite(backbone)
        assert (finite.all(-1) == finite.any(-1)).all()
        assert not np.isinf(backbone).any()
        assert finite[0, :3].all()
        assert finite[-1, :3].all()


def test_entry_in_two_formats_gives_the_same_chain(cleaned):
    _, chains, _ = cleaned
    rows = [row for row in chains.to_pylist() if "1A8O" in row["source_file"]]
    assert len(rows) == 2
    first, second = rows
    for name in ("sequence", "residue_index", "observed", "resolution", "release_date", "author_chain"):
        assert first[name] == second[name], name
    np.testing.assert_allclose(first["backbone"], second["backbone"], atol=1e-3)
    assert first["chain_id"].lower() != second["chain_id"].lower()
    assert first["sequence"].startswith("MDIRQGPKEPFRDYVDRFYKTLRAE")


def test_chain_ids_are_safe_and_unique_file_names(cleaned):
    _, chains, _ = cleaned
    ids = chains["chain_id"].to_pylist()
    assert len({name.lower() for name in ids}) == len(ids)
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._+-") for name in ids)
    assert not any(name.startswith((".", "-")) for name in ids)


def test_features_of_single_files(cleaned):
    _, chains, _ = cleaned
    by_id = {row["chain_id"]: row for row in chains.to_pylist()}
    assert by_id["1ema_A"]["sequence"].count("X") == 1  # the chromophore, made of three residues
    assert len(by_id["AF-V9WDR2-F1-model_v4_A"]["plddt"]) == 152
    assert by_id["1hh0_4char_ABCD"]["author_chain"] == "ABCD"
    assert "A" in by_id["1a4w_H"]["insertion_codes"]
    assert min(by_id["1YCC_A"]["residue_index"]) == -5
    assert by_id["1YCC_A"]["sequence"][:6] == "TEFKAG"
    # The loop of 1PIN that was not observed, from SEQRES; PyMOL writes none, so numbers alone tell of 3O21's gap.
    gapped = by_id["1PIN_A"]
    assert (gapped["length"], gapped["observed"], gapped["sequence"][33:40]) == (158, 153, "GNSSSGG")
    whole, numbered = by_id["mmcif_3o21_pymol_A"]["sequence"], by_id["mmcif_3o21_pymol_B"]["sequence"]
    assert numbered.startswith(whole[:31] + "XXXXXXX" + whole[38:80])
