"""Folders of models and tokenizers, by path or by the name of a repository on the Hugging Face hub."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from dplm2.core import hub, origins
from dplm2.core.artifacts import explained, make_folder
from dplm2.core.errors import DPLM2Error
from dplm2.core.locks import HeldError, locked
from dplm2.core.released import NAMES, Kind, bundled_folder, names_of

FORM = 1  # of what conversion writes; raise it where an older conversion must not be used any more
_UNFINISHED = "unfinished-"


class Conversion(NamedTuple):
    """How repositories in another program's layout become folders of this package.

    Attributes
    ----------
    kind
        ``model`` or ``tokenizer``.
    applies
        Whether a downloaded folder is in the other layout.
    convert
        Writes a downloaded folder (first argument) as one of ours (second argument), with what is known of its licence
        and origin (arguments by name, of `dplm2.core.cards.write_card`).
    """

    kind: Kind
    applies: Callable[[Path], bool]
    convert: Callable[..., object]


def local_folder(source: str | os.PathLike, conversion: Conversion) -> Path:
    """``source`` itself if it is a folder, else what has that name: in the package, or on the hub.

    A repository in another program's layout is converted once, and kept by its commit. Another process that wants the
    same waits meanwhile.

    Parameters
    ----------
    source
        Folder, name of one that comes with the package, or ``owner/name`` or ``owner/name@revision`` on the hub.
    conversion
        What to do with other layouts.

    Raises
    ------
    DPLM2Error
        If it is neither, or cannot be downloaded or converted.
    """
    if Path(source).is_dir():
        return Path(source)
    if (bundled := bundled_folder(source, conversion.kind)) is not None:
        return bundled
    repository = _looked_up(source, conversion.kind)
    cache = hub.own_cache(repository.name)
    converted = cache / f"{conversion.kind}-{FORM}-{repository.commit}"
    if converted.is_dir():
        return converted
    at_hand = hub.in_cache(repository)
    if at_hand is not None and not conversion.applies(at_hand):
        return at_hand
    with _alone(cache / "lock", repository.name):
        if converted.is_dir():
            return converted
        downloaded = hub.download(repository)
        if not conversion.applies(downloaded):
            return downloaded
        _convert(downloaded, converted, conversion, repository)
    return converted


def downloaded_folder(source: str | os.PathLike, kind: Kind) -> tuple[Path, dict[str, str | None]]:
    """A folder or file as it is, or the files of a hub repository in the layout that they have there.

    Also what is known of its licence and origin, as arguments of `dplm2.core.cards.write_card`.

    Raises
    ------
    DPLM2Error
        If there is neither.
    """
    if Path(source).exists():
        return Path(source), {}
    repository = _looked_up(source, kind)
    return hub.download(repository), _said_of(repository)


def _said_of(repository: hub.Repository) -> dict[str, str | None]:
    origin = f"Converted from `{repository.name}`, commit `{repository.commit}`."
    return {"licence": repository.licence, "origin": origin}


def _looked_up(source: str | os.PathLike, kind: Kind) -> hub.Repository:
    named = hub.split_id(source)
    if named is None:
        raise DPLM2Error(f"{source}: no such folder; give {names_of(kind)}")
    if named[0] in NAMES and NAMES[named[0]].kind != kind:
        meant = NAMES[named[0]]
        raise DPLM2Error(f"{named[0]}: a {meant.kind} ({meant.meaning}), but a {kind} is wanted: {names_of(kind)}")
    repository = hub.look_up(*named)
    origins.note(repository.name, repository.commit)
    return repository


@contextmanager
def _alone(lock: Path, name: str) -> Iterator[None]:
    """Hold a lock, waiting as long as another process needs it, with a message."""
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(lock, 0))
        except HeldError as held:
            print(f"{name}: waiting for {held.holder}, which is fetching it", file=sys.stderr, flush=True)
            stack.enter_context(locked(lock))
        yield


def _convert(downloaded: Path, converted: Path, conversion: Conversion, repository: hub.Repository) -> None:
    """Convert into a folder of another name, which is renamed when it is complete."""
    for left_over in converted.parent.glob(f"{_UNFINISHED}*"):  # of a process that was killed: nobody else is here
        shutil.rmtree(left_over, ignore_errors=True)
    print(f"{repository.name}: converting it once, into {converted}", file=sys.stderr, flush=True)
    unfinished = converted.parent / f"{_UNFINISHED}{os.getpid()}"
    make_folder(unfinished)
    try:
        conversion.convert(downloaded, unfinished, **_said_of(repository))
        with explained(converted):
            unfinished.replace(converted)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
