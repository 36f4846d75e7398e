"""Contigs: parsing, refused input, and the distribution of lengths."""

import csv
import itertools
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import chisquare

from dplm2.core.errors import DPLM2Error
from dplm2.generation.contigs import Problem, Segment, Spacer, contig_limits, parse_contig, read_problem, read_problems

MOTIFS = Path(__file__).parents[2] / "config" / "motifs"
# Names in the benchmark's table that differ in the published tables.
RENAMED = {"4ZYP": "rsv_site4", "7MRX_short": "7MRX_60", "7MRX_med": "7MRX_85", "7MRX_long": "7MRX_128"}


def problem_of(contig, total=None):
    parts = parse_contig(contig)
    return Problem("p", Path("p.pdb"), parts, *(total or contig_limits(parts)))


def test_contigs_are_parsed():
    assert parse_contig("5-20, A16-35,20,B38,heavy/-3--1:sequence") == (
        Spacer(5, 20),
        Segment("A", 16, 35, "both"),
        Spacer(20, 20),
        Segment("B", 38, 38, "both"),
        Segment("heavy", -3, -1, "sequence"),
    )
    assert parse_contig("A28-42", offset=529, given="structure") == (Segment("A", 557, 571, "structure"),)


@pytest.mark.parametrize(
    ("contig", "message"),
    [
        ("5-20,A16-35,x", "'x' is neither a spacer"),
        ("20-5", "'20-5' ends before it begins"),
        ("A35-16", "'A35-16' ends before it begins"),
        ("A16-35:shape", "'shape' is not one of both, sequence, structure"),
        ("5,,5", "'' is neither a spacer"),
        ("5,AB10-20", "'AB10-20' is neither .* in quotes"),
        ("5-15/A10-x/3", "'A10-x' is neither a spacer"),
        ("[A1-150/0 70-100]", "'A1-150/0 70-100' has 2 chains, but a sample is one chain"),
        ("5 A10-20 5", "has 3 chains"),
        ("x" * 10_000, "is neither a spacer"),
    ],
)
def test_invalid_contigs_are_refused(contig, message):
    with pytest.raises(DPLM2Error, match=message):
        parse_contig(contig)


@pytest.mark.parametrize(
    ("contig", "parts"),
    [
        ("H52-52A", [Segment("H", 52, 52, "both", "", "A")]),
        ("H52A", [Segment("H", 52, 52, "both", "A", "A")]),
        ("H-3B--1C:structure", [Segment("H", -3, -1, "structure", "B", "C")]),
        ("5,A-2/10-20,5", [Spacer(5, 5), Segment("A-2", 10, 20, "both"), Spacer(5, 5)]),
        ('"A-2"10-20', [Segment("A-2", 10, 20, "both")]),
        ('5/"A-2"/10-20/5', [Spacer(5, 5), Segment("A-2", 10, 20, "both"), Spacer(5, 5)]),
        ('5,"a, b/c"10-20', [Spacer(5, 5), Segment("a, b/c", 10, 20, "both")]),
        ("5,*/10A-20,*7", [Spacer(5, 5), Segment("*", 10, 20, "both", "A"), Segment("*", 7, 7, "both")]),
        ("1/5-6,AA*/5", [Segment("1", 5, 6, "both"), Segment("AA*", 5, 5, "both")]),
        ('""10-20,_/3', [Segment("", 10, 20, "both"), Segment("_", 3, 3, "both")]),
        ("heavy/16-35", [Segment("heavy", 16, 35, "both")]),
    ],
)
def test_insertion_codes_and_chain_ids_are_parsed(contig, parts):
    assert list(parse_contig(contig)) == parts
    written = ",".join(str(part) for part in parts if isinstance(part, Segment) and part.given == "both")
    read = [replace(part, given="both") for part in parse_contig(written)] if written else []
    assert read == [part for part in parts if isinstance(part, Segment) and part.given == "both"]


@pytest.mark.parametrize(
    "contig",
    [
        "[5-15/A10-25/30-40]", "5-15/A10-25/30-40", "[5-15/A10-25/30-40/0]", "[5-15/A10-25/30-40/0 ]",
        " [ 5-15 / A10-25 / 30-40 ] ", "[5-15,A10-25,30-40]",
    ],
)  # fmt: skip
def test_rfdiffusion_contigs_are_parsed(contig, tmp_path):
    parts = (Spacer(5, 15), Segment("A", 10, 25, "both"), Spacer(30, 40))
    assert parse_contig(contig) == parts
    for text in (contig, f"'{contig}'"):  # plain in YAML, brackets are a list
        (tmp_path / "p.yaml").write_text(f"reference: x.pdb\ncontig: {text}\n")
        assert read_problem(tmp_path / "p.yaml").parts == parts


def test_ambiguous_contigs_are_parsed_as_by_rfdiffusion():
    assert parse_contig("A-2/10-20") == (Segment("A", -2, -2, "both"), Spacer(10, 20))
    assert parse_contig("10/20-30") == (Spacer(10, 10), Spacer(20, 30))
    assert parse_contig("A5/B7") == (Segment("A", 5, 5, "both"), Segment("B", 7, 7, "both"))


def test_segment_lengths_follow_the_reference():
    problem = Problem("p", Path("p.pdb"), parse_contig("5,H45-60,5-6"), 26, 27, limited=False)
    found = problem.with_residues([19])
    assert (found.shortest, found.longest, sum(found.draw_lengths(np.random.default_rng(0))) in (29, 30)) == (29, 30, 1)
    limited = Problem("p", Path("p.pdb"), parse_contig("5,H45-60,5"), 29, 29)
    assert limited.with_residues([19]).draw_lengths(np.random.default_rng(0)) == [5, 19, 5]
    with pytest.raises(DPLM2Error, match="fewer than the total of 29"):
        limited.with_residues([16])


def test_lengths_are_drawn_uniformly_from_all_allowed_combinations():
    problem = problem_of("0-3,A1-2,1-4,B5,0-2", total=(7, 9))
    allowed = [
        (a, 2, b, 1, c) for a, b, c in itertools.product(range(4), range(1, 5), range(3)) if 7 <= a + 2 + b + 1 + c <= 9
    ]
    random = np.random.default_rng(0)
    drawn = Counter(tuple(problem.draw_lengths(random)) for _ in range(6000))
    assert set(drawn) == set(allowed)
    assert chisquare([drawn[lengths] for lengths in allowed]).pvalue > 1e-3


@pytest.mark.parametrize(
    ("contig", "total", "message"),
    [
        ("5,A1-30,5", (10, 20), "problem p: its motif of 30 residues exceeds the total length of 20"),
        ("5-9,A1-12,5", (15, 20), "problem p: motif and shortest spacers are 22 residues, more than the total of 20"),
        ("0-5,A1-3", (9, 12), "problem p: motif and longest spacers are 8 residues, fewer than the total of 9"),
    ],
)
def test_problems_that_cannot_be_satisfied_are_refused_by_name(contig, total, message):
    with pytest.raises(DPLM2Error, match=message):
        problem_of(contig, total).check()


def test_the_24_problems_are_those_of_the_benchmark(corpus_folder):
    with (corpus_folder / "motif" / "motif_check.csv").open() as stream:
        table = {row["problem"]: row for row in csv.DictReader(stream)}
    problems = read_problems([MOTIFS], corpus_folder / "motif")
    assert len(problems) == 24
    for problem in problems:
        row = table.pop(RENAMED.get(problem.name, problem.name))
        assert problem.reference.name == row["pdb_file"] and problem.reference.is_file()
        assert problem.parts == parse_contig(row["contig"], int(row["offset"]))
        assert sum(segment.length for segment in problem.segments) == int(row["n_motif"])
        assert len(problem.segments) == int(row["n_segments"])
        if row["length"]:
            ends = [int(end) for end in row["length"].split("-")]
            assert (problem.shortest, problem.longest) == (ends[0], ends[-1])
        lengths = problem.draw_lengths(np.random.default_rng(0))
        assert problem.shortest <= sum(lengths) <= problem.longest
    assert {row["pdb_file"] for row in table.values()} == {""}  # two rows have no reference and are not of the 24


def test_problem_files_are_read(tmp_path):
    path = tmp_path / "one.yaml"
    path.write_text("reference: x.pdb\ncontig: 5-10,A3-7\ntotal_length: 12\n")
    problem = read_problem(path)
    assert (problem.name, problem.reference, problem.shortest, problem.longest) == ("one", tmp_path / "x.pdb", 12, 12)
    assert read_problem(path, "elsewhere").reference == Path("elsewhere/x.pdb")
    for text, message in [
        ("reference: x.pdb", "requires the keys reference and contig"),
        ("reference: x\ncontig: A1\nlength: 3", "unknown key length; allowed: contig"),
        ("reference: x\ncontig: A1\ntotal_length: [5, 2]", r"total_length is \[5, 2\]"),
        ("reference: x\ncontig: A1\noffset: many", "offset must be an integer"),
        ("a: [", "cannot be read as a motif problem"),
        ("[" * 5000, "cannot be read as a motif problem"),
        ("reference: x\ncontig: 5,10-20,5", "problem one: no motif: its contig contains no residues"),
        ("reference: x\ncontig: 30", "problem one: no motif"),
        ("reference: x\ncontig: 5-999999999,A1-3", "problem one: its contig or total_length allows more than 20000"),
        ("reference: x\ncontig: A1-999999999", "problem one: its contig or total_length allows more than 20000"),
        (
            "reference: x\ncontig: A1-3\ntotal_length: 999999",
            "problem one: its contig or total_length allows more than 20000",
        ),
        ("reference: x\ncontig: {A: 3}", "problem one: contig: must be text"),
        ("reference: [x]\ncontig: A1", "reference is a value of type list, but must be text"),
        ("reference: x\ncontig: A1\ntotal_length: yes", "total_length is a value of type bool"),
        ("reference: x\ncontig: A1\n1: 2\nb: 3", "unknown key 1, b; allowed"),
    ]:
        path.write_text(text)
        with pytest.raises(DPLM2Error, match=message):
            read_problem(path)
    with pytest.raises(DPLM2Error, match="no motif problems"):
        (tmp_path / "empty").mkdir()
        read_problems([tmp_path / "empty"])


def test_problems_with_the_same_name_are_refused(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.yaml").write_text("name: same\nreference: x.pdb\ncontig: A3-7\n")
    with pytest.raises(DPLM2Error, match="b.yaml: a second problem named same"):
        read_problems([tmp_path])
