"""Deciding and operational settings: together all values that are not defaults, disjoint, and sufficient for a job."""

import json
from dataclasses import replace

import pytest

from dplm2.settings import Section, deciding, load, operating
from dplm2.settings.roles import fields_read, plain
from dplm2.stages import STAGES, Plan
from tests.settings.example import WHOLE

NAMED = ("datasets", "tokenizers", "models", "generation", "representations", "proteingym")
ENTRIES = [(kind, name) for kind in NAMED for name in WHOLE[kind]] + [
    ("evaluation", None),
    ("report", None),
]


def entry(whole, kind: str, name: str | None) -> Section:
    return getattr(whole, kind) if name is None else getattr(whole, kind)[name]


def leaves(values, place: str = "") -> dict:
    """Values by the paths of their keys."""
    found = {}
    for key, value in values.items():
        here = f"{place}.{key}".lstrip(".")
        found |= leaves(value, here) if isinstance(value, dict) and value else {here: value}
    return found


def changed(section: Section, place: str = "") -> set[str]:
    """The paths of all values of a section that are not the defaults."""
    found = set()
    for key in type(section).model_fields:
        value, here = getattr(section, key), f"{place}.{key}".lstrip(".")
        if isinstance(value, Section):
            found |= changed(value, here)
        elif section.differs(key):
            found.add(here)
    return found


@pytest.mark.parametrize(("kind", "name"), ENTRIES)
def test_roles_partition_all_values_that_are_not_defaults(kind, name):
    section = entry(load(WHOLE), kind, name)
    decides, operates = leaves(deciding(section)), leaves(operating(section))
    # A mapping of names is one value.
    assert decides.keys() & operates.keys() == set()
    missing = {place for place in changed(section) if place not in decides and place not in operates}
    assert all(any(held.startswith(f"{place}.") for held in decides) for place in missing), missing
    own = leaves(plain(section))
    assert all(own[place] == value for place, value in (decides | operates).items() if place in own)


def test_example_has_values_of_every_role_in_every_section():
    whole = load(WHOLE)
    for kind in (*NAMED, "evaluation"):
        sections = [entry(whole, *where) for where in ENTRIES if where[0] == kind]
        assert any(operating(section) for section in sections), kind
        assert any(changed(section) & leaves(deciding(section)).keys() for section in sections), kind


@pytest.mark.parametrize(("kind", "name"), ENTRIES)
def test_both_texts_restore_the_section(kind, name):
    whole = load(WHOLE)
    section = entry(whole, kind, name)
    texts = [
        json.dumps({"stage": "x", kind: values if name is None else {name: values}})
        for values in (deciding(section), operating(section))
    ]
    assert entry(load(texts), kind, name) == section
    assert entry(load(texts[::-1]), kind, name) == section


@pytest.fixture
def plan(tmp_path, monkeypatch) -> Plan:
    monkeypatch.chdir(tmp_path)
    return Plan(json.loads(json.dumps(WHOLE)))


JOBS = [
    (rule, name, task)
    for rule, stage in STAGES.items()
    for kind, name in ENTRIES
    if kind == stage.kind and not (rule == "fetch_structures" and name != "fetched")
    for task in (("co-generation", "folding", "backbone") if rule == "evaluate_samples" else (None,))
]


@pytest.mark.parametrize(("rule", "name", "task"), JOBS)
def test_job_receives_all_settings_that_it_reads(plan, rule, name, task):
    """As in the rules: both texts for ``--config``, independently of the rest of the configuration."""
    stage = STAGES[rule]
    told = load([plan.deciding(rule, name, task), plan.operating(rule, name)])
    ours, theirs = (entry(one, stage.kind, name) for one in (told, plan.settings))
    reader = task or stage.reader or getattr(theirs, "task", None)
    for part in stage.parts or (None,):
        mine, original = ((section if part is None else getattr(section, part)) for section in (ours, theirs))
        if isinstance(original, Section):
            read = {key: value for key, _, value in fields_read(original, reader)}
            assert {key: getattr(mine, key) for key in read} == read
        else:
            assert mine == original
    assert told.device == plan.settings.device
    assert told.seed == (plan.settings.seed if stage.draws(theirs) else 0)


@pytest.mark.parametrize(("rule", "name", "task"), JOBS)
def test_deciding_settings_exclude_operational_ones(plan, rule, name, task):
    other = json.loads(json.dumps(WHOLE))
    other |= {"results": "elsewhere", "state": "elsewhere too", "device": "auto", "threads": 1}
    other["datasets"]["fetched"]["fetch"]["concurrency"] = 9
    for kind, path in (("tokenizers", ("trained", "training")), ("models", ("scratch", "training"))):
        section = other[kind][path[0]].setdefault(path[1], {})
        section |= {"log_every": 3, "keep": 7, "workers": 5, "compile": True, "activation_checkpointing": True}
    other["tokenizers"]["trained"]["training"]["devices"] = 2
    other["tokenizers"]["trained"]["tokenization"]["token_budget"] = 12
    other["generation"]["designs"]["token_budget"] = 12
    other["evaluation"]["esmfold"]["chunk_size"] = 12
    other["evaluation"]["self"]["batch_size"] = 12
    assert Plan(other).deciding(rule, name, task) == plan.deciding(rule, name, task)


@pytest.mark.parametrize(("rule", "name", "task"), JOBS)
def test_a_raised_revision_runs_the_jobs_of_its_stage_again(plan, monkeypatch, rule, name, task):
    before = plan.inputs(rule, name, task)
    assert ("revision" in json.loads(before)) == (STAGES[rule].revision > 1)
    raised = replace(STAGES[rule], revision=STAGES[rule].revision + 1)
    monkeypatch.setitem(STAGES, rule, raised)
    assert plan.inputs(rule, name, task) != before
    monkeypatch.setitem(STAGES, rule, replace(raised, revision=1))
    assert set(json.loads(plan.inputs(rule, name, task))) == set(json.loads(before)) - {"revision"}


TOKENIZER, MODEL = ("tokenizers", "trained"), ("models", "scratch")
# A change of one key, and the rules whose results it decides, whatever the table of stages says.
DECIDED = [
    (("datasets", "fetched", "fetch", "max_megabytes"), 8, {"fetch_structures"}),
    (("datasets", "own", "reading", "max_atoms"), 2000, {"clean_structures"}),
    (("datasets", "own", "filters", "min_length"), 11, {"clean_structures", "select_structures"}),
    (("datasets", "own", "filters", "one_per_cluster"), False, {"select_structures"}),
    (("datasets", "fetched", "clusters", "identity"), 0.25, {"select_structures"}),
    (("datasets", "own", "split", "validation_fraction"), 0.125, {"select_structures"}),
    ((*TOKENIZER, "encoder", "width"), 32, {"train_tokenizer"}),
    ((*TOKENIZER, "training", "steps"), 71, {"train_tokenizer"}),
    ((*TOKENIZER, "tokenization", "precision"), "float32", {"encode_tokens"}),
    ((*MODEL, "network", "layers"), 3, {"warm_up_model"}),
    ((*MODEL, "structure_head"), "codes", {"warm_up_model"}),
    ((*MODEL, "warmup", "dropout"), 0.5, {"warm_up_model"}),
    ((*MODEL, "lora", "rank"), 3, {"train_model"}),
    ((*MODEL, "diffusion", "max_length"), 98, {"train_model"}),
    ((*MODEL, "training", "betas"), [0.5, 0.25], {"train_model"}),
    (("generation", "designs", "samples"), 4, {"generate"}),
    (("generation", "folding", "guidance"), 3.0, {"generate"}),
    (("representations", "probed", "layer"), 2, {"probe_representations"}),
    (("evaluation", "bootstrap_samples"), 9, {"evaluate_tokenizer", "evaluate_samples"}),
    (("evaluation", "designable_sc_tm"), [0.25], {"evaluate_samples"}),
    (("evaluation", "ranking", "best"), 4, {"rank_designs"}),
    (("report", "title"), "Other", {"report"}),
    (
        ("seed",),
        4,
        {"select_structures", "train_tokenizer", "warm_up_model", "train_model", "generate", "evaluate_tokenizer"}
        | {"evaluate_likelihood", "evaluate_samples"},
    ),
]


@pytest.mark.parametrize(("path", "value", "rules"), DECIDED, ids=[".".join(path) for path, *_ in DECIDED])
def test_key_decides_exactly_the_stages_that_read_it(plan, path, value, rules):
    section = whole = json.loads(json.dumps(WHOLE))
    for key in path[:-1]:
        section = section[key]
    assert section.get(path[-1]) != value
    section[path[-1]] = value
    other = Plan(whole)
    assert {rule for rule, *names in JOBS if other.deciding(rule, *names) != plan.deciding(rule, *names)} == rules


def test_names_decide_by_value_and_files_by_content(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    warm = load(WHOLE).models["warm"].warmup
    assert deciding(warm)["source"] == "facebook/esm2_t30_150M_UR50D"
    (tmp_path / "facebook" / "esm2_t30_150M_UR50D").mkdir(parents=True)
    assert "source" not in deciding(warm)
    assert operating(warm)["source"] == "facebook/esm2_t30_150M_UR50D"


def test_fields_of_other_tasks_do_not_decide(plan):
    folding, designs = (
        json.loads(plan.deciding("evaluate_samples", None, task))["evaluation"] for task in ("folding", "co-generation")
    )
    assert "match_tm_score" in folding and "match_tm_score" not in designs
    assert "diversity" in designs and "diversity" not in folding
    assert "bootstrap_samples" in folding and "bootstrap_samples" in designs


@pytest.mark.parametrize("task", ["co-generation", "folding"])
def test_stage_ignores_settings_that_it_does_not_read(tmp_path, monkeypatch, task):
    monkeypatch.chdir(tmp_path)
    command = {"template": "fold {fasta} {out}", "sequences_per_run": 5}
    plan = Plan({"evaluation": {"folding_backend": "command", "command": command}})
    for rule in ("evaluate_tokenizer", "evaluate_likelihood"):
        assert load([plan.deciding(rule), plan.operating(rule)]).evaluation.command is None
    told = load([part("evaluate_samples", task=task) for part in (plan.deciding, plan.operating)]).evaluation
    read = plan.settings.evaluation.command if task == "co-generation" else None
    assert told.command == read


def with_defaults_alone() -> list[type[Section]]:
    """All sections that can be omitted."""
    found, waiting = [], [Section]
    while waiting:
        for kind in waiting.pop().__subclasses__():
            waiting.append(kind)
            if kind.__module__.startswith("dplm2.") and not any(f.is_required() for f in kind.model_fields.values()):
                found.append(kind)
    return found


@pytest.mark.parametrize("kind", with_defaults_alone(), ids=lambda kind: kind.__name__)
def test_explicit_default_equals_the_default(kind):
    """32 and 32.0 are one number but two texts: training by hand and by the workflow must have the same fingerprint."""
    left_out = json.dumps(plain(kind.restored({})))
    assert json.dumps(plain(kind.restored(json.loads(left_out)))) == left_out
