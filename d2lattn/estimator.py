"""What estimators from kernels share: predictions, residuals, the choice of a bandwidth, errors."""

from collections.abc import Iterable
from typing import Literal, TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from d2lattn.bandwidth import select
from d2lattn.checks import check_empty
from d2lattn.extras import Tick, progress_bar
from d2lattn.fitted import columns
from d2lattn.kernel_formulas import Bandwidth
from d2lattn.ordinary import is_ordinary, wants_gradients
from d2lattn.plainly import smooth_by_nearest
from d2lattn.smoother import Smoother
from d2lattn.smoothing import smooth
from d2lattn.weighted import Weighted

__all__ = ["KernelEstimator"]

_PAIRS_AT_ONCE = 2**16  # more are done in blocks, where gradients are asked for


Model = TypeVar("Model", bound="KernelEstimator")


class KernelEstimator(Weighted):
    """Predictions from measurements nearby; ``_degree`` is that of the local polynomial."""

    _degree: int

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
        """Predictions, shape ``(m,)`` or ``(m, outputs)`` as ``y`` was.

        Made in float64, in memory that grows with m + n; in time that does so too for every
        kernel on a line, and for the Gaussian kernel in a plane. Where a gradient is asked for,
        all pairs are visited, in blocks.

        Parameters
        ----------
        x
            Where to predict: dtype and kind of shape of the ``x`` that was fitted.
        empty
            What to predict where a compact kernel reaches no measurement: a number, such as 0 or
            NaN, or ``"nearest"`` for the average of the nearest measurements, in bandwidths.
        progress
            Whether to show a progress bar.

        Raises
        ------
        RuntimeError
            If :meth:`fit` was not called.
        TypeError, ValueError
            If dtype or shape differ from what was fitted, a number is not finite, or ``empty``
            is neither a number nor ``"nearest"``.
        ModuleNotFoundError
            If a progress bar is asked for and tqdm is not installed.
        """
        check_empty(empty)
        queries, _, _ = self._queries_keys_values(x)
        with progress_bar("share", 1.0, progress) as tick:
            output, reached = self._smooth(queries, tick=tick)
        if empty == "nearest":
            missing = (~reached).nonzero().squeeze(-1)
            nearest = smooth_by_nearest(self._smoother(), queries, missing)
            output = output.index_copy(0, missing, nearest)
        elif empty != 0:
            output = output.masked_fill(~reached.unsqueeze(-1), empty)
        return self._shaped(output)

    def loo_residuals(self, *, progress: bool = False) -> Float[Tensor, "n *outputs"]:
        r"""Each measurement minus its prediction from all the others.

        .. math:: r_i = y_i - \hat f_{-i}(x_i)

        A point may not attend to itself: its own key is left out.

        Parameters
        ----------
        progress
            Whether to show a progress bar.

        Returns
        -------
        Tensor
            Shape and dtype of the fitted ``y``; differentiable in a learnable bandwidth.

        Raises
        ------
        RuntimeError
            If :meth:`fit` was not called.
        ValueError
            If there is only one measurement: nothing is left when it is left out.
        ModuleNotFoundError
            If a progress bar is asked for and tqdm is not installed.
        """
        x, y = self._fitted()
        if len(x) < 2:
            raise ValueError("x must hold at least 2 measurements to leave one out; got 1")
        with progress_bar("share", 1.0, progress) as tick:
            output, _ = self._smooth(columns(x).double(), leave_out=True, tick=tick)
        return self._shaped(columns(y).double() - output)

    def select_bandwidth(
        self: Model,
        candidates: Iterable[Bandwidth] | Tensor | None = None,
        *,
        progress: bool = False,
    ) -> Model:
        r"""Choose the bandwidth with the least mean squared leave-one-out residual.

        .. math:: \hat h = \arg\min_h \frac{\sum_i w_i\, r_i(h)^2}{\sum_i w_i}

        Parameters
        ----------
        candidates
            Bandwidths to choose from, each a number or one number for each feature. By default
            a geometric grid, from below the distance of neighbours to where all weights are
            nearly equal, refined around its minimum; one bandwidth for each feature is then
            polished by a quasi-Newton method on the logarithms. The choice keeps the form of the
            current bandwidth.
        progress
            Whether to show a progress bar: bandwidths that were tried.

        Returns
        -------
        KernelEstimator
            The model itself.

        Raises
        ------
        RuntimeError
            If :meth:`fit` was not called.
        TypeError, ValueError
            If a candidate is not positive and finite, or the question has no answer: fewer than
            three different measurements, all ``x`` or all ``y`` equal, or a compact kernel that
            leaves a point without neighbours at every candidate.
        ModuleNotFoundError
            If a progress bar is asked for and tqdm is not installed.

        Notes
        -----
        Exact leave-one-out takes a copy of a measurement for an independent witness. Data in
        which every measurement has a copy are therefore thinned out first, so that k copies of
        a data set give the bandwidth of that set. Bandwidths that leave a point without any
        neighbour make no prediction there and are not chosen.

        References
        ----------
        Hastie, Tibshirani and Friedman, *The Elements of Statistical Learning* (2009),
        section 7.10.
        """
        with progress_bar("bandwidth", None, progress) as tick:
            choice = select(self._smoother(), self.bandwidth.ndim, candidates, tick)
        self._score.bandwidth = choice
        return self

    def standard_errors(self, x: Float[Tensor, "m *features"]) -> Float[Tensor, "m *outputs"]:
        r"""Standard errors of predictions, from noise of one variance everywhere.

        .. math:: \operatorname{se}(x) = \hat\sigma \lVert l(x) \rVert, \qquad
                  \hat\sigma^2 = \frac{\sum_i (y_i - \hat f(x_i))^2}
                                      {n - 2 \operatorname{tr} L + \operatorname{tr} L^\top L}

        They measure how much predictions would vary with other noise, not their bias. All pairs
        are visited, in blocks.

        Parameters
        ----------
        x
            Where to predict, as in :meth:`predict`.

        Returns
        -------
        Tensor
            Shape and dtype of the prediction.

        Raises
        ------
        RuntimeError, TypeError
            As :meth:`predict`.
        ValueError
            As :meth:`predict`, and if the fit passes through the measurements, so that nothing
            is left to tell the noise from.

        References
        ----------
        Hastie and Tibshirani, *Generalized Additive Models* (1990), sections 3.5 and 3.8.
        """
        queries, keys, values = self._queries_keys_values(x)
        trace, squares = self._traces()
        left = self._count() - 2 * trace + squares
        if left < 1e-9 * self._count():
            raise ValueError(
                "bandwidth must leave residuals to tell the noise from; got "
                f"{self.bandwidth.tolist()}, with which the fit passes through the measurements"
            )
        with torch.no_grad():
            residuals = values - self._smooth(keys)[0]
            if self.sample_weight is not None:
                residuals = residuals[self.sample_weight > 0]
            sigma = (residuals.square().sum(dim=0) / left).sqrt()
            norms = [weights.norm(dim=-1) for _, weights in self._blocks(queries)]
            norm = torch.cat(norms) if norms else queries.new_zeros(0)
        return self._shaped(norm.unsqueeze(-1) * sigma)

    def _smoother(self) -> Smoother:
        keys, values = self._fitted()
        weight = self.sample_weight
        return Smoother(
            self.kernel,
            self._degree,
            self._bandwidths(),
            columns(keys).double(),
            columns(values).double(),
            None if weight is None else weight.double(),
            single=keys.dtype != torch.float64,
        )

    def _smooth(
        self,
        queries: Float[Tensor, "m features"],
        *,
        leave_out: bool = False,
        tick: Tick | None = None,
    ) -> tuple[Float[Tensor, "m outputs"], Bool[Tensor, " m"]]:
        """Predictions, and which queries reach any measurement.

        To leave out is the measurement with the query's own number.
        """
        smoother = self._smoother()
        if wants_gradients(queries, *self.parameters()) or not is_ordinary(queries):
            return self._smooth_with_gradients(queries, smoother.values, leave_out)
        weight = smoother.sample_weight
        some = None if weight is None else weight > 0
        if some is None or bool(some.all()):
            return smooth(smoother, queries, leave_out=leave_out, tick=tick)
        counted = smoother.of(some)  # who does not count is not there
        output, reached = smooth(counted, queries, tick=tick)
        if leave_out:
            output[some], reached[some] = smooth(counted, queries[some], leave_out=True)
        return output, reached

    def _smooth_with_gradients(
        self, queries: Tensor, values: Float[Tensor, "n outputs"], leave_out: bool
    ) -> tuple[Float[Tensor, "m outputs"], Bool[Tensor, " m"]]:
        """The plain formula; many pairs in blocks that are made again on the way back."""

        def smooth_block(some: Tensor, own: Tensor | None) -> tuple[Tensor, Tensor]:
            weights, reached = self._weights(some, own)
            return weights @ values, reached

        own = torch.arange(len(queries), device=queries.device) if leave_out else None
        if len(queries) * len(values) <= _PAIRS_AT_ONCE:
            return smooth_block(queries, own)
        parts = []
        for start in range(0, len(queries), self._rows()):
            rows = slice(start, start + self._rows())
            block = queries[rows], None if own is None else own[rows]
            if is_ordinary(queries):
                parts.append(
                    checkpoint(smooth_block, *block, use_reentrant=False, preserve_rng_state=False)
                )
            else:  # transforms do not know of checkpoints
                parts.append(smooth_block(*block))
        output, reached = zip(*parts, strict=True)
        return torch.cat(output), torch.cat(reached)
