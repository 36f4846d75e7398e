"""Tables as files have the same content in every format."""

import pandas as pd
import pytest

from dplm2.evaluation.tables import as_latex, write_table


def test_parquet_equals_csv_and_names_remain_text(tmp_path):
    table = pd.DataFrame({
        "model": ["007", "b"], "value": ["0.250", "1e-3"], "published": ["missing", 0.5], "mixed": [1, "one"],
        "designable": [True, None], "length": [3, 4], "difference": [0.1 + 0.2, float("nan")],
    })  # fmt: skip
    paths = write_table(tmp_path, "table", table)
    assert [path.name for path in paths] == ["table.csv", "table.parquet", "table.tex"]
    assert all(path.is_file() for path in paths)
    text, typed = pd.read_csv(paths[0], dtype={"model": str}), pd.read_parquet(paths[1])
    assert typed["value"].tolist() == text["value"].tolist() == [0.25, 0.001]
    assert typed["model"].tolist() == text["model"].tolist() == ["007", "b"]
    assert typed["published"].isna().tolist() == [True, False]
    assert text["published"].tolist() == ["missing", "0.5"]
    assert paths[0].read_text().splitlines()[1:] == ["007,0.250,missing,1,True,3,0.3", "b,1e-3,0.5,one,,4,"]
    assert typed["mixed"].tolist() == ["1", "one"]
    assert typed["designable"].tolist() == [True, None]


def test_latex_escapes_and_rounds():
    text = as_latex(pd.DataFrame({"metric": ["a_b 50%\\"], "ours": [0.123456], "published": ["missing"]}))
    assert r"a\_b 50\%\textbackslash{} & 0.123 & missing \\" in text


@pytest.mark.parametrize(("value", "cell"), [(100, "100"), ("0.04567", "0.0457"), ("", "--"), (None, "--")])
def test_latex_tables_round_numbers(value, cell):
    assert as_latex(pd.DataFrame({"value": [value]})).splitlines()[4] == cell + r" \\"
