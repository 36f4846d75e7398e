"""The table of stages: what each rule of the workflow reads of the configuration, and what it needs to run.

A stage is declared once, here. Its rule asks a `Plan` for what decides its result (a change makes its job run again)
and for how the work is done (a change does not). The effect of a key is stated where it is declared
(`dplm2.settings`).
"""

import json
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dplm2.core.errors import ConfigError, DPLM2Error
from dplm2.core.inputs import files_below, identity, unhashed
from dplm2.core.layout import WEIGHTS_FILE, Layout
from dplm2.resources import MINUTES, launcher, needs, requested
from dplm2.settings import Configuration, Section, deciding, load, operating
from dplm2.settings.evaluation import RANKING
from dplm2.settings.fields import meaning_of
from dplm2.settings.files import OBTAIN_STRUCTURES, WEIGHTS
from dplm2.settings.loading import STAGE
from dplm2.settings.roles import FileReference, fields_read, files_named, plain


def always(section: Section) -> bool:
    """A stage that draws random numbers whatever its settings."""
    return True


def never(section: Section) -> bool:
    """A stage that draws no random number."""
    return False


@dataclass(frozen=True)
class Stage:
    """What a rule reads of the configuration.

    Attributes
    ----------
    kind
        The part of the configuration: ``datasets``, ``tokenizers``, ``models``, ``generation``,
        ``representations``, ``proteingym``, ``evaluation``, ``report``.
    parts
        The sections of an entry that it reads; empty: the entry itself.
    reader
        Which of the fields: those that are for everybody and those declared for this reader. For stages that differ by
        task, the task is the reader.
    draws
        Whether the stage draws random numbers, given its section: then the seed decides, too.
    revision
        Raised when a version of the package gets other results from the same settings and inputs: the stage's jobs
        then run again.
    """

    kind: str
    parts: tuple[str, ...] = ()
    reader: str | None = None
    draws: Callable[[Section], bool] = always
    revision: int = 1


STAGES: Mapping[str, Stage] = {
    "fetch_structures": Stage("datasets", ("fetch", "hub"), draws=never),
    "clean_structures": Stage("datasets", ("reading", "filters", "hub"), reader="clean", draws=never),
    "select_structures": Stage(
        "datasets", ("filters", "clusters", "split"), reader="select", draws=lambda dataset: dataset.split.is_drawn
    ),
    "train_tokenizer": Stage("tokenizers", ("encoder", "quantizer", "decoder", "loss", "training", "initial")),
    "encode_tokens": Stage("tokenizers", ("tokenization",), draws=never),
    "warm_up_model": Stage("models", ("network", "structure_head", "warmup")),
    "train_model": Stage("models", ("lora", "diffusion", "training")),
    "generate": Stage("generation", revision=2),
    "evaluate_tokenizer": Stage("evaluation", reader="reconstruction"),
    "evaluate_likelihood": Stage("evaluation", reader="likelihood"),
    "evaluate_samples": Stage("evaluation"),
    "rank_designs": Stage("evaluation", ("ranking",), reader=RANKING, draws=never),
    "probe_representations": Stage("representations", draws=never),
    "compare_representations": Stage("evaluation", reader="representations", draws=never),
    "score_proteingym": Stage("proteingym", draws=never),
    "report": Stage("report", draws=never),
}


class Untold(dict):
    """Words of a rule's command that are no part of its job's identity.

    Snakemake's cache between working directories hashes the parameters of a job as JSON, in which this is ``{}``.
    """

    def __init__(self, words: str) -> None:
        super().__init__()
        self.words = words

    def __str__(self) -> str:
        return self.words


def option(name: str, values: Iterable[object]) -> str:
    """A command line option with its values, quoted; empty without values."""
    words = [str(value) for value in values]
    return shlex.join([name, *words]) if words else ""


def folders_of(files: str | Iterable[str]) -> list[Path]:
    """The folder of each file."""
    return [Path(file).parent for file in ([files] if isinstance(files, str) else files)]


def refuse_storage_provider(name: str | None) -> None:
    """Results and state need a file system.

    Raises
    ------
    ConfigError
        If Snakemake is told to keep them elsewhere.
    """
    if name is not None:
        reason = "stages hand on folders and lock what they write, so results and state need a file system"
        raise ConfigError(f"--default-storage-provider {name}: {reason} (docs/cluster.md, Object storage)")


class Plan:
    """A checked configuration, and what each rule needs to know of it.

    Parameters
    ----------
    configuration
        As Snakemake read it.
    files
        The files that it was read from.

    Raises
    ------
    ConfigError
        Names everything that is wrong with it. Files that are missing are no such error (see `missing`), so that a dry
        run works without data.
    """

    def __init__(self, configuration: Mapping[str, Any], files: Iterable[str | Path] = ()) -> None:
        self.settings: Configuration = load(configuration, files)
        open_questions = list(self.settings.missing_for_a_run())
        if open_questions:
            raise ConfigError("the configuration is wrong:\n  " + "\n  ".join(open_questions))
        self.layout = Layout(Path(self.settings.results), Path(self.settings.state))
        self.missing: list[str] = []
        self.listings = {name: self._listing(name) for name in self.settings.datasets}
        self.shards = {name: dataset.shards for name, dataset in self.settings.datasets.items()}
        self._note_missing_files()

    def _listing(self, name: str) -> Any:
        """The dataset's files, or lists of what to fetch, by shard; none where something is missing."""
        from dplm2.structures.manifest import Listing, list_files
        from dplm2.structures.targets import list_repository, list_targets

        dataset, folder = self.settings.datasets[name], self.layout.manifests(name)
        if dataset.hub is not None:
            return list_repository(dataset.hub.repository, folder, dataset.shards)
        try:
            if dataset.fetch is not None:
                return list_targets(dataset.fetch.list, folder, dataset.shards, dataset.fetch)
            return list_files(dataset.files, folder, dataset.shards)
        except DPLM2Error as error:
            key, how = ("files", f"; {OBTAIN_STRUCTURES}") if dataset.fetch is None else ("fetch", "")
            self.missing.append(f"datasets.{name}.{key}: {error}{how}")
            return Listing(folder, ["missing"] * dataset.shards)

    def _note_missing_files(self) -> None:
        for reference in files_named(self.settings):
            named_by_listing = reference.place.endswith((".files", ".fetch.list"))
            if not named_by_listing and self.made_here(reference.path) is None and not _found(reference):
                how = f"; {reference.meaning.obtain}" if reference.meaning.obtain else ""
                self.missing.append(f"{reference.place}: {reference.path}: no such file or folder{how}")
        for name in self.settings.generation:
            try:
                self.missing += [
                    f"generation.{name}.problems: reference structure {path}: no such file"
                    for path in self._motif_references(name)
                    if not Path(path).is_file()
                ]
            except DPLM2Error as error:
                self.missing.append(f"generation.{name}.problems: {error}")

    def check_inputs(self) -> None:
        """Refuse to run while something is missing.

        Raises
        ------
        DPLM2Error
            Lists every missing path at once.
        """
        if self.missing:
            raise DPLM2Error("files that the configuration names are missing:\n  " + "\n  ".join(self.missing))

    def write_manifests(self) -> None:
        """Write what the jobs of this run read: each dataset's files, or what to fetch, by shard."""
        for listing in self.listings.values():
            listing.write()

    def entry(self, kind: str, name: str | None) -> Section:
        """The section ``<kind>.<name>``; of ``evaluation`` and ``report`` the only one."""
        sections = getattr(self.settings, kind)
        return sections if isinstance(sections, Section) else sections[name]

    def deciding(self, rule: str, name: str | None = None, task: str | None = None) -> str:
        """What decides the result of a rule's job, as the JSON text of a configuration.

        Parameters
        ----------
        rule
            Its name.
        name
            The dataset, tokenizer, model or task that it is about.
        task
            For ``evaluate_samples``: what kind of task made the samples.
        """
        stage = STAGES[rule]
        entry = self.entry(stage.kind, name)
        reader = task or stage.reader or (entry.task if stage.kind == "generation" else None)
        values = {}
        for part, section in self._parts(stage, entry):
            if isinstance(section, Section):
                chosen = deciding(section, reader)
                values = chosen if part is None else {**values, part: chosen}
            elif meaning_of(type(entry).model_fields[part]).role == "decides":
                values[part] = plain(section)
        seed = {"seed": self.settings.seed} if stage.draws(entry) else {}
        return _text({STAGE: rule, **seed, stage.kind: values if name is None else {name: values}})

    def operating(self, rule: str, name: str | None = None, task: str | None = None) -> str:
        """The rest of what a rule's job is told: how the work is done, and names of what it works on."""
        stage = STAGES[rule]
        entry = self.entry(stage.kind, name)
        values = {
            key: value
            for key, value in operating(entry, task or stage.reader).items()
            # Another stage's section may contradict itself without what decides in it.
            if not stage.parts or key in stage.parts or not isinstance(getattr(entry, key), Section)
        }
        return _text({"device": self.settings.device, stage.kind: values if name is None else {name: values}})

    def inputs(self, rule: str, name: str | None = None, task: str | None = None) -> str:
        """Names the content of the files that the configuration gives a rule's job, whatever their names.

        Also the stage's revision, if it was ever raised.
        """
        found: dict[str, list[str] | int] = {}
        if STAGES[rule].revision > 1:
            found["revision"] = STAGES[rule].revision
        for place, path, patterns in self._files(rule, name, task):
            found.setdefault(place, []).append(self.identity(path, patterns))
        return _text(found)

    def _files(self, rule: str, name: str | None, task: str | None) -> Iterator[tuple[str, str, Iterable[str]]]:
        """Key, path, and what counts of a folder, of each file that the configuration gives a rule's job."""
        stage = STAGES[rule]
        entry = self.entry(stage.kind, name)
        for part, section in self._parts(stage, entry):
            for reference in self._references(entry, part, section, task or stage.reader):
                if self.made_here(reference.path) is None:
                    yield reference.place, reference.path, reference.meaning.files
        if stage.kind == "generation":
            yield from (("references", path, ("*",)) for path in self._motif_references(name) if Path(path).is_file())

    def to_note(
        self, rule: str, name: str | None = None, task: str | None = None, finished: tuple[str, str] | None = None
    ) -> list[str]:
        """What a rule's job shall note for `dplm2.core.inputs.note`, as JSON text; nothing if all is noted already.

        Parameters
        ----------
        rule, name, task
            As of `deciding`.
        finished
            Kind and name of the tokenizer or model that the job reads, which may be a finished one.
        """
        given = [(path, patterns) for _, path, patterns in self._files(rule, name, task)]
        path = getattr(self.settings, finished[0])[finished[1]].pretrained if finished else None
        if path is not None and self.made_here(path) is None:
            given.append((path, WEIGHTS))
        files: dict[str, tuple[str, str]] = {}
        for path, patterns in given:
            files |= unhashed(path, patterns, self.layout.state)
        return [_text({"state": str(self.layout.state), "files": files})] if files else []

    def identity(self, path: str | Path, patterns: Iterable[str] = ("*",)) -> str:
        """Names the content of a file or folder of the user's."""
        try:
            return identity(path, patterns, self.layout.state)
        except OSError as error:
            raise DPLM2Error(f"{path}: cannot be read ({error.strerror})") from error

    def made_here(self, path: str | Path | None) -> Path | None:
        """The weights that a path below the results refers to, if another rule makes them."""
        if path is None or not Path(path).absolute().is_relative_to(self.layout.results.absolute()):
            return None
        return Path(path) / WEIGHTS_FILE

    def pretrained(self, kind: str, name: str) -> str:
        """Names the content of a finished tokenizer or model that is not made in this run; empty of any other."""
        path = getattr(self.settings, kind)[name].pretrained
        if path is None or self.made_here(path) is not None:
            return ""
        return self.identity(path, WEIGHTS) if Path(path).exists() else path

    def source_of(self, model: str) -> Path | None:
        """The weights, made in this run, that a model starts from."""
        warmup = self.settings.models[model].warmup
        if warmup.model is None:
            return self.made_here(warmup.source)
        pretrained = self.settings.models[warmup.model].pretrained
        return (Path(pretrained) if pretrained else self.layout.model(warmup.model)) / WEIGHTS_FILE

    def trained(self, kind: str) -> list[str]:
        """Names of the tokenizers or models that are trained in this run."""
        return [name for name, section in getattr(self.settings, kind).items() if section.pretrained is None]

    def trained_here(self, kind: str) -> str:
        """A pattern of their names, since a pretrained one may be in the same location."""
        return "|".join(map(re.escape, self.trained(kind))) or "(?!)"

    def task_datasets(self, task: str, natives: bool = False) -> list[str]:
        """The dataset that a task reads, if any; with ``natives`` only where samples are compared with its chains."""
        entry = self.settings.generation[task]
        used = entry.dataset is not None and (not natives or entry.task in ("folding", "inverse-folding"))
        return [entry.dataset] if used else []

    def model_judges(self, task: str) -> bool:
        """Whether the model that made the samples of a task takes part in their evaluation."""
        chosen, kind = self.settings.evaluation, self.settings.generation[task].task
        read = {key for key, *_ in fields_read(chosen, kind)}
        return "self" in (
            chosen.folding_backend if "folding_backend" in read else None,
            chosen.inverse_folding_backend if "inverse_folding_backend" in read else None,
        )

    def names(self) -> str:
        """What belongs to this run, for the report: results may hold what the configuration no longer names."""
        kinds = ("datasets", "tokenizers", "models", "generation")
        return _text({kind: list(getattr(self.settings, kind)) for kind in kinds})

    def requested(
        self, rule: str, name: str | None, attempt: int, profile: Mapping[str, str]
    ) -> dict[str, int | str | None]:
        """Memory, time, GPUs and nodes of a rule's job, in the words of Snakemake and its executor for Slurm."""
        return requested(needs(self.settings, rule, name), MINUTES[rule], attempt, self.settings.threads, profile)

    def launcher(self, rule: str, name: str | None = None) -> list[str]:
        """The command of a rule's job up to its first argument."""
        return launcher(needs(self.settings, rule, name), self.settings.threads)

    @staticmethod
    def _parts(stage: Stage, entry: Section) -> Iterator[tuple[str | None, Any]]:
        if not stage.parts:
            yield None, entry
        for part in stage.parts:
            yield part, getattr(entry, part)

    @staticmethod
    def _references(entry: Section, part: str | None, value: Any, reader: str | None) -> Iterator[FileReference]:
        if isinstance(value, Section):
            yield from files_named(value, reader, part or "")
        elif part is not None and value is not None:
            yield FileReference(part, value, meaning_of(type(entry).model_fields[part]))

    def _motif_references(self, name: str) -> list[str]:
        """The structure files that a task's motif problems take their motifs from."""
        task = self.settings.generation[name]
        if task.task != "scaffolding":
            return []
        from dplm2.generation.contigs import reference_files

        problems = [problem for problem in task.problems if Path(problem).exists()]
        return [str(path) for path in reference_files(problems, task.references)] if problems else []


def _found(reference: FileReference) -> bool:
    return bool(files_below(reference.path, reference.meaning.files)) or Path(reference.path).exists()


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)
