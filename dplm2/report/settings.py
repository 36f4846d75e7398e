"""Settings of the report: the section ``report`` of the configuration. Defaults live in its schema alone."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ReportSettings:
    """The whole section; each key is described in the schema."""

    title: str
    note: str | None
    published_model: str | dict[str, str] | None
    max_viewer_samples: int
    max_table_rows: int
    max_training_figures: int
