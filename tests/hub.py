"""A local server of the hub's protocol, as used by huggingface_hub, and its clients.

Responses follow the hub: metadata of a repository at a revision with the sizes of all files; files by commit, with
``X-Repo-Commit`` and ``ETag``, large ones by a redirect with ``X-Linked-Size`` and ``X-Linked-ETag``; parts of files by
``Range``; errors with ``X-Error-Code``.
"""

import hashlib
import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import torch
import yaml
from safetensors.torch import load_file

ROOT = Path(__file__).parents[1]
LARGE = 1000  # bytes; larger files are redirected
_OF_THE_MACHINE = ("HF_TOKEN", "HF_HUB_CACHE", "TRANSFORMERS_OFFLINE", "DPLM2_CACHE", "HTTP_PROXY", "http_proxy")


MODEL, BIT, TOKENIZER = "airkingbd/dplm2_650m", "airkingbd/dplm2_bit_650m", "airkingbd/struct_tokenizer"


def official_files(recorded: Callable[[str], Path]) -> dict[str, dict[str, bytes]]:
    """The files of the authors' repositories in their layout, with the recorded tiny weights."""
    meta = json.loads(recorded("structok_tiny/meta.json").read_text())
    described = yaml.safe_dump({**meta["config"], "if1_args": meta["if1_args"]})
    checkpoint = io.BytesIO()
    torch.save(load_file(recorded("structok_tiny/weights.safetensors")), checkpoint)
    files = {TOKENIZER: {"config.yaml": described.encode(), "dplm2_struct_tokenizer.ckpt": checkpoint.getvalue()}}
    for name, network in ((MODEL, "lm_tiny"), (BIT, "lm_bit_tiny")):
        files[name] = {
            "config.json": recorded(f"{network}/config.json").read_bytes(),
            "model.safetensors": recorded(f"{network}/weights.safetensors").read_bytes(),
        }
    return files


class Repository:
    """A repository: its commits in order, the last of which is ``main``."""

    def __init__(self, files: dict[str, bytes], licence: str | None = "apache-2.0") -> None:
        self.commits: dict[str, dict[str, bytes]] = {}
        self.licence, self.gated, self.vanished = licence, False, set()
        self.commit(files)

    def commit(self, files: dict[str, bytes]) -> str:
        """Add a commit; returns its hash."""
        content = json.dumps([len(self.commits), sorted((name, _sha256(data)) for name, data in files.items())])
        name = hashlib.sha1(content.encode()).hexdigest()
        self.commits[name] = dict(files)
        return name

    @property
    def head(self) -> str:
        """The last commit."""
        return list(self.commits)[-1]


class Hub:
    """The server.

    Attributes
    ----------
    repositories
        By ``owner/name`` (of datasets: ``datasets/owner/name``).
    requests
        ``METHOD path`` of all requests so far, with the requested range, if any.
    cuts
        Number of interruptions in the middle of a file's transfer, by name.
    broken
        Whether every request fails with a server error.
    """

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.requests: list[str] = []
        self.cuts: dict[str, int] = {}
        self.broken = False
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        """Close the port; may be called twice."""
        self._server.shutdown()
        self._server.server_close()

    @property
    def downloads(self) -> list[str]:
        """The requests for the content of files."""
        return [request for request in self.requests if request.startswith("GET") and "/api/" not in request]

    def environment(self, home: Path, offline: bool = False) -> dict[str, str]:
        """Environment variables of a client with its caches in ``home``."""
        kept = {name: value for name, value in os.environ.items() if name not in _OF_THE_MACHINE}
        own = {"HF_ENDPOINT": self.address, "HF_HOME": str(home), "HF_HUB_OFFLINE": str(int(offline))}
        own |= {"NO_PROXY": "127.0.0.1,localhost", "HF_HUB_DISABLE_TELEMETRY": "1", "PYTHONPATH": str(ROOT)}
        return {**kept, **own}

    def run(self, home: Path, *arguments: str, offline: bool = False, cwd: Path | None = None):  # noqa: ANN201
        """Run Python with arguments as a client; returns the finished process."""
        return subprocess.run(
            [sys.executable, *arguments],
            env=self.environment(home, offline),
            capture_output=True,
            text=True,
            timeout=300,
            cwd=cwd,
        )


@contextmanager
def running_hub():  # noqa: ANN201
    """A hub for the duration of a test."""
    hub = Hub()
    try:
        yield hub
    finally:
        hub.stop()


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _repository(path: str) -> tuple[str, list[str]]:
    """The key of a repository at the beginning of a path, and the rest."""
    parts = path.split("/")
    count = 3 if parts[0] == "datasets" else 2
    return "/".join(parts[:count]), parts[count:]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, *_) -> None:
        """Keep the output of the tests clean."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path).strip("/")
        part = self.headers.get("Range")
        self.hub.requests.append(f"{self.command} /{path}" + (f" {part}" if part else ""))
        if self.hub.broken:
            self._send(503, b"", {})
        elif path.startswith("cdn/"):
            self._content(*self._stored(path.removeprefix("cdn/")))
        elif path.startswith(("api/models/", "api/datasets/")):
            name, rest = _repository(path.removeprefix("api/").removeprefix("models/"))
            if commit := self._commit(name, rest[1] if rest else "main"):
                (self._list if rest[:1] == ["tree"] else self._describe)(name, commit)
        elif path.startswith("api/"):
            self._refuse(404, "NotFound")
        else:
            name, (_, revision, *file) = _repository(path)
            if commit := self._commit(name, revision, for_files=True):
                self._file(name, commit, "/".join(file))

    def _commit(self, name: str, revision: str, for_files: bool = False) -> str | None:
        repository = self.hub.repositories.get(name)
        if repository is None:
            self._refuse(401, "RepoNotFound")
        elif repository.gated and for_files:
            self._refuse(403, "GatedRepo")
        elif revision != "main" and revision not in repository.commits:
            self._refuse(404, "RevisionNotFound")
        else:
            return repository.head if revision == "main" else revision
        return None

    def _refuse(self, status: int, code: str) -> None:
        self._send(status, b"", {"X-Error-Code": code, "X-Error-Message": code})

    def _describe(self, name: str, commit: str) -> None:
        repository = self.hub.repositories[name]
        files = repository.commits[commit]
        described = {
            "id": name,
            "sha": commit,
            "siblings": [{"rfilename": file, "size": len(data), "blobId": "0"} for file, data in files.items()],
            "cardData": {"license": repository.licence} if repository.licence else None,
            "tags": [],
            "gated": "manual" if repository.gated else False,
            "private": False,
        }
        self._send(200, json.dumps(described).encode(), {"Content-Type": "application/json"})

    def _list(self, name: str, commit: str) -> None:
        files = self.hub.repositories[name].commits[commit]
        listed = [{"type": "file", "path": file, "size": len(data), "oid": "0"} for file, data in files.items()]
        self._send(200, json.dumps(listed).encode(), {"Content-Type": "application/json"})

    def _file(self, name: str, commit: str, file: str) -> None:
        repository = self.hub.repositories[name]
        data = repository.commits[commit].get(file)
        if data is None or file in repository.vanished:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        elif len(data) > LARGE:
            linked = {"X-Linked-Size": str(len(data)), "X-Linked-ETag": f'"{_sha256(data)}"'}
            elsewhere = f"{self.hub.address.replace('127.0.0.1', 'localhost')}/cdn/{_sha256(data)}"  # another host
            self._send(302, b"", {"X-Repo-Commit": commit, "Location": elsewhere, **linked})
        else:
            self._content(data, file, {"X-Repo-Commit": commit})

    def _stored(self, digest: str) -> tuple[bytes, str]:
        for repository in self.hub.repositories.values():
            for files in repository.commits.values():
                for file, data in files.items():
                    if _sha256(data) == digest:
                        return data, file
        raise KeyError(digest)

    def _content(self, data: bytes, file: str, headers: dict[str, str] | None = None) -> None:
        headers = {"ETag": f'"{_sha256(data)}"', "Accept-Ranges": "bytes", **(headers or {})}
        status, start = 200, 0
        if part := self.headers.get("Range"):
            status, start = 206, int(part.removeprefix("bytes=").split("-")[0])
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        broken = self.command == "GET" and self.hub.cuts.get(file, 0) > 0
        if broken:
            self.hub.cuts[file] -= 1
        self._send(status, data[start:], headers, broken)

    def _send(self, status: int, data: bytes, headers: dict[str, str], broken: bool = False) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data[: len(data) // 2] if broken else data)
        self.close_connection = self.close_connection or broken
