"""Which rules run again after a change: from the declarations, shown by dry runs, written as a page of the docs.

    python -m tests.workflow.cache_table > docs/caching.md

The effect of a key follows from its declaration and the table of stages. Keys with the same effect share a row, and
each row has an example: a change of one of its keys in the finished run, for which `test_cache_table` runs a dry run.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from dplm2.settings.configuration import Configuration
from dplm2.settings.fields import Meaning, Section, meaning_of
from dplm2.settings.generation import TASKS
from dplm2.stages import STAGES, Stage

# Readers of each rule's outputs, according to the rules; the test compares them with Snakemake's graph.
READ_BY: Mapping[str, tuple[str, ...]] = {
    "fetch_structures": ("clean_structures",),
    "clean_structures": (
        "select_structures", "train_tokenizer", "encode_tokens", "generate", "evaluate_tokenizer",
        "evaluate_samples",
    ),
    "select_structures": (
        "train_tokenizer", "warm_up_model", "train_model", "generate", "evaluate_tokenizer", "evaluate_likelihood",
        "evaluate_samples", "report",
    ),
    "train_tokenizer": ("encode_tokens", "warm_up_model", "evaluate_tokenizer", "report"),
    "encode_tokens": ("warm_up_model", "train_model", "evaluate_tokenizer", "evaluate_likelihood"),
    "warm_up_model": ("train_model", "evaluate_likelihood"),
    "train_model": (
        "generate", "evaluate_likelihood", "evaluate_samples", "probe_representations", "score_proteingym",
        "report",
    ),
    "generate": ("evaluate_samples", "rank_designs", "report"),
    "evaluate_tokenizer": ("report",),
    "evaluate_likelihood": ("report",),
    "evaluate_samples": ("rank_designs", "report"),
    "rank_designs": ("report",),
    "probe_representations": ("compare_representations",),
    "compare_representations": (),
    "score_proteingym": (),
    "report": (),
}  # fmt: skip
# Names of sections are inputs of rules, not settings that a stage reads.
NAMED_INPUTS: Mapping[str, tuple[str, ...]] = {
    "datasets.files": ("clean_structures",),
    "datasets.fetch.list": ("fetch_structures",),
    "datasets.shards": ("clean_structures",),
    "tokenizers.datasets": ("train_tokenizer",),
    "tokenizers.pretrained": ("encode_tokens", "warm_up_model", "evaluate_tokenizer"),
    "tokenizers.initial": ("train_tokenizer",),
    "models.tokenizer": ("warm_up_model", "train_model", "evaluate_likelihood"),
    "models.datasets": ("warm_up_model", "train_model"),
    "models.pretrained": (
        "generate", "evaluate_likelihood", "evaluate_samples", "probe_representations", "score_proteingym",
    ),
    "models.warmup.model": ("warm_up_model",),
    "generation.dataset": ("generate", "evaluate_samples"),
    "generation.problems": ("generate",),
    "generation.references": ("generate",),
    "representations.data": ("probe_representations",),
    "representations.structures": ("probe_representations",),
    "proteingym.reference": ("score_proteingym",),
    "proteingym.assays_folder": ("score_proteingym",),
    "proteingym.structures": ("score_proteingym",),
    "evaluation.reconstruction": (),
    "evaluation.likelihood": (),
}  # fmt: skip
SEED = (
    "select_structures", "train_tokenizer", "warm_up_model", "train_model", "generate", "evaluate_tokenizer",
    "evaluate_likelihood", "evaluate_samples",
)  # fmt: skip
NOTES: Mapping[str, str] = {
    "seed": "`select_structures` only where a split is drawn at random",
    "datasets.files": "of the shards whose files changed in content, wherever they lie",
    "datasets.fetch.list": "of the shards whose part of the list changed",
    "evaluation.reconstruction": "new datasets are evaluated; nothing is done again",
    "evaluation.likelihood": "new datasets are evaluated; nothing is done again",
}


def leaves(
    section: type[Section], place: str, meanings: tuple[Meaning, ...]
) -> Iterator[tuple[str, tuple[Meaning, ...]]]:
    """Every key with a value, with the declarations on its path."""
    from dplm2.settings.manual import _inner_sections

    for key, info in section.model_fields.items():
        here, path = f"{place}.{key}" if place else key, (*meanings, meaning_of(info))
        inner = [
            each for each in _inner_sections(info.annotation) if each.__name__.endswith(("Settings",)) or _is_part(each)
        ]
        if not inner:
            yield here, path
        for each in inner:
            yield from leaves(each, here, path)


def _is_part(section: type[Section]) -> bool:
    # A range of lengths and values by track are values of one key.
    return section.__name__ not in ("LengthRange", "TrackStrategies", "TrackUnmasking")


def all_keys() -> dict[str, tuple[Meaning, ...]]:
    """Every key of the configuration, without the names of entries, and its declarations."""
    found = {}
    for kind, info in Configuration.model_fields.items():
        annotation = info.annotation
        arguments = getattr(annotation, "__args__", ())
        section = arguments[1] if len(arguments) == 2 and isinstance(arguments[1], type) else annotation
        if isinstance(section, type) and issubclass(section, Section):
            found.update(leaves(section, kind, ()))
        else:
            found[kind] = (meaning_of(info),)
    return found


def runs_first(key: str, meanings: tuple[Meaning, ...]) -> tuple[str, ...]:
    """The rules whose results depend directly on a key."""
    if key == "seed":
        return SEED
    if key in NAMED_INPUTS:
        return NAMED_INPUTS[key]
    if meanings[-1].role == "operates" or "." not in key:
        return ()
    kind, part = key.split(".")[:2]
    return tuple(
        rule
        for rule, stage in STAGES.items()
        if stage.kind == kind and (not stage.parts or part in stage.parts) and _reads(stage, meanings)
    )


def _reads(stage: Stage, meanings: tuple[Meaning, ...]) -> bool:
    readers = {stage.reader} if stage.reader else set(TASKS)
    return all(meaning.readers is None or readers & set(meaning.readers) for meaning in meanings)


def runs_again(first: tuple[str, ...]) -> set[str]:
    """The rules that run again after these: themselves, and all that read their outputs."""
    found, waiting = set(), list(first)
    while waiting:
        rule = waiting.pop()
        if rule not in found:
            found.add(rule)
            waiting += READ_BY[rule]
    return found


def rows() -> dict[tuple[str, tuple[str, ...], str], list[str]]:
    """Keys by part of the configuration, the first rules that a change runs, and role."""
    found: dict[tuple[str, tuple[str, ...], str], list[str]] = {}
    for key, meanings in all_keys().items():
        first = runs_first(key, meanings)
        found.setdefault((key.split(".")[0], first, NOTES.get(key, "")), []).append(key)
    return found


# A change of one key of each row, on the finished run of tests/workflow; None: it needs what a test machine lacks, and
# the row follows from the declarations alone.
EXAMPLES: Mapping[str, Any] = {
    "results": None,  # see the events
    "state": None,
    "seed": {"seed": 1},
    "device": {"device": "auto"},
    "datasets.files": None,
    "datasets.fetch.list": None,
    "datasets.fetch.pdb_address": None,
    "datasets.fetch.concurrency": None,
    "datasets.hub.repository": None,
    "datasets.shards": {"datasets": {"own": {"shards": 3}}},
    "datasets.reading.max_models": {"datasets": {"own": {"reading": {"max_models": 7}}}},
    "datasets.filters.min_length": {"datasets": {"own": {"filters": {"min_length": 41}}}},
    "datasets.filters.deduplicate": {"datasets": {"own": {"filters": {"deduplicate": False}}}},
    "tokenizers.datasets": {"tokenizers": {"tiny": {"datasets": ["own", "test"]}}},
    "tokenizers.pretrained": None,
    "tokenizers.encoder.neighbours": {"tokenizers": {"tiny": {"encoder": {"neighbours": 7}}}},
    "tokenizers.training.devices": {"tokenizers": {"tiny": {"training": {"log_every": 2, "keep": 3, "compile": True}}}},
    "tokenizers.tokenization.precision": {"tokenizers": {"tiny": {"tokenization": {"precision": "bfloat16"}}}},
    "models.tokenizer": None,
    "models.datasets": {"models": {"tiny": {"datasets": ["own", "test"]}}},
    "models.pretrained": None,
    "models.network.layers": {"models": {"tiny": {"network": {"layers": 2}}}},
    "models.training.loggers": {
        "models": {
            "tiny": {"training": {"workers": 1, "time_limit_minutes": 9, "save_every": 2, "loggers": ["tensorboard"]}}
        }
    },
    "models.diffusion.weighting": {"models": {"tiny": {"diffusion": {"weighting": "constant"}}}},
    "generation.steps": {"generation": {"co-generation": {"steps": 5}}},
    "generation.dataset": {"generation": {"folding": {"dataset": "own"}}},
    "generation.problems": None,
    "generation.token_budget": {"generation": {"folding": {"token_budget": 99}}},
    "representations.data": None,
    "representations.tracks": {"representations": {"small": {"layer": 0}}},
    "representations.token_budget": {"representations": {"small": {"token_budget": 99}}},
    "proteingym.reference": None,
    "proteingym.window": {"proteingym": {"assays": {"window": 9}}},
    "proteingym.token_budget": {"proteingym": {"assays": {"token_budget": 99}}},
    "evaluation.reconstruction": {"evaluation": {"reconstruction": ["test", "own"]}},
    "evaluation.likelihood": {"evaluation": {"likelihood": ["own", "test"]}},
    "evaluation.match_tm_score": {"evaluation": {"match_tm_score": 0.7}},
    "evaluation.bootstrap_samples": {"evaluation": {"bootstrap_samples": 30}},
    "evaluation.ranking.weights": {"evaluation": {"ranking": {"weights": {"sc_tm": 2}, "best": 1}}},
    "evaluation.batch_size": {"evaluation": {"batch_size": 3}},
    "report.title": {"report": {"title": "Another title"}},
}
# Examples in which the changed key adds jobs of new rules.
ADDS: Mapping[str, set[str]] = {
    "evaluation.reconstruction": {"evaluate_tokenizer", "report"},
    "evaluation.likelihood": {"evaluate_likelihood", "report"},
    "tokenizers.datasets": set(),
}

PAGE = """\
# What runs again

A second run does nothing. After a change of the configuration exactly the stages run whose results the change can
alter, and what reads their results. This page is generated (`python -m tests.workflow.cache_table > docs/caching.md`)
from the declarations of the settings and the table of stages; a test changes a key of each row in a finished run and
compares what Snakemake plans.

## Keys of the configuration

| changed | runs again |
| --- | --- |
{keys}

## Other events

| event | runs again |
| --- | --- |
{events}

`--config device=cuda` changes nothing, and neither does another number of processes: both change results by rounding at
most. Interrupted training resumes: its state is in `<state>/<stage>/<fingerprint>/`, where the fingerprint names what
decides the result and the content of the inputs, wherever the folders lie.

A file that a configuration names is known by its content. Structure files are not read to plan a run: size and time of
change tell which to look at, and the hashes that the last run left behind tell whether their content changed.

Tokens and trained weights can be shared between working directories by Snakemake's own cache
(`export SNAKEMAKE_OUTPUT_CACHE=DIR`, `snakemake --cache`; see [On a cluster](cluster.md)).
"""
EVENTS = (
    ("a structure file touched, or its folder copied or moved", "nothing"),
    ("one structure added, changed or removed", "its shard is cleaned and encoded; what learns from the dataset"),
    ("one structure recompressed under another name", "the same: a file's hash is in the rows of its chains"),
    ("a touched list, cluster table, motif problem, database or weight file", "nothing"),
    ("a comment in the package, a title in a comment of the configuration", "nothing"),
    ("a version of the package that raises the revision of a stage", "the stage, and what reads it"),
    ("another working directory, with `results` and `state` named by absolute paths", "nothing"),
    ("`results` and `state` moved, and named anew", "nothing"),
    ("an output deleted", "the rule that wrote it, and what reads it; training returns from its saved state at once"),
    ("spaces and non-ASCII letters in every path", "nothing: results are the same bytes"),
)  # fmt: skip


def page() -> str:
    """The page as Markdown."""
    lines = []
    for (kind, first, note), keys in rows().items():
        again = ", ".join(f"`{rule}`" for rule in READ_BY if rule in runs_again(first)) or "nothing"
        shown = ", ".join(f"`{key}`" for key in shortened(keys, kind))
        lines.append(f"| {shown} | {again}{f' ({note})' if note else ''} |")
    return PAGE.format(keys="\n".join(lines), events="\n".join(f"| {event} | {what} |" for event, what in EVENTS))


def shortened(keys: list[str], kind: str) -> list[str]:
    """Keys by section: ``*`` in place of all keys of one, ``<name>`` in place of an entry's name."""
    everything = list(all_keys())
    sections: dict[str, list[str]] = {}
    for key in keys:
        parts = key.split(".")
        prefixes = [".".join(parts[:depth]) for depth in range(2, len(parts))]
        full = (each for each in prefixes if all(k in keys for k in everything if k.startswith(f"{each}.")))
        section, last = (whole, "*") if (whole := next(full, None)) else key.rpartition(".")[::2]
        if last not in sections.setdefault(section, []):
            sections[section].append(last)
    result = []
    for section, names in sections.items():
        if kind in ("datasets", "tokenizers", "models", "generation", "representations", "proteingym"):
            section = section.replace(kind, f"{kind}.<name>", 1)
        result.append(f"{section}.{names[0]}" if len(names) == 1 else f"{section}.{{{', '.join(names)}}}")
    return [each.lstrip(".") for each in result]


if __name__ == "__main__":
    print(page(), end="")
