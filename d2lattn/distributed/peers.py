"""The other processes: messages to each and from each, counted, and who does not answer."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

__all__ = ["Group", "LostProcessError", "Peers", "Traffic", "count_traffic"]

Group = dist.ProcessGroup | DeviceMesh | None

# Bytes of the message with which a call begins, and of that with which it ends.
OPENING, CLOSING = 1024, 512


class LostProcessError(RuntimeError):
    """A process that was waited for did not answer: it ended, hangs or does something else."""


@dataclass
class Traffic:
    """What one process sent to others.

    Attributes
    ----------
    sent
        Bytes of tokens and of gradients.
    messages
        How many messages carried them.
    checks
        Bytes of the messages with which calls begin and end.
    waited
        Seconds that were spent waiting for others.
    """

    sent: int = 0
    messages: int = 0
    checks: int = 0
    waited: float = 0.0


_counting: list[Traffic] = []


@contextmanager
def count_traffic() -> Iterator[Traffic]:
    """Count what this process sends within, through the functions of ``d2lattn.distributed``.

    Examples
    --------
    >>> with count_traffic() as traffic:
    ...     pass
    >>> traffic.sent
    0
    """
    traffic = Traffic()
    _counting.append(traffic)
    try:
        yield traffic
    finally:
        # By identity: an outer counter of the same numbers is equal to this one.
        _counting[:] = [other for other in _counting if other is not traffic]


class Flight:
    """Messages on their way."""

    def __init__(self, peers: Peers, ops: list[dist.P2POp]) -> None:
        self.peers = peers
        # NCCL wants them all at once; elsewhere each alone, so that who fails can be named.
        together = [ops] if peers.device is not None and ops else [[op] for op in ops]
        self.works: list[tuple[Any, list[int]]] = []
        for some in together:
            whom = sorted({op.group_peer for op in some})
            with peers.waiting(whom):
                self.works += [(work, whom) for work in dist.batch_isend_irecv(some)]

    def wait(self) -> None:
        """Until all have arrived, and been taken.

        What is to arrive first: who gives nothing is lost, who takes nothing may wait for another.
        """
        start = time.perf_counter()
        for work, whom in reversed(self.works):
            with self.peers.waiting(whom):
                work.wait()
        for traffic in _counting:
            traffic.waited += time.perf_counter() - start
        self.works = []


class Peers:
    """The processes of a group, numbered from 0, of which this one is ``rank``."""

    def __init__(self, call: str, group: Group) -> None:
        self.call = call
        if not (dist.is_available() and dist.is_initialized()):
            raise RuntimeError(
                f"{call} needs processes that know each other: start them by torchrun and call "
                "torch.distributed.init_process_group() first"
            )
        if isinstance(group, DeviceMesh):
            if group.ndim != 1:
                raise ValueError(
                    f"group must be one axis of a DeviceMesh, such as mesh['tokens']; got a mesh "
                    f"of shape {tuple(group.shape)}"
                )
            group = group.get_group()
        elif group is not None and not isinstance(group, dist.ProcessGroup):
            raise TypeError(
                f"group must be a process group, one axis of a DeviceMesh or None; got {group!r}"
            )
        self.group = cast(dist.ProcessGroup, dist.group.WORLD if group is None else group)
        self.rank, self.size = dist.get_rank(self.group), dist.get_world_size(self.group)
        # Where messages have to be: NCCL sends from GPUs only.
        gpu = dist.get_backend(self.group) == "nccl"
        self.device = torch.device("cuda", torch.cuda.current_device()) if gpu else None

    @property
    def others(self) -> list[int]:
        """Their numbers."""
        return [peer for peer in range(self.size) if peer != self.rank]

    @contextmanager
    def waiting(self, whom: list[int]) -> Iterator[None]:
        """Name who was waited for, if they do not answer."""
        try:
            yield
        except RuntimeError as error:
            names = " or ".join(str(peer) for peer in whom)
            raise LostProcessError(
                f"{self.call}: process {self.rank} of {self.size} waited for process {names}, "
                f"which does not answer ({str(error).splitlines()[0]})"
            ) from error

    def start(
        self,
        sends: Iterable[tuple[Tensor, int]],
        receives: Iterable[tuple[Tensor, int]],
        *,
        check: bool = False,
    ) -> Flight:
        """Send tensors to peers and receive others from them; none of it is waited for."""
        ops = []
        for tensor, peer in sends:
            ops.append(self._op(dist.isend, tensor, peer))
            size = tensor.numel() * tensor.element_size()
            for traffic in _counting:
                traffic.checks += size if check else 0
                traffic.sent += 0 if check else size
                traffic.messages += not check
        ops += [self._op(dist.irecv, tensor, peer) for tensor, peer in receives]
        return Flight(self, ops)

    def _op(self, kind: Any, tensor: Tensor, peer: int) -> dist.P2POp:
        flat = tensor.view(torch.uint8)  # which every backend sends, whatever the numbers are
        return dist.P2POp(kind, flat, group=self.group, group_peer=peer)

    def _texts(self, text: str, size: int) -> list[str]:
        """Everybody's text, in the order of the processes."""
        if self.size == 1:
            return [text]
        mine = list(text.encode()[:size])
        own = torch.tensor(mine + [0] * (size - len(mine)), dtype=torch.uint8, device=self.device)
        found = {peer: torch.empty_like(own) for peer in self.others}
        flight = self.start(
            [(own, peer) for peer in self.others],
            [(found[peer], peer) for peer in self.others],
            check=True,
        )
        flight.wait()
        found[self.rank] = own
        return [
            bytes(found[peer].tolist()).rstrip(b"\0").decode(errors="replace")
            for peer in range(self.size)
        ]

    def open(
        self, counts: tuple[int, ...], fields: Mapping[str, Any], trouble: Exception | None
    ) -> list[tuple[int, ...]]:
        """Begin a call: everybody's counts, once all were found to agree on the fields.

        Raises on every process if one of them is in trouble, or holds something else.
        """
        if trouble is not None:
            text = f"!{type(trouble).__name__}: {trouble}"
        else:
            alike = {"call": self.call, "processes": self.size, **fields}
            text = "\n".join([str(counts), *(f"{name}: {x}" for name, x in alike.items())])
        texts = self._texts(text, OPENING)
        self._raise(trouble, {peer: x[1:] for peer, x in enumerate(texts) if x.startswith("!")})
        own = texts[self.rank].split("\n")[1:]
        for peer, other in enumerate(texts):
            for mine, theirs in zip(own, other.split("\n")[1:], strict=False):
                if mine != theirs:
                    name, _, value = mine.partition(": ")
                    raise ValueError(
                        f"{self.call} needs the same {name} on every process; process "
                        f"{self.rank} has {value}, process {peer} has {theirs.partition(': ')[2]}"
                    )
        first = (x.split("\n")[0].strip("(),") for x in texts)
        return [tuple(int(count) for count in x.split(",") if count.strip()) for x in first]

    def close(self, trouble: Exception | None) -> None:
        """End a call: every process returns, or every one raises and names who is to blame."""
        text = "" if trouble is None else f"{type(trouble).__name__}: {trouble}"
        texts = self._texts(text, CLOSING)
        self._raise(trouble, {peer: x for peer, x in enumerate(texts) if x})

    def _raise(self, trouble: Exception | None, failed: dict[int, str]) -> None:
        if trouble is not None:
            raise trouble
        for peer, text in failed.items():
            raise RuntimeError(f"{self.call} failed on process {peer}: {text}")
