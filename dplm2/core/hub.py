"""Repositories of the Hugging Face hub: found by name, pinned to a commit, downloaded once.

huggingface_hub does the transfers (progress, retries, its own cache, access tokens, ``HF_ENDPOINT``,
``HF_HUB_OFFLINE``). Below ``DPLM2_CACHE`` (by default ``dplm2`` in ``HF_HOME``) lies what this package remembers of a
repository: which commit a revision was, the files of a commit, and what was made of them (`dplm2.core.folders`).
"""

import fnmatch
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Literal
from urllib.parse import quote

from dplm2.core.artifacts import read_json_object, write_json, write_text
from dplm2.core.errors import DPLM2Error
from dplm2.core.text import readable_size, some

CACHE = "DPLM2_CACHE"  # in the environment
MAIN = "main"
Kind = Literal["model", "dataset"]
_ID = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]*/[A-Za-z0-9_][\w.-]*)(?:@(?P<revision>[\w./-]+))?")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_DESCRIPTIONS = (".json", ".yaml", ".yml", ".txt")
_FOLDERS = (".", ".hydra")  # where a repository's own files lie; others are backups and training states
# One format of weights is enough, the first that a repository has.
_WEIGHTS = ((".safetensors",), (".bin",), (".ckpt", ".pt", ".pth"))
_TABLES = (".parquet", ".arrow", ".csv", ".tsv", ".jsonl", ".json")
_TEMPORARY = 500  # HTTP status from which on the server is to blame


class _UnreachableError(DPLM2Error):
    """The hub does not answer."""


@dataclass(frozen=True)
class Repository:
    """A repository at one commit.

    Attributes
    ----------
    name
        ``owner/name``.
    commit
        40 hexadecimal digits.
    files
        The files that this package reads, with their sizes in bytes (None: not known).
    licence
        As the repository says; None if it says nothing.
    kind
        A repository of a model (or tokenizer), or of a dataset.
    """

    name: str
    commit: str
    files: Mapping[str, int | None]
    licence: str | None
    kind: Kind = "model"


def split_id(text: str | os.PathLike) -> tuple[str, str] | None:
    """Name and revision of a hub id, ``owner/name`` or ``owner/name@revision``; None of any other text."""
    match = _ID.fullmatch(str(text))
    return (match["name"], match["revision"] or MAIN) if match else None


def is_hub_id(text: str | os.PathLike) -> bool:
    """Whether a text names a hub repository and no folder of that name is there."""
    return split_id(text) is not None and not Path(text).exists()


def cache_folder() -> Path:
    """The folder of this package's cache: ``DPLM2_CACHE``, by default ``dplm2`` in ``HF_HOME``."""
    from huggingface_hub import constants

    root = os.environ.get(CACHE)
    return Path(root) if root else Path(constants.HF_HOME) / "dplm2"


def own_cache(name: str, kind: Kind = "model") -> Path:
    """The folder in which this package keeps what it knows, and has made, of a repository."""
    folder = name.replace("/", "--") if kind == "model" else f"{kind}s--{name.replace('/', '--')}"
    return cache_folder() / folder


def look_up(name: str, revision: str = MAIN, kind: Kind = "model") -> Repository:
    """Find out which commit a revision is, and what files that has: those of a model, or all tables of a dataset.

    A commit that is known already is not asked for again. Without a connection, the commit that the revision was at
    the last time counts, and a message says so.

    Raises
    ------
    DPLM2Error
        If there is no such repository or revision, or access to it is not granted.
    """
    from huggingface_hub import constants

    known = _known(name, revision, kind)
    if known is not None and (known.commit == revision or constants.HF_HUB_OFFLINE):
        return known
    try:
        found = _ask(name, revision, kind)
    except _UnreachableError as error:
        if known is None:
            raise
        print(f"{error}; using commit {known.commit[:12]} of the last time", file=sys.stderr)
        return known
    _remember(found, revision)
    return found


def download(repository: Repository) -> Path:
    """The folder with a repository's files; those that are missing are downloaded, size and licence said before.

    Raises
    ------
    DPLM2Error
        If a file cannot be downloaded. Files that are complete are kept for the next attempt.
    """
    from huggingface_hub import hf_hub_download

    name, commit = repository.name, repository.commit
    missing = [file for file in repository.files if _cached(repository, file) is None]
    if missing:
        print(f"{name}, commit {commit[:12]}: {_announced(repository, missing)}", file=sys.stderr, flush=True)
    for file in repository.files:
        with _explained(name, commit, repository.kind, file):
            hf_hub_download(name, file, revision=commit, repo_type=repository.kind)
    return in_cache(repository)


def in_cache(repository: Repository) -> Path | None:
    """The folder with a repository's files, if all of them are there."""
    found = {file: _cached(repository, file) for file in repository.files}
    if None in found.values():
        return None
    return next(Path(place).parents[len(PurePosixPath(file).parents) - 1] for file, place in found.items())


def name_of(source: str | os.PathLike) -> str:
    """What a folder or a repository is called in tables."""
    named = split_id(source) if is_hub_id(source) else None
    return (Path(named[0]) if named else Path(source).resolve()).name


def wanted_files(files: Mapping[str, int | None]) -> dict[str, int | None]:
    """Of all files of a repository, those that describe a model or tokenizer and its weights in one format."""
    own = {file: size for file, size in files.items() if str(PurePosixPath(file).parent) in _FOLDERS}
    kinds = ([file for file in own if file.endswith(endings)] for endings in _WEIGHTS)
    weights = next(filter(None, kinds), [])
    described = [file for file in own if file.endswith(_DESCRIPTIONS)] if weights else []
    return {file: own[file] for file in sorted({*described, *weights})}


def tables_of(repository: Repository, patterns: Iterable[str]) -> Repository:
    """A dataset repository reduced to the tables whose names match one of the patterns (``*`` also matches ``/``).

    Raises
    ------
    DPLM2Error
        If there is none; the message lists what there is.
    """
    patterns = list(patterns)
    chosen = {
        file: size
        for file, size in repository.files.items()
        if any(fnmatch.fnmatchcase(file, pattern) for pattern in patterns)
    }
    if not chosen:
        there = some(sorted(repository.files)) or "none"
        raise DPLM2Error(f"{repository.name}: no table matches {', '.join(patterns)}; its tables: {there}")
    return replace(repository, files=chosen)


def _is_table(file: str) -> bool:
    return file.lower().removesuffix(".gz").endswith(_TABLES)


def _announced(repository: Repository, missing: list[str]) -> str:
    sizes = [repository.files[file] for file in missing]
    size = "of unknown size" if None in sizes else readable_size(sum(sizes))
    licence = repository.licence or "unknown (the repository names none)"
    return f"{len(missing)} file{'s' * (len(missing) > 1)} to download, {size}; licence: {licence}"


def _ask(name: str, revision: str, kind: Kind) -> Repository:
    from huggingface_hub import HfApi, constants

    with _explained(name, revision, kind):
        info = HfApi().repo_info(
            name, revision=revision, repo_type=kind, files_metadata=True, timeout=constants.HF_HUB_ETAG_TIMEOUT
        )
    found = {file.rfilename: file.size for file in info.siblings or ()}
    files = _read_of(found, kind)
    if not files:
        what = "file of weights" if kind == "model" else "table"
        raise DPLM2Error(f"{name}: no {what} in this hub repository; its files: {some(sorted(found)) or 'none'}")
    return Repository(name, info.sha, files, _licence(info), kind)


def _read_of(files: Mapping[str, int | None], kind: Kind) -> dict[str, int | None]:
    """Of all files of a repository, those that this package may read."""
    return wanted_files(files) if kind == "model" else {file: files[file] for file in sorted(files) if _is_table(file)}


def _licence(info) -> str | None:  # noqa: ANN001
    said = getattr(info.card_data, "license", None)
    if said is None:
        said = [tag.removeprefix("license:") for tag in info.tags or () if tag.startswith("license:")]
    return ", ".join([said] if isinstance(said, str) else said) or None


def _remember(repository: Repository, revision: str) -> None:
    """Keep what the hub said, for later runs without a connection."""
    folder = own_cache(repository.name, repository.kind)
    record, reference = folder / f"{repository.commit}.json", folder / "refs" / quote(revision, safe="")
    if not record.is_file():
        write_json(record, {"files": repository.files, "licence": repository.licence})
    if not (reference.is_file() and reference.read_text() == repository.commit):
        write_text(reference, repository.commit)


def _known(name: str, revision: str, kind: Kind) -> Repository | None:
    """What is known of a revision, from earlier uses or huggingface_hub's own cache."""
    from huggingface_hub import constants

    folder, others = own_cache(name, kind), Path(constants.HF_HUB_CACHE) / f"{kind}s--{name.replace('/', '--')}"
    references = folder / "refs" / quote(revision, safe=""), others / "refs" / revision
    commit = revision if _COMMIT.fullmatch(revision) else None
    commit = commit or next((reference.read_text().strip() for reference in references if reference.is_file()), None)
    if commit is None:
        return None
    if (folder / f"{commit}.json").is_file():
        record = read_json_object(folder / f"{commit}.json")
        return Repository(name, commit, record["files"], record["licence"], kind)
    snapshot = others / "snapshots" / commit
    found = [path for path in snapshot.rglob("*") if path.is_file()]
    files = _read_of({path.relative_to(snapshot).as_posix(): path.stat().st_size for path in found}, kind)
    return Repository(name, commit, files, None, kind) if files else None


def _cached(repository: Repository, file: str) -> str | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repository.name, file, revision=repository.commit, repo_type=repository.kind)
    return found if isinstance(found, str) else None


@contextmanager
def _explained(name: str, revision: str, kind: Kind, file: str | None = None) -> Iterator[None]:
    """Turn what can go wrong with the hub into one line that says what to do."""
    from huggingface_hub import constants, errors

    where, at = constants.ENDPOINT, "" if revision == MAIN else f" at revision {revision}"
    page = f"{where}/{name}" if kind == "model" else f"{where}/{kind}s/{name}"
    absent = "no such folder, and no such repository" if kind == "model" else f"no such {kind} repository"
    try:
        yield
    except errors.GatedRepoError as error:
        raise DPLM2Error(
            f"{name}: access has to be granted first; accept the conditions at {page}, then log in with `hf auth login`"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise DPLM2Error(f"{name}: {absent} at {where} (if it is private, log in with `hf auth login`)") from error
    except errors.RevisionNotFoundError as error:
        raise DPLM2Error(f"{name}: the repository at {where} has no revision {revision}") from error
    except errors.RemoteEntryNotFoundError as error:
        raise DPLM2Error(f"{name}: {file} is missing in the repository at {where}{at}") from error
    except (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError) as error:
        what = f"{file} is not in the cache" if file else f"{absent} in the cache"
        if constants.HF_HUB_OFFLINE:
            raise DPLM2Error(f"{name}: {what}{at}, and HF_HUB_OFFLINE forbids a download") from error
        reason = _reason(error.__cause__ or error)
        raise _UnreachableError(f"{name}: {what}{at}, and {where} does not give it ({reason})") from error
    except (errors.HTTPError, OSError) as error:
        reason = _reason(error)
        if file is not None:
            raise DPLM2Error(
                f"{name}: the download of {file} did not come to its end ({reason}); run it again, files that are "
                "complete are kept"
            ) from error
        status = getattr(getattr(error, "response", None), "status_code", _TEMPORARY)
        failure = _UnreachableError if status >= _TEMPORARY else DPLM2Error
        raise failure(f"{name}: {absent} in the cache, and {where} does not say what it holds ({reason})") from error


def _reason(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
