"""Command line: ``dplm2 probe``."""

import argparse
from pathlib import Path

EXAMPLE = """\
example:
  dplm2 embed proteins.fasta --model M --out embeddings.parquet
  dplm2 probe embeddings.parquet --labels labels.csv --out probe/
labels.csv has the columns chain_id, label (numbers or names) and split (train, validation, test).
"""


def add_probe(parser: argparse.ArgumentParser) -> None:
    """Fill ``dplm2 probe``."""
    parser.description = (
        "Fit a linear model from representations (dplm2 embed --pool mean) to a property, and score it."
    )
    parser.epilog = EXAMPLE
    parser.add_argument("embeddings", type=Path, help="Parquet file of dplm2 embed --pool mean")
    parser.add_argument("--labels", type=Path, required=True, metavar="CSV", help="chain_id, label, split")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="for predictions.csv and summary.csv")
    parser.add_argument("--model-name", default="model", help="name in the column `model` of summary.csv")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    import pandas as pd

    from dplm2.core import parquet
    from dplm2.core.artifacts import RunRecord, sha256_of_file, write_text
    from dplm2.core.errors import DPLM2Error
    from dplm2.core.locks import writing_into
    from dplm2.representations.probe import features_of, fit_probe, read_labels

    embeddings = parquet.read_frame(options.embeddings)
    if missing := [name for name in ("chain_id", "length") if name not in embeddings]:
        raise DPLM2Error(f"{options.embeddings}: no column {missing[0]}; create it with 'dplm2 embed --pool mean'")
    labels = read_labels(options.labels)
    try:
        rows = labels.merge(embeddings, on="chain_id", how="left", validate="one_to_one")
    except (pd.errors.MergeError, ValueError) as error:
        raise DPLM2Error(f"{options.embeddings}: its chain_id cannot be matched ({error})") from error
    unknown = rows["length"].isna()
    if unknown.any():
        first = rows["chain_id"][unknown].iloc[0]
        raise DPLM2Error(f"{options.embeddings}: no embedding of {first} ({unknown.sum()} missing)")
    features = features_of(rows)
    record = RunRecord("probe", {}, {str(path): sha256_of_file(path) for path in (options.embeddings, options.labels)})
    probe = fit_probe(features, rows["label"].to_numpy(), rows["split"].to_numpy())
    summary = pd.DataFrame(
        {
            "model": options.model_name, "task": "probe", "dataset": f"{options.labels.stem}/{split}",
            "metric": probe.metric, "value": score, "n": int((rows["split"] == split).sum()), "backend": "linear",
        }
        for split, score in probe.scores.items()
    )  # fmt: skip
    predictions = rows[["chain_id", "label", "split"]].assign(prediction=probe.predictions)
    with writing_into(options.out, "probe"):
        record.supersede(options.out)
        write_text(options.out / "predictions.csv", predictions.to_csv(index=False))
        write_text(options.out / "summary.csv", summary.to_csv(index=False))
        record.write(options.out, strength=probe.strength, **probe.scores)
    scores = ", ".join(f"{split} {score:.3f}" for split, score in probe.scores.items())
    print(f"{options.out}: {probe.metric} {scores}")
