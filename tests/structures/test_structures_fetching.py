"""Downloads from a local server that fails in all common ways."""

import concurrent.futures
import contextlib
import gzip
import hashlib
import json
import shutil
import socket
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote, unquote

import pyarrow.parquet as pq
import pytest

from dplm2 import cli
from dplm2.core.errors import ConfigError, DPLM2Error
from dplm2.generation.contigs import read_problems
from dplm2.settings.dataset import DatasetSettings
from dplm2.settings.loading import load
from dplm2.structures import fetching
from dplm2.structures.fetching import fetch, write_rejected
from dplm2.structures.manifest import SourceFile, read_manifest
from dplm2.structures.sites import RefusedError, Sites
from dplm2.structures.store import read_rejected
from dplm2.structures.targets import FetchSource, list_targets, read_targets
from tests.structures.made import chain

BODY = gzip.compress("\n".join(chain("ACDEFGHIKL") * 5).encode())


class Unruly(BaseHTTPRequestHandler):
    """The path determines the failure; ``/once/...`` fails only on the first request of a path."""

    requests: Counter = Counter()

    def do_GET(self):  # noqa: N802
        self.requests[self.path] += 1
        _, *parts = self.path.split("/")
        if parts[0] == "once":
            parts = parts[1:] if self.requests[self.path] == 1 else ["good"]
        getattr(self, f"answer_{parts[0].split('.')[0]}", self.answer_404)()

    def _send(self, body=BODY, status=200, announced=None, **headers):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if announced is None else announced))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def answer_good(self):
        self._send()

    def answer_404(self):
        self._send(b"no such entry", 404)

    def answer_429(self):
        self._send(b"slowly", 429, Retry_After="0")

    def answer_500(self):
        self._send(b"broken", 500)

    def answer_drop(self):
        self.close_connection = True
        self.connection.close()

    def answer_truncate(self):
        self._send(BODY[:100], announced=len(BODY))
        self.close_connection = True

    def answer_short(self):
        self._send(BODY, announced=100)
        self.close_connection = True

    def answer_page(self):
        self._send(b"<html>maintenance</html>")

    def answer_models(self):
        host = f"http://{self.headers['Host']}"
        version = "-model_v6" if "P00001" in self.path else ""
        models = [] if "Q00000" in self.path else [{"cifUrl": f"{host}/good/AF{version}.cif.gz"}]
        self._send(json.dumps(models).encode())

    def answer_to(self):
        """Redirect to the URL in the query, with the status at the end of the path."""
        path, _, address = self.path.partition("?")
        self._send(b"", int(path.rsplit("/", 1)[-1][:3]), Location=unquote(address))

    def answer_says(self):
        """AlphaFold DB's response with the URL set by the test."""
        self._send(json.dumps([{"cifUrl": self.says}]).encode())

    def log_message(self, *arguments):
        pass


@contextlib.contextmanager
def running():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Unruly)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def server():
    Unruly.requests = Counter()
    with running() as address:
        yield address


@pytest.fixture
def another():
    """A second server on another port of the loopback address, like another service of this machine."""
    with running() as address:
        yield address


def source(server, **more) -> FetchSource:
    addresses = {"pdb_address": f"{server}/good/{{id}}.pdb.gz", "alphafold_address": f"{server}/models/{{id}}"}
    return FetchSource(**addresses, first_wait=0.01, timeout=2, tries=3, **more)


def run(server, tmp_path, lines, **more):
    (tmp_path / "list.txt").write_text("\n".join(lines) + "\n")
    own = source(server, **more)
    outcome = fetch(read_targets(tmp_path / "list.txt", own), tmp_path / "out", own)
    write_rejected(tmp_path / "out", outcome)
    return outcome


def files(tmp_path) -> set[str]:
    own = {"downloads.tsv", ".downloads.tsv.lock", "rejected.parquet"}
    return {path.name for path in (tmp_path / "out").iterdir()} - own


def test_ids_accessions_and_urls_are_downloaded(server, tmp_path):
    outcome = run(server, tmp_path, ["# a list", "1ABC", "P12345 # one", f"{server}/good/x.pdb.gz?a=1", ""])
    assert (outcome.fetched, outcome.rejects) == (3, [])
    assert files(tmp_path) == {"1abc.pdb.gz", "AF-P12345-F1.cif.gz", "x.pdb.gz"}
    rows = [line.split("\t") for line in (tmp_path / "out/downloads.tsv").read_text().splitlines()]
    assert rows[0] == ["name", "file", "size", "sha256", "address"]
    digest = hashlib.sha256(BODY).hexdigest()
    assert {tuple(row[2:4]) for row in rows[1:]} == {(str(len(BODY)), digest)}


@pytest.mark.parametrize("trouble", ["429", "500", "drop", "truncate", "short", "page"])
def test_temporary_failures_are_retried(server, tmp_path, trouble):
    outcome = run(server, tmp_path, [f"{server}/once/{trouble}/x.pdb.gz"])
    assert (outcome.fetched, outcome.rejects) == (1, [])
    assert (tmp_path / "out/x.pdb.gz").read_bytes() == BODY
    assert Unruly.requests[f"/once/{trouble}/x.pdb.gz"] == 2


@pytest.mark.parametrize(
    ("trouble", "reason", "tries"),
    [
        ("404", "status 404", 1),
        ("429", r"status 429 \(3 attempts\)", 3),
        ("500", r"status 500 \(3 attempts\)", 3),
        ("drop", "no connection|connection broke", 3),
        ("truncate", "bytes instead of|connection broke", 3),
        ("short", "not a valid structure", 3),
        ("page", "not a valid structure file: a web page", 3),
    ],
)
def test_permanent_failures_are_rejected_without_a_file(server, tmp_path, trouble, reason, tries):
    outcome = run(server, tmp_path, [f"{server}/{trouble}/x.pdb.gz", "1abc"])
    assert outcome.fetched == 1
    assert files(tmp_path) == {"1abc.pdb.gz"}
    assert Unruly.requests[f"/{trouble}/x.pdb.gz"] == tries
    reject = read_rejected(tmp_path / "out").to_pylist()[0]
    assert reject["code"] == "not_fetched"
    assert reject["chain"] == f"{server}/{trouble}/x.pdb.gz"
    import re

    assert re.search(reason, reject["reason"]), reject["reason"]


def test_only_damaged_files_are_downloaded_again(server, tmp_path):
    names = [f"{i}abc" for i in range(1, 9)]
    run(server, tmp_path, names)
    (tmp_path / "out/1abc.pdb.gz").write_bytes(b"harmed")
    (tmp_path / "out/2abc.pdb.gz").unlink()
    outcome = run(server, tmp_path, names)
    assert (outcome.fetched, outcome.present) == (2, 6)
    assert sum(Unruly.requests.values()) == 10


def test_model_missing_in_alphafold_db_is_rejected(server, tmp_path):
    outcome = run(server, tmp_path, ["Q00000"])
    assert [reject.reason for reject in outcome.rejects] == ["AlphaFold DB lists no file for it"]


def test_chains_of_an_entry_are_one_download(server, tmp_path):
    outcome = run(server, tmp_path, ["1abc_A", "1ABC_BB", "1abc:C", "1abc", "pdb_00002abc_A"])
    assert (outcome.fetched, files(tmp_path)) == (2, {"1abc.pdb.gz", "pdb_00002abc.pdb.gz"})
    assert run(server, tmp_path, ["1abc_D", "pdb_00002abc"]).present == 2


def test_lists_of_the_test_sets_are_read():
    folder = Path(__file__).parents[2] / "config/test_sets"
    counts = {path.name: len(read_targets(path, FetchSource())) for path in folder.iterdir()}
    assert counts == {"cameo2022.txt": 182, "pdb_date.txt": 449}


def test_one_command_downloads_all_inputs_of_the_benchmarks(server, tmp_path, capsys, monkeypatch):
    """Folders and names are those of config/benchmark.yaml and config/motifs; a second run verifies existing files."""
    root = Path(__file__).parents[2]
    for name, lines in (("cameo2022", ["7dz2_C", "7eoz_A"]), ("pdb_date", ["7ygk"])):
        (tmp_path / "config/test_sets").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"config/test_sets/{name}.txt").write_text("# of the paper\n" + "\n".join(lines) + "\n")
    shutil.copytree(root / "config/motifs", tmp_path / "config/motifs")
    (tmp_path / "benchmarks").mkdir()  # as in a checkout, whose folder of this name is no list
    monkeypatch.chdir(tmp_path)
    call = ["structures", "fetch", "benchmarks", "--out", "benchmark"]
    call += ["--set", f"fetch.pdb_address={server}/good/{{id}}.bcif.gz"]
    assert cli.main(call) == 0
    printed = capsys.readouterr().out
    assert "benchmark/cameo2022: 2 downloaded" in printed and "benchmark/pdb_date: 1 downloaded" in printed
    problems = read_problems(["config/motifs"], "benchmark/motifs")
    assert len(problems) == 24 and all(problem.reference.is_file() for problem in problems)
    settings = load(root / "config/benchmark.yaml")
    named = {Path(dataset.files) for dataset in settings.datasets.values()}
    assert named == {Path("benchmark/cameo2022"), Path("benchmark/pdb_date")}
    assert Path(settings.generation["scaffolding"].references) == Path("benchmark/motifs")
    (tmp_path / "benchmark/motifs/1bcf.bcif.gz").write_bytes(b"harmed")
    assert cli.main(call) == 0
    assert "benchmark/motifs: 1 downloaded, 15 already present, 0 failed" in capsys.readouterr().out


def test_benchmark_downloads_require_a_checkout(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["structures", "fetch", "benchmarks", "--out", "x"]) == 2
    assert "run it in a checkout" in capsys.readouterr().err


def test_named_model_version_is_downloaded(server, tmp_path):
    outcome = run(server, tmp_path, ["AF-P00001-F1-model_v4", "AF-P00001-F1", "AF-P00001-F1-model_v5.cif.gz"])
    assert outcome.rejects == []
    assert files(tmp_path) == {f"AF-P00001-F1{version}.cif.gz" for version in ("", "-model_v4", "-model_v5")}
    rows = (tmp_path / "out/downloads.tsv").read_text().splitlines()[1:]
    assert {row.rsplit("AF-model_v")[-1] for row in rows} == {"4.cif.gz", "5.cif.gz", "6.cif.gz"}
    assert run(server, tmp_path, ["AF-P00001-F1-model_v4", "P00001"]).present == 2


def test_version_missing_in_the_address_is_an_error(server, tmp_path):
    outcome = run(server, tmp_path, ["AF-P12345-F1-model_v4"])
    assert "names no version" in outcome.rejects[0].reason


def test_file_names_are_unique_and_inside_the_folder(server, tmp_path):
    lines = [f"{server}/good/..%2F..%2Fevil.pdb", f"{server}/good/a/x.pdb", f"{server}/good/b/x.pdb"]
    assert run(server, tmp_path, lines).fetched == 3
    first, second = (f"x-{hashlib.sha256(line.encode()).hexdigest()[:6]}.pdb" for line in lines[1:])
    assert files(tmp_path) == {"evil.pdb", first, second}
    assert {path.name for path in tmp_path.iterdir()} == {"list.txt", "out"}
    # Names do not depend on the order of the list: nothing is downloaded again or overwritten.
    outcome = run(server, tmp_path, [lines[2], lines[0], lines[1]])
    assert (outcome.fetched, outcome.present) == (0, 3)


def test_file_above_the_size_limit_is_refused(server, tmp_path, monkeypatch):
    for name in ("at", "above"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(fetching, "MEBIBYTE", len(BODY))
    assert run(server, tmp_path / "at", ["1abc"], max_megabytes=1).fetched == 1
    monkeypatch.setattr(fetching, "MEBIBYTE", len(BODY) - 1)
    outcome = run(server, tmp_path / "above", ["1abc"], max_megabytes=1)
    assert outcome.rejects[0].reason == "more than 1 MiB"


def test_invalid_list_is_named(tmp_path):
    (tmp_path / "list").write_text("1abc\nnot-an-id\n")
    with pytest.raises(ConfigError, match="line 2: 'not-an-id' is not a PDB id"):
        read_targets(tmp_path / "list", FetchSource())
    (tmp_path / "list").write_text("# nothing\n")
    with pytest.raises(DPLM2Error, match="an empty list"):
        read_targets(tmp_path / "list", FetchSource())


def test_command_exits_with_1_after_failed_downloads(server, tmp_path, capsys):
    (tmp_path / "list").write_text(f"1abc\n{server}/404/x\n")
    call = ["structures", "fetch", str(tmp_path / "list"), "--out", str(tmp_path / "out")]
    call += ["--set", "fetch.first_wait=0.01", f"fetch.pdb_address={server}/good/{{id}}.pdb.gz"]
    assert cli.main(call) == 1
    printed = capsys.readouterr()
    assert "1 downloaded, 0 already present, 1 failed" in printed.out
    assert "status 404" in printed.err
    assert cli.main([*call, "--set", "fetch.allow_missing=true"]) == 0


def test_configuration_and_command_have_the_same_defaults():
    fetch = DatasetSettings.make(fetch={"list": "x"}).fetch
    assert {key: getattr(fetch, key) for key in vars(FetchSource())} == vars(FetchSource())


def test_new_entry_changes_one_shard(tmp_path):
    ids = [f"{i}{a}{b}c" for i in range(1, 6) for a in "abcd" for b in "xyz"]
    (tmp_path / "list").write_text("\n".join(ids))
    paths = list_targets(str(tmp_path / "list"), tmp_path / "lists", 4, FetchSource()).write()
    before = {path: (path.read_text(), path.stat().st_mtime_ns) for path in paths}
    assert sorted("".join(text for text, _ in before.values()).split()) == ids
    (tmp_path / "list").write_text("\n".join(["P12345", *reversed(ids)]))
    list_targets(str(tmp_path / "list"), tmp_path / "lists", 4, FetchSource()).write()
    changed = [path for path in paths if (path.read_text(), path.stat().st_mtime_ns) != before[path]]
    assert len(changed) == 1
    assert "P12345" in changed[0].read_text()


def test_urls_with_the_same_file_name_share_a_shard(tmp_path):
    lines = [f"http://here/{i}/model.pdb" for i in range(8)]
    (tmp_path / "list").write_text("\n".join(lines))
    paths = list_targets(str(tmp_path / "list"), tmp_path / "lists", 16, FetchSource()).write()
    assert sorted(len(path.read_text().split()) for path in paths) == [0] * 15 + [8]
    shard = next(path for path in paths if path.read_text())
    assert {t.file for t in read_targets(shard, FetchSource())} == {
        t.file for t in read_targets(tmp_path / "list", FetchSource())
    }


def test_manifest_lists_downloads_and_failures(server, tmp_path, capsys):
    lines = ["1abc", f"{server}/404/x.pdb", "P12345"]
    (tmp_path / "list").write_text("\n".join(lines) + "\n")
    out, manifest = tmp_path / "out", tmp_path / "part-00000.tsv"
    call = ["structures", "fetch", str(tmp_path / "list"), "--out", str(out), "--manifest", str(manifest)]
    call += ["--set", f"fetch.pdb_address={server}/good/{{id}}.pdb.gz"]
    call += ["--set", f"fetch.alphafold_address={server}/models/{{id}}"]
    assert cli.main([*call, "--set", "fetch.allow_missing=true"]) == 0
    digest = hashlib.sha256(BODY).hexdigest()
    assert read_manifest(manifest) == [
        SourceFile(str(out / "1abc.pdb.gz"), len(BODY), digest),
        SourceFile(str(out / "AF-P12345-F1.cif.gz"), len(BODY), digest),
        SourceFile(f"{server}/404/x.pdb", 0, "", "status 404"),
    ]
    assert cli.main(["structures", "clean", "--manifest", str(manifest), "--out", str(tmp_path / "d")]) == 0
    rejects = pq.read_table(tmp_path / "d/shards/rejected-00000.parquet").to_pylist()
    missing = [row for row in rejects if row["code"] == "not_fetched"]
    assert [(row["source_file"], row["reason"]) for row in missing] == [(f"{server}/404/x.pdb", "status 404")]
    assert pq.read_table(tmp_path / "d/part-00000.parquet").num_rows + len(rejects) == 3


def test_concurrent_downloads_share_the_record(server, tmp_path):
    """Each writes its own rows without losing the other's."""
    own = source(server)
    for part in range(2):
        (tmp_path / f"list{part}").write_text("\n".join(f"{i}{'ab'[part]}bc" for i in range(1, 10)))
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda part: fetch(read_targets(tmp_path / f"list{part}", own), tmp_path / "out", own), range(2)))
    # A later run finds all of them with any number of shards.
    (tmp_path / "all").write_text((tmp_path / "list0").read_text() + "\n" + (tmp_path / "list1").read_text())
    outcome = fetch(read_targets(tmp_path / "all", own), tmp_path / "out", own)
    assert (outcome.fetched, outcome.present) == (0, 18)


# Addresses that a server names ----------------------------------------------------------------------------------------


def redirect(server, address, status=302):
    return f"{server}/to/{status}.pdb?{quote(address, safe='')}"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_within_a_site_are_followed(server, tmp_path, status):
    outcome = run(server, tmp_path, [redirect(server, f"{server}/good/x.pdb", status), redirect(server, "/good/y")])
    assert (outcome.fetched, outcome.rejects) == (2, [])


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("file:///etc/passwd", "not a plain http or https address"),
        ("ftp://127.0.0.1/x", "not a plain http or https address"),
        ("data:text/plain,x", "not a plain http or https address"),
        ("//user@evil.example.org/x", "not a plain http or https address"),
        ("http://localhost/x", "a loopback or private address"),
        ("http://127.0.0.1:1/x", "a loopback or private address"),
        ("http://127.1.2.3/x", "a loopback or private address"),
        ("http://[::1]/x", "a loopback or private address"),
        ("http://[::ffff:127.0.0.1]/x", "a loopback or private address"),
        ("http://10.0.0.1/x", "a loopback or private address"),
        ("http://192.168.1.1/x", "a loopback or private address"),
        ("http://169.254.169.254/latest/meta-data", "a loopback or private address"),
        ("http://0.0.0.0/x", "a loopback or private address"),
        ("http://evil.example.org/x", "on another site; to allow it, add the line 'https://evil.example.org'"),
        ("http://2130706433/x", "on another site"),
        ("http://rcsb.org.example.org/x", "on another site"),
    ],
)
def test_redirects_elsewhere_are_refused(server, tmp_path, address, reason, status):
    line = redirect(server, address, status)
    outcome = run(server, tmp_path, [line, "1abc"])
    assert outcome.fetched == 1 and files(tmp_path) == {"1abc.pdb.gz"}
    (reject,) = outcome.rejects
    assert reason in reject.reason and "\n" not in reject.reason
    assert sum(Unruly.requests.values()) == 2  # and not tried again


def test_local_services_are_reached_only_if_listed(server, another, tmp_path):
    line = redirect(server, f"{another}/good/x.pdb")
    (reject,) = run(server, tmp_path, [line]).rejects
    assert "loopback" in reject.reason
    assert Unruly.requests["/good/x.pdb"] == 0
    assert run(server, tmp_path, [line, f"{another}/good/y.pdb"]).rejects == []
    (tmp_path / "list").write_text(f"{another}\n{line}\n")
    call = ["structures", "fetch", str(tmp_path / "list"), "--out", str(tmp_path / "o")]
    call += ["--set", "fetch.first_wait=0.01"]
    assert cli.main(call) == 0
    (tmp_path / "list").write_text(f"{line}\n")
    assert cli.main([*call[:-3], str(tmp_path / "o2"), *call[-2:]]) == 1


def test_chained_redirects_are_checked(server, another, tmp_path):
    once = redirect(server, redirect(server, f"{server}/good/x.pdb"))
    elsewhere = redirect(server, redirect(server, f"{another}/good/x.pdb"))
    outcome = run(server, tmp_path, [once, elsewhere])
    assert outcome.fetched == 1 and "loopback" in outcome.rejects[0].reason


@pytest.mark.parametrize(
    ("says", "reason"),
    [
        ("file:///etc/passwd", "not a plain http or https address"),
        ("http://10.0.0.1/x.cif", "a loopback or private address"),
        ("{another}/good/x.cif", "a loopback or private address"),
        ("https://evil.example.org/x.cif", "on another site"),
        ("http://x\r\nHost: y/x.cif", "not a plain http or https address"),
        (["a", "list"], "not a plain http or https address"),
        ("{server}/good/x.cif", None),
    ],
)
def test_urls_from_alphafold_db_are_checked(server, another, tmp_path, says, reason):
    Unruly.says = says.format(server=server, another=another) if isinstance(says, str) else says
    (tmp_path / "list").write_text("P12345\n")
    own = FetchSource(alphafold_address=f"{server}/says/{{id}}", first_wait=0.01, timeout=2, tries=3)
    outcome = fetch(read_targets(tmp_path / "list", own), tmp_path / "out", own)
    if reason is None:
        assert (outcome.fetched, outcome.rejects) == (1, [])
    else:
        assert reason in outcome.rejects[0].reason and sum(Unruly.requests.values()) == 1


def test_public_name_resolving_to_this_machine_is_refused(server, tmp_path, monkeypatch):
    """The name is part of a listed site, but must not resolve to an address of this network."""
    port = int(server.rsplit(":", 1)[1])
    resolve = socket.getaddrinfo
    local = {"mirror.example.org", "inner.mirror.example.org"}

    def resolved(host, *others, **more):
        return resolve("127.0.0.1" if host in local else host, *others, **more)

    monkeypatch.setattr(socket, "getaddrinfo", resolved)
    named = f"http://mirror.example.org:{port}"
    lines = [redirect(named, f"http://inner.mirror.example.org:{port}/good/x.pdb"), f"{named}/good/y.pdb"]
    outcome = run(server, tmp_path, lines)
    assert outcome.fetched == 1  # what the list itself names is fetched, wherever it lies
    assert "(127.0.0.1), a loopback or private address" in outcome.rejects[0].reason
    assert Unruly.requests["/good/x.pdb"] == 0


def test_sites_of_urls():
    sites = Sites.of(["https://models.rcsb.org/{id}", "http://lab.example.org/x", "http://10.1.1.1:8080/x"])
    for address in (
        "https://files.rcsb.org/x", "https://alphafold.ebi.ac.uk/files/x", "https://lab.example.org/y",
        "http://www.lab.example.org", "https://cdn.lab.example.org/y", "http://10.1.1.1:8080/y",
        "https://lab.example.org:8443/y",
    ):  # fmt: skip
        sites.check(address, "https://models.rcsb.org/1abc")
    for address in (
        "https://evil.org/x", "https://xlab.example.org/y", "http://10.1.1.1/y", "http://10.1.1.2:8080/y",
        "https://models.rcsb.org@evil.org/x", "https://other.org/?lab.example.org", "javascript:x", "", "http://",
        "http://[bad/x", "http://lab.example.org:x/", "http://org/x", "https://evil.org\\@models.rcsb.org/",
    ):  # fmt: skip
        with pytest.raises(RefusedError):
            sites.check(address, "https://models.rcsb.org/1abc")
