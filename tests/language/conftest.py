"""Small networks and recorded values of the authors' implementation."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from small_run import CODES

from dplm2.language.esm import Esm2, Esm2Config
from dplm2.language.network import MultimodalEsm
from dplm2.language.vocabulary import AMINO_ACIDS, Vocabulary
from dplm2.settings.tokenizer import TokenizerSettings
from dplm2.tokenizer.model import StructureTokenizer


@pytest.fixture
def released_network(recorded_tensors) -> MultimodalEsm:
    """The network of the recorded values."""
    model = Esm2(Esm2Config(8229, 64, 4, 4, 256))
    model.load_state_dict(recorded_tensors("lm_tiny/weights"), strict=False)
    return MultimodalEsm(model, Vocabulary(), "released").eval()


@pytest.fixture
def small_network() -> MultimodalEsm:
    """A network with random weights and 20 structure codes."""
    torch.manual_seed(0)
    vocabulary = Vocabulary(20)
    return MultimodalEsm(Esm2(Esm2Config(vocabulary.size, 32, 2, 4, 64)), vocabulary).eval()


@pytest.fixture(scope="session")
def tokenizer_folder(tmp_path_factory):
    """The smallest tokenizer, untrained, to which models refer."""
    folder = tmp_path_factory.mktemp("tokenizer")
    torch.manual_seed(0)
    settings = TokenizerSettings.make(
        encoder={"width": 16, "layers": 1, "heads": 2, "feedforward_width": 16, "gvp_layers": 1, "node_scalars": 8,
                 "node_vectors": 2, "edge_scalars": 8, "neighbours": 4},
        quantizer={"bits": 4},
        decoder={"blocks": 1, "structure_blocks": 1, "sequence_dim": 16, "pair_dim": 8, "sequence_head_width": 8,
                 "pairwise_head_width": 8, "ipa_heads": 2, "post_quant_layers": 1, "post_quant_heads": 2,
                 "confidence_hidden": 8},
    )  # fmt: skip
    StructureTokenizer(settings).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tokens_folder(tmp_path_factory, tokenizer_folder):
    """24 chains with cyclic sequences, and structure tokens determined by the residue."""
    folder, rng, rows = tmp_path_factory.mktemp("tokens"), np.random.default_rng(0), []
    for number in range(24):
        start, length = int(rng.integers(20)), int(rng.integers(20, 40))
        letters = [(start + position) % 20 for position in range(length)]
        rows.append(
            {
                "chain_id": f"chain{number}",
                "sequence": "".join(AMINO_ACIDS[letter] for letter in letters),
                "structure_tokens": [letter % CODES for letter in letters],
                "observed": [position != 3 for position in range(length)],
                "length": length,
                "cluster": str(number % 12),
                "split": "validation" if number >= 20 else "train",
            }
        )
    types = {"structure_tokens": pa.list_(pa.uint16()), "observed": pa.list_(pa.bool_()), "length": pa.int32()}
    columns = {name: pa.array([row[name] for row in rows], types.get(name)) for name in rows[0]}
    fingerprint = StructureTokenizer.from_pretrained(tokenizer_folder).codes_fingerprint
    metadata = {"tokenizer_fingerprint": fingerprint, "codebook_size": str(CODES)}
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), folder / "part-00000.parquet")
    return folder
