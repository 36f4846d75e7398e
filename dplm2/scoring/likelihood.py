"""Log-likelihoods of sequences, structures and pairs: pseudo-perplexity (Salazar et al. 2020) per track.

Shapes: L residues, N residues that are read, D model width.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from dplm2.core import parquet
from dplm2.core.artifacts import fingerprint, make_folder
from dplm2.core.errors import DPLM2Error
from dplm2.generation.model import DPLM2
from dplm2.generation.proteins import fingerprint_of, ids_of
from dplm2.generation.task import Target
from dplm2.language.vocabulary import TRACKS, Track, Vocabulary
from dplm2.scoring.queries import Query, Reading, View, answers, queries_of
from dplm2.scoring.views import VIEW_NAMES

_VIEWS = (
    View(("sequence",), ("sequence",)),
    View(("structure",), ("structure",)),
    View(TRACKS, ("sequence",)),
    View(TRACKS, ("structure",)),
    View(TRACKS, TRACKS),
)
VIEWS: Mapping[str, View] = dict(zip(VIEW_NAMES, _VIEWS, strict=True))
_PROTEINS_AT_ONCE = 32  # also what an interruption may cost

Likelihoods = dict[str, np.ndarray]
"""Log-probability (L,) in nats of each residue by view; NaN where a residue is unknown."""


def residue_likelihoods(
    model: DPLM2,
    targets: Sequence[Target],
    views: Sequence[str] | None = None,
    reading: Reading | None = None,
    progress: str | None = None,
    kept: Path | None = None,
) -> Iterator[Likelihoods]:
    """Log-probability of each residue's token on a track, given the rest of the protein.

    Tokens are scored among the classes of their own track. With ``pair``, both tokens of a residue are masked together,
    and their log-probabilities, which are independent given the rest (paper section 3.1), are added. Residues that are
    unknown (X, no structure token; with ``pair``, on either track) are not scored.

    Parameters
    ----------
    model
        The language model.
    targets
        The proteins; names must be unique if ``reading.parts`` is given.
    views
        Keys of `VIEWS`. None: all for which a protein has the tracks.
    reading
        What is masked at once.
    progress
        Title of the progress bar; None: none.
    kept
        Folder in which values are kept as they are computed, for a run after an interruption; None: nowhere.

    Yields
    ------
    Likelihoods
        For each protein, in the order given.

    Raises
    ------
    DPLM2Error
        If a protein lacks a track of a chosen view; the message names it.
    """
    reading = reading or Reading()
    chosen = [_views_of(target, views) for target in targets]
    for start in range(0, len(targets), _PROTEINS_AT_ONCE):
        rows = slice(start, start + _PROTEINS_AT_ONCE)
        path = None if kept is None else kept / f"part-{start // _PROTEINS_AT_ONCE:05d}.parquet"
        yield from _kept_likelihoods(model, targets[rows], chosen[rows], reading, progress, path)


def _kept_likelihoods(
    model: DPLM2, targets, chosen, reading: Reading, progress: str | None, path: Path | None
) -> list[Likelihoods]:
    """`_some_likelihoods`, read from a file if an earlier run has written them."""
    if path is None:
        return _some_likelihoods(model, targets, chosen, reading, progress)
    decisive = [reading.marginals, reading.parts, reading.window, reading.seed]
    made_from = fingerprint([model.fingerprint, chosen, *decisive, fingerprint_of(targets)])
    if parquet.is_made_from(path, made_from):
        rows = parquet.read_table(path).to_pylist()
        return [{name: np.array(row[name]) for name in own} for row, own in zip(rows, chosen, strict=True)]
    found = _some_likelihoods(model, targets, chosen, reading, progress)
    kind = pa.list_(pa.float64())
    table = pa.table({name: pa.array([own.get(name) for own in found], kind) for name in VIEWS})
    make_folder(path.parent)
    parquet.write_table(path, table, metadata={parquet.MADE_FROM: made_from})
    return found


def _views_of(target: Target, views: Sequence[str] | None) -> list[str]:
    given = {"structure": target.structure_tokens is not None, "sequence": target.sequence is not None}
    possible = [name for name, view in VIEWS.items() if all(given[track] for track in view.seen)]
    for name in views or ():
        if name not in possible:
            missing = next(track for track in VIEWS[name].seen if not given[track])
            raise DPLM2Error(f"{target.name}: has no {missing}, which the score {name} needs")
    return possible if views is None else list(views)


def _some_likelihoods(model: DPLM2, targets, chosen, reading: Reading, progress: str | None) -> list[Likelihoods]:
    proteins = [ids_of(target, model.vocabulary) for target in targets]
    names = [target.name for target in targets]
    results: list[Likelihoods] = [{} for _ in targets]
    for name, view in VIEWS.items():
        queries: list[Query] = []
        for index, ids in enumerate(proteins):
            if name in chosen[index]:
                known = np.flatnonzero(np.all([is_known(model.vocabulary, ids[t], t) for t in view.read], axis=0))
                results[index][name] = np.full(targets[index].length, np.nan)
                results[index][name][known] = 0.0
                queries += queries_of(index, names[index], targets[index].length, known, reading)
        title = f"{progress} {name}" if progress else None
        for query, values in answers(model.network, proteins, names, queries, view, reading, _truth(model), title):
            for log_probabilities in values.values():
                results[query.protein][name][query.residues] += log_probabilities
    return results


def _truth(model: DPLM2):  # noqa: ANN202
    """Reads the log-probability (N,) of the true tokens."""
    return lambda hidden_ND, ids_N, track: -model.network.nll(hidden_ND, ids_N, track)


def is_known(vocabulary: Vocabulary, ids_L: np.ndarray, track: Track) -> np.ndarray:
    """True (L,) for the 20 amino acids, or the structure codes."""
    generated = vocabulary.generated(track)
    return (ids_L >= generated.start) & (ids_L < generated.stop)


def summary_row(target: Target, likelihoods: Likelihoods) -> dict[str, Any]:
    """Sum, number of residues and perplexity of each view of a protein; NaN where no residue is known.

    The perplexity of ``pair`` is that of a residue's two tokens together: exp(-sum / residues).
    """
    row: dict[str, Any] = {"chain_id": target.name, "length": target.length}
    for name, values_L in likelihoods.items():
        count = int(np.isfinite(values_L).sum())
        total = float(np.nansum(values_L)) if count else float("nan")
        row |= {f"{name}_log_likelihood": total, f"{name}_residues": count}
        row[f"{name}_perplexity"] = float(np.exp(-total / count)) if count else float("nan")
    return row


def residue_rows(target: Target, likelihoods: Likelihoods) -> pd.DataFrame:
    """A row per residue: ``chain_id``, ``position`` (from 1), ``residue``, ``structure_token``, a column per view."""
    frame = pd.DataFrame({"chain_id": target.name, "position": np.arange(1, target.length + 1)})
    frame["residue"] = list(target.sequence) if target.sequence is not None else None
    frame["structure_token"] = -1 if target.structure_tokens is None else np.asarray(target.structure_tokens)
    return frame.assign(**likelihoods)
