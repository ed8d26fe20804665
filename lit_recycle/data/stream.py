"""The samples of a run in their order, and what a checkpoint must know to go on in it.

A position of the stream is a number of samples, of `seq_len` tokens each, that the whole run has behind it; where it
trains on shorter rows, `lit_recycle.data.cut` says which stretch of which sample a row is. `Mixture` says which source
stands at a position and how many of its samples came before; `shuffled` says which sample of the source that makes it.
Both are computed from what `Stream` holds, so a run goes on at any position, on any number of processes.

Axes: N positions, M sources.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from lit_recycle.data.config import DataStage, Until
from lit_recycle.data.mixture import Mixture, Segment
from lit_recycle.data.order import shuffled
from lit_recycle.data.weights import proportions


@dataclass(frozen=True)
class SampleOrder:
    """The sample at each position.

    Attributes:
        mixture: which source it is of.
        samples_M: number of samples of each source.
        seeds_M: seed of each source's order.
        window: samples that are shuffled with each other, see `shuffled`.
    """

    mixture: Mixture
    samples_M: tuple[int, ...]
    seeds_M: tuple[int, ...]
    window: int | None = None

    def at(self, position_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The source at each position, and which of its samples."""
        source_N, before_N = self.mixture.at(position_N)
        sample_N = np.empty_like(before_N)
        for source in np.unique(source_N):
            here_N = source_N == source
            sample_N[here_N] = shuffled(before_N[here_N], self.samples_M[source], self.seeds_M[source], self.window)
        return source_N, sample_N


@dataclass(frozen=True)
class StreamSource:
    """A source as the stream sees it.

    Attributes:
        name: what the user calls it.
        key: hash of its content: what a checkpoint knows it by.
        samples: number of samples in it.
    """

    name: str
    key: str
    samples: int


@dataclass(frozen=True)
class Stream:
    """The order of samples over a run, as far as it is known: a border at a growth is known when the growth was.

    Attributes:
        sources: what samples are drawn from.
        stages: weights of all sources by name, and how long they hold; the last stage has no end.
        seq_len: tokens per sample.
        seed: of the order within each source.
        window: samples of a source that are shuffled with each other; None for all.
        start: samples that the run had seen when these sources and stages began.
        start_tokens: tokens that it had seen.
        drawn: samples of each source, by key, that were drawn before `start`; of former sources, too.
        growths: samples that the run had seen when each growth of the model was first known of.
    """

    sources: tuple[StreamSource, ...]
    stages: tuple[DataStage, ...]
    seq_len: int
    seed: int
    window: int | None = None
    start: int = 0
    start_tokens: int = 0
    drawn: Mapping[str, int] = field(default_factory=dict)
    growths: tuple[int, ...] = ()

    @property
    def follows_growths(self) -> bool:
        """Whether a growth may change the order of what comes after it."""
        return any(stage.until and stage.until.growth for stage in self.stages)

    def order(self) -> SampleOrder:
        seeds = tuple(_seed_of(self.seed, source.key) for source in self.sources)
        sizes = tuple(source.samples for source in self.sources)
        return SampleOrder(self.mixture(), sizes, seeds, self.window)

    def mixture(self) -> Mixture:
        segments: list[Segment] = []
        start, drawn_M = self.start, tuple(self.drawn.get(source.key, 0) for source in self.sources)
        for stage in self.stages:
            weights_M = proportions([stage.weights[source.name] for source in self.sources])
            segments.append(Segment(start, drawn_M, weights_M))
            end = self._end(stage.until)
            if end is None:
                break
            start, drawn_M = max(end, start), segments[-1].drawn_by(max(end, start))
        return Mixture(tuple(segments))

    def _end(self, until: Until | None) -> int | None:
        """The first position after a stage; None while it is not known."""
        if until is None:
            return None
        if until.growth is not None:
            return self.growths[until.growth - 1] if until.growth <= len(self.growths) else None
        assert until.tokens is not None
        return self.start + math.ceil((until.tokens - self.start_tokens) / self.seq_len)

    def after_growths(self, count: int, position: int) -> Stream:
        """The stream of a run that has been through `count` growths, the new ones first known of at a position."""
        return replace(self, growths=self.growths + (position,) * (count - len(self.growths)))

    def drawn_by(self, position: int) -> dict[str, int]:
        """Samples of each source, by name, that the run has seen before a position."""
        return dict(zip((s.name for s in self.sources), self.mixture().drawn_by(position), strict=True))

    def tokens_by(self, token: int) -> dict[str, int]:
        """Tokens of each source, by name, before one of the tokens of all samples in their order."""
        position, begun = divmod(token, self.seq_len)
        tokens = {name: samples * self.seq_len for name, samples in self.drawn_by(position).items()}
        if begun:
            source_N, _ = self.mixture().at(np.array([position]))
            tokens[self.sources[source_N.item()].name] += begun
        return tokens

    def epochs_by(self, token: int) -> dict[str, float]:
        """How often each source has been gone through, before one of the tokens of all samples in their order."""
        tokens = self.tokens_by(token)
        return {source.name: tokens[source.name] / (source.samples * self.seq_len) for source in self.sources}

    # --- in a checkpoint ---------------------------------------------------------------------------------------------

    def _rule(self) -> dict[str, Any]:
        """What decides the order from `start` on: plain types, by content and not by name."""
        keys = {source.name: source.key for source in self.sources}
        stages = [
            {
                "until": stage.until and vars(stage.until),
                "weights": dict(
                    zip(
                        (keys[name] for name in stage.weights),
                        proportions([*stage.weights.values()]),
                        strict=True,
                    )
                ),
            }
            for stage in self.stages
        ]
        return {"sources": [source.key for source in self.sources], "stages": stages}

    def state_dict(self, position: int) -> dict[str, Any]:
        """Plain types, from which `resumed` goes on at that position."""
        now = self.drawn_by(position)
        return {
            "seq_len": self.seq_len,
            "seed": self.seed,
            "shuffle_window": self.window,
            "rule": self._rule(),
            "start": self.start,
            "start_tokens": self.start_tokens,
            "drawn": dict(self.drawn),
            "growths": list(self.growths),
            "tokens": self.start_tokens + (position - self.start) * self.seq_len,
            "drawn_now": {**self.drawn, **{source.key: now[source.name] for source in self.sources}},
        }

    def resumed(self, state: Mapping[str, Any], position: int) -> tuple[Stream, str]:
        """This stream as it goes on from a checkpoint at a position.

        With other weights, stages or sources than the checkpoint's, each source goes on after the samples that were
        drawn from it. With another seq_len, seed or window there are no such samples, and all begin anew.

        Returns:
            The stream, and in a sentence what has changed, empty if nothing has.
        """
        growths = tuple(state["growths"])
        if changed := [
            f"{name} was {state[name]}, is {mine}"
            for name, mine in (("seq_len", self.seq_len), ("seed", self.seed), ("shuffle_window", self.window))
            if state[name] != mine
        ]:
            began = replace(self, start=position, start_tokens=state["tokens"], growths=growths)
            return began, f"Training goes on at the start of another stream of samples: {'; '.join(changed)}."
        if state["rule"] == self._rule():
            same = {name: state[name] for name in ("start", "start_tokens", "drawn")}
            return replace(self, **same, growths=growths), ""
        before = state["drawn_now"]
        told = [f"{s.name} after {before[s.key]:,} samples" for s in self.sources if s.key in before]
        told += [f"{s.name} at its start" for s in self.sources if s.key not in before]
        went_on = replace(self, start=position, start_tokens=state["tokens"], drawn=before, growths=growths)
        return went_on, f"The sources of the data or their weights have changed; training goes on in {', '.join(told)}."


def check_repetitions(stream: Stream, caps: Mapping[str, float | None], token: int) -> None:
    """Raises ValueError where a run that ends at a token has seen a source more often than it may."""
    for name, epochs in stream.epochs_by(token).items():
        cap = caps.get(name)
        if cap is not None and epochs > cap:
            raise ValueError(
                f"the run would go through source {name!r} {epochs:.3g} times, and its max_epochs is {cap:g}: lower "
                "its weight, give it more data, shorten the run, or raise max_epochs"
            )


def _seed_of(seed: int, key: str) -> int:
    """Sources of the same size have unrelated orders."""
    return int.from_bytes(hashlib.blake2b(f"{seed}:{key}".encode(), digest_size=8).digest())
