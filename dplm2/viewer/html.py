"""The viewer as HTML: for a notebook, or as a part of a page that embeds the library once."""

from collections.abc import Sequence
from functools import cache
from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined

from dplm2.viewer.scenes import Scene, Structure

LIBRARY = "assets/3Dmol-min.js"  # 3Dmol.js 2.5.5 as npm has it; its licence (BSD-3-Clause) lies beside it
SCRIPT, STYLE, TEMPLATES = "templates/viewer.js", "templates/viewer.css", "templates"
HEIGHT = 420


def viewer_html(
    structures: Structure | Scene | Sequence[Structure | Scene], height: int = HEIGHT, title: str = "Structures"
) -> str:
    """An HTML element that shows structures as ribbons, with all that it needs in it.

    It is a frame: neither its scripts nor its style touch the page or notebook that it is put into.

    Parameters
    ----------
    structures
        What to choose from. Structures that are to be superposed make up a `Scene`.
    height
        Of the frame, in pixels.
    title
        Read out by screen readers.

    Returns
    -------
    str
        An ``iframe`` of about 0.6 MB, and 25 bytes for every residue.
    """
    given = [structures] if isinstance(structures, Structure | Scene) else list(structures)
    scenes = [each if isinstance(each, Scene) else Scene(each.name, [each]) for each in given]
    document = environment().get_template("alone.html")
    inner = document.render(title=title, scenes=values_of(scenes), style=asset(STYLE), scripts=scripts())
    return environment().get_template("frame.html").render(document=inner, height=height, title=title)


def values_of(scenes: Sequence[Scene]) -> list[dict]:
    """Scenes as plain values: those that ``viewer.html`` puts into a page."""
    return [scene.values() for scene in scenes]


def scripts() -> list[str]:
    """The library, then the viewer: what a page with ``viewer.html`` runs, in this order."""
    return [asset(LIBRARY), asset(SCRIPT)]


@cache
def asset(name: str) -> str:
    """A text file of this package."""
    return (resources.files("dplm2.viewer") / name).read_text(encoding="utf-8")


def loader() -> PackageLoader:
    """The templates, for the environment of a page."""
    return PackageLoader("dplm2.viewer", TEMPLATES)


@cache
def environment() -> Environment:
    """The environment of the templates; JSON has no NaN: a value that is not finite is an error here."""
    environment = Environment(
        loader=loader(), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    return environment
