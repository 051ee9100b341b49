"""Who holds which tokens, and how some queries attend to some keys."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils import _pytree as pytree

from d2lattn.blocks import Block
from d2lattn.distributed.layout import Stretches
from d2lattn.distributed.peers import Peers
from d2lattn.distributed.rounds import Rounds
from d2lattn.engine.attend import attend
from d2lattn.engine.probe import Witness, tensors_of
from d2lattn.restrictions import Part, Restriction
from d2lattn.score import Score

__all__ = ["Plan"]


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
    tree: Any  # of the mask, without its tensors
    dropout: float
    seed: int
    autocast: tuple[bool, torch.dtype]
    meets: list[list[list[list[bool]]]]  # process, block, its stretch of queries, of keys
    gathers: bool = False

    @staticmethod
    def of(
        peers: Peers,
        score: Score,
        shape: tuple[int, ...],
        of_queries: list[Stretches],
        of_keys: list[Stretches],
        allowed: Restriction | None,
        dropout: float,
    ) -> Plan:
        scored = _Scored(score)
        meets = [
            [[[_meets(allowed, shape, r, c) for c in columns] for r in rows] for columns in of_keys]
            for rows in of_queries
        ]
        # Drawn only where it is used, so that a call without dropout leaves the generator alone.
        seed = int(torch.randint(2**60, ())) if dropout > 0 else 0
        kind = peers.device.type if peers.device is not None else "cpu"
        autocast = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
        leaves, tree = pytree.tree_flatten([] if allowed is None else [allowed])
        names = list(tensors_of(scored))
        return Plan(
            peers, scored, names, shape, of_queries, of_keys, (tree, len(leaves), leaves),
            dropout, seed, autocast, meets,
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
        generator = torch.get_rng_state()
        try:
            with torch.no_grad(), Witness(*few) as witness:
                self.score(block, None, 0.0, *few)
        except Exception:  # which the work itself will meet, where it can be told to others
            return []
        finally:
            torch.set_rng_state(generator)
        known = {id(x) for x in (*named, *leaves)}
        others = {id(x): x for x, _ in witness.seen if x.requires_grad and id(x) not in known}
        return list(others.values())

    def part(
        self, number: int, tensors: tuple[Tensor, ...], rows: int, columns: int, *tokens: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Output and logsumexp of one stretch of the own queries and one of a block's keys."""
        me = self.peers.rank
        named = dict(zip(self.names, tensors, strict=False))
        of_rows, of_columns = self.of_queries[me][rows], self.of_keys[number][columns]
        block = Block.whole(self.shape)._replace(rows=slice(*of_rows), columns=slice(*of_columns))
        allowed = self.allowed(tensors)
        if allowed is not None:
            allowed = Part(allowed, self.shape, of_rows, of_columns)
        if self.dropout == 0:
            return functional_call(self.score, named, (block, allowed, 0.0, *tokens))
        devices = [tokens[0].device] if tokens[0].is_cuda else []
        with torch.random.fork_rng(devices=devices):
            pieces = len(self.of_queries[me]) * rows + columns
            torch.manual_seed(self.seed + 4 * (me * self.peers.size + number) + pieces)
            return functional_call(self.score, named, (block, allowed, self.dropout, *tokens))

    def allowed(self, tensors: tuple[Tensor, ...]) -> Restriction | None:
        """The mask of all scores."""
        tree, count, _ = self.tree
        first = len(self.names)
        found = pytree.tree_unflatten(list(tensors[first : first + count]), tree)
        return found[0] if found else None

    def rounds(self, features: int) -> Rounds:
        """The blocks, of so many numbers for each key and its value."""
        each = torch.Size(self.shape[:-2]).numel() * features
        sizes = [each * sum(stop - start for start, stop in parts) for parts in self.of_keys]
        needs = [[any(map(any, some)) for some in of_blocks] for of_blocks in self.meets]
        return Rounds(self.peers, sizes, needs)


def _meets(
    allowed: Restriction | None,
    shape: tuple[int, ...],
    rows: tuple[int, int],
    columns: tuple[int, int],
) -> bool:
    """Whether queries of a stretch may see keys of another; needs no look at every pair."""
    if rows[0] == rows[1] or columns[0] == columns[1]:
        return False
    if allowed is None:
        return True
    start, stop = allowed.hull(rows, shape)
    if min(stop, columns[1]) <= max(start, columns[0]):
        return False
    if allowed.opaque:
        return True
    device = next((tensor.device for tensor in allowed.tensors()), torch.device("cpu"))
    block = Block.whole(shape)._replace(rows=slice(*rows), columns=slice(*columns))
    return bool(allowed.columns(block, device)[0].any())
