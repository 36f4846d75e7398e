"""Model cards: parsed by the hub's own library, with the metrics of the training."""

from huggingface_hub import ModelCard

from dplm2.core.cards import write_card

METRICS = """\
step,epoch,loss,learning_rate,seconds,validation_cross_entropy_structure,validation_lddt
50,1.0,9.1,0.001,3.5,,
100,2.0,8.2,0.001,7.5,7.71,0.5
150,3.0,7.9,0.001,9.5,,
"""
FACTS, USAGE = {"weights": "1,234"}, ["import dplm2"]


def test_hub_parses_the_card_with_metrics_of_the_last_validation(tmp_path):
    (tmp_path / "metrics.csv").write_text(METRICS)
    write_card(tmp_path, "A model", FACTS, USAGE, licence="mit", origin="Converted from `a/b`.")
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.license == "mit" and card.data.library_name == "dplm2" and "protein" in card.data.tags
    assert "Converted from `a/b`." in card.text and "| weights | 1,234 |" in card.text
    assert "last validation (step 100)" in card.text
    assert "| cross entropy structure | 7.71 |" in card.text and "| lddt | 0.5 |" in card.text
    assert "9.5" not in card.text


def test_card_without_validation_shows_the_last_row(tmp_path):
    write_card(tmp_path, "A model", FACTS, USAGE)
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.license == "unknown" and "metrics.csv" not in card.text
    (tmp_path / "metrics.csv").write_text("step,loss,seconds\n5,3.25,1\n")
    write_card(tmp_path, "A model", FACTS, USAGE)
    text = (tmp_path / "README.md").read_text()
    assert "last training (step 5)" in text and "| loss | 3.25 |" in text


def test_user_written_card_is_kept(tmp_path):
    (tmp_path / "README.md").write_text("# My model\n")
    write_card(tmp_path, "A model", FACTS, USAGE)
    assert (tmp_path / "README.md").read_text() == "# My model\n"
