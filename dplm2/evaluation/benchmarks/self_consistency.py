"""Self-consistency: fold a design's sequence and compare the prediction with the designed backbone.

DPLM-2 (section 4.1, C.1) and Trippe et al. (2023): scTM is the TM-score, scRMSD the RMSD over N, CA and C, between the
designed backbone and the folding program's model of the sequence. "Designable" has two meanings in the field (scTM >=
0.5 in the released evaluator, scRMSD <= 2 angstrom elsewhere), so the name of every such column includes its threshold.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from dplm2.evaluation.backends.folding import Failure, Folded
from dplm2.evaluation.comparison import compare
from dplm2.evaluation.metrics import design, structure
from dplm2.settings.evaluation import EvaluationSettings

# Names of `compare` in tables of self-consistency.
COLUMNS = {
    structure.TM_SCORE.name: design.SC_TM.name,
    structure.BB_RMSD.name: design.SC_RMSD.name,
    structure.CA_RMSD.name: design.SC_CA_RMSD.name,
    structure.LDDT_CA.name: design.SC_LDDT_CA.name,
    structure.TM_SCORE_RELEASED.name: design.SC_TM_RELEASED.name,
}


def designable_columns(settings: EvaluationSettings) -> list[str]:
    """Names of the columns for designable samples, one for each threshold."""
    return [design.DESIGNABLE_SC_TM.column(threshold=least) for least in settings.designable_sc_tm] + [
        design.DESIGNABLE_SC_RMSD.column(threshold=most) for most in settings.designable_sc_rmsd
    ]


def self_consistency(
    designs: Sequence[np.ndarray | None],
    folded: Sequence[Folded | Failure],
    settings: EvaluationSettings,
    device: torch.device | str = "cpu",
) -> list[dict[str, object]]:
    """Metrics of each design: scTM, scRMSD, mean pLDDT of the prediction, whether it is designable.

    Parameters
    ----------
    designs
        Designed backbones (L, 4, 3); None for tasks without one, where only the confidence is reported.
    folded
        The prediction for each design's sequence.
    settings
        Thresholds, and whether to compute the released evaluator's TM-score.
    device
        Device for the computation.

    Returns
    -------
    list of dict
        A mapping of columns per design, with ``failed`` and ``failure``, the reason or None.
    """
    rows: list[dict[str, object]] = [_row(backbone, result) for backbone, result in zip(designs, folded, strict=True)]
    compared = [i for i, row in enumerate(rows) if not row["failed"] and designs[i] is not None]
    if compared:
        predictions, references = [folded[i].backbone for i in compared], [designs[i] for i in compared]
        values = compare(predictions, references, settings.released_tm_score, device)
        for place, index in enumerate(compared):
            rows[index].update({own: float(values[name][place]) for name, own in COLUMNS.items() if name in values})
            rows[index].update(_designable(rows[index], settings))
    return rows


def _row(backbone: np.ndarray | None, result: Folded | Failure) -> dict[str, object]:
    if isinstance(result, Failure):
        return {"failed": True, "failure": result.reason}
    row: dict[str, object] = {"failed": False, "failure": None}
    if result.plddt is not None:
        row["plddt"] = float(np.mean(result.plddt))
    if backbone is not None and len(backbone) != len(result.backbone):
        return row | {"failed": True, "failure": f"{len(backbone)} residues designed, {len(result.backbone)} folded"}
    if backbone is not None and not np.isfinite(backbone[:, 1]).all(-1).any():
        return row | {"failed": True, "failure": "the designed backbone has no finite coordinates"}
    return row


def _designable(row: Mapping[str, object], settings: EvaluationSettings) -> dict[str, bool]:
    by_tm = [row["sc_tm"] >= threshold for threshold in settings.designable_sc_tm]
    by_rmsd = [row["sc_rmsd"] <= threshold for threshold in settings.designable_sc_rmsd]
    return dict(zip(designable_columns(settings), [*by_tm, *by_rmsd], strict=True))
