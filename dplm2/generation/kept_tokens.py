"""Structure tokens that survive an interruption: written while they are made, and found again by the backbone."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from dplm2.core import parquet
from dplm2.core.artifacts import fingerprint, make_folder
from dplm2.core.errors import DPLM2Error
from dplm2.tokenizer.model import StructureTokenizer

BACKBONES_PER_FILE = 256
_TOKENIZER = "tokenizer_fingerprint"


class KeptTokens:
    """`StructureTokenizer.encode` with a folder of the tokens that an earlier run has made.

    Parameters
    ----------
    tokenizer
        The tokenizer; tokens of another one, and damaged files, are made again.
    folder
        For the files, each with the tokens of up to `BACKBONES_PER_FILE` backbones.
    """

    def __init__(self, tokenizer: StructureTokenizer, folder: Path) -> None:
        self.tokenizer, self.folder = tokenizer, folder
        self.known: dict[str, np.ndarray] = {}
        for path in sorted(folder.glob("*.parquet")):
            try:
                table = parquet.read_table(path)
            except DPLM2Error:  # damaged
                continue
            if (table.schema.metadata or {}).get(_TOKENIZER.encode()) == tokenizer.codes_fingerprint.encode():
                tokens = (np.asarray(own, np.uint16) for own in table["structure_tokens"].to_pylist())
                self.known |= dict(zip(table["backbone"].to_pylist(), tokens, strict=True))

    def __call__(self, backbones: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Tokens (L,) uint16 of each backbone."""
        keys = [_key(backbone) for backbone in backbones]
        missing = {key: own for key, own in zip(keys, backbones, strict=True) if key not in self.known}
        names = list(missing)
        for start in range(0, len(names), BACKBONES_PER_FILE):
            own = names[start : start + BACKBONES_PER_FILE]
            tokens = self.tokenizer.encode([missing[key] for key in own])
            make_folder(self.folder)
            table = pa.table({"backbone": own, "structure_tokens": pa.array(tokens, pa.list_(pa.uint16()))})
            metadata = {_TOKENIZER: self.tokenizer.codes_fingerprint}
            parquet.write_table(self.folder / f"{fingerprint(own)}.parquet", table, metadata=metadata)
            self.known |= dict(zip(own, tokens, strict=True))
        return [self.known[key] for key in keys]


def _key(backbone: np.ndarray) -> str:
    values = np.ascontiguousarray(backbone, dtype=np.float32)
    return hashlib.sha256(f"{values.shape}".encode() + values.tobytes()).hexdigest()[:32]
