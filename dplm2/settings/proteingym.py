"""Settings of ProteinGym's benchmark of mutations."""

from typing import Literal

from dplm2.settings.fields import Section, Text, decides, operates, refers

OBTAIN_PROTEINGYM = "download it from proteingym.org (DMS substitutions), or delete this entry"


class ProteinGymSettings(Section):
    """Assays of ProteinGym, scored by each model; see `dplm2 score proteingym`."""

    reference: str = refers(
        ...,
        "ProteinGym's reference table, DMS_substitutions.csv.",
        min_length=1,
        files=("*",),
        obtain=OBTAIN_PROTEINGYM,
    )
    assays_folder: str = refers(
        ..., "Folder of the assays' tables.", min_length=1, files=("*.csv",), obtain=OBTAIN_PROTEINGYM
    )
    structures: str | None = refers(
        None,
        "Folder of the structure files that the reference table names, which are given to the model. null: sequences "
        "alone.",
        min_length=1,
        files=("*",),
        obtain=OBTAIN_PROTEINGYM,
    )
    assays: tuple[Text, ...] = decides((), "Names (DMS_id) of the assays to score. Empty: all.")
    marginals: Literal["masked", "wild-type"] = decides(
        "masked",
        "masked: each residue is masked when it is scored, one pass each; wild-type: one pass without masks.",
    )
    window: int = decides(1022, "Largest number of residues that the model sees at once.", ge=1)
    token_budget: int = operates(8192, "Maximum number of tokens per batch, including padding.", ge=1)

    def arguments(self) -> list[str]:
        """The options of ``dplm2 score proteingym`` for these settings, other than the names of files and folders."""
        words = ["--marginals", self.marginals, "--window", str(self.window), "--token-budget", str(self.token_budget)]
        return [*words, *(["--assays", *self.assays] if self.assays else [])]
