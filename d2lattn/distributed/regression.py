"""Kernel regression with measurements on many processes."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable
from typing import Any, Literal

from jaxtyping import Bool, Float
from torch import Tensor

from d2lattn.bandwidth import check_candidates, in_form
from d2lattn.checks import check_empty
from d2lattn.distributed.everybody import total
from d2lattn.distributed.measurements import Measurements
from d2lattn.distributed.nearest import averages_of_nearest
from d2lattn.distributed.peers import Group, Peers
from d2lattn.distributed.ring import attend_to_all
from d2lattn.distributed.selection import OTHERS, select
from d2lattn.extras import Tick, progress_bar, tqdm_here
from d2lattn.fitted import Fitted, columns
from d2lattn.kernel_formulas import Bandwidth
from d2lattn.masks import Mask

__all__ = ["ShardedNadarayaWatson"]


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
        count = 0

        def fields() -> dict[str, Any]:
            nonlocal count
            self._check(x, y, sample_weight)
            count = len(x) if sample_weight is None else int((sample_weight > 0).sum())
            return {
                "shape of a place": tuple(x.shape[1:]), "shape of a value": tuple(y.shape[1:]),
                "dtypes": (x.dtype, y.dtype), "kernel": self.kernel,
                "use of sample_weight": sample_weight is not None,
            }  # fmt: skip

        if total(self._peers("fit", fields), [float(count)]) == [0.0]:
            raise ValueError("x must hold a measurement that counts on some process; got none")
        self._keep(x, y, sample_weight)
        return self

    def forward(self, x: Float[Tensor, "m *features"]) -> Float[Tensor, "m *outputs"]:
        """:meth:`predict`."""
        return self.predict(x)

    def predict(
        self,
        x: Float[Tensor, "m *features"],
        *,
        empty: float | Literal["nearest"] = 0.0,
        progress: bool = False,
    ) -> Float[Tensor, "m *outputs"]:
        """Predictions for this process's own queries, from the measurements of all.

        Parameters
        ----------
        x
            Where to predict, on this process: any number, also none.
        empty
            What to predict where a compact kernel reaches no measurement: a number, or
            ``"nearest"`` for the average of the nearest measurements of all, in bandwidths. The
            same on every process.
        progress
            Whether to show a progress bar on this process.

        Raises
        ------
        RuntimeError
            If :meth:`fit` was not called, or another process fails.
        TypeError, ValueError
            As :meth:`d2lattn.NadarayaWatson.predict`.
        ModuleNotFoundError
            If a progress bar is asked for and tqdm is not installed.
        """

        queries = x

        def fields() -> dict[str, Any]:
            nonlocal queries
            check_empty(empty)
            queries, _, _ = self._queries_keys_values(x)
            return {"empty": empty}

        peers = self._peers("predict", fields, progress)
        with progress_bar("share", 1.0, progress) as tick:
            output, reached = self._attend(queries, tick=tick)
        if empty != "nearest":
            return self._shaped(output.masked_fill(~reached.unsqueeze(-1), empty))
        far = queries[~reached].detach()
        if total(peers, [float(len(far))]) == [0.0]:
            return self._shaped(output)
        nearest = averages_of_nearest(peers, far, self._bandwidths(), self._measurements())
        return self._shaped(output.index_put((~reached,), nearest))

    def loo_residuals(self, *, progress: bool = False) -> Float[Tensor, "n *outputs"]:
        r"""Each of this process's measurements minus its prediction from all the others of all.

        .. math:: r_i = y_i - \hat f_{-i}(x_i)

        Parameters
        ----------
        progress
            Whether to show a progress bar on this process.

        Raises
        ------
        RuntimeError
            If :meth:`fit` was not called, or another process fails.
        ValueError
            If there is only one measurement on all processes together.
        ModuleNotFoundError
            If a progress bar is asked for and tqdm is not installed.
        """
        return self._shaped(self._left_out(progress))

    def select_bandwidth(
        self,
        candidates: Iterable[Bandwidth] | Tensor | None = None,
        *,
        progress: bool = False,
    ) -> ShardedNadarayaWatson:
        r"""Choose the bandwidth with the least mean squared leave-one-out residual of all.

        .. math:: \hat h = \arg\min_h \frac{\sum_p \sum_{i \in p} w_i\, r_i(h)^2}
                                           {\sum_p \sum_{i \in p} w_i}

        Parameters
        ----------
        candidates
            Bandwidths to choose from, the same on every process; by default as
            :meth:`d2lattn.NadarayaWatson.select_bandwidth` looks for one, or for one for each
            feature.
        progress
            Whether to show a progress bar on this process: bandwidths that were tried.

        Raises
        ------
        RuntimeError
            If :meth:`fit` was not called, or another process fails.
        TypeError, ValueError
            If a candidate is not positive and finite, or each leaves a point without neighbours.
        ModuleNotFoundError
            If a progress bar is asked for and tqdm is not installed.

        Notes
        -----
        Copies of a measurement are witnesses: they are not thinned out.
        """
        grid: list[Tensor] | None = None

        def fields() -> dict[str, Any]:
            nonlocal grid
            x, _ = self._fitted()
            if candidates is not None:
                grid = check_candidates(candidates, columns(x).shape[1])
            numbers = repr([h.tolist() for h in grid or []])
            if len(numbers) > 200:  # than a message holds; what differs is seen all the same
                numbers = f"{len(grid or [])} of {hashlib.sha256(numbers.encode()).hexdigest()}"
            return {"candidates": numbers if grid else None}

        peers = self._peers("select_bandwidth", fields, progress)
        ndim = self.bandwidth.ndim
        with progress_bar("bandwidth", None, progress) as tick:
            chosen = select(peers, self.kernel, self._measurements(), ndim, grid, tick)
        x, _ = self._fitted()
        self._score.bandwidth = in_form(chosen, ndim, columns(x).shape[1])
        return self

    def _peers(
        self, call: str, fields: Callable[[], dict[str, Any]], progress: bool = False
    ) -> Peers:
        """All processes, once they were found to ask for the same, and nobody for what cannot
        be."""
        peers = Peers(f"ShardedNadarayaWatson.{call}", self.group)
        trouble: Exception | None = None
        alike: dict[str, Any] = {}
        try:
            if progress:  # nobody waits for who cannot show it
                tqdm_here()
            alike = {"bandwidth": self.bandwidth.tolist(), **fields()}
        except Exception as error:
            trouble = error
        peers.open((), alike, trouble)
        return peers

    def _measurements(self) -> Measurements:
        x, y = self._fitted()
        return Measurements.of(columns(x), columns(y), self.sample_weight)

    def _attend(
        self,
        queries: Float[Tensor, "m features"],
        mask: Mask | None = None,
        *,
        tick: Tick | None = None,
    ) -> tuple[Float[Tensor, "m outputs"], Bool[Tensor, " m"]]:
        """Averages of all measurements that count, for own queries, and who reaches any."""
        own = self._measurements()
        output, log = attend_to_all(
            own.score(self._score), queries, own.keys, own.values,
            mask=mask, group=self.group, tick=tick,
        )  # fmt: skip
        return output, log.detach() > -math.inf

    def _left_out(self, progress: bool) -> Float[Tensor, "n outputs"]:
        """Residuals of predictions from all others."""

        def fields() -> dict[str, Any]:
            self._fitted()
            return {}

        peers = self._peers("loo_residuals", fields, progress)
        (count,) = total(peers, [float(self._count())])
        if count < 2:
            raise ValueError(
                f"x must hold at least 2 measurements to leave one out; got {int(count)}"
            )
        x, y = self._fitted()
        keys, values = columns(x).double(), columns(y).double()
        with progress_bar("share", 1.0, progress) as tick:
            if self.sample_weight is None:
                return values - self._attend(keys, OTHERS, tick=tick)[0]
            half = None if tick is None else lambda share: tick(share / 2)
            some = self.sample_weight > 0
            output, _ = self._attend(keys, tick=half)  # of what does not count nothing is left out
            others, _ = self._attend(keys[some], OTHERS, tick=half)
            return values - output.index_put((some,), others)
