"""Sequence logos, against frequencies counted by hand."""

import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pandas as pd
import pytest

from dplm2.evaluation.recovery import AMINO_ACIDS
from dplm2.report.logos import FLANK, HEIGHT, Alignment, _around_motif, _caption, draw, shares

SVG = "{http://www.w3.org/2000/svg}"


def test_shares_leave_gaps_out():
    found = shares(["AC-", "AD-", "AD-", "CD-"])
    by_letter = dict(zip(AMINO_ACIDS, found.T, strict=True))
    assert by_letter["A"].tolist() == [0.75, 0, 0]
    assert by_letter["D"].tolist() == [0, 0.75, 0]
    assert found.sum(-1).tolist() == [1, 1, 0]


def test_heights_of_letters_are_their_shares_and_the_most_frequent_is_on_top():
    root = ElementTree.fromstring(draw(Alignment("p", ["AC", "AD", "AD", "CD"], ["1", ""], native="AC")))
    placed = []
    for use in root.iter(f"{SVG}use"):
        left, top, _, high = map(float, re.findall(r"-?[\d.]+", use.get("transform")))
        placed.append((left, use.get("{http://www.w3.org/1999/xlink}href")[1:], top, high / 0.96 / HEIGHT))
    first = [row[1:] for row in placed if row[0] == placed[0][0]]
    assert {letter: pytest.approx(share, abs=0.01) for letter, _, share in first} == {"A": 0.75, "C": 0.25}
    tops = {letter: top for letter, top, _ in first}
    assert tops["A"] < tops["C"]
    drawn = {each.get("id") for each in root.iter(f"{SVG}path")}
    assert drawn == {"A", "C", "D"}
    assert [each.text for each in root.iter(f"{SVG}text")] == ["A", "1", "C"]


def test_long_logos_are_broken_into_lines():
    root = ElementTree.fromstring(draw(Alignment("p", ["A" * 100] * 3, [""] * 100)))
    tops = {round(float(re.findall(r"[\d.]+", use.get("transform"))[1])) for use in root.iter(f"{SVG}use")}
    assert len(tops) == 3
    width, height = map(float, root.get("viewBox").split()[2:])
    assert width < 700 and height > 3 * HEIGHT


def test_designs_of_other_lengths_are_aligned_at_their_motif():
    """Two segments, MK and WW, with different residues between and around them."""
    rows = pd.DataFrame({
        "sequence": ["AAMKGGGWWA", "AAAAMKGWWCC"],
        "motif_positions": [np.array([2, 3, 7, 8]), np.array([4, 5, 7, 8])],
    })  # fmt: skip
    found = _around_motif("p", rows)
    inside = ["".join(s[i] for i in np.flatnonzero(found.motif)) for s in found.sequences]
    assert inside == ["MKWW", "MKWW"]
    before = [s[:FLANK] for s in found.sequences]
    assert before == ["-" * (FLANK - 2) + "AA", "-" * (FLANK - 4) + "AAAA"]
    assert found.sequences[0][FLANK + 2 :].startswith("GGG") and found.sequences[1][FLANK + 2 :].startswith("G-")
    assert "Grey: the motif" in _caption(found)


def test_caption_states_the_agreement_with_the_native():
    text = _caption(Alignment("p", ["AC", "AD", "AD", "CD"], ["", ""], native="AC"))
    assert "4 designs" in text
    assert "On average 75 % of the designs have the most frequent residue" in text
    assert "in 50 % of the positions" in text
