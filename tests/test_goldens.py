"""The goldens are small, complete, and equal to the output of their script."""

import gzip
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.goldens import make
from tests.goldens.unpack import unpack

GOLDENS = Path(make.__file__).parent
LIMIT = 3_000_000


def stored():
    return {path.relative_to(GOLDENS): path for path in GOLDENS.rglob("*") if path.suffix not in ("", ".py", ".pyc")}


def content(path):
    """The uncompressed content of a file."""
    return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()


def test_goldens_are_small():
    assert sum(path.stat().st_size for path in stored().values()) < LIMIT


def test_goldens_equal_the_full_recordings(recordings, tmp_path):
    folder, complete = recordings
    if not complete:
        pytest.skip("needs the full set of recordings (set DPLM2_SHARED to the folder of the shared test data)")
    make.write(folder, tmp_path)
    written = {path.relative_to(tmp_path): path for path in tmp_path.rglob("*") if path.is_file()}
    assert set(written) == set(stored()) - {Path("README.md")}
    for name, path in written.items():
        assert content(path) == content(GOLDENS / name), name


def test_unpacked_goldens_have_the_language_models_weights(tmp_path):
    """Without scaling, the recorded embeddings are rows of the regenerated weights."""
    folder = unpack(tmp_path)
    rows = load_file(folder / "lm_tiny/weights.safetensors")["esm.embeddings.word_embeddings.weight"]
    recorded = load_file(folder / "lm_tiny/forward_padded_no_token_dropout.safetensors")
    real_BT = recorded["input_ids"] != 1
    # Another CPU may round the last digit of a draw differently.
    torch.testing.assert_close(rows[recorded["input_ids"][real_BT]], recorded["embeddings_twice"][real_BT])
