"""The learning curve of a model: cross-entropies of the validation chains by tokens seen.

    python -m benchmarks.curve dplm2/assets/small/metrics.csv --tokens-before 11700000 --plot CURVE.svg

Prints what the last doubling of the tokens brought, in nats, and draws the curves with dashed lines at the aims.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

# Columns of metrics.csv after ``validation_cross_entropy_``, with their titles and aims.
CURVES = {
    "structure_folding": ("structure, sequence given", 6.9),
    "structure": ("structure, mean of tasks", 7.1),
    "sequence_inverse_folding": ("sequence, structure given", 2.3),
}


def curves(metrics: Path, tokens_before: int) -> pd.DataFrame:
    """Cross-entropies by tokens seen: a row for each validation."""
    table = pd.read_csv(metrics).rename(columns=lambda name: name.removeprefix("validation_cross_entropy_"))
    table["tokens"] += tokens_before
    return table.dropna(subset=list(CURVES))[["tokens", *CURVES]]


def last_doubling(table: pd.DataFrame) -> dict[str, float]:
    """By how much each cross-entropy fell while the tokens doubled last."""
    last = table.iloc[-1]
    return {
        name: float(np.interp(np.log(last.tokens / 2), np.log(table.tokens), table[name]) - last[name])
        for name in CURVES
    }


def plot(table: pd.DataFrame, path: Path) -> None:
    """Draw the curves."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "dplm2"  # the same file from the same values
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(CURVES), figsize=(10, 3), layout="constrained")
    for ax, (name, (title, aim)) in zip(axes, CURVES.items(), strict=True):
        ax.plot(table.tokens / 1e6, table[name], marker=".", color="#1f6f8b")
        ax.axhline(aim, linestyle="--", color="#999999")
        ax.set(xscale="log", title=title, xlabel="tokens seen, millions")
        ax.xaxis.set_major_formatter(matplotlib.ticker.ScalarFormatter())
        ax.xaxis.set_minor_formatter(matplotlib.ticker.ScalarFormatter())
        ax.grid(alpha=0.3)
    axes[0].set_ylabel("cross-entropy, nats per token")
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("metrics", type=Path)
    parser.add_argument("--tokens-before", type=int, default=0, help="seen before the first row")
    parser.add_argument("--plot", type=Path, metavar="SVG")
    options = parser.parse_args()
    table = curves(options.metrics, options.tokens_before)
    print(table.to_string(index=False))
    for name, nats in last_doubling(table).items():
        print(f"{name}: {nats:.3f} nats lower after twice the tokens")
    if options.plot:
        plot(table, options.plot)


if __name__ == "__main__":
    main()
