"""Command line: ``dplm2 probe``."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from dplm2.core.devices import DEVICES
from dplm2.settings.representations import FINE_TUNED, PROBES, TASKS

if TYPE_CHECKING:
    import pandas as pd

FITTING = ("epochs", "patience", "learning_rate")
EXAMPLES = """\
examples:
  dplm2 embed proteins.fasta --model M --out embeddings
  dplm2 probe labels.csv --task regression --embeddings embeddings --out probe
  dplm2 probe task.parquet --task multi-label --model M --out probe --probe network --seeds 0 1 2
  dplm2 probe task.csv --task classification --model M --out tuned --probe lora --seeds 0 1 2
  dplm2 probe residues.csv --task residue-classification --one-hot --window 7 --out baseline
  dplm2 probe LMDB/Thermostability --task thermostability --model M --tracks sequence --out thermostability
The table has the columns id, label and split (train, validation, test); for pairs of proteins also id_2; with --model
or --one-hot also sequence, structure (a file) or structure_tokens (for pairs also sequence_2, ...).
Labels: a number; a name; names separated by ';' (multi-label); one letter per residue (residue-classification) or
numbers separated by spaces (residue-regression), with ?, - or . where there is none. Parquet: also lists.
"""


def add_probe(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``dplm2 probe``."""
    parser.description = "Predict labels of proteins, pairs or residues from representations, and score it."
    parser.epilog = EXAMPLES
    parser.add_argument("table", type=Path, metavar="TABLE", help="CSV or Parquet file, or a folder of SaProt's data")
    parser.add_argument("--task", choices=TASKS, required=True, help="what the labels are, or one of the nine tasks")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--embeddings", type=Path, metavar="PATH", help="folder of dplm2 embed, or one of its files")
    source.add_argument("--model", metavar="DIR", help="model folder or hub id that embeds the table's proteins")
    source.add_argument(
        "--one-hot", action="store_true",
        help="baseline without a model: the amino acid of each residue; of a protein, its composition",
    )  # fmt: skip
    parser.add_argument("--window", type=int, metavar="N", help="with --one-hot: N neighbours on either side as well")
    parser.add_argument(
        "--structures", type=Path, metavar="DIR", help="with --model: structure files, named as the proteins"
    )
    parser.add_argument("--tokenizer", metavar="DIR", help="tokenizer (default: the model's)")
    parser.add_argument("--layer", type=int, metavar="N", help="with --model: after which layer (default: the last)")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="for predictions and summary.csv")
    parser.add_argument("--tracks", choices=("both", "sequence", "structure"), default="both", help="tracks to use")
    parser.add_argument(
        "--probe", choices=PROBES, default="linear",
        help="linear: ridge or logistic regression (needs scikit-learn); network: one hidden layer; with --model also "
        "lora or full: the model is trained with it, by low-rank updates or in all weights",
    )  # fmt: skip
    parser.add_argument("--seeds", type=int, nargs="+", help="one fit each, except of a linear probe (default: 0)")
    parser.add_argument("--epochs", type=int, metavar="N", help="at most so many (network: 300; lora, full: 50)")
    parser.add_argument(
        "--patience", type=int, metavar="N",
        help="stop when the validation loss has not fallen for N epochs (network: 20; lora, full: 5)",
    )  # fmt: skip
    parser.add_argument(
        "--learning-rate", type=float, metavar="X", help="network: 0.001; of the model with lora: 0.0003, full: 0.00002"
    )
    parser.add_argument("--model-name", default="model", help="name in the column `model` of summary.csv")
    parser.add_argument(
        "--token-budget", type=int, default=8192, help="with --model: maximum number of tokens per batch"
    )
    parser.add_argument(
        "--precision", choices=("float32", "bfloat16"), default="float32", help="with --model: of the model's products"
    )
    parser.add_argument("--device", choices=DEVICES, default="auto", help="with --model")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    from dplm2.core.artifacts import RunRecord, write_text
    from dplm2.core.locks import writing_into
    from dplm2.generation.proteins import contents_of
    from dplm2.representations.structure_files import with_structures
    from dplm2.representations.tasks import read_task

    _check(options)
    task = read_task(options.table, options.task)
    inputs = contents_of([options.table])
    if options.structures is not None:
        task = with_structures(task, options.structures)
        inputs |= contents_of([options.structures])
    items, probes = (_fine_tuned if options.probe in FINE_TUNED else _probed)(options, task, inputs)
    names = ("task", "tracks", "probe", "layer", "one_hot", "window", "seeds", *FITTING, "precision")
    record = RunRecord("probe", {name: getattr(options, name) for name in names}, inputs)
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


def _check(options: argparse.Namespace) -> None:
    """Refuse options without effect, and fine-tuning without a model."""
    from dplm2.core.errors import ConfigError

    if options.probe in FINE_TUNED and options.model is None:
        raise ConfigError(f"--probe {options.probe}: trains a model; give one with --model")
    if options.probe in FINE_TUNED and options.layer is not None:
        raise ConfigError(f"--layer: has no effect with --probe {options.probe}, which reads the last layer")
    if options.probe == "linear":
        for name in ("seeds", *FITTING):
            if getattr(options, name) is not None:
                why = "draws no random numbers" if name == "seeds" else "is not trained step by step"
                raise ConfigError(f"--{name.replace('_', '-')}: has no effect on a linear probe, which {why}")
    if options.layer is not None and options.model is None:
        raise ConfigError("--layer: has no effect without --model")
    if options.structures is not None and options.model is None:
        raise ConfigError("--structures: has no effect without --model")
    if options.window is not None and not options.one_hot:
        raise ConfigError("--window: has no effect without --one-hot")
    for name in ("epochs", "patience", "learning_rate", "token_budget"):
        if (value := getattr(options, name)) is not None and not value > 0:
            raise ConfigError(f"--{name.replace('_', '-')} {value}: must be above 0")
    if options.window is not None and options.window < 0:
        raise ConfigError(f"--window {options.window}: must be 0 or more")


def _fitting(options: argparse.Namespace) -> dict:
    return {name: value for name in FITTING if (value := getattr(options, name)) is not None}


def _probed(options: argparse.Namespace, task, inputs: dict[str, str]):  # noqa: ANN001, ANN202
    """Items and probes on features that are not trained."""
    from dplm2.representations.features import features_of
    from dplm2.representations.probe import Network, fit_linear, fit_network, items_of

    tracks = "sequence" if options.one_hot else options.tracks
    items, features_MF = items_of(task, features_of(task, _embeddings(options, task, inputs), tracks))
    if options.probe == "linear":
        return items, [fit_linear(features_MF, items)]
    network = Network(**_fitting(options))
    return items, [fit_network(features_MF, items, seed, network) for seed in options.seeds or [0]]


def _fine_tuned(options: argparse.Namespace, task, inputs: dict[str, str]):  # noqa: ANN001, ANN202
    """Items, and a fine-tuned model's predictions per seed."""
    from dplm2.representations.features import proteins_of
    from dplm2.representations.fine_tuning import FineTuning, fine_tune

    model = _model(options, inputs)
    targets = proteins_of(task, options.table, model, options.tracks)
    bfloat16 = options.precision == "bfloat16"
    settings = FineTuning(options.probe, token_budget=options.token_budget, bfloat16=bfloat16, **_fitting(options))
    runs = [fine_tune(model, task, targets, seed, settings) for seed in options.seeds or [0]]
    return runs[0][0], [probe for _, probe in runs]


def _model(options: argparse.Namespace, inputs: dict[str, str]):  # noqa: ANN202
    """The model, whose fingerprint is noted in ``inputs``."""
    from dplm2.core.devices import pick_device
    from dplm2.generation.model import DPLM2

    model = DPLM2.from_pretrained(options.model, options.tokenizer, pick_device(options.device))
    inputs["model"] = model.fingerprint
    return model


def _embeddings(options: argparse.Namespace, task, inputs: dict[str, str]):  # noqa: ANN001, ANN202
    """The representations, and in ``inputs`` where they are from."""
    from dplm2.generation.proteins import contents_of
    from dplm2.representations.embedding import Embedding, embed, read_embeddings
    from dplm2.representations.features import proteins_of
    from dplm2.representations.one_hot import one_hot_table

    if options.embeddings is not None:
        inputs |= contents_of([options.embeddings])
        return read_embeddings(options.embeddings)
    if options.one_hot:
        targets = proteins_of(task, options.table, None, "sequence")
        return one_hot_table(targets, task.is_of_residues, options.window or 0)
    model = _model(options, inputs)
    pool = "none" if task.is_of_residues else "mean"
    layer = -1 if options.layer is None else options.layer
    bfloat16 = options.precision == "bfloat16"
    targets = proteins_of(task, options.table, model, options.tracks)
    return embed(model, targets, Embedding(pool, (layer,), token_budget=options.token_budget, bfloat16=bfloat16))


def _summary(options: argparse.Namespace, items, probes) -> "pd.DataFrame":  # noqa: ANN001
    """A row per metric and split: mean over the seeds, and their standard deviation."""
    import numpy as np
    import pandas as pd

    from dplm2.representations.saprot import BENCHMARKS

    name = options.task if options.task in BENCHMARKS else options.table.stem
    rows = []
    for metric, of_split in probes[0].scores.items():
        for split in of_split:
            values = [probe.scores[metric][split] for probe in probes]
            spread = float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")
            rows.append(
                {
                    "model": options.model_name, "task": "probe", "dataset": f"{name}/{split}",
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


def add_comparison(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``dplm2 compare-probes``."""
    parser.description = "The paper's table of representations (DPLM-2, table 6) beside probes of the nine tasks."
    parser.add_argument("probes", nargs="+", type=Path, metavar="DIR", help="folders of dplm2 probe")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="for table.csv and results.csv")
    parser.set_defaults(run=_compare)


def _compare(options: argparse.Namespace) -> None:
    from dplm2.core.artifacts import RunRecord
    from dplm2.core.locks import writing_into
    from dplm2.generation.proteins import contents_of
    from dplm2.representations.comparison import TABLE_FILE, write_comparison

    record = RunRecord("compare-probes", {}, contents_of([folder / "summary.csv" for folder in options.probes]))
    with writing_into(options.out, "compare-probes"):
        record.supersede(options.out)
        table = write_comparison(options.probes, options.out)
        record.write(options.out, models=len(table))
    print(f"{table.drop(columns='source').to_string(index=False, na_rep='')}\n{options.out / TABLE_FILE}")
