"""The joint vocabulary of amino acids and structure tokens.

Ids: 0..32 are ESM-2's, so that the rows of a pre-trained sequence model keep their indices; 33..35 are the special
tokens of the structure track; the structure codes start at 36; the last id masks structure.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from dplm2.core.errors import DPLM2Error

Track = Literal["structure", "sequence"]
TRACKS: tuple[Track, Track] = ("structure", "sequence")
"""Both tracks, in their order within a sample."""

AMINO_ACIDS = "LAGVSERTIDPKQNFYMHWC"
"""The 20 amino acids in the order of their ids (4 to 23)."""

SEQUENCE_IDS = 33
"""Number of ids of a sequence model (ESM-2, DPLM): the first ids of the joint vocabulary."""

_AFTER_AMINO_ACIDS = ("X", "B", "U", "Z", "O", ".", "-", "<null_1>")
_FIRST_AMINO_ACID = 4
_DIGITS = 4  # codes are written 0000..8191


@dataclass(frozen=True)
class Vocabulary:
    """Ids of all tokens.

    Parameters
    ----------
    codebook_size
        Number of structure codes; 8192 in the paper.
    """

    codebook_size: int = 8192

    cls_sequence: int = 0
    pad: int = 1
    eos_sequence: int = 2
    unknown_sequence: int = 3
    unknown_residue: int = 24  # X
    mask_sequence: int = 32
    cls_structure: int = SEQUENCE_IDS
    eos_structure: int = 34
    unknown_structure: int = 35
    first_code: int = 36

    def __post_init__(self) -> None:
        if self.codebook_size < 1:
            raise DPLM2Error(f"codebook_size is {self.codebook_size}; it must be at least 1")

    @classmethod
    def of_size(cls, size: int) -> "Vocabulary":
        """The vocabulary with ``size`` ids in total."""
        return cls(size - cls.first_code - 1)

    @property
    def mask_structure(self) -> int:
        """Id of ``<mask_struct>``, the last one."""
        return self.first_code + self.codebook_size

    @property
    def size(self) -> int:
        """Number of ids."""
        return self.mask_structure + 1

    def __len__(self) -> int:
        return self.size

    def mask(self, track: Track) -> int:
        """Id of the mask (absorbing state) of a track."""
        return self.mask_structure if track == "structure" else self.mask_sequence

    def cls(self, track: Track) -> int:
        """Id of the begin token of a track."""
        return self.cls_structure if track == "structure" else self.cls_sequence

    def eos(self, track: Track) -> int:
        """Id of the end token of a track."""
        return self.eos_structure if track == "structure" else self.eos_sequence

    def classes(self, track: Track) -> range:
        """Ids of a track, hence its rows of the output layer, including special tokens."""
        return range(self.cls_structure, self.size) if track == "structure" else range(self.cls_structure)

    def generated(self, track: Track) -> range:
        """Ids that may be generated on a track: the 20 amino acids, or the codes."""
        if track == "structure":
            return range(self.first_code, self.mask_structure)
        return range(_FIRST_AMINO_ACID, _FIRST_AMINO_ACID + len(AMINO_ACIDS))

    @property
    def edges(self) -> tuple[int, ...]:
        """Ids that are neither noised nor predicted: padding, and the begin and end tokens of both tracks."""
        return (self.cls_sequence, self.pad, self.eos_sequence, self.cls_structure, self.eos_structure)

    def is_edge(self, ids):
        """True where an id (array or tensor of any shape) is padding, or a begin or end token."""
        result = ids == self.pad
        for edge in self.edges:
            result = result | (ids == edge)
        return result

    def is_sequence(self, ids):
        """True where an id (array or tensor) belongs to the sequence track or is padding, which both tracks share."""
        return ids < self.cls_structure

    @cached_property
    def tokens(self) -> tuple[str, ...]:
        """Token text of each id, in order."""
        return (
            *("<cls_aa>", "<pad>", "<eos_aa>", "<unk_aa>"),
            *AMINO_ACIDS,
            *_AFTER_AMINO_ACIDS,
            *("<mask_aa>", "<cls_struct>", "<eos_struct>", "<unk_struct>"),
            *(f"{code:0{_DIGITS}d}" for code in range(self.codebook_size)),
            "<mask_struct>",
        )

    @cached_property
    def _id_of_letter(self) -> np.ndarray:
        ids = np.full(256, -1, dtype=np.int64)
        for index, token in enumerate(self.tokens[: self.mask_sequence]):
            if len(token) == 1:
                ids[ord(token)] = index
        return ids

    def encode_sequence(self, sequence: str) -> np.ndarray:
        """Ids (L,) int64 of a sequence in one-letter code, without begin and end tokens.

        Raises
        ------
        DPLM2Error
            If a letter is not in the vocabulary.
        """
        letters = np.frombuffer(sequence.encode("ascii", errors="replace"), dtype=np.uint8)
        ids = self._id_of_letter[letters]
        if (ids < 0).any():
            wrong = sequence[int(np.argmax(ids < 0))]
            raise DPLM2Error(f"{wrong!r} is not an amino acid; write X for an unknown residue")
        return ids

    def decode_sequence(self, ids) -> str:
        """One-letter code of ids (L,) of the sequence track; ids without a letter become X."""
        letters = self._letters[np.minimum(np.asarray(ids, dtype=np.int64), self.mask_sequence)]
        return letters.tobytes().decode("ascii")

    @cached_property
    def _letters(self) -> np.ndarray:
        letters = np.full(self.mask_sequence + 1, ord("X"), dtype=np.uint8)
        for index in range(_FIRST_AMINO_ACID, self.unknown_residue + len("XBUZO")):
            letters[index] = ord(self.tokens[index])
        return letters

    def encode_structure(self, structure_tokens) -> np.ndarray:
        """Ids (L,) int64 of structure tokens (L,), without begin and end tokens.

        Raises
        ------
        DPLM2Error
            If a token is not in the codebook.
        """
        codes = np.asarray(structure_tokens).astype(np.int64)
        if codes.size and not (codes.min() >= 0 and codes.max() < self.codebook_size):
            raise DPLM2Error(
                f"structure token {codes.max() if codes.max() >= self.codebook_size else codes.min()} is not in the "
                f"codebook (0..{self.codebook_size - 1}); the tokens are from another tokenizer"
            )
        return codes + self.first_code

    def decode_structure(self, ids) -> np.ndarray:
        """Structure tokens (L,) uint16 of ids (L,).

        Raises
        ------
        DPLM2Error
            If an id is not a structure code.
        """
        codes = np.asarray(ids, dtype=np.int64) - self.first_code
        if codes.size and not (codes.min() >= 0 and codes.max() < self.codebook_size):
            raise DPLM2Error(
                f"id {int(codes.min()) + self.first_code} is not a structure code: masks must be filled first"
            )
        return codes.astype(np.uint16)
