"""Repositories of the hub: found, pinned, downloaded, resumed, refused, with a local server of the hub's protocol."""

import hashlib
import json
import subprocess
import sys

import numpy as np
import pytest

from dplm2.core import hub as hub_module
from dplm2.core.hub import Repository, split_id, wanted_files
from dplm2.core.text import readable_size
from tests import hub as local

NAME = "someone/weights"
WEIGHTS = np.random.default_rng(0).bytes(50_000)
FILES = {
    "README.md": b"# A model",
    "config.json": b'{"theirs": true}',
    ".hydra/config.yaml": b"codes: 8192\n",
    "model.safetensors": WEIGHTS,
    "pytorch_model.bin": b"the same weights again",
    "old/last.ckpt": b"a backup",
}
# A conversion in miniature: the weights' digest under another name.
CLIENT = """
import hashlib, json, sys
from pathlib import Path
from dplm2.core.artifacts import RunRecord
from dplm2.core.errors import DPLM2Error
from dplm2.core.folders import Conversion, local_folder

def convert(downloaded, folder, licence, origin):
    assert (downloaded / ".hydra/config.yaml").is_file()
    digest = hashlib.sha256((downloaded / "model.safetensors").read_bytes()).hexdigest()
    (folder / "digest").write_text(digest)
    RunRecord("import model", {}, {}).write(folder)

def applies(folder):
    return "theirs" in json.loads((folder / "config.json").read_text())

try:
    print(local_folder(sys.argv[1], Conversion("model", applies, convert)))
except DPLM2Error as error:
    sys.exit(f"dplm2: {error}")
"""


@pytest.fixture
def server():
    with local.running_hub() as running:
        running.repositories[NAME] = local.Repository(FILES)
        yield running


@pytest.fixture
def opened(server, tmp_path):
    """Runs a client with its caches in ``tmp_path``; returns the folder and the client's output."""

    def run(source=NAME, fails=False, before="", **options):
        finished = server.run(tmp_path / "home", "-c", before + CLIENT, source, **options)
        assert (finished.returncode != 0) == fails, finished.stderr
        return tmp_path / finished.stdout.strip(), finished.stderr

    return run


def digest_in(folder):
    return (folder / "digest").read_text()


def test_first_use_downloads_and_converts_and_later_uses_reuse_it(server, opened):
    folder, said = opened()
    commit = server.repositories[NAME].head
    assert digest_in(folder) == hashlib.sha256(WEIGHTS).hexdigest()
    assert json.loads((folder / "run.json").read_text())["hub"] == {NAME: commit}
    assert f"{NAME}, commit {commit[:12]}: 3 files to download, 50.0 kB; licence: apache-2.0" in said
    wanted = {".hydra/config.yaml", "config.json", "model.safetensors"}
    assert {path.split("/resolve/")[1].split("/", 1)[1] for path in server.requests if "HEAD" in path} == wanted
    assert len(server.downloads) == 3
    again, said = opened()
    assert again == folder and said == "" and len(server.downloads) == 3
    server.stop()
    offline, said = opened(offline=True)
    assert offline == folder and said == ""
    pinned, said = opened(f"{NAME}@{commit}")
    assert pinned == folder and said == ""
    unreachable, said = opened()
    assert unreachable == folder and f"using commit {commit[:12]} of the last time" in said


def test_new_commit_gets_a_new_folder_and_pinned_one_is_kept(server, opened):
    first, _ = opened()
    before = server.repositories[NAME].head
    after = server.repositories[NAME].commit({**FILES, "model.safetensors": WEIGHTS[::-1]})
    second, said = opened()
    assert digest_in(second) == hashlib.sha256(WEIGHTS[::-1]).hexdigest() and after[:12] in said
    assert len(server.downloads) == 4  # the other files are the same
    assert digest_in(first) == hashlib.sha256(WEIGHTS).hexdigest()
    assert opened(f"{NAME}@{before}")[0] == first
    assert opened(offline=True)[0] == second
    assert json.loads((second / "run.json").read_text())["hub"] == {NAME: after}


def test_interrupted_download_resumes_at_the_same_byte(server, opened):
    server.cuts["model.safetensors"] = 2
    small_pieces = "from huggingface_hub import constants\nconstants.DOWNLOAD_CHUNK_SIZE = 1000\n"
    folder, said = opened(before=small_pieces)
    assert digest_in(folder) == hashlib.sha256(WEIGHTS).hexdigest()
    ranges = [int(path.split("bytes=")[1].rstrip("-")) for path in server.downloads if "bytes=" in path]
    assert ranges == [25_000, 37_000]  # in whole pieces of what arrived
    assert "resume" in said


def test_failed_download_leaves_no_folder_and_resumes_later(server, opened, tmp_path):
    server.cuts["model.safetensors"] = 1000
    impatient = "import time\ntime.sleep = lambda seconds: None\n"
    _, said = opened(fails=True, before=impatient)
    last = said.strip().splitlines()[-1]
    assert last.startswith(f"dplm2: {NAME}: the download of model.safetensors did not come to its end (")
    assert not list((tmp_path / "home").rglob("digest")) and not list((tmp_path / "home").rglob("*unfinished*"))
    server.cuts.clear()
    before = len(server.downloads)
    folder, said = opened()
    assert digest_in(folder) == hashlib.sha256(WEIGHTS).hexdigest()
    assert "1 file to download, 50.0 kB" in said and len(server.downloads) == before + 1


def test_killed_conversion_is_repeated(server, opened, tmp_path):
    killed = "import os\nfrom pathlib import Path\nPath.write_text = lambda *_: os._exit(9)\n"
    # Patched after huggingface_hub has read its settings, so that the first text written is the conversion's.
    _, _ = opened(
        fails=True, before="import dplm2.core.folders, huggingface_hub\n" + killed.replace("Path.", "Path.", 1)
    )
    folder, _ = opened()
    assert digest_in(folder) == hashlib.sha256(WEIGHTS).hexdigest()
    assert not list((tmp_path / "home").rglob("*unfinished*"))


def test_two_processes_download_once(server, tmp_path):
    command = [sys.executable, "-c", CLIENT, NAME]
    options = {"env": server.environment(tmp_path / "home"), "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    both = [subprocess.Popen(command, text=True, **options) for _ in range(2)]
    told = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    assert told[0][0] == told[1][0] and len(server.downloads) == 3
    assert sum("converting it once" in said for _, said in told) == 1


@pytest.mark.parametrize(
    ("source", "offline", "message"),
    [
        ("someone/else", False, "no such folder, and no such repository at http"),
        (f"{NAME}@old", False, "has no revision old"),
        (NAME, True, "no such folder, and no such repository in the cache, and HF_HUB_OFFLINE forbids a download"),
        ("weights", False, "weights: no such folder"),
        ("./someone/weights", False, "no such folder"),
        (
            "airkingbd/struct_tokenizer",
            False,
            "a tokenizer (structure tokenizer of DPLM-2 and DPLM-2 Bit), but a model",
        ),
    ],
)
def test_missing_repository_raises_a_one_line_error(opened, source, offline, message):
    _, said = opened(source, offline=offline, fails=True)
    assert message in said and len(said.strip().splitlines()) == 1


def test_missing_files_and_denied_access_are_named(server, opened):
    repository = server.repositories[NAME]
    repository.vanished.add("model.safetensors")
    assert "model.safetensors is missing in the repository" in opened(fails=True)[1]
    repository.vanished.clear()
    repository.gated = True
    _, said = opened(fails=True)
    assert f"access has to be granted first; accept the conditions at {server.address}/{NAME}" in said
    server.repositories["someone/text"] = local.Repository({"README.md": b"", "data.csv": b"1"})
    assert (
        "no file of weights in this hub repository; its files: README.md, data.csv"
        in opened("someone/text", fails=True)[1]
    )
    server.broken = True
    assert "does not say what it holds" in opened("someone/text", fails=True)[1]


def test_missing_licence_is_reported_as_unknown(server, opened):
    server.repositories[NAME].licence = None
    assert "licence: unknown (the repository names none)" in opened()[1]


def test_repository_in_our_layout_is_not_converted(server, opened):
    server.repositories["someone/ours"] = local.Repository({**FILES, "config.json": b"{}"})
    folder, said = opened("someone/ours")
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS and "converting" not in said
    server.stop()
    assert opened("someone/ours", offline=True)[0] == folder


def test_files_downloaded_by_other_programs_are_found_offline(server, opened, tmp_path):
    fetch = (
        f"from huggingface_hub import hf_hub_download\nfor file in {sorted(FILES)!r}: hf_hub_download({NAME!r}, file)"
    )
    assert server.run(tmp_path / "home", "-c", fetch, NAME, *FILES).returncode == 0
    server.stop()
    folder, _ = opened(offline=True)
    assert digest_in(folder) == hashlib.sha256(WEIGHTS).hexdigest()


def test_cache_folder_can_be_configured(opened, tmp_path, monkeypatch):
    elsewhere = f"import os\nos.environ['DPLM2_CACHE'] = {str(tmp_path / 'own')!r}\n"
    folder, _ = opened(before=elsewhere)
    assert folder.parent == tmp_path / "own" / "someone--weights"


def test_only_one_weights_format_is_downloaded():
    files = {"a.safetensors": 1, "b.safetensors": 2, "pytorch_model.bin": 3, "vocab.txt": 4, "x/c.json": 5, "e.h5": 6}
    assert list(wanted_files(files)) == ["a.safetensors", "b.safetensors", "vocab.txt"]
    assert list(wanted_files({"last.ckpt": 1, ".hydra/config.yaml": 2})) == [".hydra/config.yaml", "last.ckpt"]
    assert wanted_files({"config.json": 1}) == {}


def test_hub_ids_and_sizes_are_parsed():
    assert split_id("a/b") == ("a/b", "main") and split_id("a/b@refs/pr/1") == ("a/b", "refs/pr/1")
    for text in ("a", "a/b/c", "/a/b", "./a", "../a/b", "~/a", "a/b@", "a b/c"):
        assert split_id(text) is None, text
    assert [readable_size(size) for size in (12, 1234, 2_693_600_000)] == ["12 bytes", "1.2 kB", "2.7 GB"]
    whole = Repository("a/b", "0" * 40, {"x": None}, None)
    assert "of unknown size" in hub_module._announced(whole, ["x"])
