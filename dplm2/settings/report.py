"""Settings of the report: the HTML page, its tables and figures."""

from typing import Annotated

from pydantic import Field

from dplm2.settings.fields import Section, Text, decides


class ReportSettings(Section):
    """The HTML report, its tables and figures. Changing these keys reruns only the report."""

    title: str | None = decides(
        None,
        "Title of the report. null: the name of the configuration file, unless it is config.yaml.",
        min_length=1,
    )
    note: str | None = decides(
        None,
        "Note shown at the top of the report and below the table in the terminal. Small or briefly trained models "
        "are marked automatically.",
    )
    published_model: Text | Annotated[dict[str, str], Field(min_length=1)] | None = decides(
        "DPLM-2 650M",
        "Model whose published figures are shown beside those of this run, by its name in "
        "dplm2/assets/published.csv; or one for each model of the run: {name: published name}. null: none.",
    )
    max_viewer_samples: int = decides(
        24,
        "Maximum number of structures in the 3-D viewer: for each model and task the best, the median and the worst, "
        "and of ranked designs the second and the third, in turn. 0: no viewer.",
        ge=0,
    )
    max_downloads: int = decides(
        10,
        "Maximum number of designs per model and task whose structures can be downloaded from the report, which then "
        "contains them: the first of the best. 0: none.",
        ge=0,
    )
    max_table_rows: int = decides(
        200,
        "Maximum number of rows of tables of single chains or samples in the report; the CSV files contain all of "
        "them.",
        ge=1,
    )
    max_training_figures: int = decides(
        6, "Maximum number of figures per training: loss first, then validation metrics.", ge=1
    )
