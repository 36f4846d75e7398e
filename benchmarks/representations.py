"""What a model's representations and likelihoods say of proteins: the tables of docs/representations.md.

    python -m benchmarks.representations --model small --chains CORPUS/train --clusters CORPUS/metadata.csv \\
        --test CORPUS/cameo2022 --out benchmarks/results/representations-small.json --page docs/representations.md

Linear probes predict the relative contact order of chains and the secondary structure (P-SEA) of residues from the
representations of the sequence alone, of the structure alone, of both apart (side by side) and of both together (one
input), and from one-hot features. One chain of each cluster is used; each seed divides the chains, hence the clusters,
anew into training, validation and test. The chains of ``--test`` are in the test of every seed, and clusters with one
of them are left out.

Calibration, on the chains of ``--test``: whether natives are more likely than their shuffled sequences and point
mutants, and whether residues that the model gives a probability of p are right in a fraction p of the cases.

Intervals (95 %) are of a bootstrap over the chains of the test.
"""

import argparse
import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.stats import rankdata

from benchmarks.representations_page import tables, with_tables
from dplm2.core.artifacts import library_versions, write_json, write_text
from dplm2.core.devices import pick_device
from dplm2.core.errors import DPLM2Error
from dplm2.evaluation.metrics.prediction import area_under_curve
from dplm2.generation.inputs import chains_of, observed_tokens
from dplm2.generation.model import DPLM2
from dplm2.generation.task import Target
from dplm2.geometry.contact_order import contact_order
from dplm2.geometry.secondary_structure import secondary_structure
from dplm2.representations.embedding import Embedding, embed
from dplm2.representations.one_hot import one_hot
from dplm2.representations.probe import Items, fit_linear
from dplm2.scoring.effects import amino_acid_log_probabilities
from dplm2.scoring.likelihood import residue_likelihoods
from dplm2.scoring.mutations import AMINO_ACIDS
from dplm2.scoring.queries import Reading

JOINT = "both together"
WINDOW = 7  # residues to either side, as in classical predictors of secondary structure
RESIDUES_PER_CHAIN = 12  # of training and validation; neighbours say nearly the same
STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0)  # of the regularization, for residues
SUBSTITUTED = 0.1
PARTS = 4  # passes in which all residues are masked once
BINS = 10
REPLICATES = 1000


@dataclass(frozen=True)
class Chain:
    """A chain: its tokens, secondary structure (L,), contact order and cluster."""

    target: Target
    states: np.ndarray
    contact_order: float
    cluster: str


def read_chains(model: DPLM2, folder: Path, clusters: Mapping[str, str], names: Sequence[str]) -> Iterator[Chain]:
    """The chains of some structure files; those without contacts or not readable are left out."""
    for name in names:
        try:
            found = chains_of(folder / name)[0]
        except DPLM2Error as error:
            print(f"left out: {error}")
            continue
        tokens = observed_tokens([found.backbone], model.tokenizer.encode)[0]
        order = contact_order(found.backbone[:, 1])
        if np.isfinite(order):
            states = secondary_structure(found.backbone[:, 1])
            yield Chain(Target(stem(name), found.sequence, tokens), states, order, clusters[stem(name)])


def stem(name: str) -> str:
    """A file's name without its extensions."""
    return name.split(".")[0]


def chosen_files(options: argparse.Namespace) -> tuple[list[str], list[str], dict[str, str]]:
    """Names of files for the probes, one per cluster, and of those of ``--test``; the cluster of each."""
    with options.clusters.open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    column = next((name for name in ("cluster30", "cluster") if name in rows[0]), None)
    if column is None:
        raise SystemExit(f"{options.clusters}: no column cluster30 or cluster")
    clusters = {row["chain_id"]: row[column] for row in rows}
    lengths = {row["chain_id"]: int(row.get("n_residues") or 0) for row in rows}

    def of(folder: Path) -> list[str]:
        known = [path.name for path in sorted(folder.iterdir()) if stem(path.name) in clusters]
        return [name for name in known if options.shortest <= lengths[stem(name)] <= options.longest]

    test = of(options.test)
    taken = {clusters[stem(name)] for name in test}
    order = of(options.chains)
    np.random.default_rng(0).shuffle(order)
    one_each: dict[str, str] = {}
    for name in order:
        if clusters[stem(name)] not in taken:
            one_each.setdefault(clusters[stem(name)], name)
    return list(one_each.values())[: options.number], test, clusters


def representations(model: DPLM2, chains: Sequence[Chain]) -> dict[str, list[np.ndarray]]:
    """Features (L, F) of the residues of each chain by source."""
    targets = [chain.target for chain in chains]
    sequences = [Target(one.name, one.sequence, None) for one in targets]
    structures = [Target(one.name, None, one.structure_tokens) for one in targets]
    sequence, structure, both = (vectors(model, own) for own in (sequences, structures, targets))
    return {
        "one-hot": [one_hot(one.sequence) for one in targets],
        f"one-hot, {WINDOW} neighbours": [one_hot(one.sequence, WINDOW) for one in targets],
        "sequence": sequence[-1],
        "structure": structure[-1],
        "both apart": side_by_side(sequence[-1], structure[-1]),
        JOINT: both[-1],
        "both, before the first layer": both[0],
    }


def vectors(model: DPLM2, targets: Sequence[Target]) -> dict[int, list[np.ndarray]]:
    """Hidden states (L, tracks * D) before the first and after the last layer (0 and -1)."""
    depth = model.network.depth
    frame = embed(model, targets, Embedding("none", (0, -1))).to_pandas()
    found = {}
    for layer in (0, depth):
        columns = [name for name in frame if name.endswith(f"_embedding_{layer}") and frame[name].notna().all()]
        found[0 if layer == 0 else -1] = [
            np.concatenate([np.asarray(row[name]).reshape(row["length"], -1) for name in columns], axis=1)
            for _, row in frame.iterrows()
        ]
    return found


def side_by_side(*sources: list[np.ndarray]) -> list[np.ndarray]:
    """Features of several sources together."""
    return [np.concatenate(parts, axis=1) for parts in zip(*sources, strict=True)]


def partition(chains: Sequence[Chain], is_test: np.ndarray, seed: int) -> np.ndarray:
    """The split of each chain: 60, 20 and 20 % of the chains (one per cluster), and those of ``--test``."""
    splits = np.full(len(chains), "test", dtype=object)
    free = np.flatnonzero(~is_test)
    np.random.default_rng(seed).shuffle(free)
    splits[free[: int(0.6 * len(free))]] = "train"
    splits[free[int(0.6 * len(free)) : int(0.8 * len(free))]] = "validation"
    return splits


def probe_contact_order(chains: Sequence[Chain], sources: Mapping[str, list[np.ndarray]], splits: np.ndarray) -> dict:
    """Predicted contact order of all chains by source."""
    count = len(chains)
    truth = np.array([chain.contact_order for chain in chains])
    items = Items("regression", truth, [], splits, np.arange(count), np.zeros(count, dtype=int))
    known = [np.array([letter in AMINO_ACIDS for letter in chain.target.sequence]) for chain in chains]
    pooled = {
        name: np.stack([features[own].mean(0) for features, own in zip(of_chains, known, strict=True)])
        for name, of_chains in sources.items()
        if "neighbours" not in name
    }
    size = np.log([chain.target.length for chain in chains])[:, None]
    pooled["one-hot and length"] = np.concatenate([pooled["one-hot"], size], axis=1)
    pooled[f"{JOINT}, and length"] = np.concatenate([pooled[JOINT], size], axis=1)
    return {name: fit_linear(features.astype(float), items).outputs[:, 0] for name, features in pooled.items()}


def probe_secondary_structure(
    chains: Sequence[Chain], sources: Mapping[str, list[np.ndarray]], splits: np.ndarray, seed: int
) -> dict[str, np.ndarray]:
    """Of each chain, how many residues are right and how many there are (chains, 2), by source."""
    random = np.random.default_rng(seed)
    kept = []
    for chain, split in zip(chains, splits, strict=True):
        known = np.flatnonzero(chain.states != "")
        if split != "test" and len(known) > RESIDUES_PER_CHAIN:
            known = np.sort(random.choice(known, RESIDUES_PER_CHAIN, replace=False))
        kept.append(known)
    rows = np.repeat(np.arange(len(chains)), [len(own) for own in kept])
    states = np.concatenate([chain.states[own] for chain, own in zip(chains, kept, strict=True)])
    names, truth = np.unique(states, return_inverse=True)
    items = Items("classification", truth, names.tolist(), splits[rows], rows, np.concatenate(kept) + 1)
    found = {}
    for name, of_chains in sources.items():
        features = np.concatenate([own[where] for own, where in zip(of_chains, kept, strict=True)])
        right = fit_linear(features.astype(float), items, STRENGTHS).outputs.argmax(1) == truth
        counts = [np.bincount(rows, weights, len(chains)) for weights in (right.astype(float), np.ones(len(rows)))]
        found[name] = np.stack(counts, axis=1)
    return found


def spearman(truth: np.ndarray) -> Callable[[np.ndarray, np.ndarray], float]:
    """Spearman's correlation of the predictions for some chains, each as often as it is named."""

    def score(predicted: np.ndarray, chosen: np.ndarray) -> float:
        return float(np.corrcoef(rankdata(predicted[chosen]), rankdata(truth[chosen]))[0, 1])

    return score


def share_right(counts: np.ndarray, chosen: np.ndarray) -> float:
    """Fraction of the residues of some chains, each as often as it is named, that are right."""
    right, total = counts[chosen].sum(0)
    return float(right / total)


def compared(found: Sequence[dict[str, np.ndarray]], tests: Sequence[np.ndarray], score: Callable) -> list[dict]:
    """A row per source: mean and standard deviation over the seeds, interval, and JOINT minus the source.

    A replicate of the bootstrap has the same chains, as often, in the tests of all seeds, which share chains.

    Parameters
    ----------
    found
        Of each seed, the predictions by source.
    tests
        Of each seed, the chains of the test.
    score
        From predictions and chains to the metric.
    """
    random = np.random.default_rng(0)
    pool = np.unique(np.concatenate(tests))
    times = np.zeros((REPLICATES, pool.max() + 1), dtype=int)
    for own in times:
        np.add.at(own, random.choice(pool, len(pool)), 1)
    values = {name: [score(own[name], test) for own, test in zip(found, tests, strict=True)] for name in found[0]}
    replicates = {
        name: np.array(
            [
                np.mean([score(f[name], np.repeat(test, own[test])) for f, test in zip(found, tests, strict=True)])
                for own in times
            ]
        )
        for name in found[0]
    }
    rows = []
    for name, own in values.items():
        row = {"source": name, "value": np.mean(own), "spread": np.std(own, ddof=1), **interval(replicates[name])}
        if name != JOINT:
            difference = replicates[JOINT] - replicates[name]
            row["joint_minus_this"] = {"value": np.mean(values[JOINT]) - np.mean(own), **interval(difference)}
        rows.append(row)
    return rows


def interval(values: np.ndarray) -> dict[str, float]:
    """Limits of the central 95 %."""
    low, high = np.percentile(values, [2.5, 97.5])
    return {"low": low, "high": high}


def probes(model: DPLM2, chains: Sequence[Chain], is_test: np.ndarray, seeds: int) -> list[dict]:
    """Rows of both tasks on both tests."""
    sources = representations(model, chains)
    splits = [partition(chains, is_test, seed) for seed in range(seeds)]
    truth = np.array([chain.contact_order for chain in chains])
    found = {"contact order": [], "secondary structure": []}
    for seed, own in enumerate(splits):
        print(f"seed {seed}", flush=True)
        found["contact order"].append(probe_contact_order(chains, sources, own))
        found["secondary structure"].append(probe_secondary_structure(chains, sources, own, seed))
    scores = {"contact order": spearman(truth), "secondary structure": share_right}
    rows = []
    for test, of_test in (("held-out clusters", False), ("--test", True)):
        chosen = [np.flatnonzero((own == "test") & (is_test == of_test)) for own in splits]
        for task, score in scores.items():
            n = {"chains": len(chosen[0]), "seeds": seeds}
            if task == "secondary structure":
                n["residues"] = int(np.mean([found[task][0]["one-hot"][test, 1].sum() for test in chosen]))
            rows += [{"task": task, "test": test, **n, **row} for row in compared(found[task], chosen, score)]
    return rows


def changed(target: Target, share: float | None, random: np.random.Generator) -> Target:
    """A protein with its sequence shuffled (``share`` None), or with a share of its residues substituted at random."""
    letters = np.array(list(target.sequence))
    known = np.flatnonzero(np.isin(letters, list(AMINO_ACIDS)))
    if share is None:
        letters[known] = letters[random.permutation(known)]
    else:
        for place in random.choice(known, max(1, round(share * len(known))), replace=False):
            letters[place] = random.choice([letter for letter in AMINO_ACIDS if letter != letters[place]])
    return Target(target.name, "".join(letters), target.structure_tokens)


def calibration(model: DPLM2, chains: Sequence[Chain]) -> dict:
    """Natives against changed sequences, and probabilities against frequencies, without and with the structure."""
    random = np.random.default_rng(0)
    natives = [chain.target for chain in chains]
    others = {"shuffled": [changed(one, None, random) for one in natives]}
    others[f"{SUBSTITUTED:.0%} substituted"] = [changed(one, SUBSTITUTED, random) for one in natives]
    results = {}
    for view in ("sequence", "sequence_given_structure"):
        print(f"calibration: {view}", flush=True)
        own, found = of_probabilities(model, natives, view)
        rows = {name: against(own, per_residue(model, proteins, view)) for name, proteins in others.items()}
        results[view] = {
            "chains": len(natives),
            "natives": {"value": own.mean(), **bootstrap(own)},
            "against": rows,
            **found,
        }
    return results


def per_residue(model: DPLM2, proteins: Sequence[Target], view: str) -> np.ndarray:
    """Log-likelihood per residue, in nats, of each protein."""
    found = residue_likelihoods(model, proteins, [view], Reading(parts=PARTS))
    return np.array([np.nanmean(one[view]) for one in found])


def bootstrap(values: np.ndarray) -> dict[str, float]:
    """Interval of the mean over chains."""
    random = np.random.default_rng(0)
    return interval(np.array([values[random.integers(0, len(values), len(values))].mean() for _ in range(REPLICATES)]))


def against(natives: np.ndarray, others: np.ndarray) -> dict:
    """In what fraction of the chains the native is more likely than the other, and by how much."""
    better, gain = (natives > others).astype(float), natives - others
    return {
        "native_more_likely": {"value": better.mean(), **bootstrap(better)},
        "nats_per_residue": {"value": gain.mean(), **bootstrap(gain)},
    }


def of_probabilities(model: DPLM2, natives: Sequence[Target], view: str) -> tuple[np.ndarray, dict]:
    """The natives' log-likelihoods per residue; point mutants, and the reliability of probabilities."""
    likelihoods, effects, correct, certainty = [], [], [], []
    for target in natives:
        known = [place for place, letter in enumerate(target.sequence) if letter in AMINO_ACIDS]
        seen = Target(target.name, target.sequence, None) if view == "sequence" else target
        log_p = amino_acid_log_probabilities(model, seen, known, Reading(parts=PARTS))
        own = np.array([AMINO_ACIDS.index(target.sequence[place]) for place in known])
        is_own = np.arange(len(AMINO_ACIDS)) == own[:, None]
        likelihoods.append(log_p[is_own].mean())
        below = (log_p < log_p[is_own][:, None])[~is_own]
        effects.append([below.mean(), area_under_curve(log_p.ravel(), is_own.ravel())])
        p = np.exp(log_p) / np.exp(log_p).sum(1, keepdims=True)
        correct.append(p.argmax(1) == own)
        certainty.append(p.max(1))
    better, area = np.array(effects).T
    return np.array(likelihoods), {
        "point_mutants": {
            "native_more_likely": {"value": better.mean(), **bootstrap(better)},
            "auc": {"value": area.mean(), **bootstrap(area)},
        },
        "reliability": reliability(np.concatenate(certainty), np.concatenate(correct)),
    }


def reliability(certainty: np.ndarray, correct: np.ndarray) -> dict:
    """Mean probability of the most probable amino acid and how often it is right, in bins of as many residues."""
    bins = np.array_split(np.argsort(certainty, kind="stable"), BINS)
    rows = [{"n": len(own), "probability": certainty[own].mean(), "right": correct[own].mean()} for own in bins]
    error = sum(row["n"] * abs(row["probability"] - row["right"]) for row in rows) / len(certainty)
    return {"expected_calibration_error": error, "bins": rows, "residues": len(certainty)}


def plain(value):  # noqa: ANN001, ANN201
    """Numbers of numpy as those of JSON."""
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return round(float(value), 5) if isinstance(value, float | np.floating) else value


def main() -> None:
    """Measure, write JSON, and replace the tables of the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="small")
    parser.add_argument("--chains", type=Path, required=True, help="folder of structure files, one chain each")
    parser.add_argument("--clusters", type=Path, required=True, help="CSV: chain_id, n_residues, cluster30 or cluster")
    parser.add_argument("--test", type=Path, required=True, help="folder of chains that the model was not trained on")
    parser.add_argument("--number", type=int, default=300, help="largest number of chains of --chains")
    parser.add_argument("--shortest", type=int, default=40)
    parser.add_argument("--longest", type=int, default=256)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--calibrated", type=int, default=60, help="largest number of chains of --test for calibration")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--page", type=Path, help="page whose tables are replaced")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = DPLM2.from_pretrained(options.model, device=pick_device(options.device))
    names, test, clusters = chosen_files(options)
    corpus = list(read_chains(model, options.chains, clusters, names))
    held_out = list(read_chains(model, options.test, clusters, test))
    print(f"{len(corpus)} chains of as many clusters, {len(held_out)} of {options.test}")
    is_test = np.arange(len(corpus) + len(held_out)) >= len(corpus)
    described = {key: value.name if isinstance(value, Path) else value for key, value in vars(options).items()}
    found = {
        "options": {key: value for key, value in described.items() if key not in ("out", "page")},
        "model": model.fingerprint,
        "versions": library_versions(),
        "chains": {"corpus": len(corpus), "test": len(held_out)},
        "probes": probes(model, [*corpus, *held_out], is_test, options.seeds),
        "calibration": calibration(model, held_out[: options.calibrated]),
    }
    found = plain(found)
    write_json(options.out, found)
    print(tables(found))
    if options.page:
        write_text(options.page, with_tables(options.page.read_text(encoding="utf-8"), found))


if __name__ == "__main__":
    main()
