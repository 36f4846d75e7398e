"""A language model with its structure tokenizer: ``DPLM2.from_pretrained(folder).generate(task, ...)``."""

import copy
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dplm2.core.artifacts import fingerprint, sha256_of_file
from dplm2.core.errors import DPLM2Error
from dplm2.core.output import in_notebook
from dplm2.cpu.process import prepare_process
from dplm2.generation.bounds import check_memory, workload_of_requests, workload_of_settings
from dplm2.generation.inputs import in_memory
from dplm2.generation.samples import Sample
from dplm2.generation.selection import best_of, log_likelihoods
from dplm2.generation.task import Given, Request, Target
from dplm2.generation.tasks import TASKS
from dplm2.language.conditioning import sample_seed
from dplm2.language.denoising import Adjust, Sampled
from dplm2.language.model_folder import WEIGHTS_FILE, model_folder
from dplm2.language.network import MultimodalEsm
from dplm2.language.sampling import batches, sample
from dplm2.language.schedule import sampler_settings
from dplm2.language.vocabulary import Vocabulary
from dplm2.settings.generation import GenerationSettings, TaskName
from dplm2.tokenizer.model import StructureTokenizer

Done = Callable[[list[Sample]], None]


class DPLM2:
    """A language model with its structure tokenizer.

    Examples
    --------
    >>> from dplm2 import DPLM2
    >>> model = DPLM2.from_pretrained("results/models/demo")
    >>> protein = model.generate("co-generation", lengths=[100], samples=1)[0]
    >>> protein.write("protein.pdb")
    >>> folded = model.fold(protein.sequence)
    >>> redesigned = model.design(folded, samples=4)
    >>> scaffolds = model.generate("scaffolding", problems=["config/motifs/1PRW.yaml"], samples=8)

    Parameters
    ----------
    network
        The language model.
    tokenizer
        The structure tokenizer, or None to load the model's own on first use.
    folder
        Folder of the model, to which the path of its tokenizer is relative.
    """

    def __init__(
        self, network: MultimodalEsm, tokenizer: StructureTokenizer | None = None, folder: str | os.PathLike = "."
    ) -> None:
        self.network, self.folder = network.eval(), Path(folder)
        if tokenizer is not None:
            self.tokenizer = self._checked_tokenizer(tokenizer)

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike,
        tokenizer: str | os.PathLike | None = None,
        device: torch.device | str = "cpu",
    ) -> "DPLM2":
        """Open a model folder or a repository of the Hugging Face hub.

        Parameters
        ----------
        source
            The folder, or the hub id: ``owner/name`` or ``owner/name@revision``, for example ``airkingbd/dplm2_650m``.
            It is downloaded, and converted if it is in the authors' layout, the first time.
        tokenizer
            Folder or hub id of the tokenizer, instead of the model's own.
        device
            Device of the networks.

        Raises
        ------
        DPLM2Error
            If the source is not a model of this package, or the tokenizer differs from that of the model's training.
        """
        prepare_process()
        folder = model_folder(source)
        network = MultimodalEsm.from_pretrained(folder, device=device)
        chosen = None if tokenizer is None else StructureTokenizer.from_pretrained(tokenizer, device=device)
        return cls(network, chosen, folder)

    def save_pretrained(self, folder: str | os.PathLike) -> None:
        """Write the language model; the path of its tokenizer must be valid from the new folder."""
        self.network.save_pretrained(folder)

    @cached_property
    def tokenizer(self) -> StructureTokenizer:
        """The structure tokenizer, loaded on first use.

        Raises
        ------
        DPLM2Error
            If the model has none, it does not exist, or it is not the one that the model was trained with.
        """
        named = self.network.tokenizer
        if named is None:
            raise DPLM2Error(f"{self.folder}: the model has no structure tokenizer; give one with --tokenizer")
        beside = self.folder / named
        source = beside if beside.is_dir() else named
        return self._checked_tokenizer(StructureTokenizer.from_pretrained(source, device=self.network.device))

    def _checked_tokenizer(self, tokenizer: StructureTokenizer) -> StructureTokenizer:
        expected, codes = self.network.tokenizer_fingerprint, self.vocabulary.codebook_size
        if expected is not None and tokenizer.codes_fingerprint != expected:
            raise DPLM2Error(
                f"the model was trained on the tokens of tokenizer {expected}, "
                f"but the one given is {tokenizer.codes_fingerprint}"
            )
        if tokenizer.codebook_size != codes:
            raise DPLM2Error(f"the model has {codes} structure tokens, but the tokenizer {tokenizer.codebook_size}")
        return tokenizer

    @property
    def vocabulary(self) -> Vocabulary:
        """Ids of the model's tokens."""
        return self.network.vocabulary

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits over the model's weights and its tokenizer."""
        weights = self.folder / WEIGHTS_FILE
        if not weights.is_file():
            raise DPLM2Error(f"{self.folder}: no {WEIGHTS_FILE}; only a saved model has a fingerprint")
        return fingerprint([sha256_of_file(weights), self.network.description])

    def generate(
        self,
        task: TaskName,
        *,
        seed: int = 0,
        chains: Sequence[str | os.PathLike] = (),
        sequences: Sequence[str] | Mapping[str, str] = (),
        backbones: Sequence[np.ndarray] | Mapping[str, np.ndarray] = (),
        adjust: Adjust | None = None,
        progress: bool | None = None,
        **settings: Any,
    ) -> list[Sample]:
        """Generate proteins.

        Parameters
        ----------
        task
            ``co-generation``, ``sequence``, ``backbone``, ``folding``, ``inverse-folding``, ``scaffolding`` or
            ``infilling``.
        seed
            Seed of the run. A sample's own seed is derived from it and from the sample's id.
        chains
            Inputs as files: dataset folders, Parquet files of chains, FASTA files, structure files.
        sequences, backbones
            Inputs in memory: one-letter sequences (``?`` for a residue to be generated), backbones
            (L, 3 or 4, 3) in angstrom with NaN where atoms are missing; lists, or mappings from names. With both, the
            same names (or order) belong together.
        adjust
            Callback that may change logits (`dplm2.language.guidance`).
        progress
            Show a progress bar. None: in a notebook.
        **settings
            Any key of the configuration's section ``generation``; see ``config/README.md``.

        Returns
        -------
        list of Sample
            In the order of lengths, chains or problems.

        Raises
        ------
        ConfigError
            If a setting is invalid or has no effect on the task.
        DPLM2Error
            If a chain or problem cannot be used; the message names it, and nothing has run.
        """
        resolved = self.settled(
            GenerationSettings.make(task=task, **{key: _plain(value) for key, value in settings.items()})
        )
        given = in_memory(sequences, backbones, self._tokens_of)
        requests = self.requests(resolved, seed, chains, given)
        shown = in_notebook() if progress is None else progress
        return self.run(requests, resolved, seed, adjust=adjust, progress=shown)

    def fold(self, sequences: str | Sequence[str] | Mapping[str, str], **options: Any) -> Sample | list[Sample]:
        """Predict structures: `generate` with the task ``folding``.

        Parameters
        ----------
        sequences
            One sequence, or several (a list, or a mapping from names).
        **options
            Settings and keywords of `generate`.

        Returns
        -------
        Sample or list of Sample
            One for one sequence and one sample; several in the order given.
        """
        single = isinstance(sequences, str)
        folded = self.generate("folding", sequences=[sequences] if single else sequences, **options)
        return folded[0] if single and len(folded) == 1 else folded

    def design(
        self,
        backbones: np.ndarray | Sample | str | os.PathLike | Sequence[np.ndarray] | Mapping[str, np.ndarray],
        **options: Any,
    ) -> list[Sample]:
        """Design sequences for backbones: `generate` with the task ``inverse-folding``.

        Parameters
        ----------
        backbones
            A backbone (L, 3 or 4, 3) in angstrom, a sample, a structure file (``complex.pdb:A`` selects a chain), or
            several backbones (a list, or a mapping from names).
        **options
            Settings and keywords of `generate`, such as ``samples=8``.
        """
        if isinstance(backbones, str | os.PathLike):
            return self.generate("inverse-folding", chains=[backbones], **options)
        if isinstance(backbones, Sample):
            if backbones.backbone is None:
                raise DPLM2Error(f"{backbones.sample_id}: a sample of the task {backbones.task} without structure")
            backbones = {backbones.sample_id: backbones.backbone}
        elif isinstance(backbones, np.ndarray) and backbones.ndim == 3:
            backbones = [backbones]
        return self.generate("inverse-folding", backbones=backbones, **options)

    def settled(self, settings: GenerationSettings) -> GenerationSettings:
        """Settings completed with the model's defaults."""
        return settings.completed(self.network.head.sampling)

    def requests(
        self,
        settings: GenerationSettings,
        seed: int,
        chains: Sequence[str | os.PathLike] = (),
        given: Sequence[Target] = (),
    ) -> list[Request]:
        """Requests for all samples of a task; see `generate`."""
        check_memory(workload_of_settings(settings), settings, self.network, None)
        requests = TASKS[settings.task].requests(settings, self.vocabulary, seed, Given(chains, given, self._tokens_of))
        pair_width = self.tokenizer.settings.decoder.pair_dim if "structure" in settings.tracks else None
        check_memory(workload_of_requests(requests), settings, self.network, pair_width)
        return requests

    def _tokens_of(self, backbones: list[np.ndarray]) -> list[np.ndarray]:
        return self.tokenizer.encode(backbones)

    def run(
        self,
        requests: Sequence[Request],
        settings: GenerationSettings,
        seed: int,
        *,
        adjust: Adjust | None = None,
        done: Done | None = None,
        before_step: Callable[[], None] | None = None,
        progress: bool = False,
    ) -> list[Sample]:
        """Generate the requested samples.

        Parameters
        ----------
        requests
            From `requests`.
        settings, seed, adjust, progress
            See `generate`.
        done
            Called with every finished batch of samples.
        before_step
            Called before each step of a batch; may raise an exception to stop.
        """
        network = self._network_for(settings.precision)
        finished: dict[str, Sample] = {}
        by_id = {request.sample_id: request for request in requests}

        def finish(sampled: list[Sampled], likelihoods: Sequence[float] | None = None) -> None:
            samples = self._decoded([by_id[one.sample_id] for one in sampled], sampled, settings, seed, likelihoods)
            finished.update({one.sample_id: one for one in samples})
            if done is not None:
                done(samples)

        options = {"token_budget": settings.token_budget, "adjust": adjust, "trajectory": settings.trajectory}
        options["before_step"] = before_step
        if settings.best_of == 1 and not settings.likelihood:
            conditionings = [request.conditioning for request in requests]
            title = settings.task if progress else None
            sample(network, conditionings, sampler_settings(settings), seed, done=finish, progress=title, **options)
        else:
            self._run_best_of(network, requests, settings, seed, finish, progress, options)
        return [finished[request.sample_id] for request in requests]

    def _run_best_of(self, network, requests, settings, seed, finish, progress, options) -> None:
        """For each batch of requests, generate all candidates, score them and keep the best of each."""
        conditionings = [request.conditioning for request in requests]
        words = settings.task if settings.best_of == 1 else f"{settings.task}, best of {settings.best_of}"
        title = words if progress else None
        for batch in batches(conditionings, max(1, settings.token_budget // settings.best_of)):
            candidates = [
                replace(conditionings[i], sample_id=_candidate_id(conditionings[i].sample_id, n))
                for i in batch
                for n in range(settings.best_of)
            ]
            sampled = sample(network, candidates, sampler_settings(settings), seed, progress=title, **options)
            scores = log_likelihoods(network, candidates, sampled, seed, settings.token_budget)
            best, likelihoods = [], []
            for place, index in enumerate(batch):
                own = range(place * settings.best_of, (place + 1) * settings.best_of)
                chosen = best_of(scores, own)
                best.append(replace(sampled[chosen], sample_id=conditionings[index].sample_id))
                likelihoods.append(scores[chosen])
            finish(best, likelihoods)

    def _network_for(self, precision: str) -> MultimodalEsm:
        if precision == "auto":
            precision = "bfloat16" if self.network.device.type == "cuda" else "float32"
        return self._bfloat16 if precision == "bfloat16" else self.network

    @cached_property
    def _bfloat16(self) -> MultimodalEsm:
        return copy.deepcopy(self.network).to(torch.bfloat16)

    def _decoded(
        self,
        requests: Sequence[Request],
        sampled: Sequence[Sampled],
        settings: GenerationSettings,
        seed: int,
        likelihoods: Sequence[float] | None,
    ) -> list[Sample]:
        structures = [self._structure_of(one.tokens) for one in sampled]
        decoded = [None] * len(sampled) if structures[0] is None else self.tokenizer.decode(structures)
        samples = []
        for number, (request, one) in enumerate(zip(requests, sampled, strict=True)):
            backbone, plddt = decoded[number] if decoded[number] is not None else (None, None)
            samples.append(
                Sample(
                    sample_id=request.sample_id,
                    task=settings.task,
                    problem=request.problem,
                    seed=sample_seed(seed, request.sample_id),
                    sequence=self._sequence_of(one.tokens),
                    structure_tokens=structures[number],
                    backbone=backbone,
                    tokenizer_plddt=plddt,
                    given=request.conditioning.fixed,
                    steps=one.steps,
                    settings=settings.sampling,
                    motif=request.motif,
                    log_likelihood=None if likelihoods is None else likelihoods[number],
                    trajectory=self._trajectory_of(one),
                )
            )
        return samples

    def _structure_of(self, tokens: Mapping[str, np.ndarray]) -> np.ndarray | None:
        return self.vocabulary.decode_structure(tokens["structure"]) if "structure" in tokens else None

    def _sequence_of(self, tokens: Mapping[str, np.ndarray]) -> str | None:
        return self.vocabulary.decode_sequence(tokens["sequence"]) if "sequence" in tokens else None

    def _trajectory_of(self, sampled: Sampled) -> list[tuple[int, str | None, np.ndarray]]:
        if not sampled.trajectory:
            return []
        decoded = self.tokenizer.decode([self._structure_of(tokens) for _, tokens in sampled.trajectory])
        return [
            (step, self._sequence_of(tokens), one.backbone)
            for (step, tokens), one in zip(sampled.trajectory, decoded, strict=True)
        ]


def _plain(value: Any) -> Any:
    """A setting as in a YAML file: paths as text, other sequences as lists."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, list | tuple | range):
        return [_plain(item) for item in value]
    return value


def _candidate_id(sample_id: str, number: int) -> str:
    """The first candidate keeps the id, hence the seed, of the sample generated with ``best_of`` 1."""
    return sample_id if number == 0 else f"{sample_id}~{number}"
