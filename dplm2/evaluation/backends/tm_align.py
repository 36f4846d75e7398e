"""TM-score of structures whose residues do not correspond, by TM-align, and the released evaluator's variant of it.

TM-align (Zhang & Skolnick, Nucleic Acids Res. 33 (2005) 2302) comes from the package tmtools (the extra ``tmalign``) or
from a program on PATH: USalign or TMalign.
"""

import itertools
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from dplm2.core.errors import DPLM2Error

PROGRAMS = ("USalign", "TMalign")
HOW_TO_GET = (
    "TM-align is needed: `pip install 'dplm2[tmalign]'` (tmtools, GPLv3), or put USalign or TMalign on PATH (TMalign: "
    "Debian's package tm-align)"
)


def aligner() -> Callable[[np.ndarray, np.ndarray], tuple[float, float]]:
    """A function of two C-alpha traces (L, 3) that gives TM-align's scores, normalized by the first and the second.

    Raises
    ------
    DPLM2Error
        If neither tmtools nor a program is available.
    """
    if find_spec("tmtools") is not None:
        return _with_tmtools
    for program in PROGRAMS:
        if path := shutil.which(program):
            return lambda first, second: _with_program(path, first, second)
    raise DPLM2Error(HOW_TO_GET)


def _with_tmtools(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    import tmtools

    first, second = (np.asarray(trace, dtype=np.float64) for trace in (first, second))
    result = tmtools.tm_align(first, second, "A" * len(first), "A" * len(second))
    return result.tm_norm_chain1, result.tm_norm_chain2


def _with_program(program: str, first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / name for name in ("first.pdb", "second.pdb")]
        for path, trace in zip(paths, (first, second), strict=True):
            path.write_text(trace_as_pdb(trace))
        done = subprocess.run([program, *map(str, paths)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise DPLM2Error(f"{program}: exit status {done.returncode}: {done.stderr.strip()[-300:]}")
    return read_tm_align(done.stdout)


def read_tm_align(text: str) -> tuple[float, float]:
    """The two TM-scores in the output of TMalign or USalign, normalized by the first and the second chain."""
    scores = [float(line.split()[1]) for line in text.splitlines() if line.startswith("TM-score=")]
    if len(scores) < 2:
        raise DPLM2Error(f"TM-align's output has no two TM-scores: {text.strip()[:200]!r}")
    return scores[0], scores[1]


def trace_as_pdb(trace: np.ndarray) -> str:
    """A C-alpha trace (L, 3) as PDB text of alanines."""
    lines = [
        f"ATOM  {i:5d}  CA  ALA A{i:4d}    {x:8.3f}{y:8.3f}{z:8.3f}  1.00  0.00           C"
        for i, (x, y, z) in enumerate(np.asarray(trace, dtype=float).tolist(), start=1)
    ]
    return "\n".join([*lines, "TER", "END", ""])


def tm_score_released(model: np.ndarray, native: np.ndarray) -> float:
    """The TM-score as computed by the released evaluator, only for comparison with published values.

    It passes to TM-align the (L, 3, 3) array of N, CA and C, which is read as L points: the atoms of the first third of
    the chain, scored with the d0 of the whole (facts measured with tmtools 0.0.3 to 0.3.0).

    Parameters
    ----------
    model, native
        (L, 3 or 4, 3) backbones in angstrom, N, CA, C first; residues with a missing atom are to be left out before.
    """
    first_atoms = [np.asarray(backbone)[:, :3].reshape(-1, 3)[: len(backbone)] for backbone in (model, native)]
    return aligner()(*first_atoms)[1]


def pairwise_tm_align(traces: Sequence[np.ndarray]) -> np.ndarray:
    """TM-align's score of each pair of a set (n, n): row normalized by its own length, 1 on the diagonal."""
    score = aligner()
    matrix = np.eye(len(traces))
    for i, j in itertools.combinations(range(len(traces)), 2):
        matrix[i, j], matrix[j, i] = score(traces[i], traces[j])
    return matrix
