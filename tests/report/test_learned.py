"""The table of what a model has learned, against summaries written by hand."""

from dplm2.report.learned import HEADS, learned
from dplm2.report.page import build_page
from dplm2.report.results import read_results
from dplm2.settings.report import ReportSettings

SUMMARY = """model,task,dataset,metric,value,n,backend,low,high
m,likelihood,test,structure_cross_entropy_trained,7.0,400,none,,
m,likelihood,test,structure_cross_entropy_unigram,8.12,400,none,,
m,likelihood,test,sequence_cross_entropy_trained,3.0,400,none,,
m,likelihood,test,sequence_cross_entropy_unigram,2.9,400,none,,
m,inverse-folding,test,recovery,0.3,183,self,0.28,0.32
m,inverse-folding,test,recovery_all_leucine,0.09,183,self,0.08,0.1
m,folding,test,secondary_structure,0.62,183,none,0.6,0.64
m,likelihood,own/train,sequence_cross_entropy_trained,1.0,400,none,,
m,likelihood,own/train,sequence_cross_entropy_unigram,2.9,400,none,,
other,folding,test,secondary_structure,,0,none,,
other,folding,test,secondary_structure_all_coil,0.4,183,none,,
"""


def written(folder, text: str):
    place = folder / "evaluation/m"
    place.mkdir(parents=True)
    (place / "summary.csv").write_text(text)
    return read_results(folder)


def test_rows_stand_beside_their_baseline_and_say_which_is_better(tmp_path):
    (table,) = learned(written(tmp_path, SUMMARY)).body
    assert [row[:2] for row in table.rows] == [("m", "test")] * 3
    found = {row[2]: row[3:] for row in table.rows}
    assert found["structure cross-entropy, trained"] == ("7", 8.12, "unigram: frequencies in the other chains", "yes")
    assert found["sequence cross-entropy, trained"][-1] == "no"  # higher is worse
    assert found["amino-acid recovery"] == ("0.3 (0.28 to 0.32)", 0.09, "all leucine", "yes")
    assert len(HEADS) == len(table.rows[0])  # without a baseline, or without a value: no row


def test_it_is_the_first_table_of_the_page(tmp_path):
    page, _ = build_page(written(tmp_path, SUMMARY), ReportSettings.make())
    assert page.index("learned-table") < page.index("summary-table")


def test_nothing_is_shown_of_a_run_without_comparison(tmp_path):
    part = learned(written(tmp_path, SUMMARY.splitlines()[0] + "\n"))
    assert not part.body and part.absent
