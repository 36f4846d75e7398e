"""Scaffolding: proteins around given motifs; the motif's sequence and structure are given (paper section 4.4)."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from dplm2.core.errors import ConfigError
from dplm2.core.names import file_names
from dplm2.generation.contigs import Segment
from dplm2.generation.motifs import ReferenceMotif, read_motifs
from dplm2.generation.task import (
    GenerationTask,
    Given,
    Motif,
    Request,
    Target,
    known_tokens,
    random_for,
    request_of,
)
from dplm2.language.vocabulary import Track, Vocabulary
from dplm2.settings.generation import GenerationSettings


def requests(settings: GenerationSettings, vocabulary: Vocabulary, seed: int, given: Given) -> list[Request]:
    """Requests for each motif; spacer lengths are drawn for each sample."""
    if given.chains or given.targets:
        raise ConfigError("task scaffolding takes motif problems, not chains")
    motifs = read_motifs(settings.problems, settings.references, settings.motif_tokens, given.tokenize)
    requested = []
    for name, motif in zip(file_names([motif.problem.name for motif in motifs]), motifs, strict=True):
        known = known_tokens(Target(motif.problem.name, motif.sequence, motif.structure_tokens), vocabulary)
        for number in range(settings.samples):
            sample_id = f"{name}_{number:04d}"
            lengths = motif.problem.draw_lengths(random_for(seed, f"spacers of {sample_id}"))
            requested.append(_scaffold(sample_id, motif, known, lengths, settings, vocabulary))
    return requested


def _scaffold(
    sample_id: str,
    motif: ReferenceMotif,
    known: Mapping[Track, np.ndarray],
    lengths: Sequence[int],
    settings: GenerationSettings,
    vocabulary: Vocabulary,
) -> Request:
    tokens = {track: np.full(sum(lengths), vocabulary.mask(track)) for track in known}
    positions, contig, start, motif_start = [], [], 0, 0
    for part, length in zip(motif.problem.parts, lengths, strict=True):
        if isinstance(part, Segment):
            for track in known:
                if part.given in ("both", track):
                    tokens[track][start : start + length] = known[track][motif_start : motif_start + length]
            positions += range(start, start + length)
            contig.append(str(part))
            motif_start += length
        else:
            contig.append(str(length))
        start += length
    request = request_of(sample_id, motif.problem.name, tokens, settings, vocabulary)
    return replace(request, motif=Motif(",".join(contig), np.array(positions, dtype=np.int32), motif.backbone))


TASK = GenerationTask(
    meaning="proteins around given motifs",
    examples="""\
  dplm2 generate scaffolding --model M --out scaffolds --problems config/motifs/1PRW.yaml --references pdb/
A problem is a YAML file:
  name: 1PRW
  reference: 1prw.pdb                          # beside the YAML file, or in --references
  contig: 5-20,A16-35,10-25,A52-71,5-20        # 5-20 new residues, residues 16-35 of chain A, ...
  total_length: [60, 100]                      # optional
RFdiffusion's contigs ([5-20/A16-35/10-25]) are read as well. H52-52A ends with an insertion code; a range includes all
residues with insertion codes. A longer chain id is followed by a slash or quoted: heavy/16-35, "A-2"16-35.""",
    requests=requests,
    problems="motif problems (YAML)",
    references=True,
)
