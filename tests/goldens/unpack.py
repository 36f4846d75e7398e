"""The goldens for tests: under the names of the full set, uncompressed, with the regenerated weights."""

import gzip
import shutil
from pathlib import Path

from safetensors.torch import save_file

from tests.goldens.weights import SEEDS, drawn_weights

HERE = Path(__file__).parent
DATA = (".safetensors", ".gz", ".tsv", ".csv", ".txt")


def unpack(folder: Path) -> Path:
    """Unpack all goldens into a folder, and return it."""
    for source in sorted(path for path in HERE.rglob("*") if path.suffix in DATA):
        target = folder / source.relative_to(HERE)
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.suffix == ".gz":
            target.with_suffix("").write_bytes(gzip.decompress(source.read_bytes()))
        else:
            shutil.copyfile(source, target)
    for network in SEEDS:
        weights = drawn_weights(network, folder / network / "keys.json")
        save_file(weights, folder / network / "weights.safetensors")
    return folder
