"""``dplm2.DPLM2``: a model that generates, with short forms of what the later packages do with one.

Array axes: L residues, D model width, A the 20 amino acids in the order ``ACDEFGHIKLMNPQRSTVWY``.
"""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from dplm2.core.errors import DPLM2Error
from dplm2.generation import model as generation
from dplm2.generation.inputs import in_memory
from dplm2.generation.proteins import read_proteins
from dplm2.generation.samples import Sample
from dplm2.generation.task import Target, distinct
from dplm2.representations.embedding import Embedding, Pool, embed
from dplm2.scoring.effects import amino_acid_log_probabilities, effect_matrix, mutant_scores
from dplm2.scoring.likelihood import residue_likelihoods, summary_row
from dplm2.scoring.mutations import AMINO_ACIDS, Numbered
from dplm2.scoring.queries import Marginals, Reading

if TYPE_CHECKING:
    import pandas as pd

Protein = str | np.ndarray | Sample | os.PathLike
"""A sequence, a backbone (L, 3 or 4, 3), a sample with all that it has, or a file or folder of proteins (a `Path`)."""
ALL = "all"


class DPLM2(generation.DPLM2):
    __doc__ = generation.DPLM2.__doc__

    def embed(
        self, proteins: Protein | Sequence[Protein], *, pool: Pool = "mean", layer: int = -1
    ) -> dict[str, np.ndarray] | list[dict[str, np.ndarray]]:
        """Representations of proteins; `dplm2 embed` writes those of many.

        Parameters
        ----------
        proteins
            One protein, or several.
        pool
            ``mean`` over the known residues, ``first`` token of the track, or ``none``: all residues.
        layer
            After which layer; 0 is the input of the first, -1 the last.

        Returns
        -------
        dict, or list of dict
            For each protein, by track (``sequence``, ``structure``): (D,), or (L, D) without pooling.

        Raises
        ------
        DPLM2Error
            If a protein cannot be read.
        """
        targets, single = self._targets(proteins)
        table = embed(self, targets, Embedding(pool, (layer,)))
        found = []
        for row in table.to_pylist():
            tracks = {track: row[f"{track}_embedding"] for track in ("sequence", "structure")}
            shape = (-1, row["width"]) if pool == "none" else (-1,)
            found.append(
                {
                    track: np.array(values, np.float32).reshape(shape)
                    for track, values in tracks.items()
                    if values is not None
                }
            )
        return found[0] if single else found

    def score(
        self,
        proteins: Protein | Sequence[Protein],
        mutations: str | Sequence[str] | None = None,
        *,
        marginals: Marginals = "masked",
        parts: int | None = None,
    ) -> "pd.DataFrame | pd.Series":
        """Log-likelihoods of proteins, or effects of mutations; the commands are `dplm2 score likelihood | mutations`.

        Parameters
        ----------
        proteins
            One protein, or several. A structure, where there is one, is given to the model.
        mutations
            Mutants of one protein, such as ``["A23V", "A23V:G45D"]``, numbered from 1, or ``"all"`` single ones.
        marginals
            ``masked``: each residue is masked when it is read. ``wild-type``: one pass reads all mutations.
        parts
            Of log-likelihoods: read residues in so many parts, masked together, instead of one by one.

        Returns
        -------
        pandas.DataFrame or pandas.Series
            Without mutations, a row per protein: log-likelihood, residues and perplexity of each view. Of mutants,
            their scores in nats, positive where the model prefers the mutant. Of all single mutations, the scores as a
            table (L, A) of residues and amino acids.

        Raises
        ------
        DPLM2Error
            If a protein or mutation is invalid.
        """
        import pandas as pd

        targets, _ = self._targets(proteins)
        reading = Reading(marginals=marginals, parts=parts)
        if mutations is None:
            found = residue_likelihoods(self, targets, reading=reading)
            return pd.DataFrame([summary_row(*pair) for pair in zip(targets, found, strict=True)])
        if len(targets) != 1 or targets[0].sequence is None:
            raise DPLM2Error("mutations: give one protein with a sequence")
        target = targets[0]
        protein = Numbered.from_first(target.name, target.sequence)
        if mutations == ALL:
            rows = [f"{letter}{number}" for letter, number in zip(target.sequence, protein.numbers, strict=True)]
            everywhere = amino_acid_log_probabilities(self, target, range(target.length), reading)
            return pd.DataFrame(effect_matrix(target, everywhere), rows, list(AMINO_ACIDS))
        texts = [mutations] if isinstance(mutations, str) else list(mutations)
        mutants = [protein.mutant(text, "mutations") for text in texts]
        return pd.Series(mutant_scores(self, target, mutants, reading), texts, name="score")

    def _targets(self, proteins: Protein | Sequence[Protein]) -> tuple[list[Target], bool]:
        """The proteins with unique names, and whether it is a single one."""
        single = isinstance(proteins, str | Sample | os.PathLike) or (
            isinstance(proteins, np.ndarray) and proteins.ndim == 3
        )
        given = [proteins] if single else list(proteins)
        found = [target for number, protein in enumerate(given) for target in self._read(f"protein-{number}", protein)]
        return distinct(found), single and len(found) == 1

    def _read(self, name: str, protein: Protein) -> list[Target]:
        if isinstance(protein, Sample):
            return [Target(protein.sample_id, protein.sequence, protein.structure_tokens)]
        if isinstance(protein, os.PathLike):
            return read_proteins(self, [protein])
        sequences, backbones = ({name: protein}, {}) if isinstance(protein, str) else ({}, {name: protein})
        return in_memory(sequences, backbones, self._tokens_of)
