"""Who holds which tokens, and how some queries attend to some keys."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils import _pytree as pytree

from d2lattn.blocks import Block
from d2lattn.distributed.layout import Stretches, cuts
from d2lattn.distributed.peers import Peers
from d2lattn.distributed.rounds import Rounds
from d2lattn.engine.attend import attend
from d2lattn.engine.probe import tensors_of
from d2lattn.engine.witness import RandomState, Witness
from d2lattn.restrictions import Part, Restriction, Stretch
from d2lattn.score import Score

__all__ = ["Plan"]

# A block goes round in parts, one after the other, if each holds so many numbers.
NUMBERS = 2**17


class _Scored(nn.Module):
    """Attention by a score, as a module whose tensors can be passed in."""

    def __init__(self, score: Score) -> None:
        super().__init__()
        self.score = score

    def forward(
        self,
        block: Block,
        allowed: Restriction | None,
        dropout: float,
        q: Tensor,
        k: Tensor,
        v: Tensor,
    ) -> tuple[Tensor, Tensor]:
        found = attend(
            self.score.placed(block), q, k, v, allowed, dropout, need_weights=False, need_log=True
        )
        assert found.logsumexp is not None
        return found.output, found.logsumexp


@dataclass
class Plan:
    """Who holds which tokens, and how some queries attend to some keys."""

    peers: Peers
    score: _Scored
    names: list[str]  # of the score's tensors
    shape: tuple[int, ...]  # of all scores
    of_queries: list[Stretches]
    of_keys: list[Stretches]
    parts: int  # in which each process's keys go round, one after the other
    tree: Any  # of the mask, without its tensors
    dropout: float
    seed: int
    autocast: tuple[bool, torch.dtype]
    needs: list[list[bool]]  # process, and whether its queries see any keys of another one
    gathers: bool

    @staticmethod
    def of(
        peers: Peers,
        score: Score,
        shape: tuple[int, ...],
        of_queries: list[Stretches],
        of_keys: list[Stretches],
        allowed: Restriction | None,
        dropout: float,
        *,
        features: int,
        gathers: bool = False,
    ) -> Plan:
        """Where a key and its value have so many features together.

        Own queries meet a block in as many pieces as there are processes, a zig-zag's two
        stretches counted; of more and smaller ones each would cost more than it spares memory. So
        would those of two processes, who wait for each other at every piece.
        """
        scored = _Scored(score)
        needs = [
            [
                any(_seen(allowed, shape, r, c)[0] for r in rows for c in columns)
                for columns in of_keys
            ]
            for rows in of_queries
        ]
        each = torch.Size(shape[:-2]).numel() * features
        longest = max(sum(stop - start for start, stop in some) for some in of_keys)
        pieces = peers.size // len(of_keys[0]) if peers.size > 2 else 1
        parts = 1 if gathers else max(1, min(pieces, each * longest // NUMBERS))
        # Drawn only where it is used, so that a call without dropout leaves the generator alone.
        seed = int(torch.randint(2**60, ())) if dropout > 0 else 0
        kind = peers.device.type if peers.device is not None else "cpu"
        autocast = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
        leaves, tree = pytree.tree_flatten([] if allowed is None else [allowed])
        names = list(tensors_of(scored))
        return Plan(
            peers, scored, names, shape, of_queries, of_keys, parts, (tree, len(leaves), leaves),
            dropout, seed, autocast, needs, gathers,
        )  # fmt: skip

    def scoring(self, score: Score) -> Plan:
        """The same for another score."""
        scored = _Scored(score)
        return replace(self, score=scored, names=list(tensors_of(scored)))

    def tensors(self, *tokens: Tensor) -> tuple[Tensor, ...]:
        """All that takes part besides the tokens: those of the score, of the mask, and others
        that the score uses and that ask for a gradient."""
        tree, count, leaves = self.tree
        self.tree = tree, count, ()  # who keeps a plan keeps no tensors: autograd does
        named = tuple(tensors_of(self.score).values())
        return (*named, *leaves, *self._others(named, leaves, tokens))

    def _others(self, named: Any, leaves: Any, tokens: tuple[Tensor, ...]) -> list[Tensor]:
        if not torch.is_grad_enabled():
            return []
        few = [x.detach()[..., :1, :] for x in tokens]
        rows, columns = (
            (parts[0][0], parts[0][0] + x.shape[-2])
            for parts, x in zip(
                (self.of_queries[self.peers.rank], self.of_keys[self.peers.rank]), few, strict=False
            )
        )
        block = Block.whole(self.shape)._replace(rows=slice(*rows), columns=slice(*columns))
        state = RandomState(tokens[0].device)
        try:
            with Witness(*few) as witness:
                self.score(block, None, 0.0, *few)
        except Exception:  # which the work itself will meet, where it can be told to others
            return []
        finally:
            state.restore()
        known = {id(x) for x in (*named, *leaves)}
        return [x for x in witness.seen if x.requires_grad and id(x) not in known]

    def blocks(self) -> list[Stretches]:
        """The stretches of keys that go round together: the first parts of all processes, then
        the second ones. Of each stretch a part, so that a zig-zag remains one."""
        cut = [[cuts(*stretch, self.parts) for stretch in some] for some in self.of_keys]
        return [[found[part] for found in some] for part in range(self.parts) for some in cut]

    def rows(self) -> Stretches:
        """The own queries in as many parts: what is made of them at once is as small."""
        some = self.of_queries[self.peers.rank]
        return [part for stretch in some for part in cuts(*stretch, self.parts)]

    def part(
        self, tensors: tuple[Tensor, ...], rows: Stretch, columns: Stretch, *tokens: Tensor
    ) -> tuple[Tensor, Tensor] | None:
        """Output and logsumexp of some queries and some keys; None if they see none of them."""
        named = dict(zip(self.names, tensors, strict=False))
        block = Block.whole(self.shape)._replace(rows=slice(*rows), columns=slice(*columns))
        allowed = self.allowed(tensors)
        some, every = _seen(allowed, self.shape, rows, columns)
        if not some:
            return None
        if allowed is not None:
            allowed = None if every else Part(allowed, self.shape, rows, columns)
        if self.dropout == 0:
            return functional_call(self.score, named, (block, allowed, 0.0, *tokens))
        devices = [tokens[0].device] if tokens[0].is_cuda else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(self.seed + rows[0] * self.shape[-1] + columns[0])
            return functional_call(self.score, named, (block, allowed, self.dropout, *tokens))

    def allowed(self, tensors: tuple[Tensor, ...]) -> Restriction | None:
        """The mask of all scores."""
        tree, count, _ = self.tree
        first = len(self.names)
        found = pytree.tree_unflatten(list(tensors[first : first + count]), tree)
        return found[0] if found else None

    def rounds(self, k: Tensor, v: Tensor) -> Rounds:
        """The blocks, of keys and values such as the own ones."""
        each = torch.Size(self.shape[:-2]).numel() * (k.shape[-1] + v.shape[-1])
        sizes = [each * sum(stop - start for start, stop in some) for some in self.blocks()]
        like = k.new_empty(0, dtype=torch.promote_types(k.dtype, v.dtype))
        return Rounds(self.peers, sizes, self.needs, like)


def _seen(
    allowed: Restriction | None, shape: tuple[int, ...], rows: Stretch, columns: Stretch
) -> tuple[bool, bool]:
    """Whether queries of a stretch may see some keys of another, and whether all of them see every
    one; needs no look at every pair, and may not notice that they do."""
    if rows[0] == rows[1] or columns[0] == columns[1]:
        return False, False
    if allowed is None:
        return True, True
    start, stop = allowed.hull(rows, shape)
    if min(stop, columns[1]) <= max(start, columns[0]):
        return False, False
    if allowed.opaque:
        return True, False
    device = next((tensor.device for tensor in allowed.tensors()), torch.device("cpu"))
    block = Block.whole(shape)._replace(rows=slice(*rows), columns=slice(*columns))
    some, every = allowed.columns(block, device)
    return bool(some.any()), bool(every.all())
