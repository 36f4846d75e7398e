"""Representations equal transformers' own hidden states, one protein at a time, however they are made and stored."""

import json
import shutil

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from dplm2.cli import main
from dplm2.core import parquet
from dplm2.core.errors import ConfigError, DPLM2Error
from dplm2.generation.proteins import read_proteins
from dplm2.generation.task import Target
from dplm2.representations import embedding as module
from dplm2.representations.embedding import Embedder, Embedding, embed, embed_folder, read_embeddings
from dplm2.tokenizer.tokens import SCHEMA
from tests.scoring.plain import ids_by_hand
from tests.transformers_esm import of_transformers


@torch.no_grad()
def by_transformers(model, target):
    """Hidden states (T, D) of one protein after the embeddings and each layer, by transformers' own recording."""
    network = model.network
    ids = ids_by_hand(network, target.sequence, target.structure_tokens)
    halves = 2 if target.sequence is not None and target.structure_tokens is not None else 1
    positions = torch.arange(target.length + 2).repeat(halves).unsqueeze(0)
    mask = torch.ones_like(ids)
    output = of_transformers(network.model).esm(
        inputs_embeds=network.embeddings(ids), attention_mask=mask, position_ids=positions, output_hidden_states=True
    )
    return [state[0].numpy() for state in output.hidden_states]


def expected(target, state, pool):
    """The vectors of each track from the hidden states of a protein."""
    halves = {}
    if target.structure_tokens is not None:
        halves["structure"] = (state[: target.length + 2], target.structure_tokens >= 0)
    if target.sequence is not None:
        known = np.array([letter != "?" for letter in target.sequence])
        halves["sequence"] = (state[-(target.length + 2) :], known)
    return {
        track: {"first": half[0], "none": half[1:-1].ravel(), "mean": half[1:-1][known].mean(0)}[pool]
        for track, (half, known) in halves.items()
    }


@pytest.fixture
def mixed(proteins):
    bare = Target("bare", proteins[0].sequence, None)
    return [*proteins, bare, Target("shape", None, proteins[2].structure_tokens)]


@pytest.mark.parametrize("pool", ["mean", "first", "none"])
@pytest.mark.parametrize("packing", [True, False])
def test_every_layer_and_pool_equals_transformers_hidden_states(any_model, mixed, pool, packing):
    any_model.network.packing = packing
    try:
        table = embed(any_model, mixed, Embedding(pool, (0, 1, -1), token_budget=90)).to_pylist()
    finally:
        any_model.network.packing = None
    for target, row in zip(mixed, table, strict=True):
        states = by_transformers(any_model, target)
        assert len(states) == 3 and (row["chain_id"], row["length"]) == (target.name, target.length)
        for layer, state in enumerate(states):
            for track in ("sequence", "structure"):
                truth = expected(target, state, pool).get(track)
                found = row[f"{track}_embedding_{layer}"]
                if truth is None:
                    assert found is None
                else:
                    np.testing.assert_allclose(found, truth, atol=3e-5)


def test_the_last_layer_is_what_the_output_layer_reads(model, proteins):
    (row,) = embed(model, proteins[:1], Embedding("none")).to_pylist()
    hidden = torch.tensor(row["sequence_embedding"]).view(proteins[0].length, -1)
    logits = model.network(ids_by_hand(model.network, proteins[0].sequence, proteins[0].structure_tokens))[0]
    np.testing.assert_allclose(
        model.network.track_logits(hidden, "sequence").detach(), logits[-proteins[0].length - 1 : -1, :33].detach(),
        atol=5e-5,
    )  # fmt: skip


def test_a_track_without_a_known_residue_has_no_mean(model):
    (row,) = embed(model, [Target("gap", "AC", np.array([-1, -1]))]).to_pylist()
    assert row["structure_embedding"] is None and row["sequence_embedding"] is not None


def test_half_precision_storage_is_the_rounded_value_and_refuses_what_it_cannot_hold(model, proteins):
    half = embed(model, proteins, Embedding(numbers="float16"))
    whole = embed(model, proteins)
    assert half["sequence_embedding"].type == pa.list_(pa.float16())
    for a, b in zip(half["sequence_embedding"], whole["sequence_embedding"], strict=True):
        assert np.array_equal(np.array(a.as_py(), np.float16), np.array(b.as_py(), np.float32).astype(np.float16))
    norm = model.network.model.esm.encoder.emb_layer_norm_after
    kept = norm.weight.detach().clone()
    try:
        norm.weight.data.fill_(1e6)
        with pytest.raises(DPLM2Error, match="p.: a value of layer 2, .* is not finite as float16; use float32"):
            embed(model, proteins, Embedding("none", numbers="float16"))
    finally:
        norm.weight.data.copy_(kept)


def test_layers_that_are_not_there_are_refused():
    assert Embedding(layers=(-1, 2, 0)).resolved(2) == (2, 0)
    for layer in (3, -4):
        with pytest.raises(ConfigError, match=f"--layers {layer}: the model has 2 layers"):
            Embedding(layers=(layer,)).resolved(2)


def test_parts_resume_and_follow_changes(model, mixed, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "PROTEINS_PER_PART", 2)
    made, plain = [], module.embed

    def counted(model, targets, embedding):
        made.append([target.name for target in targets])
        if len(made) == 3:
            raise KeyboardInterrupt
        return plain(model, targets, embedding)

    monkeypatch.setattr(module, "embed", counted)
    with pytest.raises(KeyboardInterrupt):
        embed_folder(Embedder.of(model), mixed, Embedding(), tmp_path)
    assert made == [["p0", "p1"], ["p2", "p3"], ["bare", "shape"]]
    assert embed_folder(Embedder.of(model), mixed, Embedding(), tmp_path) == 3 and made[3:] == [["bare", "shape"]]
    assert "2 of 3 parts were already finished" in capsys.readouterr().out
    whole = plain(model, mixed)
    np.testing.assert_allclose(
        np.concatenate(read_embeddings(tmp_path)["structure_embedding"].drop_null().to_pylist()),
        np.concatenate(whole["structure_embedding"].drop_null().to_pylist()),
        atol=1e-5,
    )
    made.clear()
    content = bytearray((tmp_path / "part-00001.parquet").read_bytes())
    content[len(content) // 3] ^= 1
    (tmp_path / "part-00001.parquet").write_bytes(content)
    embed_folder(Embedder.of(model), mixed, Embedding(), tmp_path)
    assert made == [["p2", "p3"]]
    made.clear()
    monkeypatch.setattr(module, "embed", lambda *given: made.append(1) or plain(*given))
    embed_folder(Embedder.of(model), mixed[:3], Embedding("first"), tmp_path)
    assert len(made) == 2 and sorted(p.name for p in tmp_path.iterdir()) == ["part-00000.parquet", "part-00001.parquet"]


def test_parts_are_kept_by_all_that_decides_them(tmp_path):
    made, targets = [], [Target("a", "ACD", None), Target("b", "ACE", None)]

    def write(weights="w", proteins=targets, **changed):
        embedder = Embedder(weights, 3, 2, lambda own, _: made.append(own) or pa.table({"chain_id": ["a"]}))
        before = len(made)
        embed_folder(embedder, proteins, Embedding(**changed), tmp_path)
        return len(made) > before

    assert write() and not write() and not write(token_budget=9)
    assert write("other weights") and write()
    for changed in ({"pool": "first"}, {"layers": (0,)}, {"numbers": "float16"}, {"bfloat16": True}):
        assert write(**changed) and not write(**changed) and write()
    assert write(proteins=[targets[0], Target("b", "ACF", None)]) and write(proteins=targets[::-1])


def test_parts_are_bounded_in_bytes(model, mixed, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BYTES_PER_PART", 16 * 4 * 2 * 14)  # p0 and p1 together: 14 residues
    embed_folder(Embedder.of(model), mixed, Embedding("none"), tmp_path)
    names = [pd.read_parquet(path)["chain_id"].tolist() for path in sorted(tmp_path.glob("part-*"))]
    assert names == [["p0", "p1"], ["p2"], ["p3", "bare"], ["shape"]]


def run(folders, *arguments):
    return main(["embed", *map(str, arguments), "--model", str(folders / "model"), "--device", "cpu"])


def test_command_reads_sequences_structures_folders_and_tokens(folders, model, ubiquitin, tmp_path, capsys):
    (tmp_path / "a.fasta").write_text(">one\nMKTAYIAKQR\n>two\nACXDEF\n")
    (tmp_path / "folder").mkdir()
    shutil.copy(ubiquitin, tmp_path / "folder" / "u.bcif.gz")
    (structure,) = read_proteins(model, [ubiquitin])
    row = {"chain_id": "t", "sequence": structure.sequence, "structure_tokens": structure.structure_tokens.tolist()}
    row |= {"observed": [True] * 75 + [False], "length": 76}
    (tmp_path / "tokens").mkdir()
    metadata = {"tokenizer_fingerprint": model.tokenizer.codes_fingerprint, "codebook_size": "16"}
    table = pa.Table.from_pylist([row], SCHEMA).replace_schema_metadata(metadata)
    parquet.write_table(tmp_path / "tokens" / "part-00000.parquet", table)
    inputs = [tmp_path / "a.fasta", tmp_path / "folder", tmp_path / "tokens"]
    assert run(folders, *inputs, "--out", tmp_path / "out") == 0
    found = read_embeddings(tmp_path / "out").to_pylist()
    assert [row["chain_id"] for row in found][:2] == ["one", "two"] and found[3]["chain_id"] == "t"
    assert found[0]["structure_embedding"] is None and len(found[2]["structure_embedding"]) == 16
    note = json.loads((tmp_path / "out" / "run.json").read_text())
    assert note["proteins"] == 4 and note["settings"]["layers"] == [2] and "model" in note["inputs"]
    masked = structure.structure_tokens.copy()
    masked[75] = -1
    state = by_transformers(model, Target("t", structure.sequence, masked))[-1]
    np.testing.assert_allclose(found[3]["structure_embedding"], state[1:76].mean(0), atol=3e-5)
    assert run(folders, inputs[1], inputs[2], "--out", tmp_path / "s", "--tracks", "structure") == 0
    assert all(row["sequence_embedding"] is None for row in read_embeddings(tmp_path / "s").to_pylist())
    assert run(folders, *inputs, "--out", tmp_path / "no", "--tracks", "structure") == 1
    assert "one: a FASTA file has no structure (--tracks structure)" in capsys.readouterr().err
    assert run(folders, inputs[0], "--out", tmp_path / "no", "--layers", "7") == 2
    other = table.replace_schema_metadata({**metadata, "tokenizer_fingerprint": "other"})
    parquet.write_table(tmp_path / "tokens" / "part-00000.parquet", other)
    assert run(folders, inputs[2], "--out", tmp_path / "no") == 1
    assert "tokens of tokenizer other, but the model was trained on those of" in capsys.readouterr().err
    parquet.write_table(tmp_path / "tokens" / "part-00000.parquet", table.slice(0, 0))
    assert run(folders, inputs[2], "--out", tmp_path / "no") == 1
    assert "tokens: contains no proteins" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()
