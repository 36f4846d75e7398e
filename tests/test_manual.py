"""The manual says what the schema says."""

from pathlib import Path

from dplm2.manual import manual


def test_manual_is_up_to_date():
    written = (Path(__file__).parents[1] / "config" / "README.md").read_text(encoding="utf-8")
    assert written == manual(), "run: python -m dplm2.manual > config/README.md"
