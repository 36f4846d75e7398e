"""Quality of samples by number of steps, schedule, remasking and unmasking.

    python -m benchmarks.steps --chains CORPUS/cameo2022 --out benchmarks/results/steps.json
    python -m benchmarks.steps --out benchmarks/results/steps.json --table --plot docs/images/steps.svg

Each combination that the file does not have yet is measured and added, so that an interrupted run continues. Natives
are the chains of the folder (structure files) without gaps. For each combination:

- co-generation: total variation between the mean fractions of helix, strand and coil of samples and natives; share of
  samples whose radius of gyration is within the natives' range from 10 to 90 %; entropy of the amino acids of a sample,
  in nats; self-consistency TM-score by the model's own folding
- folding: TM-score and lDDT of C-alpha, share of residues with the native's secondary structure
- inverse folding: share of residues recovered

``passes`` counts forward passes, of which steps that change nothing need none. Intervals are standard errors over the
samples.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dplm2.core.artifacts import library_versions, write_json
from dplm2.generation.inputs import read_proteins
from dplm2.generation.model import DPLM2
from dplm2.generation.samples import Sample
from dplm2.geometry.backbone import radius_of_gyration
from dplm2.geometry.lddt import lddt_ca_scores
from dplm2.geometry.secondary_structure import fractions, secondary_structure
from dplm2.geometry.tm_score import tm_scores
from dplm2.language.vocabulary import AMINO_ACIDS

CA = 1
LENGTHS = (40, 150)  # of natives, in residues
STEPS = {
    "co-generation": (10, 25, 50, 100),
    "folding": (5, 10, 25, 50),
    "inverse-folding": (5, 10, 25, 50),
}
# Remasking and schedule; with the other samplers, only the first two.
ORDERS = (("fresh", "linear"), ("never", "linear"), ("kept", "linear"), ("fresh", "cosine"), ("never", "cosine"))
# The released sampler's, the one that the small model recommends, and the latter with the most certain first.
FREE = {"paper": {"strategy": "annealing@2.0:1.0", "unmasking": "stochastic@1.0"},
        "own": {"strategy": "annealing@1.0:1.0", "unmasking": "stochastic@100"},
        "certain": {"strategy": "annealing@1.0:1.0", "unmasking": "deterministic"}}  # fmt: skip
GIVEN = {"argmax": {"strategy": "argmax", "unmasking": "deterministic"}}
FOLDING_STEPS = 10  # of self-consistency
TITLES = {
    "co-generation": {"secondary_structure": "distance of secondary structure", "compact": "within the natives' radii",
                      "entropy": "entropy of a sequence (nats)", "sc_tm": "self-consistency TM-score"},
    "folding": {"tm_score": "TM-score", "lddt": "lDDT", "secondary_structure": "secondary structure right"},
    "inverse-folding": {"recovery": "recovery"},
}  # fmt: skip


def natives_of(folder: Path, most: int) -> dict[str, tuple[str, np.ndarray]]:
    """Sequence and backbone of chains without gaps, drawn from a folder of structure files."""
    whole = [
        (name, (sequence, backbone))
        for name, sequence, backbone in read_proteins([folder])
        if LENGTHS[0] <= len(sequence) < LENGTHS[1]
        and set(sequence) <= set(AMINO_ACIDS)
        and np.isfinite(backbone).all()
    ]
    return dict(whole[index] for index in np.random.default_rng(0).permutation(len(whole))[:most])


def composition_entropy(sequence: str) -> float:
    """Entropy of the amino acids of a sequence, in nats."""
    shares = np.unique(list(sequence), return_counts=True)[1] / len(sequence)
    return float(-(shares * np.log(shares)).sum())


def mix(alphas: Sequence[np.ndarray]) -> np.ndarray:
    """Mean fractions of helix, strand and coil."""
    return np.mean([list(fractions(alpha).values()) for alpha in alphas], 0)


def of_co_generation(samples: Sequence[Sample], natives: Mapping, model: DPLM2) -> dict[str, list[float]]:
    """Values of each sample; the distance of secondary structure is one value of all."""
    alphas = [sample.backbone[:, CA] for sample in samples]
    known = [backbone[:, CA] for _, backbone in natives.values()]

    def radius(alpha: np.ndarray) -> float:
        return radius_of_gyration(alpha) / len(alpha) ** 0.4  # by length, nearly

    low, high = np.quantile([radius(alpha) for alpha in known], [0.1, 0.9])
    folded = model.generate("folding", sequences=[s.sequence for s in samples], steps=FOLDING_STEPS)
    return {
        "secondary_structure": [float(np.abs(mix(alphas) - mix(known)).sum() / 2)],
        "compact": [float(low <= radius(alpha) <= high) for alpha in alphas],
        "entropy": [composition_entropy(sample.sequence) for sample in samples],
        "sc_tm": tm_scores([sample.backbone[:, CA] for sample in folded], alphas).tolist(),
    }


def of_folding(samples: Sequence[Sample], natives: Mapping, model: DPLM2) -> dict[str, list[float]]:
    """Values of each native."""
    alphas = [sample.backbone[:, CA] for sample in samples]
    known = [backbone[:, CA] for _, backbone in natives.values()]
    right = [
        float((secondary_structure(one) == secondary_structure(other)).mean())
        for one, other in zip(alphas, known, strict=True)
    ]
    return {
        "tm_score": tm_scores(alphas, known).tolist(),
        "lddt": lddt_ca_scores(alphas, known).tolist(),
        "secondary_structure": right,
    }


def of_inverse_folding(samples: Sequence[Sample], natives: Mapping, model: DPLM2) -> dict[str, list[float]]:
    """Values of each native."""
    pairs = zip(samples, natives.values(), strict=True)
    return {"recovery": [float(np.mean([a == b for a, b in zip(s.sequence, n, strict=True)])) for s, (n, _) in pairs]}


QUALITIES: dict[str, Callable[..., dict[str, list[float]]]] = {
    "co-generation": of_co_generation,
    "folding": of_folding,
    "inverse-folding": of_inverse_folding,
}


def combinations(tasks: Sequence[str], steps: Sequence[int] | None) -> Iterator[dict[str, Any]]:
    """What is measured, the defaults first; settings by their names in the configuration."""
    for remasking, schedule in ORDERS:
        for task in tasks:
            for name, sampler in (FREE if task == "co-generation" else GIVEN).items():
                if name in ("own", "argmax") or (remasking, schedule) in ORDERS[:2]:
                    for number in steps or STEPS[task]:
                        chosen = {"task": task, "sampler": name, "remasking": remasking, "schedule": schedule}
                        yield {**chosen, "steps": number, **sampler}


def measure(model: DPLM2, chosen: Mapping[str, Any], natives: Mapping, options: argparse.Namespace) -> dict[str, Any]:
    """A row of results."""
    settings = {key: value for key, value in chosen.items() if key not in ("task", "sampler")}
    if chosen["task"] == "co-generation":
        settings |= {"lengths": [options.length], "samples": options.samples}
    elif chosen["task"] == "folding":
        settings["sequences"] = {name: sequence for name, (sequence, _) in natives.items()}
    else:
        settings["backbones"] = {name: backbone for name, (_, backbone) in natives.items()}
    passes, plain = 0, model.network.hidden

    def counted(*arguments: Any) -> torch.Tensor:
        nonlocal passes
        passes += 1
        return plain(*arguments)

    model.network.hidden = counted
    start = time.process_time()
    samples = model.generate(chosen["task"], seed=0, token_budget=16384, **settings)
    seconds = time.process_time() - start
    model.network.hidden = plain
    values = QUALITIES[chosen["task"]](samples, natives, model)
    row = {**chosen, "passes": passes, "cpu_seconds": round(seconds, 2)}
    for name, each in values.items():
        row[name] = round(float(np.mean(each)), 4)
        if len(each) > 1:
            row[f"{name}_error"] = round(float(np.std(each, ddof=1) / len(each) ** 0.5), 4)
    return row


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The results as Markdown, a line for each sampler: values by increasing number of steps."""
    parts = []
    for task, titles in TITLES.items():
        own = [row for row in rows if row["task"] == task]
        steps = sorted({row["steps"] for row in own})
        head = [*("sampler", "remasking", "schedule"), *titles.values(), "forward passes"]
        parts += ["", f"{task}, {', '.join(map(str, steps))} steps:", "", f"| {' | '.join(head)} |",
                  f"|{' --- |' * len(head)}"]  # fmt: skip
        lines: dict[tuple, dict[int, Mapping]] = {}
        for row in own:
            lines.setdefault((row["sampler"], row["remasking"], row["schedule"]), {})[row["steps"]] = row
        for key, by_steps in lines.items():
            cells = [" ".join(f"{by_steps[s][name]:.2f}" for s in steps if s in by_steps) for name in titles]
            passes = " ".join(str(by_steps[s]["passes"]) for s in steps if s in by_steps)
            parts.append(f"| {' | '.join([*key, *cells, passes])} |")
    return "\n".join(parts)


def plot(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Each quality by forward passes, a line for each sampler with the linear schedule."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "dplm2"  # the same file from the same values
    from matplotlib import pyplot

    panels = [(task, name, title) for task, titles in TITLES.items() for name, title in titles.items()]
    figure, axes = pyplot.subplots(2, 4, figsize=(13, 6), layout="constrained")
    colors = {"paper": "tab:blue", "own": "tab:orange", "certain": "tab:green", "argmax": "tab:purple"}
    styles = {"fresh": "-", "kept": "--", "never": ":"}
    for ax, (task, name, title) in zip(axes.flat, panels, strict=True):
        for sampler, color in colors.items():
            for remasking, style in styles.items():
                line = [row for row in rows if (row["task"], row["sampler"], row["remasking"], row["schedule"])
                        == (task, sampler, remasking, "linear")]  # fmt: skip
                if line:
                    errors = [row.get(f"{name}_error", 0) for row in line]
                    look = {"fmt": style, "marker": ".", "color": color, "elinewidth": 0.5}
                    ax.errorbar([row["passes"] for row in line], [row[name] for row in line], errors, **look,
                                label=f"{sampler}, {remasking}")  # fmt: skip
        ax.set(title=f"{task}: {title}", xlabel="forward passes", xscale="log")
        ax.set_xticks(STEPS[task], labels=map(str, STEPS[task]))
        ax.minorticks_off()
        ax.title.set_fontsize(9)
    named = [axes.flat[place].get_legend_handles_labels() for place in (0, 4)]
    handles, labels = ([*first, *second] for first, second in zip(*named, strict=True))
    figure.legend(handles, labels, loc="outside lower center", ncols=len(handles), fontsize=8)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Measure what is missing; print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chains", type=Path, help="folder of structure files of natives")
    parser.add_argument("--model", default="small")
    parser.add_argument("--tasks", nargs="+", choices=QUALITIES, default=list(QUALITIES))
    parser.add_argument("--samples", type=int, default=16, help="of co-generation")
    parser.add_argument("--length", type=int, default=80, help="of co-generation, in residues")
    parser.add_argument("--natives", type=int, default=24)
    parser.add_argument("--steps", type=int, nargs="+", help="instead of those of the table")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--table", action="store_true", help="print the results as Markdown")
    parser.add_argument("--plot", type=Path, metavar="SVG")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    known = json.loads(options.out.read_text()) if options.out.is_file() else {}
    rows = known.get("rows", [])
    if options.chains is not None:
        natives, model = natives_of(options.chains, options.natives), DPLM2.from_pretrained(options.model)
        settings = {"model": options.model, "natives": list(natives), "samples": options.samples,
                    "length": options.length}  # fmt: skip
        if any(known.get(key, value) != value for key, value in settings.items()):
            raise SystemExit(f"{options.out}: measured with other samples or natives; give another file")
        for chosen in combinations(options.tasks, options.steps):
            if any(chosen.items() <= row.items() for row in rows):
                continue
            rows.append(measure(model, chosen, natives, options))
            print(json.dumps(rows[-1]), flush=True)
            write_json(options.out, {**settings, "versions": library_versions(), "rows": rows})
    if options.table:
        print(table(rows))
    if options.plot:
        plot(rows, options.plot)


if __name__ == "__main__":
    main()
