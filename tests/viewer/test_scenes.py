"""What the viewer is given, against the structures that it is made from."""

import html
import json
import re

import numpy as np
import pytest

from dplm2.viewer import Scene, Structure, viewer_html
from dplm2.viewer.html import asset
from dplm2.viewer.scenes import aligned, deviation
from tests.report.tree import natives


@pytest.fixture(scope="module")
def backbone():
    return next(iter(natives(1).values())).astype(float)


def turned(backbone: np.ndarray, seed: int = 0) -> np.ndarray:
    """A rotated and shifted copy."""
    rotation = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))[0]
    return backbone @ (rotation * np.sign(np.linalg.det(rotation))) + 30


def drawn(scene: Scene) -> list[dict]:
    return json.loads(json.dumps(scene.values(), allow_nan=False))["structures"]


def points(structure: dict, atom: int = 0) -> np.ndarray:
    rows = [row for row in structure["atoms"] if row]
    return np.array(rows, dtype=float)[:, 3 * atom : 3 * atom + 3] / 100


def distances(coordinates: np.ndarray) -> np.ndarray:
    return np.linalg.norm(coordinates[:, None] - coordinates[None], axis=-1)


def test_distances_and_handedness_are_those_of_the_structure(backbone):
    (one,) = drawn(Scene("a", [Structure("a", backbone)]))
    for atom, place in ((0, 1), (1, 3)):  # CA and O
        assert np.abs(distances(points(one, atom)) - distances(backbone[:, place])).max() < 0.03
    steps, before = np.diff(points(one), axis=0), np.diff(backbone[:, 1], axis=0)
    volumes = [np.einsum("ij,ij->i", np.cross(each[:-2], each[1:-1]), each[2:]) for each in (steps, before)]
    assert np.corrcoef(*volumes)[0, 1] > 0.999


def test_the_longest_extent_lies_across_and_the_shortest_along_the_view(backbone):
    (one,) = drawn(Scene("a", [Structure("a", turned(backbone))]))
    spread = points(one).std(0)
    assert spread[0] >= spread[1] >= spread[2]
    assert np.abs(points(one).mean(0)).max() < 0.01


def test_a_copy_elsewhere_is_superposed_and_deviates_where_it_was_changed(backbone):
    changed = backbone.copy()
    changed[5] += [0, 0, 3.0]
    first, second = drawn(Scene("a", [Structure("a", backbone), Structure("b", turned(changed))]))
    assert "deviation" not in first
    assert int(np.argmax(second["deviation"])) == 5
    assert 2.5 < max(second["deviation"]) < 3.1
    assert np.median(second["deviation"]) < 0.2
    assert deviation(*aligned([backbone, turned(backbone)])).max() < 1e-3


def test_structures_of_other_lengths_are_left_where_they_are(backbone):
    first, second = drawn(Scene("a", [Structure("a", backbone), Structure("b", backbone[3:])]))
    assert "deviation" not in second
    assert np.abs(points(first)[3:] - points(second)).max() < 0.011


def test_missing_residues_and_oxygens(backbone):
    broken = backbone.copy()
    broken[4], broken[8, 3] = np.nan, np.nan
    (one,) = drawn(Scene("a", [Structure("a", broken, "A" * len(broken))]))
    assert one["atoms"][4] is None and one["atoms"][8] is not None
    offset = np.array(one["atoms"][8], dtype=float)
    assert np.linalg.norm(offset[3:] - offset[:3]) / 100 == pytest.approx(1, abs=0.02)
    assert len(one["structure"]) == len(broken)


def test_secondary_structure_agrees_with_biotite(backbone):
    """biotite's P-SEA is independent of the one that is drawn."""
    from biotite.structure import annotate_sse

    from dplm2.structures.writing import atom_array

    expected = annotate_sse(atom_array("A" * len(backbone), backbone, None))
    (one,) = drawn(Scene("a", [Structure("a", backbone)]))
    assert one["structure"] == "".join(expected)


@pytest.mark.parametrize(
    ("more", "colored_by"),
    [
        ({}, "position"),
        ({"plddt": [50.0, None]}, "plddt"),
        ({"plddt": [None, None]}, "position"),
        ({"marked": [False, False]}, "position"),
        ({"marked": [True, False], "plddt": [50.0, 60.0]}, "marked"),
    ],
)
def test_what_is_not_known_is_no_choice_of_colour(backbone, more, colored_by):
    tiled = {name: values * (len(backbone) // 2) for name, values in more.items()}
    short = backbone[: 2 * (len(backbone) // 2)]
    values = Scene("a", [Structure("a", short, **tiled)]).values()
    assert values["colored_by"] == colored_by
    assert ("plddt" in values["structures"][0]) == (None not in (more.get("plddt") or [None])[:1])


def test_the_frame_contains_the_library_and_cannot_be_left_by_names(backbone):
    hostile = '</script>"><script>alert(1)</script>'
    frame = viewer_html([Structure(hostile, backbone), Scene(hostile, [Structure("b", backbone)])], height=300)
    assert re.match(r'<iframe srcdoc="[^"<>]*" title="Structures" style="[^"]*300px[^"]*"></iframe>\s*$', frame)
    inner = html.unescape(re.search(r'srcdoc="([^"]*)"', frame)[1])
    assert asset("assets/3Dmol-min.js") in inner
    data = re.search(r'<script type="application/json"[^>]*>(.*?)</script>', inner, flags=re.DOTALL)[1]
    assert [each["label"] for each in json.loads(data)] == [hostile, hostile]
    assert "<script>alert" not in inner
    assert len(frame) < 700_000


def test_the_library_is_the_one_that_the_notice_names():
    """The sum and the licence stand beside the library."""
    import hashlib
    from importlib import resources

    folder = resources.files("dplm2.viewer") / "assets"
    content = (folder / "3Dmol-min.js").read_bytes()
    assert hashlib.sha256(content).hexdigest() in (folder / "README.md").read_text(encoding="utf-8")
    assert "BSD-3-Clause" in (folder / "3Dmol-LICENSE").read_text(encoding="utf-8")
