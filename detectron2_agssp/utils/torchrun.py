"""Processes that were started from outside, by torchrun or what sets the same variables.

https://docs.pytorch.org/docs/stable/elastic/run.html#environment-variables
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

MEETING_POINT = ("MASTER_ADDR", "MASTER_PORT")
# The others wait while the first process fits a scorer.
TIMEOUT = timedelta(days=7)


@dataclass(frozen=True)
class Member:
    """This process among those that were started.

    Attributes:
        rank: its number, from 0.
        world_size: how many there are.
        local_rank: its number on this machine, from 0, and that of its GPU.
        local_world_size: how many there are on this machine, as on each.
    """

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int


def member_of(environment: Mapping[str, str] = os.environ) -> Member | None:
    """This process, or None where it is alone: no ``RANK``, ``WORLD_SIZE`` and ``LOCAL_RANK``, or a
    ``WORLD_SIZE`` of 1.

    Without ``LOCAL_WORLD_SIZE``, all are on this machine.

    Raises:
        ValueError: a variable is no number, does not go with the others, or is missing.
    """
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    given = {name: environment[name] for name in names if environment.get(name)}
    if not set(names[:3]) <= given.keys():
        return None  # WORLD_SIZE alone is set by some clusters, for their nodes
    given.setdefault("LOCAL_WORLD_SIZE", given["WORLD_SIZE"])
    said = ", ".join(f"{name}={value}" for name, value in given.items())
    try:
        member = Member(*(int(given[name]) for name in names))
    except ValueError as error:
        raise ValueError(f"The environment has {said}, which are no numbers.") from error
    if not (
        0 <= member.local_rank < member.local_world_size
        and 0 <= member.rank < member.world_size
        and member.world_size % member.local_world_size == 0
    ):
        raise ValueError(
            f"The environment has {said}, which do not go together: ranks are below their sizes, "
            "and each machine has as many processes. Start them by torchrun."
        )
    if member.world_size == 1:
        return None
    missing = [name for name in MEETING_POINT if not environment.get(name)]
    if missing:
        raise ValueError(
            f"The environment has {said}, but no {' and no '.join(missing)}: where the processes "
            "meet. Start them by torchrun."
        )
    return member


def join(member: Member) -> None:
    """Meets the other processes, as Detectron2's ``launch`` does: by NCCL, each on its GPU, or by
    Gloo where there is none.

    Raises:
        ValueError: there are fewer GPUs than processes of this machine.
    """
    import torch
    from detectron2.utils import comm

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if gpus and member.local_world_size > gpus:
        raise ValueError(
            f"There are {member.local_world_size} processes on this machine, and {gpus} GPUs: "
            f"torchrun --nproc-per-node {gpus}."
        )
    if gpus:
        torch.cuda.set_device(member.local_rank)
    torch.distributed.init_process_group(
        "nccl" if gpus else "gloo",
        init_method="env://",
        rank=member.rank,
        world_size=member.world_size,
        timeout=TIMEOUT,
    )
    comm.create_local_process_group(member.local_world_size)
    comm.synchronize()


def leave() -> None:
    """Ends what :func:`join` began; not after an error, which the others do not know of yet."""
    import torch

    torch.distributed.destroy_process_group()
