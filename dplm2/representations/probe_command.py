"""Command line: ``dplm2 probe``."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from dplm2.representations.tasks import KINDS

if TYPE_CHECKING:
    import pandas as pd

EXAMPLES = """\
examples:
  dplm2 embed proteins.fasta --model M --out embeddings
  dplm2 probe labels.csv --task regression --embeddings embeddings --out probe
  dplm2 probe task.parquet --task multi-label --model M --out probe --probe network --seeds 0 1 2
The table has the columns id, label and split (train, validation, test); for pairs of proteins also id_2; with --model
also sequence, structure (a file) or structure_tokens (for pairs also sequence_2, ...).
Labels: a number; a name; names separated by ';' (multi-label); one letter per residue (residue-classification) or
numbers separated by spaces (residue-regression), with ?, - or . where there is none. Parquet: also lists.
"""


def add_probe(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``dplm2 probe``."""
    parser.description = "Predict labels of proteins, pairs or residues from representations, and score it."
    parser.epilog = EXAMPLES
    parser.add_argument("table", type=Path, metavar="TABLE", help="CSV or Parquet file")
    parser.add_argument("--task", choices=KINDS, required=True, help="what the labels are")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--embeddings", type=Path, metavar="PATH", help="folder of dplm2 embed, or one of its files")
    source.add_argument("--model", metavar="DIR", help="model folder or hub id that embeds the table's proteins")
    parser.add_argument("--tokenizer", metavar="DIR", help="tokenizer (default: the model's)")
    parser.add_argument("--layer", type=int, metavar="N", help="with --model: after which layer (default: the last)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="for predictions and summary.csv")
    parser.add_argument("--tracks", choices=("both", "sequence", "structure"), default="both", help="tracks to use")
    parser.add_argument(
        "--probe", choices=("linear", "network"), default="linear",
        help="linear: ridge or logistic regression (needs scikit-learn); network: one hidden layer",
    )  # fmt: skip
    parser.add_argument("--seeds", type=int, nargs="+", help="of the network, one fit each (default: 0)")
    parser.add_argument("--model-name", default="model", help="name in the column `model` of summary.csv")
    parser.add_argument(
        "--token-budget", type=int, default=8192, help="with --model: maximum number of tokens per batch"
    )
    parser.add_argument("--device", choices=["auto", "cpu", "cuda", "mps"], default="auto", help="with --model")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    from dplm2.core.artifacts import RunRecord, write_text
    from dplm2.core.errors import ConfigError
    from dplm2.core.locks import writing_into
    from dplm2.generation.proteins import contents_of
    from dplm2.representations.features import features_of
    from dplm2.representations.probe import fit_linear, fit_network, items_of
    from dplm2.representations.tasks import read_task

    if options.seeds and options.probe == "linear":
        raise ConfigError("--seeds: has no effect on a linear probe, which draws no random numbers")
    if options.layer is not None and options.model is None:
        raise ConfigError("--layer: has no effect with --embeddings, whose layers are used")
    task = read_task(options.table, options.task)
    inputs = contents_of([options.table])
    embeddings = _embeddings(options, task, inputs)
    items, features_MF = items_of(task, features_of(task, embeddings, options.tracks))
    seeds = options.seeds or [0]
    names = ("task", "tracks", "probe", "layer")
    settings = {name: getattr(options, name) for name in names} | {"seeds": seeds if options.seeds else None}
    record = RunRecord("probe", settings, inputs)
    if options.probe == "linear":
        probes = [fit_linear(features_MF, items)]
    else:
        probes = [fit_network(features_MF, items, seed) for seed in seeds]
    summary = _summary(options, items, probes)
    with writing_into(options.out, "probe"):
        record.supersede(options.out)
        predictions = _predictions(task, items, sum(probe.outputs for probe in probes) / len(probes))
        write_text(options.out / "predictions.csv", predictions.to_csv(index=False))
        write_text(options.out / "summary.csv", summary.to_csv(index=False))
        record.write(options.out, chosen=[probe.chosen for probe in probes], items=len(items.rows))
    main = next(iter(probes[0].scores))
    rows = summary[summary["metric"] == main]
    scores = ", ".join(
        f"{dataset.rpartition('/')[2]} {value:.3f}"
        for dataset, value in zip(rows["dataset"], rows["value"], strict=True)
    )
    print(f"{options.out}: {main} {scores}")


def _embeddings(options: argparse.Namespace, task, inputs: dict[str, str]):  # noqa: ANN001, ANN202
    """The representations, and in ``inputs`` where they are from."""
    from dplm2.core.devices import pick_device
    from dplm2.generation.model import DPLM2
    from dplm2.generation.proteins import contents_of
    from dplm2.representations.embedding import Embedding, embed, read_embeddings
    from dplm2.representations.features import proteins_of

    if options.embeddings is not None:
        inputs |= contents_of([options.embeddings])
        return read_embeddings(options.embeddings)
    model = DPLM2.from_pretrained(options.model, options.tokenizer, pick_device(options.device))
    inputs["model"] = model.fingerprint
    pool = "none" if task.is_of_residues else "mean"
    layer = -1 if options.layer is None else options.layer
    targets = proteins_of(task, options.table, model, options.tracks)
    return embed(model, targets, Embedding(pool, (layer,), token_budget=options.token_budget))


def _summary(options: argparse.Namespace, items, probes) -> "pd.DataFrame":  # noqa: ANN001
    """A row per metric and split: mean over the seeds, and their standard deviation."""
    import numpy as np
    import pandas as pd

    rows = []
    for metric, of_split in probes[0].scores.items():
        for split in of_split:
            values = [probe.scores[metric][split] for probe in probes]
            spread = float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")
            rows.append(
                {
                    "model": options.model_name, "task": "probe", "dataset": f"{options.table.stem}/{split}",
                    "metric": metric, "value": float(np.mean(values)), "n": int((items.splits == split).sum()),
                    "backend": options.probe, "spread": spread, "seeds": len(values),
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


def _predictions(task, items, outputs_MC) -> "pd.DataFrame":  # noqa: ANN001
    """A row per item: its names, split, label and prediction; of several labels, the probability of each."""
    import pandas as pd

    table = task.rows[task.name_columns].iloc[items.rows].reset_index(drop=True)
    if task.is_of_residues:
        table["position"] = items.positions
    table["split"] = items.splits
    if items.base == "multi-label":
        table["label"] = [";".join(task.labels[row]) for row in items.rows]
        return pd.concat([table, pd.DataFrame(outputs_MC, columns=[f"p({name})" for name in items.names])], axis=1)
    if items.base == "regression":
        return table.assign(label=items.targets, prediction=outputs_MC[:, 0])
    named = pd.Series(items.names)
    table["label"] = named.iloc[items.targets].to_numpy()
    return table.assign(prediction=named.iloc[outputs_MC.argmax(1)].to_numpy(), probability=outputs_MC.max(1))
