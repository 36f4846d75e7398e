"""Cheap filters of samples before they are folded (`FilterSettings`)."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby

from dplm2.core.errors import DPLM2Error
from dplm2.evaluation.recovery import sequence_entropy
from dplm2.evaluation.samples import EvaluatedSample
from dplm2.geometry.chemistry import backbone_geometry
from dplm2.settings.designs import FilterSettings
from dplm2.settings.roles import fields_read


def filtered(samples: Sequence[EvaluatedSample], settings: FilterSettings) -> dict[str, str]:
    """The samples that fail a filter, each with the first one that it fails: ``max_repeat: 9 (at most 5)``.

    Parameters
    ----------
    samples
        Samples; a filter of sequences passes samples without one, a filter of structures likewise.
    settings
        The filters.

    Raises
    ------
    DPLM2Error
        If the log-likelihood is filtered, but was not computed.
    """
    left_out: dict[str, str] = {}
    for sample in samples:
        for key, _, limit in fields_read(settings, sample.task):
            value = None if limit is None else _MEASURES[key](sample)
            at_least = key.startswith("min_")
            if value is not None and not (value >= limit if at_least else value <= limit):
                bound = f"at {'least' if at_least else 'most'} {limit:g}"
                left_out[sample.sample_id] = f"{key}: {value:.4g} ({bound})"
                break
    return left_out


def counts(left_out: Mapping[str, str]) -> str:
    """How many samples were left out by each filter, and by name or length; for the terminal."""
    split = (reason.partition(":") for reason in left_out.values())
    found = Counter(name if colon else "name or length" for name, colon, _ in split)
    return ", ".join(f"{name}: {count}" for name, count in found.items())


def longest_run(sequence: str) -> int:
    """Length of the longest run of one letter."""
    return max((len(list(run)) for _, run in groupby(sequence)), default=0)


def _log_likelihood(sample: EvaluatedSample) -> float:
    if sample.log_likelihood is None:
        raise DPLM2Error(
            f"evaluation.filters.min_log_likelihood: sample {sample.sample_id} has no log_likelihood; generate with "
            "likelihood: true (--set likelihood=true)"
        )
    return sample.log_likelihood


def _geometry(name: str) -> Callable[[EvaluatedSample], float | None]:
    return lambda sample: None if sample.backbone is None else backbone_geometry(sample.backbone)[name]


_MEASURES: Mapping[str, Callable[[EvaluatedSample], float | None]] = {
    "min_sequence_entropy": lambda sample: sequence_entropy(sample.sequence) if sample.sequence else None,
    "max_repeat": lambda sample: longest_run(sample.sequence) if sample.sequence else None,
    "max_clashes_per_100_residues": _geometry("clashes_per_100_residues"),
    "max_broken_bonds": _geometry("broken_bonds"),
    "min_log_likelihood": _log_likelihood,
}
