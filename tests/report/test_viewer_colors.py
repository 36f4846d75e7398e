"""The colours of the 3-D viewer, from its script with a canvas that records what is drawn."""

import json
import shutil
import subprocess
from importlib import resources

import pytest

NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(NODE is None, reason="no Node.js on PATH")
SCRIPT = resources.files("dplm2") / "report" / "templates" / "viewer.js"

# All points are in the plane of the screen, where colours are mixed with the background's by this fraction.
SHARE = 0.35 + 0.65 / 2
GROUND = 255
STAND_IN = """
const drawn = [];
const element = (own) => new Proxy(own, {get: (own, name) => (name in own ? own[name] : () => {})});
const context = new Proxy({}, {
  get: (own, name) => (name in own ? own[name] : () => {}),
  set: (own, name, value) => { if (name === "strokeStyle") drawn.push(value); own[name] = value; return true; },
});
const canvas = element({getContext: () => context, clientWidth: 100, clientHeight: 100, dataset: {}});
const root = element({querySelector: (name) => (name === "canvas" ? canvas : element({}))});
const source = element({textContent: process.argv[1]});
global.document = element({
  getElementById: (name) => (name === "viewer" ? root : source),
  createElement: () => element({style: {}}),
});
global.window = {devicePixelRatio: 1, matchMedia: () => element({})};
global.ResizeObserver = class { observe() {} };
global.Option = class {};
global.getComputedStyle = () => ({getPropertyValue: (name) => (name === "--paper" ? "#ffffff" : "#808080")});
"""


def colors(plddt: float | None) -> set[tuple[int, ...]]:
    """The colours of the second trace before they are mixed with the background's."""
    points = [[3.8 * i, 0, 0] for i in range(4)]
    trace = {"name": "folded", "points": points, "plddt": [plddt] * 4}
    data = json.dumps([{"label": "a", "facts": [], "traces": [{**trace, "plddt": None}, trace]}])
    script = STAND_IN + SCRIPT.read_text() + "console.log(JSON.stringify(drawn));"
    done = subprocess.run([NODE, "-e", script, data], capture_output=True, text=True, timeout=60, check=True)
    mixed = {tuple(map(int, text[4:-1].split(","))) for text in json.loads(done.stdout)}
    return {tuple(round(GROUND + (part - GROUND) / SHARE) for part in color) for color in mixed}


@pytest.mark.parametrize(
    ("plddt", "color"),
    [(95, (0, 83, 214)), (80, (101, 203, 243)), (60, (255, 219, 19)), (30, (255, 125, 69)), (None, (128, 128, 128))],
)
def test_confidence_colours_are_those_of_the_alphafold_database(plddt, color):
    """alphafold.ebi.ac.uk, model confidence: #0053D6 above 90, #65CBF3 above 70, #FFDB13 above 50, else #FF7D45."""
    ground, plain = (GROUND,) * 3, (128,) * 3
    found = colors(plddt) - {ground}
    wanted = {color, plain}
    assert len(found) == len(wanted)
    for one in wanted:  # rounding of the mixed colour
        assert any(max(abs(a - b) for a, b in zip(one, other, strict=True)) <= 1 for other in found)
