"""Every byte of our Parquet files is verified, and other readers accept them."""

import random
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dplm2.core import parquet
from dplm2.core.errors import DPLM2Error

FLIPS = 600


@pytest.fixture
def table() -> pa.Table:
    draw = np.random.default_rng(0)
    rows = [draw.normal(size=number % 30).astype(np.float32) for number in range(500)]
    columns = {"name": [f"chain {number}" for number in range(500)], "values": rows, "tokens": [[1, 2]] * 500}
    return pa.table(columns).replace_schema_metadata({"tokenizer_fingerprint": "0123456789abcdef"})


@pytest.fixture
def file(tmp_path, table):
    parquet.write_table(tmp_path / "table.parquet", table, rows_per_group=200)
    return tmp_path / "table.parquet"


def test_other_readers_open_a_sealed_file(file, table):
    assert pq.read_table(file, partitioning=None).equals(table)
    assert pq.read_table(file, partitioning=None, page_checksum_verification=True).equals(table)
    assert pq.read_schema(file).metadata == table.schema.metadata


def test_flipped_bit_is_detected_or_has_no_effect(file, table):
    sound, draw, refused = file.read_bytes(), random.Random(0), 0
    for place in draw.sample(range(len(sound)), FLIPS):
        broken = bytearray(sound)
        broken[place] ^= 1 << draw.randrange(8)
        file.write_bytes(broken)
        try:
            found = parquet.read_table(file)
        except DPLM2Error as error:
            assert str(file) in str(error)
            refused += 1
            continue
        # The seal's own name: a file without one.
        assert found.equals(table)
        assert found.schema.metadata == table.schema.metadata
    assert refused > FLIPS - 10


def test_only_the_columns_that_are_read_are_checked(file, table):
    with pq.ParquetFile(file) as opened:
        chunk = opened.metadata.row_group(1).column(1)
        place = chunk.data_page_offset + chunk.total_compressed_size // 2
    sound = file.read_bytes()
    file.write_bytes(sound[:place] + bytes([sound[place] ^ 1]) + sound[place + 1 :])
    assert parquet.read_table(file, ["name"]).equals(
        table.select(["name"]).replace_schema_metadata(table.schema.metadata)
    )
    with pytest.raises(DPLM2Error, match="its column values differs from what was written.*regenerate it"):
        parquet.read_table(file, ["values"])
    with pytest.raises(DPLM2Error, match="its column values"):
        list(parquet.read_batches(file, ["values"], 10))


def test_truncated_file_is_refused(file):
    sound = file.read_bytes()
    for size in range(0, len(sound), 101):
        file.write_bytes(sound[:size])
        with pytest.raises(DPLM2Error, match=r"table\.parquet"):
            parquet.read_table(file)


def test_files_without_a_seal_are_read(tmp_path, table):
    pq.write_table(table, tmp_path / "old.parquet", compression="zstd")
    assert parquet.read_table(tmp_path / "old.parquet").equals(table)


def test_page_checksums_of_other_programs_are_verified(tmp_path, table):
    file = tmp_path / "other.parquet"
    pq.write_table(table, file, compression="none", write_page_checksum=True)
    sound = file.read_bytes()
    place = sound.index(b"chain 77")
    file.write_bytes(sound[:place] + b"C" + sound[place + 1 :])
    with pytest.raises(DPLM2Error, match="not readable as Parquet"):
        parquet.read_table(file)


def test_groups_are_written_as_one_table(tmp_path, table):
    file = tmp_path / "groups.parquet"
    parquet.write_groups(file, table.schema, (table.slice(start, 100) for start in range(0, 500, 100)))
    assert parquet.read_table(file).equals(table)
    assert pq.read_metadata(file).num_row_groups == 5


def test_seal_follows_its_documentation(file):
    content = file.read_bytes()
    start = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    assert content[start - 8 : start] == b"DPLM2SEA"
    count = int.from_bytes(content[start - 16 : start - 12], "little")
    assert count == 3 * 3
    sums = content[start - 16 - 8 * count : start - 16]
    checksum = zlib.crc32(content[start - 16 : start - 12] + sums + content[start:])
    assert content[start - 12 : start - 8] == checksum.to_bytes(4, "little")


def test_equal_tables_give_equal_bytes(tmp_path, table):
    for name in ("a", "b"):
        parquet.write_table(tmp_path / name, table)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
