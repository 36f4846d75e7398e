"""Sequences for generated backbones, by the model itself or by ProteinMPNN, and the best of their folds.

The paper designs one sequence per backbone with ProteinMPNN at temperature 0.1 and folds it; where there are more, the
sequence whose fold is nearest to the backbone (by scTM) counts, as in the released evaluator.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dplm2.errors import DPLM2Error
from dplm2.evaluation.benchmark import Job
from dplm2.evaluation.command_backend import run_command
from dplm2.evaluation.folding import Failure, Folded
from dplm2.evaluation.samples import Sample
from dplm2.evaluation.settings import ProteinMpnnSettings, backend_settings
from dplm2.evaluation.tm_score import tm_scores
from dplm2.structures.writing import write_structure

CA = 1


def best_designs(job: Job, samples: Sequence[Sample]) -> tuple[list[str], list[Folded | Failure], str]:
    """For each backbone the designed sequence that folds best, its fold, and the names of both backends."""
    name = job.settings.inverse_folding_backend
    if name == "proteinmpnn":
        designs = proteinmpnn(samples, backend_settings(job.settings, name))
    else:
        from dplm2.evaluation.self_backend import design_sequences

        designs = design_sequences(
            job.model_folder(), samples, backend_settings(job.settings, "self"), job.seed, job.device
        )
    flat = [sequence for sequences in designs for sequence in sequences]
    folded, folding_name = job.fold(flat)
    chosen_sequences, chosen_folds, start = [], [], 0
    for sample, sequences in zip(samples, designs, strict=True):
        folds = folded[start : start + len(sequences)]
        start += len(sequences)
        best = _best(sample, folds)
        chosen_sequences.append(sequences[best])
        chosen_folds.append(folds[best])
    return chosen_sequences, chosen_folds, f"{name}+{folding_name}"


def _best(sample: Sample, folds: Sequence[Folded | Failure]) -> int:
    good = [i for i, fold in enumerate(folds) if isinstance(fold, Folded)]
    if len(good) < 2:
        return good[0] if good else 0
    traces = [folds[i].backbone[:, CA] for i in good]
    return good[int(np.argmax(tm_scores(traces, [sample.backbone[:, CA]] * len(good))))]


def proteinmpnn(samples: Sequence[Sample], settings: ProteinMpnnSettings) -> list[list[str]]:
    """Design sequences for each sample's backbone with ProteinMPNN.

    Raises
    ------
    DPLM2Error
        If the program fails or gives no sequence of the backbone's length.
    """
    designs = []
    for sample in samples:
        with tempfile.TemporaryDirectory(prefix="dplm2-mpnn-") as folder:
            path, out = Path(folder) / "backbone.pdb", Path(folder) / "out"
            out.mkdir()
            write_structure(path, "A" * len(sample.backbone), sample.backbone)
            places = {
                "pdb": path,
                "out": out,
                "sequences": settings.sequences,
                "temperature": settings.temperature,
                "seed": settings.seed,
            }
            run_command("evaluation.proteinmpnn.template", settings.template, places)
            files = sorted(out.rglob("*.fa")) + sorted(out.rglob("*.fasta"))
            designs.append(read_designs(files[0].read_text() if files else "", len(sample.backbone), sample.sample_id))
    return designs


def read_designs(text: str, length: int, name: str) -> list[str]:
    """The designed sequences in ProteinMPNN's or LigandMPNN's FASTA output; its first entry is the input, left out.

    Raises
    ------
    DPLM2Error
        If there is none, or one of another length.
    """
    entries = ["".join(entry.splitlines()[1:]).strip() for entry in text.split(">")[1:]]
    designed = entries[1:]
    if not designed or any(len(sequence) != length for sequence in designed):
        raise DPLM2Error(f"{name}: ProteinMPNN gave no sequence of {length} residues")
    return designed
