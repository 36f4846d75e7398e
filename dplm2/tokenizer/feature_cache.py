"""Features of a frozen encoder, computed once per chain and stored on disk for training.

The features of a chain from a frozen encoder are the same at every step, and at the paper's size computing them is
nearly all of a training step. Here they are computed once and read from a memory-mapped file, so that memory does not
grow with the number of chains.

The features are those of complete chains. A window that is encoded alone, as in the authors' training, has different
features: neighbours outside the window are missing, and positions and centre are the window's. In use, a tokenizer
encodes complete chains; the published one was trained on crops. The cache is therefore optional
(``encoder.cached_features``, off by default); with ``loss.crop: null`` it does not change the training.

Features are stored in float32. float16 would halve the space, but its error (1 in 2,000) changes the sign of values
near zero: the tokens in training would differ from those of the saved tokenizer.

Shapes: N residues of all chains, concatenated, L residues of a chain, D width.
"""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dplm2.core.artifacts import fingerprint, read_json, write_json
from dplm2.core.batching import by_length
from dplm2.core.errors import DPLM2Error
from dplm2.core.locks import locked
from dplm2.settings import deciding
from dplm2.tokenizer.encoder import Encoder
from dplm2.tokenizer.model import pad_backbones

FEATURES_FILE, PROGRESS_FILE = "features.npy", "progress.json"
RESIDUES_PER_BATCH = 2000
SECONDS_BETWEEN_SAVES = 60.0


class FeatureCache:
    """Features of chains, read from a file on demand.

    Parameters
    ----------
    features_ND
        Features of all chains, concatenated; a memory-mapped array.
    lengths
        Residues of each chain.
    """

    def __init__(self, features_ND: np.ndarray, lengths: Sequence[int]) -> None:
        self.features_ND = features_ND
        self.starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)

    def batch(self, windows: Sequence[tuple[int, int, int]]) -> Tensor:
        """Features (B, L, D) of windows (chain, start, end); zero at padding."""
        longest = max(end - start for _, start, end in windows)
        values_BLD = torch.zeros(len(windows), longest, self.features_ND.shape[1])
        for row, (chain, start, end) in enumerate(windows):
            first = self.starts[chain]
            values_BLD[row, : end - start] = torch.from_numpy(self.features_ND[first + start : first + end].copy())
        return values_BLD


def cached_features(
    encoder: Encoder, backbones: Sequence[np.ndarray], folder: Path, log: Callable[[str], None] = print
) -> FeatureCache:
    """The features of complete chains, computed unless they are on disk.

    Stored features are identified by the encoder's weights and the chains' coordinates. An interrupted computation
    resumes; if several processes need the features, one computes them and the others wait.

    Parameters
    ----------
    encoder
        The encoder, in evaluation mode.
    backbones
        (L, 3 or 4, 3) each, angstrom, NaN where missing.
    folder
        Folder of all caches, with a subfolder for each encoder and set of chains.
    log
        Function that receives progress messages.

    Raises
    ------
    DPLM2Error
        If the features cannot be stored, for example on a full disk.
    """
    lengths = [len(backbone) for backbone in backbones]
    folder = folder / fingerprint([_encoder_digest(encoder), _chains_digest(backbones), RESIDUES_PER_BATCH])
    shape = sum(lengths), encoder.settings.width
    with locked(folder / "lock"):
        groups = list(by_length(lengths, RESIDUES_PER_BATCH))
        done = _groups_done(folder)
        if done < len(groups):
            _compute(encoder, backbones, groups, done, folder, shape, log)
    return FeatureCache(np.load(folder / FEATURES_FILE, mmap_mode="r"), lengths)


def _compute(
    encoder: Encoder,
    backbones: Sequence[np.ndarray],
    groups: list[list[int]],
    done: int,
    folder: Path,
    shape: tuple[int, int],
    log: Callable[[str], None],
) -> None:
    path, device = folder / FEATURES_FILE, encoder.mask_embedding.device
    starts = np.concatenate([[0], np.cumsum([len(backbone) for backbone in backbones])])
    try:
        if done:
            features = np.lib.format.open_memmap(path, mode="r+")
        else:
            features = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
        log(f"encoder features: {len(backbones)} chains into {path} ({features.nbytes / 1e9:.2f} GB)")
        residues = [sum(len(backbones[index]) for index in group) for group in groups]
        total, finished, start = sum(residues[done:]), 0, time.monotonic()
        saved = start
        for number, group in enumerate(groups[done:], done):
            with torch.inference_mode():
                batch = encoder(*pad_backbones([backbones[index] for index in group], device)).float().cpu().numpy()
            for row, index in enumerate(group):
                features[starts[index] : starts[index + 1]] = batch[row, : len(backbones[index])]
            finished += residues[number]
            now = time.monotonic()
            if now - saved > SECONDS_BETWEEN_SAVES or number + 1 == len(groups):
                # Features must be on disk before they are counted as finished.
                features.flush()
                write_json(folder / PROGRESS_FILE, {"groups": number + 1})
                rate = finished / max(now - start, 1e-9)
                log(
                    f"encoder features: {finished}/{total} residues, {rate:.0f}/s, "
                    f"{(total - finished) / rate / 60:.1f} min left"
                )
                saved = now
    except OSError as error:
        raise DPLM2Error(f"{path}: cannot store the encoder's features ({error})") from error


def _groups_done(folder: Path) -> int:
    if not (folder / PROGRESS_FILE).exists() or not (folder / FEATURES_FILE).exists():
        return 0
    return read_json(folder / PROGRESS_FILE)["groups"]


def _encoder_digest(encoder: Encoder) -> str:
    digest = hashlib.sha256(json.dumps(deciding(encoder.settings), sort_keys=True).encode())
    for name, value in sorted(encoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _chains_digest(backbones: Sequence[np.ndarray]) -> str:
    digest = hashlib.sha256()
    for backbone in backbones:
        atoms = np.ascontiguousarray(backbone[:, :3], np.float32)
        digest.update(str(atoms.shape).encode())
        digest.update(atoms.tobytes())
    return digest.hexdigest()
