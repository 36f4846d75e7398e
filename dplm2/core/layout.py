"""Where results and state lie: the only place that knows."""

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
        What a run makes and a user reads.
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
        """A tokenizer that is trained in this run."""
        return self.results / "tokenizers" / name

    def model(self, name: str) -> Path:
        """A language model that is trained in this run."""
        return self.results / "models" / name

    def samples(self, model: str, task: str) -> Path:
        """What a model generated for a task."""
        return self.results / "samples" / model / task

    def downloads(self, dataset: str) -> Path:
        """Fetched structure files and their manifests."""
        return self.results / "downloads" / dataset

    def manifests(self, dataset: str) -> Path:
        """Lists of a dataset's files, or of what to fetch, cut into shards."""
        return self.state / "manifests" / dataset

    @staticmethod
    def parts(folder: Path, shards: int, ending: str = "parquet") -> list[Path]:
        """The files of a folder's shards."""
        return [folder / f"part-{shard:05d}.{ending}" for shard in range(shards)]

    def chains(self, datasets: Iterable[str], shards: dict[str, int]) -> list[Path]:
        """Everything that a reader of datasets reads: the parts, and which of their chains are selected."""
        folders = {name: self.structures(name) for name in datasets}
        parts = [part for name, folder in folders.items() for part in self.parts(folder, shards[name])]
        return parts + [folder / "selection.parquet" for folder in folders.values()]
