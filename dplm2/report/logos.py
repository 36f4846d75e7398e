"""Sequence logos: which amino acids the designs of one problem have at each residue."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from dplm2.evaluation.recovery import AMINO_ACIDS
from dplm2.generation.samples import SAMPLES_FILE
from dplm2.report.drawing import FAINT, GRID, INK, SERIES, Figure, background, slug
from dplm2.report.labels import percent
from dplm2.report.results import PARTS, Evaluation, Results, read_table

FEWEST = 3  # sequences of a logo
MOST_LOGOS = 6
FLANK = 8  # residues shown to either side of a motif
GAP = "-"
COLUMNS_OF_LINE = 40
FEWEST_COLUMNS = 32  # room for as many: letters of short logos are not drawn larger
SMALLEST_SHARE = 0.08  # rarer letters are left out
# Classes of amino acids, by colour; the hydrophobic ones are in ink.
CLASSES = {"DE": SERIES[1], "KRH": SERIES[0], "NQST": SERIES[2], "GPC": SERIES[3]}
NAMED = (
    "Acidic residues are orange, basic ones blue, polar ones green, glycine, proline and cysteine pink, others black."
)
COLUMN, HEIGHT, BELOW = 18.0, 54.0, 34.0  # of a column, a full stack and the text below it, in points
NATIVE_LINE = 13.0
SEAM = 0.3  # by which grounds overlap: no line between them
LEFT = 2.0
NARROWEST = 55.0  # outlines that are narrower, those of I, are not stretched; of letters 100 high with their descent


@dataclass(frozen=True)
class Alignment:
    """Sequences of one problem, of equal length.

    Attributes
    ----------
    problem
        Chain or motif.
    sequences
        Letters; `GAP` where a design has no residue.
    labels
        Of the columns, for the axis; empty where there is none.
    native
        The native sequence below the logo; empty without one.
    motif
        True for the columns of the motif.
    """

    problem: str
    sequences: Sequence[str]
    labels: Sequence[str]
    native: str = ""
    motif: Sequence[bool] = ()


def logos(results: Results) -> Iterator[Figure]:
    """Logos of the problems with the most designs, of inverse folding, scaffolding and infilling."""
    drawn = 0
    for evaluation in results.of_kind("scaffolding", "inverse-folding"):
        for alignment in _alignments(results.folder, evaluation):
            if drawn == MOST_LOGOS:
                return
            drawn += 1
            title = f"{evaluation.model} \u00b7 {evaluation.task}: {alignment.problem}"
            name = slug("logo", evaluation.place, alignment.problem)
            yield Figure(name, title, _caption(alignment), draw(alignment), wide=True)


def _alignments(folder: Path, evaluation: Evaluation) -> Iterator[Alignment]:
    """The problems of an evaluation in turn, those with the most sequences first."""
    path = folder.joinpath("samples", *evaluation.place.split("/")[:2], SAMPLES_FILE)
    if not path.is_file():
        return
    columns = ["problem", "sequence", "motif_positions"]
    table = read_table(path, columns).to_pandas()
    if not set(columns[:2]) <= set(table):
        return
    table = table[table["sequence"].notna()]
    groups = {str(name): rows for name, rows in table.groupby("problem", sort=False) if len(rows) >= FEWEST}
    for name in sorted(groups, key=lambda name: -len(groups[name]))[:MOST_LOGOS]:
        rows = groups[name]
        if evaluation.kind == "scaffolding":
            yield _around_motif(name, rows)
        elif rows["sequence"].map(len).nunique() == 1:
            yield _whole(name, rows["sequence"].tolist(), _native(folder, name))


def _native(folder: Path, name: str) -> str:
    for part in sorted((folder / "structures").glob(f"*/{PARTS}")):
        table = read_table(part, ["chain_id", "sequence"])
        if name in (ids := table["chain_id"].to_pylist()):
            return table["sequence"][ids.index(name)].as_py()
    return ""


def _whole(problem: str, sequences: list[str], native: str) -> Alignment:
    labels = [str(i + 1) if i == 0 or (i + 1) % 10 == 0 else "" for i in range(len(sequences[0]))]
    return Alignment(problem, sequences, labels, native if len(native) == len(sequences[0]) else "")


def _around_motif(problem: str, rows: pd.DataFrame) -> Alignment:
    """Designs aligned at the residues of their motif, with the residues around each of its segments.

    Where the segments of all designs follow one another at once they are one.
    """
    positions = np.array([list(each) for each in rows["motif_positions"]])
    cuts = [0, *(np.flatnonzero((np.diff(positions, axis=1) != 1).any(0)) + 1), positions.shape[1]]
    columns: list[tuple[np.ndarray, str, bool]] = []
    for first, stop in zip(cuts[:-1], cuts[1:], strict=True):
        columns += [(positions[:, first] - k, f"-{k}" if k == FLANK else "", False) for k in range(FLANK, 0, -1)]
        numbered = enumerate(range(first, stop))
        columns += [(positions[:, m], str(m + 1) if i == 0 or m + 1 == stop else "", True) for i, m in numbered]
        columns += [(positions[:, stop - 1] + k, f"+{k}" if k == FLANK else "", False) for k in range(1, FLANK + 1)]
    taken = [set(row) for row in positions]

    def letter(design: int, position: int, inside: bool) -> str:
        sequence = rows["sequence"].iloc[design]
        is_there = 0 <= position < len(sequence) and (inside or position not in taken[design])
        return sequence[position] if is_there else GAP

    sequences = [
        "".join(letter(design, int(place[design]), inside) for place, _, inside in columns)
        for design in range(len(positions))
    ]
    return Alignment(problem, sequences, [label for _, label, _ in columns], motif=[inside for *_, inside in columns])


def shares(sequences: Sequence[str]) -> np.ndarray:
    """Share (columns, 20) of each amino acid among the designs that have a residue there; 0 where none has."""
    letters = np.array([list(sequence) for sequence in sequences])
    counts = np.stack([(letters == letter).sum(0) for letter in AMINO_ACIDS], axis=-1)
    return counts / np.maximum(counts.sum(-1, keepdims=True), 1)


def _caption(alignment: Alignment) -> str:
    share = shares(alignment.sequences)
    there = share.sum(-1) > 0
    free = there & ~np.array(alignment.motif or [False] * len(there))
    agreed = float(share.max(-1)[free].mean()) if free.any() else 1.0
    where = " outside of the motif" if alignment.motif else ""
    facts = [
        f"{len(alignment.sequences)} designs; the height of a letter is its share (from {percent(SMALLEST_SHARE)}).",
        f"On average {percent(agreed)} of the designs have the most frequent residue{where}.",
    ]
    if alignment.native:
        index = [AMINO_ACIDS.find(letter) for letter in alignment.native]
        known = [column for column, place in enumerate(index) if place >= 0]
        same = float(np.mean([share[column, index[column]] for column in known])) if known else math.nan
        facts.append(f"Below: the native sequence, which the designs have in {percent(same)} of the positions.")
    if alignment.motif:
        facts.append(f"Grey: the motif, which is given; around it up to {FLANK} designed residues.")
    return " ".join([*facts, NAMED])


@cache
def _glyph(letter: str) -> str:
    """The outline of a letter as an SVG path that fills the unit square, upright."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.path import Path as Outline
    from matplotlib.textpath import TextPath

    outline = TextPath((0, 0), letter, size=100, prop=FontProperties(family="DejaVu Sans", weight="bold"))
    low, high = outline.vertices.min(0), outline.vertices.max(0)
    # A narrow letter stays narrow, in the middle.
    spare = max(0.0, NARROWEST - (high[0] - low[0])) / 2
    low, high = low - [spare, 0], high + [spare, 0]
    words = {Outline.MOVETO: "M", Outline.LINETO: "L", Outline.CURVE3: "Q", Outline.CURVE4: "C", Outline.CLOSEPOLY: "Z"}
    parts = []
    for points, code in outline.iter_segments(curves=True, simplify=False):
        pairs = (np.asarray(points).reshape(-1, 2) - low) / (high - low)
        spelled = " ".join(f"{x:.3f} {1 - y:.3f}" for x, y in pairs)
        parts.append("Z" if code == Outline.CLOSEPOLY else words[code] + spelled)
    return "".join(parts)


def _color(letter: str) -> str:
    return next((color for letters, color in CLASSES.items() if letter in letters), INK)


def draw(alignment: Alignment) -> str:
    """The logo as an SVG document, in lines of `COLUMNS_OF_LINE` residues."""
    share = shares(alignment.sequences)
    columns = len(share)
    lines = math.ceil(columns / COLUMNS_OF_LINE)
    per_line = math.ceil(columns / lines)
    step = HEIGHT + (BELOW if alignment.native else BELOW - NATIVE_LINE)
    width, height = LEFT * 2 + COLUMN * max(per_line, FEWEST_COLUMNS), lines * step
    parts = [_band(alignment, column, per_line, step) for column in range(columns)]
    for column in range(columns):
        left = LEFT + COLUMN * (column % per_line)
        parts.append(_stack(share[column], left, step * (column // per_line)))
        parts.append(_below(alignment, column, left, step * (column // per_line) + HEIGHT))
    used = sorted({letter for column in share for letter, value in zip(AMINO_ACIDS, column, strict=True) if value})
    shapes = "".join(f'<path id="{letter}" d="{_glyph(letter)}"/>' for letter in used)
    return background(
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="{width:g}pt" '
        f'height="{height:g}pt" viewBox="0 0 {width:g} {height:g}"><defs>{shapes}</defs>{"".join(parts)}</svg>\n'
    )


def _band(alignment: Alignment, column: int, per_line: int, step: float) -> str:
    """The ground of a column of the motif."""
    if not (alignment.motif and alignment.motif[column]):
        return ""
    left, top = LEFT + COLUMN * (column % per_line), step * (column // per_line)
    return f'<rect x="{left:g}" y="{top:g}" width="{COLUMN + SEAM:g}" height="{HEIGHT:g}" style="fill: {GRID}"/>'


def _stack(share: np.ndarray, left: float, top: float) -> str:
    """The letters of a column, the most frequent on top."""
    parts, base = [], top + HEIGHT
    for index in np.argsort(share, kind="stable"):
        if share[index] < SMALLEST_SHARE:
            continue
        high = share[index] * HEIGHT
        base -= high
        corner = f"translate({left + 0.08 * COLUMN:.1f} {base + 0.02 * high:.1f})"
        placed = f"{corner} scale({0.84 * COLUMN:.2f} {0.96 * high:.2f})"
        letter = AMINO_ACIDS[index]
        parts.append(f'<use xlink:href="#{letter}" transform="{placed}" style="fill: {_color(letter)}"/>')
    return "".join(parts)


def _below(alignment: Alignment, column: int, left: float, top: float) -> str:
    """The native residue, and the column's label."""
    down = 13 + (NATIVE_LINE if alignment.native else 0)
    lines = [(alignment.native[column : column + 1], 13, 12, INK), (alignment.labels[column], down, 10, FAINT)]
    return "".join(
        f'<text x="{left + COLUMN / 2:g}" y="{top + down:g}" font-size="{size}" text-anchor="middle" '
        f'font-family="DejaVu Sans, sans-serif" style="fill: {color}">{text}</text>'
        for text, down, size, color in lines
        if text
    )
