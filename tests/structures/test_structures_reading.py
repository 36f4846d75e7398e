"""Formats recognised by content, archives read without unpacking, limits."""

import gzip
import io
import itertools
import tarfile
import zlib

import numpy as np
import pytest
from biotite.structure.io import load_structure
from biotite.structure.io.pdb import PDBFile

from dplm2.structures import reading
from dplm2.structures.atoms import UnreadableError
from dplm2.structures.formats import archives
from dplm2.structures.formats.archives import items_of
from dplm2.structures.formats.gzipped import gunzip
from dplm2.structures.manifest import SourceFile
from dplm2.structures.reading import longest_line, parse, read_structure
from dplm2.structures.shards import clean_item, clean_shard
from tests.structures.made import atom, chain, settings

LIMITS = settings().reading
TEXT = ("\n".join([*chain("ACDEFGHIKL"), "END"]) + "\n").encode()


def written(tmp_path, ending: str) -> bytes:
    """The synthetic chain in another format, written by biotite."""
    from biotite.structure.io import pdbx

    (tmp_path / "made.pdb").write_bytes(TEXT)
    file = {"cif": pdbx.CIFFile, "bcif": pdbx.BinaryCIFFile}[ending]()
    pdbx.set_structure(file, load_structure(tmp_path / "made.pdb"), data_block="made")
    file.write(tmp_path / f"made.{ending}")
    return (tmp_path / f"made.{ending}").read_bytes()


@pytest.mark.parametrize("ending", ["pdb", "cif", "bcif"])
@pytest.mark.parametrize("packed", [False, True])
def test_format_is_recognised_by_content(tmp_path, ending, packed):
    data = TEXT if ending == "pdb" else written(tmp_path, ending)
    path = tmp_path / "wrong.name"
    path.write_bytes(gzip.compress(data, mtime=0) if packed else data)
    entry = read_structure(path)
    assert entry.format == {"pdb": "PDB", "cif": "mmCIF", "bcif": "BinaryCIF"}[ending]
    theirs = (
        load_structure(tmp_path / "made.pdb")
        if ending != "pdb"
        else PDBFile.read(io.StringIO(TEXT.decode())).get_structure(1)
    )
    np.testing.assert_allclose(entry.atoms.coords, theirs.coord, atol=1e-3)
    assert entry.atoms.residue.tolist() == theirs.res_name.tolist()
    assert entry.atoms.number.tolist() == theirs.res_id.tolist()


@pytest.mark.parametrize("name", ["1YCC.pdb", "2src.pdb", "1Z63.pdb", "1orc.pdb", "1EN2.pdb", "1LCD.pdb"])
def test_pdb_text_is_read_as_by_biotite(corpus_folder, name):
    path = corpus_folder / "raw" / name
    theirs = PDBFile.read(path).get_structure(model=1, altloc="all", extra_fields=["b_factor", "occupancy"])
    own = read_structure(path).atoms
    columns = {"author_chain": "chain_id", "number": "res_id", "insertion": "ins_code", "residue": "res_name"}
    columns.update(name="atom_name", hetero="hetero", altloc="altloc_id")
    for ours, name_there in columns.items():
        found = [value.strip() if isinstance(value, str) else value for value in getattr(theirs, name_there).tolist()]
        assert getattr(own, ours).tolist() == found, ours
    np.testing.assert_allclose(own.coords, theirs.coord, atol=1e-4)
    np.testing.assert_allclose(own.b_factor, theirs.b_factor, atol=1e-4)
    np.testing.assert_allclose(own.occupancy, theirs.occupancy, atol=1e-4)


def test_hybrid_36_numbers_are_read():
    lines = [line[:22] + number + line[26:] for number in ("9999", "A000", "A001", "ZZZZ", "a000") for line in [atom()]]
    entry = parse("\n".join(lines).encode(), LIMITS)
    assert entry.atoms.number.tolist() == [9999, 10000, 10001, 1223055, 1223056]


def test_only_the_first_model_is_read():
    second = TEXT.replace(b"   5.000", b"  55.000")
    numbered = b"MODEL        1\n" + TEXT.replace(b"END\n", b"ENDMDL\nMODEL        2\n") + second
    for text in (numbered, TEXT.replace(b"END\n", b"ENDMDL\n") + second):
        assert len(parse(text, LIMITS).atoms) == 40


def test_windows_line_endings_and_byte_order_mark_are_accepted():
    assert len(parse(b"\xef\xbb\xbf" + TEXT.replace(b"\n", b"\r\n"), LIMITS).atoms) == 40


def test_only_broken_protein_records_refuse_the_file():
    broken = "HETATM  999  O   DUM  9999      10.000  10.000"
    assert len(parse(TEXT + broken.encode() + b"\n", LIMITS).atoms) == 40
    with pytest.raises(UnreadableError, match=r"line 5 is invalid"):
        parse(TEXT.replace(b"   8.800   0.000", b"   8.8x0   0.000", 1), LIMITS)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"\0" * 500, "empty"),
        (b"hello there\nno structure\n", "neither PDB"),
        (b"<!DOCTYPE html><html>404</html>", "web page"),
        (b"\x89PNG\r\n\x1a\n\0\0\0", "neither PDB"),
        (gzip.compress(TEXT, mtime=0)[:-200], "truncated|corrupt"),
        (b"HEADER    X\nEND\n", "without ATOM"),
        (b"data_x\nloop_\n_entry.id\n1ABC\n", "atom_site"),
        (b"\x83\xa7version\xa50.3.0\xaadataBlocks\x90\xa7encoder\xa1x", "atom_site"),
        (b"\x93dataBlocks", "neither PDB|not a sound"),
    ],
)
def test_unreadable_files_raise_a_one_sentence_error(data, message):
    with pytest.raises(UnreadableError, match=message):
        parse(data, LIMITS)


def test_gzip_bomb_is_not_decompressed():
    bomb = zlib.compressobj(9, wbits=31)
    data = b"".join(bomb.compress(b"\0" * (1 << 20)) for _ in range(200)) + bomb.flush()
    with pytest.raises(UnreadableError, match="more than 10 MiB"):
        gunzip(data, 10 << 20)
    assert gunzip(gzip.compress(b"ab", mtime=0) + gzip.compress(b"cd", mtime=0) + b"\0\0", 100) == b"abcd"


def test_numbers_of_atoms_models_and_lines_are_limited():
    small = settings(reading={"max_atoms": 39}).reading
    with pytest.raises(UnreadableError, match="more than 39 atoms"):
        parse(TEXT, small)
    with pytest.raises(UnreadableError, match="models"):
        parse(b"MODEL        1\nENDMDL\n" * 30 + TEXT, settings(reading={"max_models": 20}).reading)
    with pytest.raises(UnreadableError, match="a line of more than"):
        parse(TEXT + b"x" * 30000, LIMITS)
    assert longest_line(b"ab\n" * 1000, 10) == 0
    assert longest_line(b"ab\n" * 10 + b"x" * 11 + b"\n", 10) == 11


@pytest.mark.parametrize("ending", ["pdb", "cif", "bcif"])
def test_limits_of_a_file_are_inclusive(tmp_path, monkeypatch, ending):
    data = TEXT if ending == "pdb" else written(tmp_path, ending)
    atoms = 40  # N, CA, C, O of ten residues
    assert len(parse(data, settings(reading={"max_atoms": atoms}).reading).atoms) == atoms
    with pytest.raises(UnreadableError, match=f"more than {atoms - 1} atoms"):
        parse(data, settings(reading={"max_atoms": atoms - 1}).reading)
    for mebibyte, packed in itertools.product((len(data), len(data) - 1), (data, gzip.compress(data, mtime=0))):
        monkeypatch.setattr(reading, "MEBIBYTE", mebibyte)
        if mebibyte == len(data):
            assert len(parse(packed, settings(reading={"max_megabytes": 1}).reading).atoms) == atoms
        else:
            with pytest.raises(UnreadableError, match="more than"):
                parse(packed, settings(reading={"max_megabytes": 1}).reading)


def test_limits_of_models_lines_and_members_are_inclusive(tmp_path, monkeypatch):
    models = b"HEADER\n" + b"".join(b"MODEL %8d\n%bENDMDL\n" % (n, TEXT.replace(b"END\n", b"")) for n in (1, 2, 3))
    assert len(parse(models, settings(reading={"max_models": 3}).reading).atoms) == 40
    with pytest.raises(UnreadableError, match="more than 2 models"):
        parse(models, settings(reading={"max_models": 2}).reading)
    assert longest_line(b"ab\n" + b"x" * 10 + b"\n", 10) == 0 and longest_line(b"ab\n" + b"x" * 10, 10) == 0
    member = tarfile.TarInfo("one.pdb")
    member.size = len(TEXT)
    with tarfile.open(tmp_path / "set.tar", "w") as tar:
        tar.addfile(member, io.BytesIO(TEXT))
    for mebibyte, problem in ((len(TEXT), ""), (len(TEXT) - 1, "more than 1 MiB")):
        monkeypatch.setattr(archives, "MEBIBYTE", mebibyte)
        (item,) = items_of(str(tmp_path / "set.tar"), "0" * 64, settings(reading={"max_megabytes": 1}).reading)
        assert item.problem == problem


def test_binary_file_with_excessive_sizes_is_refused(tmp_path):
    import msgpack

    content = msgpack.unpackb(written(tmp_path, "bcif"))
    content["dataBlocks"][0]["categories"][0]["columns"][0]["data"]["encoding"] = [
        {"kind": "RunLength", "srcSize": 1 << 40}
    ]
    with pytest.raises(UnreadableError, match="claims"):
        parse(msgpack.packb(content), LIMITS)


@pytest.fixture
def archive(tmp_path):
    """A tar archive with two valid, two malicious and one broken member."""
    path = tmp_path / "set.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        contents = {
            "a/one.pdb": TEXT,
            "b/one.pdb.gz": gzip.compress(TEXT, mtime=0),
            "../../evil.pdb": TEXT,
            "bad.cif": b"x",
        }
        for name, data in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        link = tarfile.TarInfo("link.pdb")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    return path


def test_archives_are_read_without_unpacking(archive, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    items = list(items_of(str(archive), "0" * 64, LIMITS))
    assert [item.member for item in items] == ["a/one.pdb", "b/one.pdb.gz", "../../evil.pdb", "bad.cif", "link.pdb"]
    assert sorted(tmp_path.rglob("*")) == before
    outcomes = [clean_item(item, settings()) for item in items]
    assert [len(chains) for chains, _ in outcomes] == [1, 1, 0, 0, 0]
    assert [refused[0].code for _, refused in outcomes[2:]] == ["unreadable"] * 3
    assert "outside" in outcomes[2][1][0].reason


def test_chains_of_an_archive_have_their_own_names(archive, tmp_path):
    from dplm2.structures.store import read_chains

    part = tmp_path / "part-00000.parquet"
    counts = clean_shard(
        [SourceFile(str(archive), 1, "0" * 64)], settings(), "d", part, tmp_path / "rejected.parquet", 0
    )
    table = read_chains(part)
    first, second = table["chain_id"].to_pylist()
    assert first == "one_A"
    assert second.startswith("one_A-")
    assert table["source_file"].to_pylist() == [f"{archive}:a/one.pdb", f"{archive}:b/one.pdb.gz"]
    assert counts.chains + sum(counts.rejects.values()) == 5


def test_members_with_the_same_name_are_distinguished(archive, tmp_path):
    from dplm2.structures.store import read_chains

    other = tmp_path / "other.tar.gz"
    other.write_bytes(archive.read_bytes())
    ids = []
    for order in ([archive, other], [archive, other]):
        part = tmp_path / "part-00000.parquet"
        files = [SourceFile(str(path), 1, "0" * 64) for path in order]
        clean_shard(files, settings(), "d", part, tmp_path / "rejected.parquet", 0)
        ids.append(read_chains(part)["chain_id"].to_pylist())
    assert ids[0] == ids[1]
    assert len(set(ids[0])) == 4
    assert all(name.startswith("one_A") for name in ids[0])


def test_truncated_archive_gives_the_members_before_the_end(archive):
    data = archive.read_bytes()
    plain = gzip.decompress(data)
    archive.write_bytes(gzip.compress(plain[: plain.index(b"../../evil.pdb") + 700], mtime=0))
    items = list(items_of(str(archive), "0" * 64, LIMITS))
    assert [bool(item.problem) for item in items] == [False, False, True, True][: len(items)] or items[-1].problem
    assert len(clean_item(items[0], settings())[0]) == 1
    assert "truncated" in items[-1].problem or "outside" in items[-1].problem


def test_foldcomp_files_and_databases_are_read(corpus_folder, tmp_path):
    foldcomp = pytest.importorskip("foldcomp")
    text = "\n".join(line for line in _alphafold_pdb(corpus_folder)) + "\n"
    packed = foldcomp.compress("AF-V9WDR2-F1-model_v4", text)
    (tmp_path / "one.fcz").write_bytes(packed)
    entry = read_structure(tmp_path / "one.fcz")
    original = parse(text.encode(), LIMITS)
    backbone = np.isin(original.atoms.name, ["N", "CA", "C"])
    ours = entry.atoms.take(np.isin(entry.atoms.name, ["N", "CA", "C"]))
    # Foldcomp is lossy: 0.08 angstrom for backbones in its paper.
    assert np.linalg.norm(ours.coords - original.atoms.coords[backbone], axis=-1).mean() < 0.2
    assert entry.predicted
    database = tmp_path / "afdb"
    records = [packed + b"\0", b"FCMPbroken\0", packed + b"\0"]
    starts = np.cumsum([0, *map(len, records)])
    database.write_bytes(b"".join(records))
    index = [f"{i}\t{start}\t{len(record)}\n" for i, (start, record) in enumerate(zip(starts, records, strict=False))]
    (tmp_path / "afdb.index").write_text("".join(index) + f"3\t{starts[-1]}\t50\n")
    (tmp_path / "afdb.lookup").write_text("".join(f"{i}\tAF-{i}-F1\t0\n" for i in range(4)))
    (tmp_path / "afdb.dbtype").write_bytes(b"\0\0\0\0")
    items = list(items_of(str(database), "0" * 64, LIMITS))
    assert [item.member for item in items] == [f"AF-{i}-F1" for i in range(4)]
    assert items[3].problem
    chains, refused = clean_item(items[2], settings())
    assert (len(chains[0]), refused) == (152, [])
    assert chains[0].plddt.mean() == pytest.approx(original.atoms.b_factor[original.atoms.name == "CA"].mean(), abs=1)


def test_a_record_of_a_database_is_read_up_to_the_limit(tmp_path):
    most = 1 << 20
    database = tmp_path / "afdb"
    database.write_bytes(bytes(2 * most + 1))
    (tmp_path / "afdb.index").write_text(f"0\t0\t{most}\n1\t{most}\t{most + 1}\n2\t{most}\t{most + 2}\n")
    (tmp_path / "afdb.dbtype").write_bytes(b"\0\0\0\0")
    at, above, outside = items_of(str(database), "0" * 64, settings(reading={"max_megabytes": 1}).reading)
    assert len(at.content) == most and not at.problem
    assert (above.content, above.problem) == (None, "more than 1 MiB")
    assert outside.problem == "its offset in the database is outside the file"


def _alphafold_pdb(corpus_folder) -> list[str]:
    atoms = load_structure(corpus_folder / "raw" / "AF-V9WDR2-F1-model_v4.cif", extra_fields=["b_factor", "occupancy"])
    file = PDBFile()
    file.set_structure(atoms)
    return [line for line in file.lines if line.startswith("ATOM")]
