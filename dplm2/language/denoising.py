"""Denoising of one batch: predict every open position, keep the most certain predictions, mask the others again.

Open positions are those that are generated. Paper section 3.2; the authors' sampler (reparameterised discrete
diffusion), with random numbers of each sample's own. Logits are computed only for open positions and the classes of
their track, in slices. A step reads nothing back from the device and copies nothing there: what changes from step to
step was computed for all steps before the first.

Shapes: B samples, T tokens (both tracks), L residues of the longest sample, N positions, C classes, V vocabulary,
D model width, S steps, U uses of random numbers.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from dplm2.language import layout
from dplm2.language.conditioning import Conditioning
from dplm2.language.filtering import draw, draw_gumbel, filtered_logits, take_best
from dplm2.language.network import MultimodalEsm
from dplm2.language.randomness import DRAW, ORDER, Words, class_uniforms, uniform, use_of
from dplm2.language.schedule import SamplerSettings, masked_count, masked_share
from dplm2.language.unmasking import lowest, noised_scores
from dplm2.language.vocabulary import Track, Vocabulary

_LOGITS_PER_SLICE_CPU = 2**21  # 8 MB in fp32, which fits into the processor's cache
_LOGITS_PER_SLICE_GPU = 2**27
_FORBIDDEN_BY_AUTHORS = "XBUZO"  # not '.', '-' and <null_1>, which the authors' program can therefore generate


@dataclass(frozen=True)
class Open:
    """Positions whose logits a callback receives."""

    track: Track
    classes: Tensor
    """Vocabulary ids (C,) of the columns."""
    row: Tensor
    """Index of the sample in the batch (N,)."""
    position: Tensor
    """Residue within the sample (N,), from 0."""
    tokens: Tensor
    """Ids (B, L) of the track before this step, including masks and padding."""
    sample_ids: Sequence[str]
    """Ids of the samples in the batch."""
    progress: Tensor
    """Completed fraction of the steps (N,)."""


Adjust = Callable[[Tensor, Open], Tensor]
"""A callback that receives logits (N, C) and returns those to be used; -inf forbids a class."""


@dataclass(frozen=True)
class Sampled:
    """A finished sample: ids and scores (L,) of each track; the score of a given token is NaN."""

    sample_id: str
    tokens: Mapping[Track, np.ndarray]
    scores: Mapping[Track, np.ndarray]
    steps: int
    """Number of steps run."""
    trajectory: tuple[tuple[int, Mapping[Track, np.ndarray]], ...] = ()
    """Predictions of the whole sample after some steps: (step, ids of each track)."""


class _TrackState:
    """One track of the batch: a view of its ids, its open positions, the scores of its tokens, and its schedule.

    Attributes
    ----------
    counts_BS, noise_BS
        Number of masks after each step, and scale of the noise on the ranking in it.
    """

    def __init__(
        self, track: Track, vocabulary: Vocabulary, ids_BT: Tensor, offset: int, samples: Sequence[Conditioning]
    ) -> None:
        self.track, self.mask, self.offset = track, vocabulary.mask(track), offset
        self.width = max(sample.length for sample in samples)
        open_BL = np.zeros((len(samples), self.width), dtype=bool)
        for row_L, sample in zip(open_BL, samples, strict=True):
            row_L[: sample.length] = ~np.asarray(sample.fixed[track])
        self.open_BL = torch.from_numpy(open_BL).to(ids_BT.device)
        self.scores_BL = torch.full(open_BL.shape, torch.nan, device=ids_BT.device)
        self.n_open = open_BL.sum(1).tolist()
        self.attach(ids_BT)

    def plan(self, samples: Sequence[Conditioning], settings: SamplerSettings, device: torch.device) -> None:
        """Compute the schedule of all steps."""
        noise = settings.unmasking[self.track].noise

        @cache
        def shares(steps: int) -> list[float]:
            return [noise * masked_share(step + 1, steps, settings.schedule) for step in range(steps)]

        @cache
        def counts(n_open: int, steps: int) -> list[int]:
            return [masked_count(n_open, step + 1, steps, settings.schedule) for step in range(steps)]

        self.masks_after = [counts(n, sample.steps) for n, sample in zip(self.n_open, samples, strict=True)]
        self.counts_BS = _table(self.masks_after, device)
        self.noise_BS = _table([shares(sample.steps) for sample in samples], device) if noise else None

    def attach(self, ids_BT: Tensor) -> None:
        self.ids_BL = ids_BT[:, self.offset : self.offset + self.width]
        self.row_N, self.position_N = self.open_BL.nonzero(as_tuple=True)

    def keep(self, rows: list[int], chosen: Tensor, ids_BT: Tensor) -> None:
        self.open_BL, self.scores_BL = self.open_BL[chosen], self.scores_BL[chosen]
        self.counts_BS = self.counts_BS[chosen]
        if self.noise_BS is not None:
            self.noise_BS = self.noise_BS[chosen]
        self.n_open, self.masks_after = ([items[row] for row in rows] for items in (self.n_open, self.masks_after))
        self.attach(ids_BT)


def _table(rows: Sequence[Sequence[float]], device: torch.device) -> Tensor:
    """Rows of different lengths as a tensor, padded with 0; real numbers in float32."""
    width = max(len(row) for row in rows)
    return torch.tensor([[*row, *[0] * (width - len(row))] for row in rows]).to(device)


@dataclass(frozen=True)
class _Step:
    """What is common to the tracks in a step."""

    hidden_BTD: Tensor
    unconditional_BTD: Tensor | None
    index_B1: Tensor
    """Number of the step, from 0."""
    progress_B: Tensor
    words_BLU: Tensor | None
    """Random words; None if nothing is drawn."""


class Denoiser:
    """Sampler of one batch.

    Parameters
    ----------
    network
        The language model.
    conditionings
        The samples; all have the same tracks.
    seeds
        Seed of each sample.
    settings
        Settings of the sampler.
    adjust
        Callback that may change logits.
    trajectory
        Interval in steps at which predictions are recorded; 0: never.

    Attributes
    ----------
    words
        Source of the random numbers.
    """

    def __init__(
        self,
        network: MultimodalEsm,
        conditionings: Sequence[Conditioning],
        seeds: Sequence[int],
        settings: SamplerSettings,
        adjust: Adjust | None = None,
        trajectory: int = 0,
    ) -> None:
        self.network, self.settings, self.adjust, self.trajectory = network, settings, adjust, trajectory
        self.vocabulary, self.device = network.vocabulary, network.device
        self.samples, self.words = list(conditionings), Words(seeds, self.device)
        self.step = [sample.first_step for sample in self.samples]
        self.step_B = torch.tensor(self.step, device=self.device)
        self.progress_BS = _table([[s / c.steps for s in range(c.steps)] for c in self.samples], self.device)
        self.snapshots: list[list] = [[] for _ in self.samples]
        self.ids_BT = layout.join(
            self.vocabulary,
            [sample.tokens.get("structure") for sample in self.samples],
            [sample.tokens.get("sequence") for sample in self.samples],
        ).to(self.device)
        names = self.samples[0].tracks
        half = self.ids_BT.shape[1] // len(names)
        self.tracks = [
            _TrackState(name, self.vocabulary, self.ids_BT, number * half + 1, self.samples)
            for number, name in enumerate(names)
        ]
        for track in self.tracks:
            track.plan(self.samples, settings, self.device)
        allowed = {name: self._allowed(name) for name in names}
        self.columns = {name: self._columns(name, allowed[name]) for name in names}
        self.classes = {name: torch.tensor(allowed[name], device=self.device) for name in names}
        self.is_drawn = any(
            settings.strategy[name].kind != "argmax" or settings.unmasking[name].noise for name in names
        )
        self.reads_back = self.device.type == "cpu"  # where reading a tensor's values costs nothing

    def _allowed(self, track: Track) -> list[int]:
        """Ids that may be generated."""
        allowed = list(self.vocabulary.generated(track))
        if track == "sequence" and self.settings.amino_acids == "official":
            edges_and_unknown = {
                *self.vocabulary.edges,
                self.vocabulary.unknown_sequence,
                self.vocabulary.mask_sequence,
            }
            forbidden = edges_and_unknown | set(self.vocabulary.encode_sequence(_FORBIDDEN_BY_AUTHORS).tolist())
            allowed = [index for index in self.vocabulary.classes(track) if index not in forbidden]
        return allowed

    def _is_among_all(self, track: Track) -> bool:
        """Whether an argmax is scored by its probability among the classes of both tracks."""
        return self.settings.strategy[track].kind == "argmax" and self.network.head.one_softmax

    def _columns(self, track: Track, allowed: list[int]) -> slice | Tensor:
        """Columns of the network's logits that belong to the ids that may be generated."""
        first = (self.network.competing(track) if self._is_among_all(track) else self.network.classes(track)).start
        columns = [index - first for index in allowed]
        if columns[-1] - columns[0] == len(columns) - 1:
            return slice(columns[0], columns[-1] + 1)  # a view, while indexing copies
        return torch.tensor(columns, device=self.device)

    def run(self, before_step: Callable[[], None] | None = None) -> Iterator[Sampled]:
        """Yield each sample as soon as it is finished: after its last step, or once no later step can change it.

        ``before_step`` is called before each step and may raise an exception to stop.
        """
        while True:
            yield from self._drop_finished()
            if not self.samples:
                return
            if before_step is not None:
                before_step()
            self.advance()

    def _left_masked(self, track: _TrackState, row: int) -> int:
        """Number of masks that the schedule leaves at the current step."""
        step = self.step[row]
        return track.masks_after[row][step - 1] if step else track.n_open[row]

    def _changes_no_count(self, row: int) -> bool:
        """Whether the schedule leaves as many masks after the next step as now."""
        step = self.step[row]
        return step > self.samples[row].first_step and all(
            track.masks_after[row][step] == track.masks_after[row][step - 1] for track in self.tracks
        )

    def _skip(self, unchanged: Sequence[bool]) -> None:
        """Skip the next steps of samples as far as they would change nothing.

        Without remasking, a step changes something only if it leaves fewer masks. With it, the sampler must be
        deterministic, and the step before must have changed nothing either (``unchanged``), by the same schedule.
        """
        if self.trajectory or self.adjust is not None:
            return  # both may tell one step from another
        before = list(self.step)
        for row, is_unchanged in enumerate(unchanged):
            if self.settings.remasking == "never" or (is_unchanged and not self.is_drawn):
                while self.step[row] < self.samples[row].steps and self._changes_no_count(row):
                    self.step[row] += 1
        if self.step != before:
            self.step_B = torch.tensor(self.step, device=self.device)

    def _drop_finished(self) -> Iterator[Sampled]:
        finished = [
            row
            for row, sample in enumerate(self.samples)
            if not any(track.n_open[row] for track in self.tracks)
            # The number of masks never increases, and decoded tokens change only by being masked again.
            or (self.step[row] > sample.first_step and not any(self._left_masked(track, row) for track in self.tracks))
        ]
        if not finished:
            return
        for row in finished:
            yield self._result(row)
        rows = [row for row in range(len(self.samples)) if row not in set(finished)]
        self.samples, self.step, self.snapshots = (
            [items[row] for row in rows] for items in (self.samples, self.step, self.snapshots)
        )
        chosen = torch.tensor(rows, dtype=torch.long, device=self.device)
        self.ids_BT, self.step_B, self.progress_BS = (
            values[chosen] for values in (self.ids_BT, self.step_B, self.progress_BS)
        )
        self.words.keep(chosen)
        for track in self.tracks:
            track.keep(rows, chosen, self.ids_BT)

    def _result(self, row: int) -> Sampled:
        sample = self.samples[row]

        def of_sample(values_BL: Tensor) -> np.ndarray:
            return values_BL[row, : sample.length].cpu().numpy().copy()

        return Sampled(
            sample.sample_id,
            {track.track: of_sample(track.ids_BL) for track in self.tracks},
            {track.track: of_sample(track.scores_BL) for track in self.tracks},
            self.step[row] - sample.first_step,
            tuple(self.snapshots[row]),
        )

    @torch.inference_mode()
    def advance(self) -> None:
        """Run one step for every sample of the batch."""
        before_BT = self.ids_BT.clone() if self._may_settle() else None
        hidden_BTD = self.network.hidden(self.ids_BT)
        unconditional_BTD = None
        if self.settings.guidance != 1:
            unconditional_BTD = self.network.hidden(self._unconditional_ids())
        index_B1 = self.step_B[:, None]
        step = _Step(
            hidden_BTD,
            unconditional_BTD,
            index_B1,
            self.progress_BS.gather(1, index_B1).squeeze(1),
            self.words.of_step(self.step_B, self.tracks[0].width) if self.is_drawn else None,
        )
        predictions = {track.track: self._advance_track(track, step) for track in self.tracks}
        self.step_B = self.step_B + 1
        self.step = [step + 1 for step in self.step]
        if self.trajectory:
            self._record(predictions)
        unchanged = [False] * len(self.samples) if before_BT is None else (before_BT == self.ids_BT).all(1).tolist()
        self._skip(unchanged)

    def _may_settle(self) -> bool:
        """Whether this step can be repeated by the next one of a sample, so that comparing pays for waiting for it."""
        if self.is_drawn or self.settings.remasking == "never":
            return False
        after_this = [step + 1 for step in self.step]
        return any(
            after < sample.steps and track.masks_after[row][after] == track.masks_after[row][after - 1]
            for track in self.tracks
            for row, (after, sample) in enumerate(zip(after_this, self.samples, strict=True))
        )

    def _unconditional_ids(self) -> Tensor:
        """Ids (B, T) with the given tokens masked, too."""
        ids_BT = self.ids_BT.clone()
        for track in self.tracks:
            part_BL = ids_BT[:, track.offset : track.offset + track.width]
            part_BL.masked_fill_(~track.open_BL & ~self.vocabulary.is_edge(part_BL), track.mask)
        return ids_BT

    def _advance_track(self, track: _TrackState, step: _Step) -> Tensor:
        masked_BL = track.open_BL & (track.ids_BL == track.mask)
        candidates_BL = masked_BL if self.settings.remasking == "never" else track.open_BL
        fresh_BL, score_BL, kept_BL = self._predict(track, candidates_BL, step)
        ranking_BL = torch.where(masked_BL, score_BL, kept_BL) if self.settings.remasking == "kept" else score_BL
        if track.noise_BS is not None:
            scale_B = track.noise_BS.gather(1, step.index_B1).squeeze(1)
            order_BL = uniform(step.words_BLU[:, :, use_of(track.track, ORDER)])
            ranking_BL = noised_scores(ranking_BL, scale_B, order_BL)
        masked_again_BL = lowest(ranking_BL, candidates_BL, track.counts_BS.gather(1, step.index_B1).squeeze(1))
        revealed_BL = masked_BL & ~masked_again_BL
        predicted_BL = torch.where(masked_BL, fresh_BL, track.ids_BL)
        track.ids_BL.copy_(predicted_BL.masked_fill(masked_again_BL, track.mask))
        track.scores_BL = torch.where(revealed_BL, score_BL, track.scores_BL).masked_fill(masked_again_BL, torch.nan)
        return predicted_BL

    def _positions(self, track: _TrackState, candidates_BL: Tensor) -> tuple[Tensor, Tensor]:
        """Rows and residues (N,) that are predicted: the candidates, or all open positions.

        Which of them are candidates is known without waiting only on a processor.
        """
        if candidates_BL is track.open_BL or not self.reads_back:
            return track.row_N, track.position_N
        return candidates_BL.nonzero(as_tuple=True)

    def _predict(self, track: _TrackState, candidates_BL: Tensor, step: _Step) -> tuple[Tensor, Tensor, Tensor]:
        """New tokens, their scores, and the scores of the current tokens (B, L), at least at the candidates."""
        row_N, position_N = self._positions(track, candidates_BL)
        fresh_BL = track.ids_BL.clone()
        score_BL = torch.full(candidates_BL.shape, -torch.inf, device=self.device)
        kept_BL = score_BL.clone()
        name = track.track
        columns = len(self.network.competing(name) if self._is_among_all(name) else self.classes[name])
        per_slice = max(1, (_LOGITS_PER_SLICE_CPU if self.device.type == "cpu" else _LOGITS_PER_SLICE_GPU) // columns)
        for rows, positions in zip(row_N.split(per_slice), position_N.split(per_slice), strict=True):
            logits_NC, log_total_N = self._logits(track, rows, positions, step)
            progress_N = step.progress_B[rows]
            if self.adjust is not None:
                view = Open(
                    *(name, self.classes[name], rows, positions, track.ids_BL),
                    *([sample.sample_id for sample in self.samples], progress_N),
                )
                logits_NC = self.adjust(logits_NC, view)
            words_N = None if step.words_BLU is None else step.words_BLU[rows, positions, use_of(name, DRAW)]
            index_N, score_N, kept_N = self._choose(track, rows, positions, logits_NC, log_total_N, progress_N, words_N)
            fresh_BL[rows, positions] = self.classes[name][index_N]
            score_BL[rows, positions] = score_N
            if kept_N is not None:
                kept_BL[rows, positions] = kept_N
        return fresh_BL, score_BL, kept_BL

    def _logits(self, track: _TrackState, rows: Tensor, positions: Tensor, step: _Step) -> tuple[Tensor, Tensor | None]:
        """Logits (N, C) of the classes that may be generated, and for argmax the log-normaliser (N,) over all classes.

        The latter only if both tracks share a softmax; otherwise an argmax is scored among the filtered classes.
        """
        name = track.track
        among_all = self._is_among_all(name)

        def of(hidden_BTD: Tensor) -> Tensor:
            hidden_ND = hidden_BTD[rows, positions + track.offset]
            logits_of = self.network.logits if among_all else self.network.track_logits
            return logits_of(hidden_ND, name).float()

        logits = of(step.hidden_BTD)
        if step.unconditional_BTD is not None:
            unconditional = of(step.unconditional_BTD)
            logits = unconditional + self.settings.guidance * (logits - unconditional)
        return logits[:, self.columns[name]], logits.logsumexp(-1) if among_all else None

    def _choose(
        self,
        track: _TrackState,
        rows: Tensor,
        positions: Tensor,
        logits_NC: Tensor,
        log_total_N: Tensor | None,
        progress_N: Tensor,
        words_N: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        strategy, classes = self.settings.strategy[track.track], self.classes[track.track]
        kept_N = None
        if self.settings.remasking == "kept":
            # The score of a masked position, which has no class, is not used.
            kept_N = torch.searchsorted(classes, track.ids_BL[rows, positions]).clamp_(max=len(classes) - 1)
        nucleus = self.settings.nucleus_of(track.track)
        if strategy.kind == "argmax":
            if log_total_N is None:
                log_total_N = filtered_logits(logits_NC, nucleus).logsumexp(-1)
            index_N, score_N = take_best(logits_NC, log_total_N)
            kept_score_N = None if kept_N is None else logits_NC.gather(-1, kept_N[:, None])[:, 0] - log_total_N
            return index_N, score_N, kept_score_N
        temperature_N = strategy.temperature(progress_N)
        if strategy.kind == "gumbel_argmax":
            uniform_NC = class_uniforms(words_N, len(classes))
            return draw_gumbel(logits_NC, temperature_N, nucleus, uniform_NC, kept_N)
        return draw(logits_NC, temperature_N, nucleus, uniform(words_N), kept_N)

    def _record(self, predictions: Mapping[Track, Tensor]) -> None:
        for row, sample in enumerate(self.samples):
            if (self.step[row] - sample.first_step) % self.trajectory == 0:
                ids = {track: ids_BL[row, : sample.length].cpu().numpy() for track, ids_BL in predictions.items()}
                self.snapshots[row].append((self.step[row], ids))
