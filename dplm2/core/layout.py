"""Locations of results and state, defined only here."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

WEIGHTS_FILE = "model.safetensors"
MADE_FROM = "made_from.json"  # beside a training state: the settings, inputs and seed that its fingerprint names


@dataclass(frozen=True)
class Layout:
    """The folders of one run of the workflow.

    Attributes
    ----------
    results
        Results of a run, for the user.
    state
        Resumable training state, manifests, caches.
    """

    results: Path
    state: Path

    def structures(self, dataset: str) -> Path:
        """Clean chains of a dataset: ``part-00000.parquet`` ..., ``selection.parquet``, ``rejected.parquet``."""
        return self.results / "structures" / dataset

    def tokens(self, tokenizer: str, dataset: str) -> Path:
        """A dataset's tokens: ``part-00000.parquet`` ..."""
        return self.results / "tokens" / tokenizer / dataset

    def tokenizer(self, name: str) -> Path:
        """Folder of a tokenizer that is trained in this run."""
        return self.results / "tokenizers" / name

    def model(self, name: str) -> Path:
        """Folder of a language model that is trained in this run."""
        return self.results / "models" / name

    def samples(self, model: str, task: str) -> Path:
        """Samples of a model for a task."""
        return self.results / "samples" / model / task

    def probe(self, model: str, task: str) -> Path:
        """Predictions from a model's representations."""
        return self.results / "representations" / model / task

    def downloads(self, dataset: str) -> Path:
        """Fetched structure files and their manifests."""
        return self.results / "downloads" / dataset

    def manifests(self, dataset: str) -> Path:
        """Lists of a dataset's files, or of its downloads, divided into shards."""
        return self.state / "manifests" / dataset

    @staticmethod
    def parts(folder: Path, shards: int, ending: str = "parquet") -> list[Path]:
        """The files of a folder's shards."""
        return [folder / f"part-{shard:05d}.{ending}" for shard in range(shards)]

    def chains(self, datasets: Iterable[str], shards: dict[str, int]) -> list[Path]:
        """All files of a dataset: the parts, and the selection of their chains."""
        folders = {name: self.structures(name) for name in datasets}
        parts = [part for name, folder in folders.items() for part in self.parts(folder, shards[name])]
        return parts + [folder / "selection.parquet" for folder in folders.values()]
