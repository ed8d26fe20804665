"""A model in the interface of EleutherAI's lm-eval, and tasks evaluated with it: needs the package lm_eval.

Axis suffixes: B rows, S sequence.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.utilities.seed import isolate_rng
from lm_eval import simple_evaluate
from lm_eval.api.model import TemplateLM
from lm_eval.tasks import TaskManager
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from torch import Tensor
from typing_extensions import override

from lit_recycle.data.batches import LEFT_OUT

Score = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Of tokens and labels, ``[B, S]``: each label's negative log-likelihood in nats, and whether it is the likeliest."""
Generate = Callable[[str, Sequence[str], int], str]
"""Of a prompt, the texts at which it ends, and the most tokens: a continuation."""


@dataclass(frozen=True)
class Tasks:
    """What is evaluated.

    Attributes:
        names: of tasks or groups of lm-eval.
        include_path: folder of task files of one's own.
        limit: number of questions of each; all when not given.
        num_fewshot: examples before each question; what the task says when not given.
    """

    names: tuple[str, ...]
    include_path: str | None = None
    limit: int | None = None
    num_fewshot: int | None = None

    def __post_init__(self) -> None:
        """Raises ValueError for numbers that lm-eval would take for all questions, or for what a task says."""
        for name, least in (("limit", 1), ("num_fewshot", 0)):
            if (value := getattr(self, name)) is not None and value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")

    def manager(self) -> TaskManager:
        """Raises ValueError for a task that there is not."""
        manager = _manager(self.include_path)
        for name in self.names:
            if not manager.match_tasks([name]):
                near = difflib.get_close_matches(name, manager.all_tasks, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise ValueError(f"lm-eval has no task {name!r}{hint} Files of your own are found by include_path")
        return manager


@cache
def _manager(include_path: str | None) -> TaskManager:
    """Once: it goes through some ten thousand files."""
    return TaskManager(include_path=include_path)


class HarnessModel(TemplateLM):
    """What lm-eval asks of a model.

    With several processes each scores its share of the batches, as many as the others, and all know all answers.

    Args:
        score: The model.
        encode: Ids of a text.
        eos_id: What stands before a text that has nothing before it.
        max_length: Tokens that the model reads at most.
        batch_size: Rows that are scored together.
        generate: Continues a prompt; tasks that need it are refused when not given.
        device: Of tokens.
    """

    def __init__(
        self,
        score: Score,
        encode: Callable[[str], list[int]],
        eos_id: int,
        max_length: int,
        batch_size: int,
        generate: Generate | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        super().__init__()
        self._score, self._encode, self._eos_id, self._generate = score, encode, eos_id, generate
        self.max_length, self.batch_size, self._device = max_length, batch_size, device

    @property
    @override
    def eot_token_id(self) -> int:
        return self._eos_id

    @override
    def tok_encode(self, string: str, **kwargs: Any) -> list[int]:
        return self._encode(string)

    @override
    def _loglikelihood_tokens(self, requests: Sequence[Any], **kwargs: Any) -> list[tuple[float, bool]]:
        pairs = [(list(context), list(continuation)) for _, context, continuation in requests]
        order = sorted(range(len(pairs)), key=lambda i: -len(pairs[i][0]) - len(pairs[i][1]))
        batches = [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]
        connected = dist.is_available() and dist.is_initialized()
        rank, world = (dist.get_rank(), dist.get_world_size()) if connected else (0, 1)
        found: dict[int, tuple[float, bool]] = {}
        for first in range(0, len(batches), world):
            mine = first + rank
            # One that has no batch left takes part with another's: sharded weights are gathered together.
            batch = batches[min(mine, len(batches) - 1)]
            scored = self._scored([pairs[i] for i in batch])
            if mine < len(batches):
                found |= dict(zip(batch, scored, strict=True))
        if world > 1:
            everything: list[Any] = [None] * world
            dist.all_gather_object(everything, found)
            found = {i: value for part in everything for i, value in part.items()}
        return [found[i] for i in range(len(pairs))]

    def _scored(self, pairs: Sequence[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
        """Log-likelihood of each continuation, and whether it is what the model would say itself."""
        rows = [(context + continuation)[-self.max_length - 1 :] for context, continuation in pairs]
        length = max(map(len, rows)) - 1
        tokens_BS = torch.full((len(rows), length), self._eos_id)
        labels_BS = torch.full((len(rows), length), LEFT_OUT)
        for row, (ids, (_, continuation)) in enumerate(zip(rows, pairs, strict=True)):
            tokens_BS[row, : len(ids) - 1] = torch.tensor(ids[:-1])
            begin = len(ids) - 1 - min(len(continuation), len(ids) - 1)
            labels_BS[row, begin : len(ids) - 1] = torch.tensor(ids[begin + 1 :])
        losses_BS, likeliest_BS = self._score(tokens_BS.to(self._device), labels_BS.to(self._device))
        kept_BS = labels_BS.to(losses_BS.device) != LEFT_OUT
        sums_B = -torch.where(kept_BS, losses_BS.double(), 0.0).sum(1)
        greedy_B = (likeliest_BS | ~kept_BS).all(1)
        return list(zip(sums_B.tolist(), greedy_B.tolist(), strict=True))

    @override
    def loglikelihood_rolling(self, requests: Sequence[Any], **kwargs: Any) -> list[float]:
        windows, owners = [], []
        for number, request in enumerate(requests):
            ids = self.tok_encode(request.args[0])
            parts = get_rolling_token_windows(ids, self._eos_id, self.max_length, context_len=1)
            made = [make_disjoint_window(part) for part in parts]
            windows += [(None, context, continuation) for context, continuation in made]
            owners += [number] * len(made)
        sums = [0.0] * len(requests)
        for owner, (value, _) in zip(owners, self._loglikelihood_tokens(windows), strict=True):
            sums[owner] += value
        return sums

    @override
    def generate_until(self, requests: Sequence[Any], **kwargs: Any) -> list[str]:
        if self._generate is None:
            raise ValueError("a task wants text to be generated, which a run does not: lit-recycle eval does it")
        found = []
        for request in requests:
            prompt, how = request.args
            until = how.get("until") or []
            stops = [until] if isinstance(until, str) else until
            found.append(self._generate(prompt, stops, how.get("max_gen_toks", 256)))
        return found


def evaluate(model: HarnessModel, tasks: Tasks) -> dict[str, float]:
    """The metrics of each task, ``<task>/<metric>``, and ``<task>/<metric>_stderr``; on the first process alone.

    Raises:
        ValueError: There is no such task, or it wants what the model cannot do.
    """
    manager = tasks.manager()
    with isolate_rng():  # evaluating changes nothing
        results = simple_evaluate(
            model=model,
            tasks=[*tasks.names],
            num_fewshot=tasks.num_fewshot,
            limit=tasks.limit,
            task_manager=manager,
            bootstrap_iters=100,
            log_samples=False,
            random_seed=None,  # type: ignore[arg-type]
            numpy_random_seed=None,  # type: ignore[arg-type]
            torch_random_seed=None,  # type: ignore[arg-type]
        )
    if results is None:
        return {}
    return {
        f"{task}/{metric.removesuffix(',none').replace(',', '_')}": float(value)
        for task, values in results["results"].items()
        for metric, value in values.items()
        if isinstance(value, float | int) and "," in metric
    }
