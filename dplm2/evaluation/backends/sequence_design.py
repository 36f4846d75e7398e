"""Sequences for generated backbones, by the model itself or by ProteinMPNN, and the best of their folds.

The paper designs one sequence per backbone with ProteinMPNN at temperature 0.1 and folds it; of several sequences, the
one whose fold is closest to the backbone (by scTM) is used, as in the released evaluator. As in folding, designs by
ProteinMPNN are stored, and a backbone for which it fails is a failed sample.
"""

import hashlib
import shlex
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from tqdm import tqdm

from dplm2.core.artifacts import fingerprint, read_json, write_json
from dplm2.core.errors import DPLM2Error
from dplm2.core.fasta import split_records
from dplm2.core.text import read_text
from dplm2.evaluation.backends.command import run_command
from dplm2.evaluation.backends.folding import Failure, Folded
from dplm2.evaluation.benchmarks.job import Job
from dplm2.evaluation.samples import EvaluatedSample
from dplm2.geometry.tm_score import tm_scores
from dplm2.settings.evaluation import ProteinMpnnSettings
from dplm2.structures.writing import write_structure

CA = 1
TEMPLATE = "evaluation.proteinmpnn.template"
DECIMALS = 3  # of a coordinate in a PDB file


def best_designs(job: Job, samples: Sequence[EvaluatedSample]) -> tuple[list[str], list[Folded | Failure], str]:
    """For each backbone the designed sequence that folds best, its fold, and the names of both backends.

    A backbone without a design has the empty sequence and the failure in place of a fold.
    """
    name = job.settings.inverse_folding_backend
    if name == "proteinmpnn":
        designs = proteinmpnn(samples, getattr(job.settings, name), job.cache)
    else:
        from dplm2.evaluation.backends.self_folding import design_sequences

        designs = design_sequences(job.model_folder(), samples, job.settings.self, job.seed, job.device, job.tokenizer)
    flat = [sequence for sequences in designs if not isinstance(sequences, Failure) for sequence in sequences]
    folded, folding_name = job.fold(flat)
    remaining = iter(folded)
    chosen_sequences, chosen_folds = [], []
    for sample, sequences in zip(samples, designs, strict=True):
        if isinstance(sequences, Failure):
            chosen_sequences.append("")
            chosen_folds.append(sequences)
            continue
        folds = list(islice(remaining, len(sequences)))
        best = _best(sample, folds)
        chosen_sequences.append(sequences[best])
        chosen_folds.append(folds[best])
    return chosen_sequences, chosen_folds, f"{name}+{folding_name}"


def _best(sample: EvaluatedSample, folds: Sequence[Folded | Failure]) -> int:
    good = [i for i, fold in enumerate(folds) if isinstance(fold, Folded)]
    if len(good) < 2:
        return good[0] if good else 0
    traces = [folds[i].backbone[:, CA] for i in good]
    return good[int(np.argmax(tm_scores(traces, [sample.backbone[:, CA]] * len(good))))]


def proteinmpnn(
    samples: Sequence[EvaluatedSample], settings: ProteinMpnnSettings, cache: Path | None = None
) -> list[list[str] | Failure]:
    """Design sequences for each sample's backbone with ProteinMPNN, each distinct backbone once.

    Parameters
    ----------
    samples
        With backbones.
    settings
        The command line and what it is filled in with.
    cache
        Folder for designs: ``proteinmpnn-<fingerprint>/<hash of the backbone>.json``. Failures are not stored. None:
        nothing is stored.

    Raises
    ------
    DPLM2Error
        If the program is missing, or failed for every backbone, which indicates a general problem.
    """
    decisive = [settings.template, settings.sequences, settings.temperature, settings.seed]
    folder = None if cache is None else cache / f"proteinmpnn-{fingerprint(decisive)}"
    names = [name_of_backbone(sample.backbone) for sample in samples]
    distinct = dict(zip(names, samples, strict=True))
    results: dict[str, list[str] | Failure] = {} if folder is None else _kept(folder, distinct)
    missing = {name: sample for name, sample in distinct.items() if name not in results}
    program = shlex.split(settings.template)[0]
    if missing and shutil.which(program) is None:
        raise DPLM2Error(f"{TEMPLATE}: the program {program!r} is not on PATH")
    for name, sample in tqdm(missing.items(), unit="backbone", desc="design (proteinmpnn)", disable=None):
        results[name] = _design(sample, settings)
        if folder is not None and not isinstance(results[name], Failure):
            write_json(folder / f"{name}.json", results[name])
    failures = [result for result in results.values() if isinstance(result, Failure)]
    if failures and len(failures) == len(results):
        raise DPLM2Error(f"proteinmpnn: no sequence could be designed for any backbone ({failures[0].reason})")
    return [results[name] for name in names]


def name_of_backbone(backbone: np.ndarray) -> str:
    """Hash of a backbone (L, 4, 3) as a PDB file gives it, 32 hexadecimal digits: its name in the cache."""
    rounded = np.round(backbone.astype(np.float64), DECIMALS) + 0.0  # no zero has a sign
    return hashlib.sha256(rounded.tobytes()).hexdigest()[:32]


def _kept(folder: Path, names: Iterable[str]) -> dict[str, list[str]]:
    paths = {name: folder / f"{name}.json" for name in names}
    return {name: read_json(path) for name, path in paths.items() if path.exists()}


def _design(sample: EvaluatedSample, settings: ProteinMpnnSettings) -> list[str] | Failure:
    """Run the program for one backbone."""
    with tempfile.TemporaryDirectory(prefix="dplm2-mpnn-") as folder:
        path, out = Path(folder) / "backbone.pdb", Path(folder) / "out"
        out.mkdir()
        places = {
            "pdb": path,
            "out": out,
            "sequences": settings.sequences,
            "temperature": settings.temperature,
            "seed": settings.seed,
        }
        try:
            write_structure(path, "A" * len(sample.backbone), sample.backbone)
            run_command(TEMPLATE, settings.template, places)
            files = sorted(out.rglob("*.fa")) + sorted(out.rglob("*.fasta"))
            return read_designs(read_text(files[0]) if files else "", len(sample.backbone), sample.sample_id)
        except DPLM2Error as error:
            return Failure(" ".join(str(error).split())[:300])


def read_designs(text: str, length: int, name: str) -> list[str]:
    """The designed sequences in ProteinMPNN's or LigandMPNN's FASTA output; its first entry is the input, left out.

    Raises
    ------
    DPLM2Error
        If there is none, or one of another length.
    """
    designed = [record.sequence for record in split_records(text.splitlines(), name)][1:]
    if not designed or any(len(sequence) != length for sequence in designed):
        raise DPLM2Error(f"{name}: ProteinMPNN gave no sequence of {length} residues")
    return designed
