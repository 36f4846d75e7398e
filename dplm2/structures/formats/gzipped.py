"""Decompressing gzip streams, up to a limit."""

import zlib

from dplm2.structures.atoms import UnreadableError

GZIP_MAGIC = b"\x1f\x8b"
MEBIBYTE = 1 << 20


def gunzip(data: bytes, limit: int) -> bytes:
    """Decompress a gzip stream (of one or several members), at most ``limit`` bytes.

    Raises
    ------
    UnreadableError
        If it is truncated, corrupt or larger.
    """
    parts, size = [], 0
    while data:
        inflater = zlib.decompressobj(zlib.MAX_WBITS | 16)
        try:
            part = inflater.decompress(data, limit - size + 1)
        except zlib.error as error:
            raise UnreadableError(f"a corrupt gzip stream ({error})") from error
        size += len(part)
        parts.append(part)
        if size > limit:
            raise UnreadableError(f"more than {limit // MEBIBYTE} MiB decompressed")
        if not inflater.eof:
            raise UnreadableError("a truncated gzip stream")
        # Zero padding (tapes, some tools) is not another member.
        data = inflater.unused_data.lstrip(b"\0")
    return b"".join(parts)
