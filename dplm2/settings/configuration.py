"""The whole configuration, and references between its sections."""

from collections.abc import Iterable, Iterator
from typing import Literal

from dplm2.settings.dataset import DatasetSettings
from dplm2.settings.evaluation import EvaluationSettings
from dplm2.settings.fields import Name, Section, operates, section
from dplm2.settings.generation import GenerationSettings
from dplm2.settings.model import ModelSettings
from dplm2.settings.proteingym import ProteinGymSettings
from dplm2.settings.report import ReportSettings
from dplm2.settings.representations import RepresentationSettings
from dplm2.settings.tokenizer import TokenizerSettings

Device = Literal["auto", "cpu", "cuda", "mps"]
# Folders of the results that are not named after a model or a task.
TAKEN = {"models": ("tokenizers", "comparison"), "generation": ("likelihood",)}


class Configuration(Section):
    """All settings of a run of the workflow, or of a command."""

    results: str = operates("results", "Folder for the results of the run.", min_length=1)
    state: str = operates(
        "state",
        "Folder for resumable training state and input manifests. It may be deleted between runs; unfinished stages"
        " then start again.",
        min_length=1,
    )
    seed: int = operates(0, "Seed of all random choices of the run.", ge=0)
    device: Device = operates("auto", "Device on which networks run; auto uses a GPU if there is one.")
    threads: int = operates(
        2,
        "Processor threads of each job that runs a network. Small networks are as fast with 1, so that several jobs"
        " can run in parallel.",
        ge=1,
    )
    datasets: dict[Name, DatasetSettings] = section("Datasets of structures by name: input files and filters.")
    tokenizers: dict[Name, TokenizerSettings] = section("Structure tokenizers by name.")
    models: dict[Name, ModelSettings] = section("Language models by name.")
    generation: dict[Name, GenerationSettings] = section("Generation tasks by name; each runs for every model.")
    representations: dict[Name, RepresentationSettings] = section(
        "Predictive tasks on representations by name; each runs for every model."
    )
    proteingym: dict[Name, ProteinGymSettings] = section(
        "ProteinGym's assays of mutations by name; each runs for every model."
    )
    evaluation: EvaluationSettings = section("Metrics, thresholds and backends of the evaluation.")
    report: ReportSettings = section("The HTML report and its tables.")

    def contradictions(self) -> Iterator[str]:
        """Reserved names."""
        for kind, names in TAKEN.items():
            for name in names:
                if name in getattr(self, kind):
                    yield f"{kind}.{name}: this name is reserved for a results folder; choose another"

    def unresolved(self) -> Iterator[str]:
        """References to undefined names."""

        def unknown(place: str, kind: str, names: Iterable[str | None]) -> Iterator[str]:
            known = getattr(self, kind)
            for name in names:
                # A command may be given only its own section.
                if name is not None and kind in self.model_fields_set and name not in known:
                    yield f"{place}: {kind} has no {name!r}; available: {', '.join(sorted(known)) or 'none'}"

        for name, tokenizer in self.tokenizers.items():
            yield from unknown(f"tokenizers.{name}.datasets", "datasets", tokenizer.datasets)
        for name, model in self.models.items():
            yield from unknown(f"models.{name}.datasets", "datasets", model.datasets)
            yield from unknown(f"models.{name}.tokenizer", "tokenizers", [model.tokenizer])
            yield from unknown(f"models.{name}.warmup.model", "models", [model.warmup.model])
            if name in self._started_from(name):
                yield f"models.{name}.warmup.model: the model would start from itself"
        for name, task in self.generation.items():
            yield from unknown(f"generation.{name}.dataset", "datasets", [task.dataset])
        for key in ("reconstruction", "likelihood"):
            yield from unknown(f"evaluation.{key}", "datasets", getattr(self.evaluation, key))

        yield from self._without_coordinates()

    def _without_coordinates(self) -> Iterator[str]:
        """Uses of datasets from the hub that need coordinates, or another tokenizer's codes."""
        codes_of = {name: dataset.hub.tokenizer for name, dataset in self.datasets.items() if dataset.hub is not None}
        tokens = "comes from the hub as structure tokens"
        for name, tokenizer in codes_of.items():
            if "tokenizers" in self.model_fields_set and tokenizer not in self.tokenizers:
                known = ", ".join(sorted(self.tokenizers)) or "none"
                yield f"datasets.{name}.hub.tokenizer: tokenizers has no {tokenizer!r}; available: {known}"
        places = [(f"tokenizers.{name}.datasets", entry.datasets) for name, entry in self.tokenizers.items()]
        places += [(f"generation.{name}.dataset", (task.dataset,)) for name, task in self.generation.items()]
        places.append(("evaluation.reconstruction", self.evaluation.reconstruction))
        for place, names in places:
            for name in codes_of.keys() & set(names):
                yield f"{place}: dataset {name!r} {tokens}, without coordinates; name another"
        places = [(f"models.{name}", model.datasets, model.tokenizer) for name, model in self.models.items()]
        judged = [
            ("evaluation.likelihood", self.evaluation.likelihood, model.tokenizer) for model in self.models.values()
        ]
        for place, names, tokenizer in dict.fromkeys((*places, *judged)):
            for name in sorted(codes_of.keys() & set(names)):
                if codes_of[name] != tokenizer:
                    yield f"{place}: dataset {name!r} {tokens} of tokenizer {codes_of[name]!r}, not {tokenizer!r}"

    def _started_from(self, name: str) -> set[str]:
        """The models from which a model's initial weights are derived."""
        found: set[str] = set()
        while name in self.models and (name := self.models[name].warmup.model) is not None and name not in found:
            found.add(name)
        return found

    def missing_for_a_run(self) -> Iterator[str]:
        """Yield one line for each value that a run of the workflow needs and the configuration lacks."""
        for name, dataset in self.datasets.items():
            if dataset.files is None and dataset.fetch is None and dataset.hub is None:
                yield f"datasets.{name}: give 'files', 'fetch' with a list of what to download, or 'hub'"
        for kind in ("tokenizers", "models"):
            for name, trained in getattr(self, kind).items():
                if trained.pretrained is None and not trained.datasets:
                    yield f"{kind}.{name}: give 'datasets' to train on, or 'pretrained' for a trained one"
        for name, model in self.models.items():
            if model.pretrained is None and model.warmup.from_scratch and model.network is None:
                yield f"models.{name}.network: missing; warmup.source: scratch needs the size of the network"
        for name, task in self.generation.items():
            if task.task in ("folding", "inverse-folding") and task.dataset is None:
                yield f"generation.{name}.dataset: missing; {task.task} needs the chains of a dataset"
            if task.task == "scaffolding" and not task.problems:
                yield f"generation.{name}.problems: missing; scaffolding needs motif problems"
            if task.task == "infilling" and task.dataset is None and not task.problems:
                yield f"generation.{name}.dataset: missing; infilling needs the chains of a dataset, or `problems`"
