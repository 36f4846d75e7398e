"""Weight files that contain their own SHA-256, so that a flipped byte is detected on reading.

The digest is stored in the metadata of the file's header, which any safetensors reader ignores. It is computed over the
whole file, with zeros in its own place. It is kept when the file is copied and lost when another program saves the
weights again; files without a digest are accepted.
"""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from dplm2.core.artifacts import atomic_path
from dplm2.core.errors import DPLM2Error

if TYPE_CHECKING:
    from torch import Tensor

KEY = "dplm2_sha256"
_ZEROS = b"0" * 64
_FORMAT = "pt"
_ENTRY = f'","{KEY}":"'.encode() + _ZEROS  # between quotation marks
_LENGTH = 8  # bytes of the header's length, before the header
_LONGEST_HEADER = 100_000_000  # safetensors' own limit
_BLOCK = 1 << 22


def save_tensors(path: str | os.PathLike, tensors: "Mapping[str, Tensor]") -> None:
    """Write tensors with their digest, atomically."""
    from safetensors.torch import save_file

    with atomic_path(path) as temporary:
        # The order of two entries would differ between processes: reserve the space in a single one.
        save_file(dict(tensors), temporary, metadata={"format": _FORMAT + "-" * len(_ENTRY)})
        _sign(temporary)


def check_tensors(path: str | os.PathLike) -> None:
    """Reject a weight file that differs from what was written; files of other programs have no digest and pass.

    Raises
    ------
    DPLM2Error
        The message names the file and says what to do.
    """
    try:
        with Path(path).open("rb") as stream:
            place = _place_of_digest(stream.read(_LENGTH), stream)
            if place is None:
                return
            stream.seek(place)
            noted = stream.read(len(_ZEROS))
            found = _digest(stream, place)
    except OSError as error:
        raise DPLM2Error(f"{path}: cannot be read ({error.strerror})") from error
    if found != noted:
        raise DPLM2Error(
            f"{path}: damaged, its weights differ from what was written (SHA-256 mismatch); restore the file from a "
            "copy, or regenerate it"
        )


def check_layers(path: str | os.PathLike, *counts: object) -> None:
    """Reject numbers of layers that a weight file cannot have, before memory is allocated for them.

    Raises
    ------
    DPLM2Error
        If there are more layers than tensors, or the file is not a weight file.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as stream:
            tensors = len(stream.keys())
    except (OSError, SafetensorError) as error:
        raise DPLM2Error(f"{path}: not a weight file ({' '.join(str(error).split())[:200]})") from error
    if wrong := [count for count in counts if not isinstance(count, int) or count > tensors]:
        raise DPLM2Error(f"{path}: {tensors} tensors, but the config.json beside it says {str(wrong[0])[:40]} layers")


def _sign(path: Path) -> None:
    with path.open("rb+") as stream:
        header = stream.read(int.from_bytes(stream.read(_LENGTH), "little"))
        room = f'"format":"{_FORMAT}'.encode()
        stream.seek(_LENGTH + header.index(room + b"-" * len(_ENTRY)) + len(room))
        stream.write(_ENTRY)
        place = stream.tell() - len(_ZEROS)
        digest = _digest(stream, place)
        stream.seek(place)
        stream.write(digest)


def _place_of_digest(length: bytes, stream) -> int | None:  # noqa: ANN001
    """Offset of the digest, from the header at which ``stream`` is positioned."""
    header = stream.read(min(int.from_bytes(length, "little"), _LONGEST_HEADER))
    mark = f'"{KEY}":"'.encode()
    found = header.find(mark)
    return None if found < 0 else _LENGTH + found + len(mark)


def _digest(stream, place: int) -> bytes:  # noqa: ANN001
    """SHA-256 of a file with zeros in the digest's place, as hexadecimal digits."""
    digest = hashlib.sha256()
    stream.seek(0)
    digest.update(stream.read(place))
    digest.update(_ZEROS)
    stream.seek(place + len(_ZEROS))
    while block := stream.read(_BLOCK):
        digest.update(block)
    return digest.hexdigest().encode()
