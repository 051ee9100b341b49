"""Kernel regression with measurements on many processes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from d2lattn.bandwidth import check_candidates, least, minimise
from d2lattn.blocks import Block
from d2lattn.distributed.layout import swap
from d2lattn.distributed.peers import Group, Peers
from d2lattn.distributed.ring import attend_by_each, ring_attention
from d2lattn.distributed.rounds import Rounds
from d2lattn.fitted import Fitted, columns
from d2lattn.kernel_formulas import Bandwidth
from d2lattn.kernels import KernelScore
from d2lattn.masks import Mask
from d2lattn.score import Pairs, Score

__all__ = ["ShardedNadarayaWatson"]

_PAIRS_AT_ONCE = 2**20
_OTHERS = ~Mask.window(0)  # who leaves itself out


class ShardedNadarayaWatson(Fitted):
    r"""Kernel regression on measurements that live on several processes.

    .. math:: f(x) = \sum_p \sum_{i \in p} \alpha_i(x)\, y_i

    with the weights :math:`\alpha` of :class:`~d2lattn.NadarayaWatson`, over all measurements.
    Each process keeps its own and asks for predictions of its own; every method is called by all
    processes together. Blocks of measurements travel as in :func:`ring_attention`, and no process
    ever holds more than three of them; all pairs are visited.

    Parameters
    ----------
    bandwidth, kernel, learnable
        As for :class:`~d2lattn.NadarayaWatson`; the same on every process.
    group
        A process group, or one axis of a ``DeviceMesh``; by default all processes.

    Raises
    ------
    TypeError, ValueError
        If the bandwidth is not positive and finite, or there is no kernel of this name.

    References
    ----------
    Nadaraya, "On Estimating Regression" (1964); Watson, "Smooth Regression Analysis" (1964).
    """

    def __init__(
        self,
        bandwidth: Bandwidth = 1.0,
        kernel: str = "gaussian",
        learnable: bool = False,
        *,
        group: Group = None,
    ) -> None:
        super().__init__(bandwidth, kernel, learnable)
        self.group = group

    def fit(
        self,
        x: Float[Tensor, "n *features"],
        y: Float[Tensor, "n *outputs"],
        sample_weight: Float[Tensor, " n"] | None = None,
    ) -> ShardedNadarayaWatson:
        """Keep this process's measurements, of which there may be none.

        Parameters
        ----------
        x, y, sample_weight
            As for :meth:`d2lattn.NadarayaWatson.fit`: the same kind of shape and the same dtypes
            on every process.

        Raises
        ------
        TypeError, ValueError
            As there; also if processes disagree, or nobody has a measurement that counts.
        """
        peers = Peers("ShardedNadarayaWatson.fit", self.group)
        trouble: Exception | None = None
        fields: dict[str, Any] = {}
        count = 0
        try:
            self._check(x, y, sample_weight)
            count = len(x) if sample_weight is None else int((sample_weight > 0).sum())
            fields = {
                "shape of a place": tuple(x.shape[1:]), "shape of a value": tuple(y.shape[1:]),
                "dtypes": (x.dtype, y.dtype), "kernel": self.kernel,
                "use of sample_weight": sample_weight is not None,
                "bandwidth": self.bandwidth.tolist(),
            }  # fmt: skip
        except Exception as error:
            trouble = error
        total = sum(n for (n,) in peers.open((count,), fields, trouble))
        if total == 0:
            raise ValueError("x must hold a measurement that counts on some process; got none")
        self._keep(x, y, sample_weight)
        self._total = total
        return self

    def forward(self, x: Float[Tensor, "m *features"]) -> Float[Tensor, "m *outputs"]:
        """:meth:`predict`."""
        return self.predict(x)

    def predict(
        self, x: Float[Tensor, "m *features"], *, empty: float = 0.0
    ) -> Float[Tensor, "m *outputs"]:
        """Predictions for this process's own queries, from the measurements of all.

        Parameters
        ----------
        x
            Where to predict, on this process: any number, also none.
        empty
            What to predict where a compact kernel reaches no measurement.

        Raises
        ------
        RuntimeError
            If :meth:`fit` was not called, or another process fails.
        TypeError, ValueError
            As :meth:`d2lattn.NadarayaWatson.predict`.
        """
        output, reached = self._attend(self._queries_keys_values(x)[0])
        return self._shaped(output.masked_fill(~reached.unsqueeze(-1), empty))

    def loo_residuals(self) -> Float[Tensor, "n *outputs"]:
        r"""Each of this process's measurements minus its prediction from all the others of all.

        .. math:: r_i = y_i - \hat f_{-i}(x_i)

        Raises
        ------
        RuntimeError
            If :meth:`fit` was not called, or another process fails.
        ValueError
            If there is only one measurement on all processes together.
        """
        return self._shaped(self._left_out())

    def select_bandwidth(
        self, candidates: Iterable[Bandwidth] | Tensor | None = None
    ) -> ShardedNadarayaWatson:
        r"""Choose the bandwidth with the least mean squared leave-one-out residual of all.

        .. math:: \hat h = \arg\min_h \frac{\sum_p \sum_{i \in p} w_i\, r_i(h)^2}
                                           {\sum_p \sum_{i \in p} w_i}

        Parameters
        ----------
        candidates
            Bandwidths to choose from; by default a grid is refined around its minimum, for one
            bandwidth. Of one for each feature, name candidates.

        Raises
        ------
        RuntimeError
            If :meth:`fit` was not called, or another process fails.
        TypeError, ValueError
            If a candidate is not positive and finite, or each leaves a point without neighbours.

        Notes
        -----
        Copies of a measurement are witnesses: they are not thinned out.
        """
        x, _ = self._fitted()
        features = columns(x).shape[1]
        ndim = self.bandwidth.ndim
        if candidates is not None:
            best = least(self._losses, check_candidates(candidates, features))
        elif ndim == 1 and features > 1:
            raise ValueError(
                f"candidates must be named to select one bandwidth for each of {features} "
                "features; got None"
            )
        else:
            best = minimise(self._losses, *self._sensible_range())
        if math.isinf(best.loss):
            raise ValueError(
                f"candidates must reach from each point to another; with the {self.kernel} "
                f"kernel even {best.bandwidth.tolist()} leaves a point without neighbours"
            )
        chosen = best.bandwidth
        self._score.bandwidth = chosen.expand((1,) * ndim) if chosen.ndim == 0 else chosen
        return self

    def _keys_values(self) -> tuple[Tensor, Tensor]:
        """The measurements that count; how much they do is a last feature of the keys."""
        x, y = self._fitted()
        keys, values = columns(x).double(), columns(y).double()
        if self.sample_weight is None:
            return keys, values
        some = self.sample_weight > 0
        logs = self.sample_weight[some].double().log().unsqueeze(-1)
        return torch.cat([keys[some], logs], dim=-1), values[some]

    def _score_of(self, kernel: KernelScore) -> Score:
        return kernel if self.sample_weight is None else _Weighted(kernel)

    def _attend(
        self, queries: Float[Tensor, "m features"], mask: Mask | None = None
    ) -> tuple[Float[Tensor, "m outputs"], Bool[Tensor, " m"]]:
        """Averages of all measurements that count, for own queries, and who reaches any."""
        output, log = ring_attention(
            self._score_of(self._score), queries, *self._keys_values(), mask=mask, group=self.group
        )
        return output, log.detach() > -math.inf

    def _left_out(self) -> Float[Tensor, "n outputs"]:
        """Residuals of predictions from all others."""
        x, y = self._fitted()
        if self._total < 2:
            raise ValueError("x must hold at least 2 measurements to leave one out; got 1")
        keys, values = columns(x).double(), columns(y).double()
        if self.sample_weight is None:
            return values - self._attend(keys, _OTHERS)[0]
        some = self.sample_weight > 0
        output, _ = self._attend(keys)  # of those that do not count nothing is to leave out
        return values - output.index_put((some,), self._attend(keys[some], _OTHERS)[0])

    def _losses(self, bandwidths: Sequence[Tensor]) -> list[float]:
        """The same numbers on every process, to the last digit: all of them decide alike."""
        keys, values = self._keys_values()
        queries = keys if self.sample_weight is None else keys[:, :-1]
        weight = torch.ones_like(keys[:, 0])
        if self.sample_weight is not None:
            weight = keys[:, -1].exp()
        scores = [self._score_of(KernelScore(self.kernel, h)) for h in bandwidths]
        peers = self._peers()
        found = attend_by_each(peers, scores, queries, keys, values, _OTHERS)
        own = []
        for output, log in found:
            square = (weight.unsqueeze(-1) * (values - output).square()).sum()
            own.append(math.inf if bool((log == -math.inf).any()) else float(square))
        *squares, weights = zip(*self._exchange([*own, float(weight.sum())]), strict=True)
        return [sum(parts) / (sum(weights) * values.shape[1]) for parts in squares]

    def _peers(self) -> Peers:
        return Peers("ShardedNadarayaWatson.select_bandwidth", self.group)

    def _exchange(self, own: list[float]) -> list[list[float]]:
        """A few numbers of every process, in their order."""
        peers = self._peers()
        mine = torch.tensor(own, dtype=torch.float64, device=peers.device)
        room = [torch.empty_like(mine) for _ in range(peers.size)]
        return [numbers.tolist() for numbers in swap(peers, [mine] * peers.size, room)]

    def _sensible_range(self) -> tuple[float, float]:
        """From less than the distance of close neighbours to more than that of the farthest."""
        x, _ = self._fitted()
        points = columns(x).double()
        if self.sample_weight is not None:
            points = points[self.sample_weight > 0]
        ends = [(-points).amax(dim=0), points.amax(dim=0)] if len(points) else []
        own = torch.cat(ends).tolist() if ends else [-math.inf] * (2 * points.shape[1])
        most = torch.tensor(self._exchange(own), dtype=torch.float64).amax(dim=0)
        extent = float((most[: points.shape[1]] + most[points.shape[1] :]).amax())
        if extent == 0:
            raise ValueError(
                "x must vary to select a bandwidth; got one place only, for which every bandwidth "
                "is as good as any other"
            )
        gaps, nearest = self._gaps(points)
        low = self._quantile(gaps, 0.1) / 4
        if self.kernel != "gaussian" and points.shape[1] == 1:  # below, somebody is alone
            own = [float(nearest.amax()) if len(nearest) else 0.0]
            low = max(low, *(most for (most,) in self._exchange(own)))
        return low, 10 * extent

    def _gaps(self, points: Float[Tensor, "n features"]) -> tuple[Tensor, Tensor]:
        """From own points to the nearest other place, and to the nearest other point."""
        peers = self._peers()
        counts = [int(n) for (n,) in self._exchange([float(len(points))])]
        features = points.shape[1]
        gaps, nearest = points.new_full((2, len(points)), math.inf)
        needs = [[theirs > 0 for theirs in counts] for _ in counts]
        rounds = Rounds(peers, [n * features for n in counts], needs)

        def work(number: int, block: Tensor) -> None:
            others = block.view(-1, features)
            numbers = torch.arange(len(points), device=points.device)
            for rows in numbers.split(max(1, _PAIRS_AT_ONCE // max(1, others.numel()))):
                far = (points[rows].unsqueeze(1) - others).abs().amax(dim=-1)
                away = far.masked_fill(far == 0, math.inf).amin(dim=-1)
                gaps[rows] = torch.minimum(gaps[rows], away)
                if number == peers.rank:
                    far[torch.arange(len(rows), device=rows.device), rows] = math.inf
                nearest[rows] = torch.minimum(nearest[rows], far.amin(dim=-1))

        rounds.ring(points.reshape(-1), work)
        peers.close(rounds.trouble)
        return gaps, nearest

    def _quantile(self, gaps: Float[Tensor, " n"], share: float) -> float:
        """An order statistic of everybody's positive numbers, by bisection on how many lie below:
        the numbers stay where they are."""
        bits = gaps.view(torch.int64)  # in the order of the numbers
        total = sum(n for (n,) in self._exchange([float(len(gaps))]))
        low, high = 0, int(torch.tensor(math.inf, dtype=torch.float64).view(torch.int64))
        while low < high:
            middle = (low + high) // 2
            below = sum(n for (n,) in self._exchange([float((bits <= middle).sum())]))
            low, high = (low, middle) if below >= share * total else (middle + 1, high)
        return float(torch.tensor(low, dtype=torch.int64).view(torch.float64))


class _Weighted(Score):
    """A kernel of places, and the logarithm of how much a measurement counts, a key's last
    feature."""

    def __init__(self, kernel: KernelScore) -> None:
        super().__init__()
        self.kernel = kernel

    def compare(self, q: Tensor, k: Tensor) -> Tensor:
        return self.kernel.compare(q, k[..., :-1]) + k[..., -1].unsqueeze(-2)

    def pairs(self, q: Tensor, k: Tensor) -> Pairs:
        below = self.kernel.pairs(q, k[..., :-1])

        def compare(q: Tensor, k: Tensor, block: Block) -> Tensor:
            return below.compare(q, k[..., :-1], block) + k[..., -1].unsqueeze(-2)

        return below._replace(compare=compare)

    def as_dot_product(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor, float] | None:
        found = self.kernel.as_dot_product(q, k[..., :-1])
        if found is None:
            return None
        long_q, long_k, scale = found
        one = torch.ones_like(long_q[..., :1])
        logs = k[..., -1:].to(long_k.dtype) / scale
        return torch.cat([long_q, one], dim=-1), torch.cat([long_k, logs], dim=-1), scale

    def mixes_tokens(self) -> bool:
        return self.kernel.mixes_tokens()
