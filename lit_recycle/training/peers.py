"""How long the processes of a run wait for each other, and who is missing when they have waited in vain."""

from __future__ import annotations

import time
from datetime import timedelta

import torch.distributed as dist
from torch.distributed import distributed_c10d

from lit_recycle.checkpoints.sharded import BACKGROUND

ANSWER = 5.0
"""Seconds in which a living process says so, when another one seems to be lost."""


class LostPeer(RuntimeError):
    """Another process of the run has ended or hangs; the message says which."""


def set_timeout(timeout: timedelta) -> None:
    """How long each collective operation from now on may wait for the other processes, in every group for training.

    There is no public way to change it, or to list the groups: strategies make some of their own.
    """
    if dist.is_available() and dist.is_initialized():
        for group in list(distributed_c10d._world.pg_map):
            if group.group_desc != BACKGROUND:
                distributed_c10d._set_pg_timeout(timeout, group)


def missing() -> list[int]:
    """Ranks that do not answer, asked through the store that the first process keeps; all survivors must ask."""
    world, rank = dist.get_world_size(), dist.get_rank()
    try:
        store = distributed_c10d._get_default_store()
        store.set_timeout(timedelta(seconds=ANSWER))
        store.set(f"lit-recycle/alive/{rank}", "yes")
        end, lost = time.monotonic() + ANSWER, list(range(world))
        while lost and time.monotonic() < end:
            lost = [other for other in lost if not store.check([f"lit-recycle/alive/{other}"])]
            time.sleep(0.1)
        return lost
    except RuntimeError:  # the store is gone with its process
        return [0]


def is_lost_peer(error: BaseException) -> bool:
    """Whether a collective has failed. Gloo, which works on CPUs, raises no type of its own."""
    return any(kind.__name__ == "DistError" for kind in type(error).__mro__) or (
        isinstance(error, RuntimeError) and "/gloo/" in str(error)
    )


def named(error: BaseException) -> LostPeer:
    """The error of a collective, with the processes that are missing; or of a start to which not all have come."""
    if not dist.is_initialized():
        return LostPeer(
            "the processes of the run have not come together in time: see what the others say, and raise "
            f"trainer.strategy.timeout if their start takes longer ({_brief(error)})"
        )
    lost = missing()
    who = " and ".join(f"process {rank}" for rank in lost) or "a process"
    what = "have ended or hang" if len(lost) > 1 else "has ended or hangs"
    return LostPeer(
        f"{who} of the run's {dist.get_world_size()} {what}: see what it says; the newest checkpoint is whole, go on "
        f"from it with --ckpt_path last ({_brief(error)})"
    )


def _brief(error: BaseException) -> str:
    return " ".join(str(error).split())[:160]
