"""Resumable training states: what made each, and which of them no configuration refers to."""

import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dplm2.core.artifacts import fingerprint, read_json_object
from dplm2.core.errors import DPLM2Error
from dplm2.core.layout import MADE_FROM
from dplm2.core.locks import HeldError, is_held, locked
from dplm2.settings import Configuration
from dplm2.settings.trainings import DECIDED_BY, MODEL, SEQUENCE_STAGE, TOKENIZER, what_decides

LOCK = "lock"
STARTED_FROM = ("source", "model")  # of a warm-up: the workflow may tell the command another name of the same weights


@dataclass(frozen=True)
class State:
    """The state of one training.

    Attributes
    ----------
    folder
        ``<state>/<stage>/<fingerprint>``.
    key
        Names the settings and the seed that it was made with; None if that was not recorded.
    size
        Bytes.
    running
        Whether a process holds it.
    """

    folder: Path
    key: tuple[str, str] | None
    size: int
    running: bool

    @property
    def stage(self) -> str:
        """Which training."""
        return self.folder.parent.name


def states(root: Path) -> Iterator[State]:
    """Every training state below a state folder."""
    for stage in DECIDED_BY:
        for folder in sorted(path for path in (root / stage).glob("*") if path.is_dir()):
            try:
                made_from = read_json_object(folder / MADE_FROM)
                key = key_of(stage, made_from["decides"], made_from["seed"])
            except (DPLM2Error, KeyError):
                key = None
            yield State(folder, key, size_of(folder), is_held(folder / LOCK))


def key_of(stage: str, decides: Mapping[str, Any], seed: int) -> tuple[str, str]:
    """Names what a configuration decides of a training; the inputs, which it only refers to, have no part in it."""
    warmup = {name: value for name, value in decides.get("warmup", {}).items() if name not in STARTED_FROM}
    decisive = {**decides, "warmup": warmup} if stage == SEQUENCE_STAGE else decides
    return stage, fingerprint([decisive, seed])


def trainings(settings: Configuration) -> dict[tuple[str, str], str]:
    """The entry of the configuration that refers to a state, by the state's key."""
    found = {}
    for name, tokenizer in settings.tokenizers.items():
        if tokenizer.pretrained is None:
            found[key_of(TOKENIZER, what_decides(tokenizer, TOKENIZER), settings.seed)] = f"tokenizers.{name}"
    for name, model in settings.models.items():
        if model.pretrained is None:
            for stage in (SEQUENCE_STAGE, MODEL):
                found[key_of(stage, what_decides(model, stage), settings.seed)] = f"models.{name}"
    return found


def unreferred(root: Path, configurations: Iterable[Configuration]) -> list[State]:
    """The states that none of the configurations refers to; none that is in use, or of which it is not known."""
    known = {key for settings in configurations for key in trainings(settings)}
    return [state for state in states(root) if state.key is not None and state.key not in known and not state.running]


def remove(state: State) -> bool:
    """Remove a state, unless a process has begun to use it; returns whether it is gone."""
    try:
        with locked(state.folder / LOCK, 0):
            shutil.rmtree(state.folder)
    except HeldError:
        return False
    return True


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files below a folder."""
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
