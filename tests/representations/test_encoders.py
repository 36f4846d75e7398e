"""Encoders of sequences by transformers: ESM C and ESM-2 with random weights, in the published format."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer, EsmConfig, EsmModel, EsmTokenizer

from dplm2.cli import main
from dplm2.core.errors import ConfigError, DPLM2Error
from dplm2.generation.task import Target
from dplm2.representations.embedding import Embedding, read_embeddings
from dplm2.representations.encoders import SequenceEncoder

ALPHABET = ["<cls>", "<pad>", "<eos>", "<unk>", *"LAGVSERTIDPKQNFYMHWCXBUZO.-", "<null_1>", "<mask>"]
SEQUENCES = {"a": "MKTAYIAKQRG", "b": "ACDEF", "open": "MK?AX", "unknown": "???"}
TARGETS = [Target(name, sequence, None) for name, sequence in SEQUENCES.items()]


@pytest.fixture(scope="module", params=["esmc", "esm"])
def folder(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    if request.param == "esmc":
        write_esmc(folder)
    else:
        write_esm2(folder)
    return str(folder)


def write_esmc(folder: Path) -> None:
    import transformers

    if not hasattr(transformers, "EsmcModel"):
        pytest.skip("this transformers has no ESM C")
    config = transformers.EsmcConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2)
    transformers.EsmcModel(config).save_pretrained(folder)
    transformers.EsmcTokenizer().save_pretrained(folder)


def write_esm2(folder: Path) -> None:
    (folder / "vocab.txt").write_text("\n".join(ALPHABET))
    config = EsmConfig(
        vocab_size=33, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
        pad_token_id=1, mask_token_id=32, position_embedding_type="rotary", token_dropout=True,
    )  # fmt: skip
    EsmModel(config, add_pooling_layer=False).save_pretrained(folder)
    EsmTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)


@pytest.fixture(scope="module")
def encoder(folder):
    return SequenceEncoder(folder)


def direct(folder: str, sequence: str) -> torch.Tensor:
    """(L + 2, D) of the last layer, by transformers alone."""
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    with torch.inference_mode():
        ids = tokenizer(sequence.replace("?", "<mask>"), return_tensors="pt")["input_ids"]
        return model(input_ids=ids).last_hidden_state[0]


def test_representations_are_those_of_transformers(encoder, folder):
    """Of each protein by itself, whatever the batch."""
    for target in TARGETS[:2]:
        hidden_TD = direct(folder, target.sequence)
        assert len(hidden_TD) == target.length + 2
        expected = {"mean": hidden_TD[1:-1].mean(0), "first": hidden_TD[0], "none": hidden_TD[1:-1].reshape(-1)}
        for pool, values in expected.items():
            table = encoder.embed(TARGETS, Embedding(pool, token_budget=10_000))
            found = dict(zip(table["chain_id"].to_pylist(), table["sequence_embedding"].to_pylist(), strict=True))
            np.testing.assert_allclose(found[target.name], values, atol=2e-5)


def test_open_residues_are_left_out_of_the_mean(encoder, folder):
    hidden_TD = direct(folder, SEQUENCES["open"])
    means = encoder.embed(TARGETS, Embedding())["sequence_embedding"].to_pylist()
    np.testing.assert_allclose(means[2], hidden_TD[[1, 2, 4, 5]].mean(0), atol=2e-5)
    assert means[3] is None


def test_layers_are_counted_as_those_of_the_model(encoder):
    table = encoder.embed(TARGETS[:1], Embedding(layers=(0, 1, -1)))
    last = encoder.embed(TARGETS[:1], Embedding())["sequence_embedding"].to_pylist()
    assert table.column_names[3:] == ["sequence_embedding_0", "sequence_embedding_1", "sequence_embedding_2"]
    assert table["sequence_embedding_2"].to_pylist() == last
    with pytest.raises(ConfigError, match="has 2 layers"):
        encoder.embed(TARGETS, Embedding(layers=(3,)))


def test_command_writes_parts_and_refuses_structures(folder, tmp_path, capsys):
    (tmp_path / "p.fasta").write_text("".join(f">{name}\n{sequence}\n" for name, sequence in SEQUENCES.items()))
    command = ["embed", str(tmp_path / "p.fasta"), "--encoder", folder, "--out", str(tmp_path / "out")]
    assert main(command) == 0
    assert read_embeddings(tmp_path / "out")["chain_id"].to_pylist() == list(SEQUENCES)
    assert main([*command, "--tracks", "structure"]) == 2
    assert "reads sequences alone" in capsys.readouterr().err


def test_folder_that_is_no_encoder_is_refused(tmp_path):
    with pytest.raises(DPLM2Error, match="cannot be opened"):
        SequenceEncoder(str(tmp_path))
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(DPLM2Error, match="a model of type bert"):
        SequenceEncoder(str(tmp_path))
