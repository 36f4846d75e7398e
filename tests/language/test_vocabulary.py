"""Ids against the authors' vocabulary, and the layout of samples."""

import numpy as np
import pytest
import torch

from dplm2.core.errors import DPLM2Error
from dplm2.language import layout
from dplm2.language.vocabulary import TRACKS, Vocabulary


def test_ids_equal_the_authors(recorded):
    lines = recorded("vocab.txt").read_text().splitlines()
    assert list(Vocabulary().tokens) == lines


def test_every_id_belongs_to_one_track():
    vocabulary = Vocabulary(20)
    ids = [*vocabulary.classes("sequence"), *vocabulary.classes("structure")]
    assert ids == list(range(len(vocabulary)))
    for track in TRACKS:
        assert set(vocabulary.generated(track)) <= set(vocabulary.classes(track))
        assert not {vocabulary.mask(track), vocabulary.cls(track)} & set(vocabulary.generated(track))


def test_text_survives_a_round_trip():
    vocabulary = Vocabulary(20)
    assert vocabulary.decode_sequence(vocabulary.encode_sequence("MKVLXW")) == "MKVLXW"
    assert vocabulary.decode_structure(vocabulary.encode_structure([0, 19])).tolist() == [0, 19]


@pytest.mark.parametrize("codes", [[20], [-1, 3]])
def test_codes_of_another_codebook_are_refused(codes):
    with pytest.raises(DPLM2Error, match="another tokenizer"):
        Vocabulary(20).encode_structure(codes)


def test_invalid_letter_is_refused():
    with pytest.raises(DPLM2Error, match="'1'"):
        Vocabulary().encode_sequence("MK1")


def test_join_and_split_are_inverse():
    vocabulary = Vocabulary(20)
    structures = [np.array([36, 37, 38]), None, np.array([40])]
    sequences = [np.array([4, 5, 6]), np.array([7, 8]), None]
    ids_BT = layout.join(vocabulary, structures, sequences)
    assert ids_BT.shape == (3, 10)
    assert ids_BT[0].tolist() == [33, 36, 37, 38, 34, 0, 4, 5, 6, 2]
    assert ids_BT[1].tolist() == [1] * 5 + [0, 7, 8, 2, 1]
    for sample, structure, sequence in zip(layout.split(vocabulary, ids_BT), structures, sequences, strict=True):
        for track, truth in (("structure", structure), ("sequence", sequence)):
            assert (sample[track] is None) == (truth is None)
            assert truth is None or np.array_equal(sample[track], truth)


def test_track_absent_from_all_samples_has_no_columns():
    assert layout.join(Vocabulary(20), [None], [np.array([4, 5])]).tolist() == [[0, 4, 5, 2]]


def test_tracks_of_different_length_are_refused():
    with pytest.raises(DPLM2Error, match="3 structure tokens but 1"):
        layout.join(Vocabulary(20), [np.array([36, 37, 38])], [np.array([4])])


def test_edges_are_cls_eos_and_padding():
    ids = torch.arange(len(Vocabulary(20)))
    assert torch.nonzero(Vocabulary(20).is_edge(ids)).flatten().tolist() == [0, 1, 2, 33, 34]
