"""Functions shared by the tasks whose inputs are proteins."""

from collections.abc import Callable

import numpy as np

from dplm2.core.errors import ConfigError, DPLM2Error
from dplm2.core.names import file_names
from dplm2.generation.task import Given, Request, Target, distinct, request_of
from dplm2.language.vocabulary import Track, Vocabulary
from dplm2.settings.generation import GenerationSettings

Masked = Callable[[GenerationSettings, Vocabulary, Target], dict[Track, np.ndarray]]
"""Token ids (L,) of both tracks of a target; the mask id where a token is to be generated."""

CHAINS = "inputs"


def targets_of(settings: GenerationSettings, given: Given, with_structure: bool = True) -> list[Target]:
    """The input proteins, from memory and from files.

    Raises
    ------
    ConfigError
        If there are none.
    DPLM2Error
        If a file cannot be read.
    """
    targets = list(given.targets)
    if given.chains:
        from dplm2.generation.inputs import read_targets

        targets += read_targets(given.chains, settings.split, given.tokenize if with_structure else None)
    if settings.problems:
        from dplm2.generation.residue_tables import read_residue_table, tables

        targets += [read_residue_table(path) for path in tables(settings.problems)]
    if not targets and settings.dataset is not None:
        raise ConfigError(f"task {settings.task} needs the dataset {settings.dataset}: give its folder with --chains")
    if not targets:
        raise ConfigError(f"task {settings.task} needs inputs: chains, or for infilling residue tables")
    return targets


def requests_for(
    targets: list[Target], settings: GenerationSettings, vocabulary: Vocabulary, masked: Masked
) -> list[Request]:
    """Requests for the samples of each target.

    Raises
    ------
    DPLM2Error
        If nothing of a protein is given or to be generated, or residues exceed its length; the message names it.
    """
    targets = distinct(targets)
    requests = []
    for name, target in zip(file_names([target.name for target in targets]), targets, strict=True):
        if target.length == 0:
            raise DPLM2Error(f"{target.name}: no residues")
        tokens = masked(settings, vocabulary, target)
        for number in range(settings.samples):
            requests.append(request_of(f"{name}_{number:04d}", target.name, tokens, settings, vocabulary))
    return requests
