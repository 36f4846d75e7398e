"""The tables of docs/representations.md, from the JSON of `benchmarks.representations`."""

from collections.abc import Iterator, Mapping

BEGIN, END = "<!-- tables: begin -->", "<!-- tables: end -->"
METRICS = {"contact order": "Spearman's correlation", "secondary structure": "residues right"}
VIEWS = {"sequence": "sequence alone", "sequence_given_structure": "structure given"}


def with_tables(page: str, found: Mapping) -> str:
    """A page with the text between its two marks replaced."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{tables(found)}\n{END}{after}"


def tables(found: Mapping) -> str:
    """All tables as Markdown."""
    return "\n".join([*_probes(found), *_against(found), *_reliability(found)])


def _probes(found: Mapping) -> Iterator[str]:
    groups: dict[tuple[str, str], list[dict]] = {}
    for row in found["probes"]:
        groups.setdefault((row["task"], row["test"]), []).append(row)
    for (task, test), rows in groups.items():
        n = f"{rows[0]['chains']} chains" + (f", {rows[0]['residues']:,} residues" if "residues" in rows[0] else "")
        where = found["options"]["test"] if test == "--test" else test
        yield f"**{task.capitalize()}, {where}** ({n}; {rows[0]['seeds']} seeds)"
        yield ""
        yield f"| features | {METRICS[task]} | 95 % | s.d. of seeds | both together minus this |"
        yield "| --- | --- | --- | --- | --- |"
        for row in rows:
            gain = row.get("joint_minus_this")
            shown = f"{gain['value']:+.3f} ({gain['low']:+.3f} to {gain['high']:+.3f})" if gain else ""
            yield f"| {row['source']} | {row['value']:.3f} | {_range(row)} | {row['spread']:.3f} | {shown} |"
        yield ""


def _range(row: Mapping, digits: int = 3) -> str:
    return f"{row['low']:.{digits}f} to {row['high']:.{digits}f}"


def _against(found: Mapping) -> Iterator[str]:
    count = next(iter(found["calibration"].values()))["chains"]
    yield f"**Natives against changed sequences, {found['options']['test']}** ({count} chains)"
    yield ""
    yield "| native against | view | native more likely | 95 % | difference per residue (nats) | 95 % |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for view, own in found["calibration"].items():
        for name, row in own["against"].items():
            share, gain = row["native_more_likely"], row["nats_per_residue"]
            yield (
                f"| {name} | {VIEWS[view]} | {share['value']:.3f} | {_range(share)} | {gain['value']:.3f} "
                f"| {_range(gain)} |"
            )
        row = own["point_mutants"]["native_more_likely"]
        yield f"| all point mutants | {VIEWS[view]} | {row['value']:.3f} | {_range(row)} | | |"
    yield ""


def _reliability(found: Mapping) -> Iterator[str]:
    views = found["calibration"]
    total = next(iter(views.values()))["reliability"]["residues"]
    errors = "; ".join(
        f"{VIEWS[view]} {own['reliability']['expected_calibration_error']:.3f}" for view, own in views.items()
    )
    yield f"**Probability of the most probable amino acid** ({total:,} residues; expected calibration error: {errors})"
    yield ""
    yield "| tenth of the residues | " + " | ".join(f"{VIEWS[v]}: probability | right" for v in views) + " |"
    yield "| --- |" + " --- | --- |" * len(views)
    for number, rows in enumerate(zip(*(own["reliability"]["bins"] for own in views.values()), strict=True), start=1):
        yield f"| {number} | " + " | ".join(f"{row['probability']:.3f} | {row['right']:.3f}" for row in rows) + " |"
