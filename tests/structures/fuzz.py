"""Broken files from valid ones: bytes flipped, lines cut, fields swapped; and invariants of the cleaned chains."""

import gzip
import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from dplm2.settings.dataset import DatasetSettings
from dplm2.structures.cleaning import Chain
from dplm2.structures.formats.archives import Item
from dplm2.structures.rejects import CODES
from dplm2.structures.shards import CLEANING_FAILED, clean_batch, clean_item

LETTERS = set("ACDEFGHIKLMNPQRSTVWYX")
# Files of the corpus take less than a second; broken ones must not take much longer.
LONGEST_SECONDS = 20.0
SEEDS_BYTES = 700_000


def flip_bytes(data: bytes, draw: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(draw.choice((1, 3, 30, 300))):
        changed[draw.randrange(len(changed))] = draw.randrange(256)
    return bytes(changed)


def cut_off(data: bytes, draw: random.Random) -> bytes:
    return data[: draw.randrange(len(data))]


def cut_out(data: bytes, draw: random.Random) -> bytes:
    start = draw.randrange(len(data))
    return data[:start] + data[start + draw.randrange(1, 2000) :]


def repeat_piece(data: bytes, draw: random.Random) -> bytes:
    start, length = draw.randrange(len(data)), draw.randrange(1, 5000)
    return data[: start + length] + data[start : start + length] * draw.choice((1, 3)) + data[start + length :]


def shorten_lines(data: bytes, draw: random.Random) -> bytes:
    lines = data.split(b"\n")
    for _ in range(draw.choice((1, 5, 50))):
        place = draw.randrange(len(lines))
        lines[place] = lines[place][: draw.randrange(len(lines[place]) + 1)]
    return b"\n".join(lines)


def drop_lines(data: bytes, draw: random.Random) -> bytes:
    lines = data.split(b"\n")
    for _ in range(draw.choice((1, 10, 100))):
        if len(lines) > 1:
            del lines[draw.randrange(len(lines))]
    return b"\n".join(lines)


def swap_lines(data: bytes, draw: random.Random) -> bytes:
    lines = data.split(b"\n")
    for _ in range(draw.choice((1, 20, 200))):
        one, other = draw.randrange(len(lines)), draw.randrange(len(lines))
        lines[one], lines[other] = lines[other], lines[one]
    return b"\n".join(lines)


def swap_fields(data: bytes, draw: random.Random) -> bytes:
    lines = data.split(b"\n")
    for _ in range(draw.choice((1, 10, 100))):
        place = draw.randrange(len(lines))
        fields = lines[place].split(b" ")
        one, other = draw.randrange(len(fields)), draw.randrange(len(fields))
        fields[one], fields[other] = fields[other], fields[one]
        lines[place] = b" ".join(fields)
    return b"\n".join(lines)


def odd_numbers(data: bytes, draw: random.Random) -> bytes:
    odd = (b"nan", b"inf", b"-inf", b"1e30", b"9999.999", b"********", b"-0.000", b"", b"1e-320")
    lines = data.split(b"\n")
    for _ in range(draw.choice((1, 20))):
        place = draw.randrange(len(lines))
        fields = lines[place].split(b" ")
        fields[draw.randrange(len(fields))] = draw.choice(odd)
        lines[place] = b" ".join(fields)
    return b"\n".join(lines)


MUTATIONS = (
    flip_bytes, cut_off, cut_out, repeat_piece, shorten_lines, drop_lines, swap_lines, swap_fields, odd_numbers,
)  # fmt: skip


def seed_files(corpus: Path) -> list[Path]:
    """Valid files of every format, of moderate size."""
    raw = [path for path in sorted((corpus / "raw").iterdir()) if path.suffix != ".csv"]
    return [path for path in raw + sorted((corpus / "train").iterdir())[::40] if path.stat().st_size < SEEDS_BYTES]


def broken_files(seeds: Sequence[Path], count: int, seed: int = 0) -> Iterator[Item]:
    """Yield broken files, determined by the seed."""
    draw = random.Random(seed)
    for i in range(count):
        path = draw.choice(seeds)
        data = path.read_bytes()
        packed = data[:2] == b"\x1f\x8b"
        # Breaking a gzip stream itself only tests its checksum: mostly what is inside is broken.
        if packed and draw.random() < 0.9:
            try:
                data = gzip.decompress(data)
            except (OSError, EOFError):
                packed = False
        else:
            packed = False
        for _ in range(draw.choice((1, 1, 2, 3))):
            data = draw.choice(MUTATIONS)(data or b"x", draw)
        yield Item(
            f"{i}-{path.name}",
            "0" * 64,
            f"{i}-{path.name}",
            content=gzip.compress(data, 1, mtime=0) if packed else data,
        )


def check_chain(chain: Chain) -> None:
    """Check the invariants of a clean chain."""
    length = len(chain.sequence)
    assert chain.backbone_LAX.shape == (length, 4, 3)
    assert len(chain.residue_index) == length
    assert chain.plddt is None or (len(chain.plddt) == length and np.isfinite(chain.plddt).all())
    assert chain.insertion_codes is None or len(chain.insertion_codes) == length
    assert set(chain.sequence) <= LETTERS
    assert np.isfinite(chain.backbone_LAX[chain.observed_L][:, :3]).all()
    assert not np.isinf(chain.backbone_LAX).any()
    assert chain.observed_L[0]
    assert chain.observed_L[-1]
    assert np.isfinite([chain.helix, chain.strand, chain.coil, chain.radius_of_gyration]).all()


def run(items: Iterator[Item], settings: DatasetSettings) -> Counter:
    """Clean broken files and check the results; returns the number of files per outcome."""
    outcomes: Counter = Counter()
    for item in items:
        start = time.monotonic()
        chains, rejects = clean_item(item, settings)
        clean_batch([item], settings)
        assert time.monotonic() - start < LONGEST_SECONDS, f"{item.source_file} takes too long"
        assert chains or rejects, f"{item.source_file} vanished"
        for chain in chains:
            check_chain(chain)
        for reject in rejects:
            assert reject.code in CODES
            assert reject.reason
            assert CLEANING_FAILED not in reject.reason, reject
            assert "\n" not in reject.reason
        outcomes.update(["chain"] * len(chains) + [reject.code for reject in rejects])
    return outcomes
