"""How blocks of keys and values come to the queries, and their gradients home: in a ring, from one
neighbour to the next, or all at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import product

import torch
from torch import Tensor

from d2lattn.distributed.layout import swap
from d2lattn.distributed.peers import Flight, Peers

__all__ = ["Rounds"]

# From the number of a block and its keys and values, in one row, to the same of their gradients.
Work = Callable[[int, Tensor], Tensor | None]
# Writes an own block, of which the number is given, into a row.
Load = Callable[[int, Tensor], object]


@dataclass
class Rounds:
    """Blocks that are carried round, of each process as many, one after the other.

    Attributes
    ----------
    peers
        The processes, n of them; process p holds the blocks p, p + n, p + 2 n and so on.
    sizes
        How many numbers each block holds.
    needs
        For each process, whether its queries may see something of each process's blocks.
    like
        An empty tensor of their dtype and device.
    trouble
        What went wrong in this process's work. It goes on carrying then, or others would wait.
    """

    peers: Peers
    sizes: list[int]
    needs: list[list[bool]]
    like: Tensor
    trouble: Exception | None = field(default=None)

    def _try(self, work: Work, number: int, block: Tensor) -> Tensor | None:
        if self.trouble is None and self.needs[self.peers.rank][number % self.peers.size]:
            try:
                return work(number, block)
            except Exception as error:
                self.trouble = error
        return None

    def hops(self, number: int) -> int:
        """How far round a block has to go: to the last process that needs it."""
        n = self.peers.size
        needed = [hop for hop in range(n) if self.needs[(number + hop) % n][number % n]]
        return max(needed, default=0) if self.sizes[number] else 0

    def ring(self, load: Load, work: Work, owed: torch.dtype | None = None) -> list[Tensor]:
        """Every block passes every process, from each to the next; while one is worked on, the
        next is under way. The own ones are loaded when they set out. With ``owed``, gradients of
        this dtype follow their block and come home: what is returned is what everybody owes to
        the own ones.
        """
        peers, n, me = self.peers, self.peers.size, self.peers.rank
        right, left = (me + 1) % n, (me - 1) % n
        hops = [self.hops(number) for number in range(len(self.sizes))]
        # One for the block that is worked on and one for the next; and so in turn.
        rooms = [self.like.new_empty(max(self.sizes)) for _ in range(min(n, 2))]
        held: Tensor | None = None
        totals: list[Tensor] = []  # of the own blocks' gradients
        home: list[Flight] = []
        before: list[Flight] = []  # gradients that were sent in the step before
        for turn, step in product(range(0, len(hops), n), range(n)):
            if step == 0:
                held = rooms[0][: self.sizes[turn + me]]
                load(turn + me, held)
            number, coming = turn + (me - step) % n, turn + (me - step - 1) % n
            here, goes_on = step <= hops[number], step < hops[number]
            sends, receives, next_one, carried = [], [], None, None
            if owed is not None and here and step > 0:
                carried = self.like.new_empty(self.sizes[number], dtype=owed)
                brought = peers.start([], [(carried, left)])
            if goes_on:
                assert held is not None
                sends.append((held, right))
            if step + 1 < n and step + 1 <= hops[coming]:
                next_one = rooms[(step + 1) % 2][: self.sizes[coming]]
                receives.append((next_one, left))
            flight = peers.start(sends, receives)
            if owed is not None and step == hops[turn + me] > 0:
                totals.append(self.like.new_empty(self.sizes[turn + me], dtype=owed))
                home.append(peers.start([], [(totals[-1], (me + step) % n)]))
            found, under_way = None, []
            if here and held is not None:
                found = self._try(work, number, held)
            if owed is not None and here:
                if carried is not None:
                    brought.wait()
                    found = carried if found is None else carried.add_(found)
                elif found is None:
                    found = self.like.new_zeros(self.sizes[number], dtype=owed)
                if goes_on or step > 0:
                    whom = right if goes_on else number % n
                    under_way.append(peers.start([(found, whom)], []))
                else:
                    totals.append(found)
            flight.wait()
            # No more than two steps' gradients are under way: each waits for nothing but that
            # another process begins a step that this one has left behind.
            for sent in before:
                sent.wait()
            held, before = next_one, under_way
        for sent in [*before, *home]:
            sent.wait()
        return totals

    def gather(self, load: Load) -> list[Tensor]:
        """All blocks that this process needs, at once."""
        n, me = self.peers.size, self.peers.rank
        own = self.like.new_empty(self.sizes[me])
        load(me, own)
        given = [own if self.needs[peer][me] else own[:0] for peer in range(n)]
        room = [
            self.like.new_empty(self.sizes[number] if self.needs[me][number] else 0)
            for number in range(n)
        ]
        return swap(self.peers, given, room)

    def gathered(
        self, blocks: list[Tensor], work: Work, owed: torch.dtype | None = None
    ) -> list[Tensor]:
        """The work on all blocks, one of each process; with ``owed``, their gradients go straight
        home."""
        n, me = self.peers.size, self.peers.rank
        found = [self._try(work, number, blocks[number]) for number in range(n)]
        if owed is None:
            return []
        given, room = [], []
        for number in range(n):
            size = self.sizes[number] if self.needs[me][number] else 0
            mine = found[number]
            given.append(self.like.new_zeros(size, dtype=owed) if mine is None else mine)
            size = self.sizes[me] if self.needs[number][me] else 0
            room.append(self.like.new_empty(size, dtype=owed))
        parts = [part for part in swap(self.peers, given, room) if part.numel()]
        total = self.like.new_zeros(self.sizes[me], dtype=owed)
        for part in parts:
            total += part
        return [total]
