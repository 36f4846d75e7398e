"""The tiny models of the scoring tests."""

from tests.scoring.conftest import any_model, folders, model, proteins, ubiquitin  # noqa: F401
