"""Settings of tables on the Hugging Face hub: repository, files, and the names of their columns."""

from dplm2.settings.fields import Section, Text, decides, refers, section, text_like

HubId = text_like(
    r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9_][\w.-]*(@[\w./-]+)?$", "a hub id, owner/name or owner/name@revision"
)


class SequenceColumn(Section):
    """Name of the column that is read."""

    sequence: Text = decides("sequence", "Column of the amino acid sequence, one letter per residue.")


class Columns(SequenceColumn):
    """Names of the columns that are read."""

    structure_tokens: Text = decides(
        "structure_tokens",
        "Column of the structure tokens, one per residue: a list of numbers, or text with commas or blanks between.",
    )
    chain_id: Text | None = decides(
        None, "Column of the chain's name, such as 1abc_A or a UniProt accession. null: file name and row number."
    )
    cluster: Text | None = decides(None, "Column of the cluster, for sampling and splits by cluster. null: none.")
    plddt: Text | None = decides(
        None,
        "Column of pLDDT (0 to 100), for `filters`: a number per residue, as a list or text, or the mean. null: none.",
    )
    resolution: Text | None = decides(None, "Column of the resolution, in angstrom. null: none.")


class SequenceHub(Section):
    """Tables of sequences in a dataset repository on the hub, such as the authors' UniRef50."""

    repository: HubId = decides(
        ...,
        "Hub id of a dataset repository (owner/name or owner/name@revision), such as airkingbd/uniref50. Name a "
        "commit as revision to read the same rows next year.",
    )
    files: tuple[Text, ...] | Text = decides(
        "*",
        "Patterns of the files to read, such as 'train/*' (* also matches /). Formats: Parquet, Arrow, CSV, TSV and "
        "JSON lines, the last three optionally gzipped.",
    )
    columns: SequenceColumn = section("Name of the column that is read.")


class Hub(SequenceHub):
    """Chains as structure tokens, from tables in a dataset repository on the hub. The tables are downloaded once, at
    one commit, which run.json records."""

    tokenizer: str = refers(
        ...,
        "Name of the tokenizer (in `tokenizers`) whose codes the tokens are; only its models can train on them.",
        min_length=1,
    )
    columns: Columns = section("Names of the columns that are read.")
