"""The paper's ablation in miniature: does training on sequences first help, with few and with many structures?

    python -m benchmarks.warmup RESULTS --work work/warmup --out benchmarks/results/warmup.json

RESULTS has the structures and tokens of a run of config/small.yaml. Trains small networks that differ in two things:
whether the first updates are on sequences alone (the number of updates is the same), and how many clusters of chains
have structures: all, or a tenth (the sequences are those of all chains: more sequences than structures are known).
Three seeds each. Cross-entropies (nats per masked token) on the test chains, with 95 % intervals from the seeds, and
differences between networks of the same seed. It resumes after an interruption; finished networks are kept.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from scipy.stats import t as student

from dplm2.core.artifacts import fingerprint, library_versions, write_json
from dplm2.core.parquet import write_table

SMALL_TOKENIZER = Path(__file__).parents[1] / "dplm2" / "assets" / "small_tokenizer"
NETWORK = {"hidden_size": 128, "layers": 4, "heads": 4, "intermediate_size": 512, "attention": "near"}
FIRST = {True: 0.3, False: 0.0}  # share of the updates that are on sequences alone
FEW = 10  # one cluster in so many
TOKENS = "tokens/small"
MEASURES = {
    "folding": "structure_cross_entropy_trained_folding",
    "inverse_folding": "sequence_cross_entropy_trained_inverse_folding",
    "structure": "structure_cross_entropy_trained",
    "sequence": "sequence_cross_entropy_trained",
}


def cells(seeds: Sequence[int]) -> Iterator[tuple[bool, bool, int]]:
    """Whether sequences come first, whether structures are few, and the seed, of each network."""
    for seed in seeds:
        for few in (False, True):
            for first in (False, True):
                yield first, few, seed


def selections(options: argparse.Namespace) -> dict[bool, Path]:
    """The selection of all training chains, and that of the chains in one cluster of ten."""
    complete = options.results / "structures/train/selection.parquet"
    table = pq.read_table(complete)
    names = sorted(set(table["cluster"].to_pylist()))[::FEW]
    validation = pc.equal(table["split"], "validation")
    reduced = options.work / "few" / "selection.parquet"
    reduced.parent.mkdir(parents=True, exist_ok=True)
    kept = pc.or_(pc.is_in(table["cluster"], pa.array(names)), validation)
    write_table(reduced, table.filter(kept).replace_schema_metadata(table.schema.metadata))
    return {False: complete, True: reduced}


def configuration(first: bool, options: argparse.Namespace) -> str:
    """The configuration of a network, as JSON."""
    sequence_steps = round(options.steps * FIRST[first])
    training = {
        "token_budget": options.token_budget,
        "sample_by": "cluster",
        "optimizer": "muon",
        "learning_rate": 3e-3,
        "warmup_steps": min(20, options.steps // 10),
        "gradient_clip": 1.0,
        "log_every": 50,
    }
    warmup = {"source": "scratch", "structure_tokens": "code", "dropout": 0.0, "sequence_stage": "never"}
    if first:
        warmup["sequence_stage"] = "always"
        warmup["sequence_training"] = {**training, "steps": sequence_steps, "final_learning_rate": 1e-3}
    model = {
        "tokenizer": "small",
        "datasets": ["train"],
        "structure_head": "pairs",
        "network": NETWORK,
        "warmup": warmup,
        "diffusion": {"crop_probability": 0.0},
        "training": {**training, "steps": options.steps - sequence_steps, "final_learning_rate": 1e-5},
    }
    return json.dumps(
        {
            "datasets": {"train": {"files": "structures"}},
            "tokenizers": {"small": {"pretrained": str(SMALL_TOKENIZER)}},
            "models": {"small": model},
            "threads": 1,
        }
    )


def trained(cell: tuple[bool, bool, int], selected: dict[bool, Path], options: argparse.Namespace) -> dict:
    """Train and evaluate one network: its cross-entropies and those of the baseline."""
    first, few, seed = cell
    settings = configuration(first, options)
    folder = options.work / "-".join(
        ["first" if first else "none", "few" if few else "all", str(seed), fingerprint([settings])]
    )
    common = ["--config", settings, "--name", "small", "--seed", seed, "--state", folder / "state"]
    tokens = ["--tokens", options.results / TOKENS / "train", "--selection"]
    if not (folder / "likelihood/summary.csv").is_file():
        warmup = ["model", "warmup", *tokens, selected[False], "--tokenizer", SMALL_TOKENIZER, *common]
        command(*warmup, "--out", folder / "initial")
        train = ["model", "train", *tokens, selected[few], "--initial", folder / "initial", *common]
        command(*train, "--out", folder / "model")
        test = options.results / TOKENS / "cameo2022"
        likelihood = ["evaluate", "likelihood", "--model", folder / "model", "--tokens", test]
        command(*likelihood, "--out", folder / "likelihood")
    values = pd.read_csv(folder / "likelihood/summary.csv").set_index("metric")["value"]
    return {
        "sequences_first": first,
        "few_structures": few,
        "seed": seed,
        **{name: float(values[metric]) for name, metric in MEASURES.items()},
        "unigram": {track: float(values[f"{track}_cross_entropy_unigram"]) for track in ("structure", "sequence")},
    }


def command(*words) -> None:
    """Run a command of the package with one thread."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    finished = subprocess.run([sys.executable, "-m", "dplm2", *map(str, words)], env=environment)
    if finished.returncode:
        raise SystemExit(finished.returncode)


def interval(values: Sequence[float]) -> dict[str, float]:
    """Mean with its 95 % interval (Student's t)."""
    mean = statistics.fmean(values)
    half = (
        student.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else None
    )
    return {"mean": round(mean, 4), "half_width": None if half is None else round(float(half), 4), "n": len(values)}


def compared(runs: Sequence[dict]) -> list[dict]:
    """For each number of structures: cross-entropies with and without sequences first, and the difference."""
    found = []
    for few in (False, True):
        pairs: dict[int, dict[bool, dict]] = {}
        for run in runs:
            if run["few_structures"] == few:
                pairs.setdefault(run["seed"], {})[run["sequences_first"]] = run
        both = [pair for pair in pairs.values() if len(pair) == 2]
        for name in MEASURES if both else ():
            found.append(
                {
                    "few_structures": few,
                    "cross_entropy": name,
                    "none": interval([pair[False][name] for pair in both]),
                    "sequences_first": interval([pair[True][name] for pair in both]),
                    "difference": interval([pair[True][name] - pair[False][name] for pair in both]),
                }
            )
    return found


def main() -> None:
    """Train all networks and compare them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="results folder of config/small.yaml")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=500, help="updates in all")
    parser.add_argument("--token-budget", type=int, default=3000)
    parser.add_argument("--jobs", type=int, default=2, help="networks trained at the same time")
    parser.add_argument("--work", type=Path, required=True, help="folder for networks and training state")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    selected = selections(options)
    with ThreadPoolExecutor(options.jobs) as pool:
        runs = list(pool.map(lambda cell: trained(cell, selected, options), cells(options.seeds)))
    found = {
        "network": NETWORK,
        "steps": options.steps,
        "steps_on_sequences_first": round(options.steps * FIRST[True]),
        "token_budget": options.token_budget,
        "chains": {
            name: int(pc.sum(pc.equal(pq.read_table(path)["split"], "train")).as_py())
            for name, path in (("all", selected[False]), ("few", selected[True]))
        },
        "comparison": compared(runs),
        "runs": runs,
        "versions": library_versions(),
    }
    write_json(options.out, found)
    for row in found["comparison"]:
        print(json.dumps(row))


if __name__ == "__main__":
    main()
