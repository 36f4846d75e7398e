"""Folding backends: one contract, one adapter each.

A backend takes sequences of the 20 amino acids and returns for each a backbone and a confidence per residue. `predict`
is the common entry point: it folds each distinct sequence once, in batches, and stores every result in a folder under
the hash of its sequence, so that a killed run resumes.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.numpy import load_file
from tqdm import tqdm

from dplm2.core.errors import DPLM2Error, Preempted
from dplm2.core.tensors import check_tensors, save_tensors
from dplm2.evaluation.recovery import AMINO_ACIDS
from dplm2.training.signals import StopRequests


class Folded(NamedTuple):
    """A predicted structure.

    Attributes
    ----------
    backbone : ndarray
        (L, 4, 3) float32: N, CA, C, O in angstrom.
    plddt : ndarray or None
        (L,) float32, 0 to 100; None where the backend has no trained confidence.
    """

    backbone: np.ndarray
    plddt: np.ndarray | None


@dataclass(frozen=True)
class Failure:
    """A sequence that could not be folded, and why."""

    reason: str


class FoldingBackend(Protocol):
    """Interface of the adapters.

    Attributes
    ----------
    name
        Name in all tables.
    fingerprint
        Fingerprint of everything except the sequence that decides a prediction: results of another one are not reused.
    """

    name: str
    fingerprint: str

    def batches(self, sequences: Sequence[str]) -> Iterable[Sequence[str]]:
        """The sequences in groups that are folded together, all of them, in any order."""

    def fold(self, sequences: Sequence[str]) -> list[Folded | Failure]:
        """Fold one group."""


def predict(backend: FoldingBackend, sequences: Sequence[str], cache: Path) -> list[Folded | Failure]:
    """Fold sequences, each distinct one once; letters other than the 20 amino acids are folded as alanine.

    Parameters
    ----------
    backend
        The adapter.
    sequences
        One-letter sequences.
    cache
        Folder for results, shared by all backends: ``<name>-<fingerprint>/<hash of the sequence>.safetensors``.

    Raises
    ------
    DPLM2Error
        If every sequence failed, which indicates a general problem.
    Preempted
        If the process was asked to stop; finished predictions are kept.
    """
    folder = cache / f"{backend.name}-{backend.fingerprint}"
    wanted = [foldable(sequence) for sequence in sequences]
    results: dict[str, Folded | Failure] = {}
    for sequence in dict.fromkeys(wanted):
        if not sequence:
            results[sequence] = Failure("the sequence is empty")
        elif (kept := _read(folder, sequence)) is not None:
            results[sequence] = kept
    missing = [sequence for sequence in dict.fromkeys(wanted) if sequence not in results]
    title = f"fold ({backend.name})"
    with tqdm(total=len(missing), unit="sequence", desc=title, disable=None) as bar, StopRequests() as stop:

        def stop_if_asked() -> None:
            if stop.received is not None:
                kept = sum(sequence in results for sequence in missing)
                raise Preempted(f"stopped by {stop.received.name}: {kept} of {len(missing)} predictions are kept")

        for group in backend.batches(missing):
            for sequence, result in zip(group, _fold_group(backend, list(group), stop_if_asked), strict=True):
                results[sequence] = _checked(sequence, result)
                if isinstance(results[sequence], Folded):
                    _keep(folder, sequence, results[sequence])
            bar.update(len(group))
        stop_if_asked()
    failures = [result for result in results.values() if isinstance(result, Failure)]
    if failures and len(failures) == len(results):
        raise DPLM2Error(f"folding backend {backend.name}: no sequence could be folded ({failures[0].reason})")
    return [results[sequence] for sequence in wanted]


def foldable(sequence: str) -> str:
    """The sequence in capitals, letters other than the 20 amino acids as A (as the released evaluator does)."""
    return "".join(letter if letter in AMINO_ACIDS else "A" for letter in sequence.upper())


def _fold_group(backend: FoldingBackend, group: list[str], before: Callable[[], None]) -> list[Folded | Failure]:
    """Fold a group; if it fails as a whole, one by one, so that only the failing sequences are lost."""
    before()
    try:
        return backend.fold(group)
    except (DPLM2Error, torch.OutOfMemoryError) as error:
        reason = " ".join(str(error).split())[:300]
    before()  # a signal may have stopped an external program, too
    if len(group) == 1:
        return [Failure(reason)]
    return [result for sequence in group for result in _fold_group(backend, [sequence], before)]


def _checked(sequence: str, result: Folded | Failure) -> Folded | Failure:
    if isinstance(result, Failure):
        return result
    if result.backbone.shape != (len(sequence), 4, 3):
        return Failure(f"expected {len(sequence)} residues, but the structure has the shape {result.backbone.shape}")
    if not np.isfinite(result.backbone[:, :3]).all():
        return Failure("the predicted structure has coordinates that are not finite")
    return result


def _path(folder: Path, sequence: str) -> Path:
    return folder / f"{name_of(sequence)}.safetensors"


def name_of(sequence: str) -> str:
    """Hash of a sequence, 32 hexadecimal digits: its name in the cache and for external programs."""
    return hashlib.sha256(sequence.encode()).hexdigest()[:32]


def _keep(folder: Path, sequence: str, folded: Folded) -> None:
    arrays = {"backbone": folded.backbone} | ({} if folded.plddt is None else {"plddt": folded.plddt})
    tensors = {name: torch.tensor(array, dtype=torch.float32) for name, array in arrays.items()}
    save_tensors(_path(folder, sequence), tensors)


def _read(folder: Path, sequence: str) -> Folded | None:
    path = _path(folder, sequence)
    if not path.exists():
        return None
    check_tensors(path)
    try:
        arrays = load_file(path)
    except (OSError, SafetensorError) as error:
        raise DPLM2Error(f"{path}: not a stored prediction ({error}); remove it and run again") from error
    return Folded(arrays["backbone"], arrays.get("plddt"))
