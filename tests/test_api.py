"""Short forms for notebooks: a sample as text and atoms, and what a model does with a single protein."""

import io
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from biotite.structure.io import pdb, pdbx

from dplm2 import DPLM2
from dplm2.core import output
from dplm2.core.errors import DPLM2Error
from dplm2.core.fasta import read_fasta
from dplm2.generation.samples import Sample
from dplm2.generation.task import Target
from dplm2.representations.embedding import Embedding, embed
from dplm2.scoring.effects import mutant_scores
from dplm2.scoring.mutations import Numbered

UBIQUITIN = Path(__file__).parents[1] / "data/demo/motifs/1ubq_A.bcif.gz"
SEQUENCE = "MQIFVKTLTGKTITLEVEPSDTIENVKAKIQDK"


@pytest.fixture(scope="module")
def small() -> DPLM2:
    return DPLM2.from_pretrained("small")


@pytest.fixture(scope="module")
def folded(small) -> Sample:
    return small.fold(SEQUENCE, steps=2)


def test_fold_and_design_are_the_tasks_of_generate(small, folded):
    again = small.generate("folding", sequences=[SEQUENCE], steps=2)[0]
    assert isinstance(folded, Sample) and folded.structure_tokens.tolist() == again.structure_tokens.tolist()
    assert [one.sequence for one in small.fold([SEQUENCE, SEQUENCE[:20]], steps=1)] == [SEQUENCE, SEQUENCE[:20]]
    designs = small.design(folded, samples=2, steps=2)
    named = {folded.sample_id: folded.backbone}
    expected = small.generate("inverse-folding", backbones=named, samples=2, steps=2)
    assert [one.sequence for one in designs] == [one.sequence for one in expected]
    assert [one.length for one in small.design(folded.backbone, steps=1)] == [33]
    assert [one.length for one in small.design([folded.backbone, folded.backbone[:20]], steps=1)] == [33, 20]
    assert [one.length for one in small.design(UBIQUITIN, steps=1)] == [76]


def test_sample_is_written_and_read_back(folded, tmp_path):
    atoms = folded.to_atom_array()
    of_pdb = pdb.PDBFile.read(io.StringIO(folded.to_pdb())).get_structure(model=1)
    of_mmcif = pdbx.get_structure(pdbx.CIFFile.read(io.StringIO(folded.to_mmcif())), model=1)
    folded.write(tmp_path / "a.pdb")
    assert (tmp_path / "a.pdb").read_text() == folded.to_pdb()
    for read in (atoms, of_pdb, of_mmcif):
        assert read.atom_name[:4].tolist() == ["N", "CA", "C", "O"]
        np.testing.assert_allclose(read.coord.reshape(-1, 4, 3), folded.backbone, atol=1e-3)
    (tmp_path / "a.fasta").write_text(folded.to_fasta())
    assert read_fasta(tmp_path / "a.fasta") == {folded.sample_id: SEQUENCE}


def test_sample_without_structure_or_sequence_says_so(small):
    sequence = small.generate("sequence", lengths=[10], steps=1)[0]
    backbone = small.generate("backbone", lengths=[10], steps=1)[0]
    for form in (sequence.to_pdb, sequence.to_mmcif, sequence.to_atom_array):
        with pytest.raises(DPLM2Error, match="without structure"):
            form()
    with pytest.raises(DPLM2Error, match="without structure"):
        small.design(sequence)
    with pytest.raises(DPLM2Error, match="without sequence"):
        backbone.to_fasta()


def test_sample_describes_itself_in_one_line(folded):
    assert repr(folded) == f"Sample('protein-0_0000', folding, 33 residues, 2 steps, {SEQUENCE})"
    long = Sample(**{**vars(folded), "sequence": "A" * 500})
    assert "500 residues" in repr(long) and len(repr(long)) < 160


def test_sample_shows_itself_in_a_notebook(small, folded):
    shown = folded._repr_html_()
    assert shown.startswith("<p><code>Sample(&#x27;protein-0_0000&#x27;, folding, 33 residues")
    assert "<iframe" in shown and "3Dmol" in shown
    assert not re.search(r"(src|href)=.{0,8}https?:", shown)  # nothing is loaded
    assert "<iframe" not in small.generate("sequence", lengths=[10], steps=1)[0]._repr_html_()


def test_view_needs_py3dmol(folded, monkeypatch):
    monkeypatch.setitem(sys.modules, "py3Dmol", None)
    with pytest.raises(DPLM2Error, match=r"pip install 'dplm2\[notebook\]'"):
        folded.view()


def test_embeddings_are_those_of_the_table(small, folded):
    target = Target("a", SEQUENCE, folded.structure_tokens)
    for pool in ("mean", "first", "none"):
        row = embed(small, [target], Embedding(pool, (2,))).to_pylist()[0]
        ours = small.embed(folded, pool=pool, layer=2)
        for track in ("sequence", "structure"):
            np.testing.assert_array_equal(ours[track].ravel(), np.float32(row[f"{track}_embedding"]))
    assert small.embed(folded, pool="none")["sequence"].shape == (33, 256)
    several = small.embed([SEQUENCE, folded.backbone, UBIQUITIN])
    assert [sorted(one) for one in several] == [["sequence"], ["structure"], ["sequence", "structure"]]


def test_scores_of_mutations_and_proteins(small, folded):
    mutants = ["M1A", "M1A:I3V", "WT"]
    protein = Numbered.from_first("a", SEQUENCE)
    parsed = [protein.mutant(text, "") for text in mutants]
    expected = mutant_scores(small, Target("a", SEQUENCE, folded.structure_tokens), parsed)
    np.testing.assert_allclose(small.score(folded, mutants), expected, rtol=1e-5)
    table = small.score(folded, "all")
    assert table.shape == (33, 20)
    assert table.loc["M1", "A"] == pytest.approx(expected[0], rel=1e-4) and table.loc["M1", "M"] == 0
    assert small.score(folded, "M1A").index.tolist() == ["M1A"]
    likelihoods = small.score([SEQUENCE, folded], parts=3)
    assert likelihoods["length"].tolist() == [33, 33]
    assert np.isnan(likelihoods["pair_log_likelihood"]).tolist() == [True, False]
    with pytest.raises(DPLM2Error, match="one protein with a sequence"):
        small.score([SEQUENCE, SEQUENCE], "M1A")


def test_progress_is_shown_in_notebooks(small, monkeypatch, capsys):
    small.fold(SEQUENCE, steps=2)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("dplm2.generation.model.in_notebook", lambda: True)
    monkeypatch.setattr(output, "in_notebook", lambda: True)
    monkeypatch.setattr(output.importlib.util, "find_spec", lambda _: None)
    small.fold(SEQUENCE, steps=2)
    assert "2/2" in capsys.readouterr().err
