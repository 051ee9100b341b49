"""Kernel regression: attention whose score is the logarithm of a kernel of the distance."""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from d2lattn.attention import Attention, Score, check_same_width
from d2lattn.bandwidth import (
    gaussian_losses,
    least,
    minimise,
    minimise_by_feature,
    reach_of_a_gaussian,
    sensible_range,
    without_copies,
)
from d2lattn.masking import (
    at_least_float32,
    check_floating,
    check_tokens,
    first_index,
    has_values,
)
from d2lattn.neighbours import Window, cover, distance_to_nearest
from d2lattn.streaming import (
    StreamOutput,
    merge_attention,
    stream_attention,
    stream_dot_products,
    wants_gradients,
)

__all__ = ["GaussianScore", "KernelScore", "NadarayaWatson", "gaussian_score", "log_kernel"]

Bandwidth = float | Sequence[float] | Tensor

_PAIRS_AT_ONCE = 2**16  # more are smoothed window by window
_PAIRS_OF_A_TILE = 2**18
_ROWS_OF_A_WINDOW = 512
_SPAN_OF_A_WINDOW = 0.7  # bandwidths; narrow enough for moments


def _boxcar(u: Tensor) -> Tensor:
    return (u.abs() <= 1).to(u.dtype) / 2


def _triangular(u: Tensor) -> Tensor:
    return 1 - u.abs()


def _epanechnikov(u: Tensor) -> Tensor:
    return 0.75 * (1 - u.square())


# What is not positive is outside.
_COMPACT_KERNELS: dict[str, Callable[[Tensor], Tensor]] = {
    "boxcar": _boxcar,
    "triangular": _triangular,
    "epanechnikov": _epanechnikov,
}

_KERNELS = ("gaussian", *_COMPACT_KERNELS)


def _log_kernel(u: Tensor, kernel: str) -> Tensor:
    if kernel == "gaussian":
        return -0.5 * u.square() - 0.5 * math.log(2 * math.pi)
    density = _COMPACT_KERNELS[kernel](u) + 0.0 * u  # so that the boxcar has a gradient, of 0
    inside = density > 0  # outside -inf, with gradient 0
    return torch.where(inside, density, 1.0).log().masked_fill(~inside, -math.inf)


def log_kernel(u: Float[Tensor, "*shape"], kernel: str = "gaussian") -> Float[Tensor, "*shape"]:
    r"""Logarithm of a kernel at a distance of ``u`` bandwidths; every kernel integrates to one.

    .. math::
        \begin{aligned}
        \text{gaussian:}\quad & \tfrac{1}{\sqrt{2\pi}}\, e^{-u^2/2} &
        \text{boxcar:}\quad & \tfrac12\, [\,|u| \le 1\,] \\
        \text{triangular:}\quad & (1 - |u|)_+ &
        \text{epanechnikov:}\quad & \tfrac34\, (1 - u^2)_+
        \end{aligned}

    Parameters
    ----------
    u
        Distances in units of the bandwidth, any floating dtype and shape.
    kernel
        One of the four names above.

    Returns
    -------
    Tensor
        Dtype and shape of ``u``; :math:`-\infty` where the kernel is 0.

    Raises
    ------
    TypeError
        If ``u`` is not a floating-point tensor.
    ValueError
        If there is no kernel of this name.

    Examples
    --------
    >>> log_kernel(torch.tensor([0.0, 0.5, 1.0]), "epanechnikov").exp()
    tensor([0.7500, 0.5625, 0.0000])

    References
    ----------
    Hastie, Tibshirani and Friedman, *The Elements of Statistical Learning* (2009), section 6.1.
    """
    check_floating("u", u)
    return _log_kernel(u, _known_kernel(kernel))


def gaussian_score(
    queries: Float[Tensor, "*batch queries features"],
    keys: Float[Tensor, "*batch keys features"],
    bandwidth: Bandwidth = 1.0,
) -> Float[Tensor, "*batch queries keys"]:
    r"""Minus half the squared distance, in bandwidths: the exponent of the Gaussian kernel.

    .. math:: a(q, k) = -\frac12 \left\lVert \frac{q - k}{h} \right\rVert^2

    Parameters
    ----------
    queries, keys
        One floating dtype, the same batch axes and number of features.
    bandwidth
        :math:`h > 0` in the units of the features: a number, or one for each feature.

    Returns
    -------
    Tensor
        Attention scores in the dtype of the queries, computed in at least float32.

    Raises
    ------
    TypeError, ValueError
        If dtypes or shapes do not fit, or the bandwidth is not positive and finite.

    Examples
    --------
    >>> gaussian_score(torch.tensor([[0.0]]), torch.tensor([[0.0], [1.0], [2.0]]))
    tensor([[-0.0000, -0.5000, -2.0000]])

    References
    ----------
    Nadaraya, "On Estimating Regression" (1964); Watson, "Smooth Regression Analysis" (1964).
    """
    check_tokens(queries=queries, keys=keys)
    check_same_width(queries, keys, "a distance needs the same features in both")
    h = _positive("bandwidth", bandwidth, queries.shape[-1])
    q, k = _divide(queries, h), _divide(keys, h)
    return _gaussian_compare(q, k).to(queries.dtype)


class KernelScore(Score):
    r"""The logarithm of a product kernel, as an attention score.

    .. math:: a(q, k) = \sum_d \log \kappa\!\left(\frac{q_d - k_d}{h_d}\right)

    up to a constant for the Gaussian kernel, whose score is :func:`gaussian_score`. A pair that
    is farther apart than a compact kernel reaches scores :math:`-\infty`, as if masked.

    Parameters
    ----------
    kernel
        ``"gaussian"``, ``"boxcar"``, ``"triangular"`` or ``"epanechnikov"``.
    bandwidth
        :math:`h > 0` in the units of the features: a number, or one for each feature.
    learnable
        Whether the bandwidth is a parameter. Its logarithm is what an optimizer moves, so that
        it stays positive. (The boxcar's gradient is 0 almost everywhere: nothing to follow.)

    Raises
    ------
    TypeError, ValueError
        If the bandwidth is not positive and finite, or there is no kernel of this name.

    References
    ----------
    Hastie, Tibshirani and Friedman, *The Elements of Statistical Learning* (2009), section 6.1.
    """

    log_bandwidth: nn.Parameter  # if learnable
    _bandwidth: float | list[float]  # if not

    def __init__(
        self, kernel: str = "gaussian", bandwidth: Bandwidth = 1.0, learnable: bool = False
    ) -> None:
        super().__init__()
        self.kernel = _known_kernel(kernel)
        self.learnable = learnable
        self.bandwidth = bandwidth

    @property
    def bandwidth(self) -> Float[Tensor, "..."]:
        """The bandwidth, a tensor of shape ``()`` or ``(features,)``."""
        if self.learnable:
            return self.log_bandwidth.exp()
        return torch.tensor(self._bandwidth, dtype=torch.float64)

    @bandwidth.setter
    def bandwidth(self, bandwidth: Bandwidth) -> None:
        value = _positive("bandwidth", bandwidth).detach().to(torch.float64)
        if self.learnable:
            log = value.log().to(torch.get_default_dtype())
            if "log_bandwidth" in self._parameters and log.shape == self.log_bandwidth.shape:
                self.log_bandwidth.data.copy_(log)  # the parameter an optimizer already holds
            else:
                self.log_bandwidth = nn.Parameter(log)
        else:
            self._bandwidth = value.tolist()

    def get_extra_state(self) -> float | list[float] | None:
        """A bandwidth that is no parameter, for ``state_dict``."""
        return None if self.learnable else self._bandwidth

    def set_extra_state(self, state: float | list[float] | None) -> None:
        """The bandwidth that ``load_state_dict`` found."""
        if state is not None and not self.learnable:
            self.bandwidth = state

    def extra_repr(self) -> str:
        numbers = self.bandwidth.detach().tolist()
        return f"kernel={self.kernel!r}, bandwidth={numbers}, learnable={self.learnable}"

    def project(
        self,
        queries: Float[Tensor, "*batch queries features"],
        keys: Float[Tensor, "*batch keys features"],
    ) -> tuple[Float[Tensor, "*batch queries features"], Float[Tensor, "*batch keys features"]]:
        """Divide by the bandwidth."""
        check_same_width(queries, keys, "a distance needs the same features in both")
        h = _positive("bandwidth", self.bandwidth, queries.shape[-1])
        return _divide(queries, h), _divide(keys, h)

    def compare(
        self,
        q: Float[Tensor, "*batch queries features"],
        k: Float[Tensor, "*batch keys features"],
    ) -> Float[Tensor, "*batch queries keys"]:
        """The kernel's logarithm at every difference, summed over the features."""
        if self.kernel == "gaussian":
            return _gaussian_compare(q, k)
        return _log_kernel(q.unsqueeze(-2) - k.unsqueeze(-3), self.kernel).sum(dim=-1)

    def as_dot_product(
        self,
        q: Float[Tensor, "*batch queries features"],
        k: Float[Tensor, "*batch keys features"],
    ) -> tuple[Tensor, Tensor, float] | None:
        r"""The Gaussian kernel, with two more features, wherever enough digits are left.

        .. math:: -\tfrac12 \lVert q - k \rVert^2 =
            [\,q,\ 1,\ -\tfrac12 \lVert q \rVert^2\,]^\top
            [\,k,\ -\tfrac12 \lVert k \rVert^2,\ 1\,]

        The squares are larger than the difference, and their rounding errors grow with them:
        so the origin moves to the middle of the keys, and float64 serves where float32 would
        err by more than about 1e-5. Where that is not enough either, the answer is None.
        """
        if self.kernel != "gaussian" or 0 in (q.numel(), k.numel()) or not has_values(q):
            return None
        return _as_dot_product(q, k, q.dtype)


class GaussianScore(KernelScore):
    r"""Minus half the squared distance, in bandwidths; see :func:`gaussian_score`.

    .. math:: a(q, k) = -\frac12 \left\lVert \frac{q - k}{h} \right\rVert^2

    Parameters
    ----------
    bandwidth
        :math:`h > 0` in the units of the features: a number, or one for each feature.
    learnable
        Whether the bandwidth is a parameter (its logarithm, so that it stays positive).

    Raises
    ------
    TypeError, ValueError
        If the bandwidth is not positive and finite.

    Examples
    --------
    >>> score = GaussianScore(bandwidth=2.0)
    >>> score(torch.tensor([[0.0]]), torch.tensor([[0.0], [2.0], [4.0]]))
    tensor([[-0.0000, -0.5000, -2.0000]])

    References
    ----------
    Nadaraya, "On Estimating Regression" (1964); Watson, "Smooth Regression Analysis" (1964).
    """

    def __init__(self, bandwidth: Bandwidth = 1.0, learnable: bool = False) -> None:
        super().__init__("gaussian", bandwidth, learnable)


class NadarayaWatson(nn.Module):
    r"""Kernel regression: attention in which the measurements are the keys and values.

    .. math:: f(x) = \sum_i \alpha_i(x)\, y_i, \qquad
              \alpha_i(x) = \frac{\prod_d \kappa\bigl((x_d - x_{id}) / h_d\bigr)}
                                 {\sum_j \prod_d \kappa\bigl((x_d - x_{jd}) / h_d\bigr)}

    The weights are a softmax of log-kernels, in float64: far from the data the Gaussian kernel
    still finds the nearest measurement, where dividing kernels by their sum gives 0/0. Where a
    compact kernel reaches no measurement, the weights and the prediction are 0.

    Parameters
    ----------
    bandwidth
        :math:`h > 0` in the units of ``x``: a number, or one for each feature of ``x``.
    kernel
        ``"gaussian"``, ``"boxcar"``, ``"triangular"`` or ``"epanechnikov"``.
    learnable
        Whether the bandwidth is a parameter (its logarithm, so that it stays positive).

    Raises
    ------
    TypeError, ValueError
        If the bandwidth is not positive and finite, or there is no kernel of this name.

    Examples
    --------
    >>> x, y = torch.tensor([0.0, 1.0, 2.0]), torch.tensor([0.0, 1.0, 4.0])
    >>> model = NadarayaWatson(bandwidth=0.5).fit(x, y)
    >>> model.predict(torch.tensor([1.0, 100.0]))
    tensor([1.2130, 4.0000])

    References
    ----------
    Nadaraya, "On Estimating Regression" (1964); Watson, "Smooth Regression Analysis" (1964).
    """

    x: Tensor | None
    y: Tensor | None

    def __init__(
        self, bandwidth: Bandwidth = 1.0, kernel: str = "gaussian", learnable: bool = False
    ) -> None:
        super().__init__()
        self.attention = Attention(KernelScore(kernel, bandwidth, learnable))
        self.register_buffer("x", None)
        self.register_buffer("y", None)

    @property
    def bandwidth(self) -> Float[Tensor, "..."]:
        """The bandwidth, a tensor of shape ``()`` or ``(features,)``."""
        return self._score.bandwidth

    @property
    def kernel(self) -> str:
        """The kernel's name."""
        return self._score.kernel

    @property
    def _dtype(self) -> torch.dtype:
        """In which large sums are made."""
        return torch.promote_types(self._fitted()[0].dtype, torch.float32)

    @property
    def _score(self) -> KernelScore:
        score = self.attention.score
        assert isinstance(score, KernelScore)
        return score

    def fit(
        self, x: Float[Tensor, "n *features"], y: Float[Tensor, "n *outputs"]
    ) -> "NadarayaWatson":
        """Keep the measurements; there is nothing else to do.

        Parameters
        ----------
        x
            Where was measured, shape ``(n,)`` or ``(n, features)``.
        y
            What was measured, shape ``(n,)`` or ``(n, outputs)``, the same dtype. Both are copied.

        Returns
        -------
        NadarayaWatson
            The model itself.

        Raises
        ------
        TypeError
            If an argument is not a floating-point tensor, or the dtypes differ.
        ValueError
            If shapes do not fit, nothing was measured, or a number is not finite.
        """
        for name, tensor in (("x", x), ("y", y)):
            _check_measurements(name, tensor)
            if len(tensor) == 0:
                raise ValueError(f"{name} must hold at least one measurement; got none")
        if y.dtype != x.dtype:
            raise TypeError(f"y must have the dtype of x, {x.dtype}; got {y.dtype}")
        if y.device != x.device:
            raise ValueError(f"y must be on the device of x, {x.device}; got {y.device}")
        if len(y) != len(x):
            raise ValueError(f"y must have as many measurements as x, {len(x)}; got {len(y)}")
        _positive("bandwidth", self.bandwidth, _columns(x).shape[-1])
        self.x, self.y = x.detach().clone(), y.detach().clone()
        return self

    def predict(
        self, x: Float[Tensor, "m *features"], *, progress: bool = False
    ) -> Float[Tensor, "m *outputs"]:
        """Predictions, shape ``(m,)`` or ``(m, outputs)`` as ``y`` was.

        Many points are done some at a time, in memory that grows with m + n. In one dimension
        points out of reach are not visited, and Gaussian kernels are summed by their moments
        where the points lie dense; else PyTorch's fused kernel sums them. For float32
        measurements the error may then be up to 1e-5 of the range of ``y``.

        Parameters
        ----------
        x
            Where to predict: dtype and kind of shape of the ``x`` that was fitted.
        progress
            Whether to show a progress bar, if there is more than a moment's work.

        Raises
        ------
        RuntimeError
            If :meth:`fit` was not called.
        TypeError, ValueError
            If dtype or shape differ from what was fitted, or a number is not finite.
        """
        output, _ = self._smooth(*self._queries_keys_values(x), progress=progress)
        return self._shaped(output)

    def weights(self, x: Float[Tensor, "m *features"]) -> Float[Tensor, "m n"]:
        """Attention weights: how much each measurement counts; raises as :meth:`predict`."""
        queries, keys, values = self._queries_keys_values(x)
        weights = self.attention(queries, keys, values).weights
        return weights.to(x.dtype)

    def loo_residuals(self, *, progress: bool = False) -> Float[Tensor, "n *outputs"]:
        r"""Each measurement minus its prediction from all the others.

        .. math:: r_i = y_i - \sum_{j \ne i} \alpha_{ij}\, y_j

        A point may not attend to itself: its own key is left out.

        Parameters
        ----------
        progress
            Whether to show a progress bar, if there is more than a moment's work.

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
        """
        x, _ = self._fitted()
        if len(x) < 2:
            raise ValueError("x must hold at least 2 measurements to leave one out; got 1")
        queries, keys, values = self._queries_keys_values(x)
        output, _ = self._smooth(queries, keys, values, leave_out=True, progress=progress)
        return self._shaped(values - output)

    def select_bandwidth(
        self,
        candidates: Iterable[Bandwidth] | Tensor | None = None,
        *,
        progress: bool = False,
    ) -> "NadarayaWatson":
        r"""Choose the bandwidth with the least mean squared leave-one-out residual.

        .. math:: \hat h = \arg\min_h \frac1n \sum_i r_i(h)^2

        Parameters
        ----------
        candidates
            Bandwidths to choose from, each a number or one number for each feature. By default
            a geometric grid, from below the distance of neighbours to where all weights are
            nearly equal, refined around its minimum; a bandwidth for each feature is refined one
            feature at a time. The choice keeps the form of the current bandwidth.
        progress
            Whether to show a progress bar: rounds of bandwidths that were tried.

        Returns
        -------
        NadarayaWatson
            The model itself.

        Raises
        ------
        RuntimeError
            If :meth:`fit` was not called.
        TypeError, ValueError
            If a candidate is not positive and finite, or the question has no answer: fewer than
            three different measurements, all ``x`` or all ``y`` equal, or a compact kernel that
            leaves a point without neighbours at every candidate.

        Notes
        -----
        Exact leave-one-out takes a copy of a measurement for an independent witness. Data in
        which every measurement has a copy are therefore thinned out first, so that k copies of
        a data set give the bandwidth of that set. Bandwidths that
        leave a point without any neighbour make no prediction there and are not chosen.

        References
        ----------
        Hastie, Tibshirani and Friedman, *The Elements of Statistical Learning* (2009),
        section 7.10.
        """
        x, y = self._fitted()
        tick = _progress_bar("round").update if progress else lambda share: None
        points, targets = without_copies(_columns(x).double(), _columns(y).double())
        if len(points) < 3:
            raise ValueError(
                f"x must hold at least 3 different measurements to select a bandwidth; "
                f"got {len(points)}"
            )
        for name, data in (("x", points), ("y", targets)):
            if bool((data == data[0]).all()):
                raise ValueError(
                    f"{name} must vary to select a bandwidth; got only {data[0].tolist()}, "
                    "for which every bandwidth is as good as any other"
                )

        def losses(bandwidths: Sequence[Tensor]) -> list[float]:
            found = [math.nan] * len(bandwidths)
            if self.kernel == "gaussian" and all(h.ndim == 0 for h in bandwidths):
                found = gaussian_losses(points, targets, bandwidths, tick)
            for i in (i for i, loss in enumerate(found) if math.isnan(loss)):
                trial = NadarayaWatson(bandwidths[i], self.kernel).fit(points, targets)
                found[i] = trial._loo_loss()
                tick(1 / len(bandwidths))
            return found

        if candidates is not None:
            if not isinstance(candidates, Iterable) or getattr(candidates, "ndim", 1) == 0:
                raise TypeError(f"candidates must be several bandwidths; got {candidates!r}")
            grid = [
                _positive(f"candidates[{i}]", h, points.shape[-1]).detach().double()
                for i, h in enumerate(candidates)
            ]
            if not grid:
                raise ValueError("candidates must hold at least one bandwidth; got none")
            best = least(losses, grid)
        elif self.bandwidth.ndim == 0:
            best = minimise(losses, *sensible_range(points))
        else:
            best = minimise_by_feature(losses, points)
        if math.isinf(best.loss):
            raise ValueError(
                f"candidates must reach from each point to another; with the {self.kernel} "
                f"kernel even {best.bandwidth.tolist()} leaves a point without neighbours"
            )
        self._score.bandwidth = best.bandwidth
        return self

    @torch.no_grad()
    def _loo_loss(self) -> float:
        """Mean squared leave-one-out residual; infinite where a point has no neighbours."""
        x, _ = self._fitted()
        queries, keys, values = self._queries_keys_values(x)
        output, reached = self._smooth(queries, keys, values, leave_out=True)
        return float((values - output).square().mean()) if bool(reached.all()) else math.inf

    def _smooth(
        self,
        queries: Float[Tensor, "m features"],
        keys: Float[Tensor, "n features"],
        values: Float[Tensor, "n outputs"],
        *,
        leave_out: bool = False,
        progress: bool = False,
    ) -> tuple[Float[Tensor, "m outputs"], Bool[Tensor, " m"]]:
        """Averages of the values, and which queries reach any key.

        To leave out is the key with the query's own number.
        """
        if len(queries) * len(keys) <= _PAIRS_AT_ONCE:
            others = None
            if leave_out:
                others = ~torch.eye(len(keys), dtype=torch.bool, device=keys.device)
            output, weights = self.attention(queries, keys, values, mask=others)
            return output, weights.detach().sum(dim=-1) > 0
        order = torch.arange(len(queries), device=queries.device)
        if keys.shape[-1] == 1:  # sorted, and then only what is in reach
            by_key = keys.squeeze(-1).argsort()
            order = by_key if leave_out else queries.squeeze(-1).argsort()
            queries, keys, values = queries[order], keys[by_key], values[by_key]
        middle = values.mean(dim=0)  # what is averaged is small, and so are its rounding errors
        values = values - middle
        smooth = self._smooth_window
        if wants_gradients(queries, *self.parameters()):  # keep no window's copies for them
            smooth = partial(checkpoint, smooth, use_reentrant=False, preserve_rng_state=False)
        parts = [
            smooth(window, queries, keys, values, leave_out)
            for window in self._windows(queries, keys, leave_out, progress)
        ]
        output, reached = (torch.cat(part) for part in zip(*parts, strict=True))
        output = (output + middle).masked_fill(~reached.unsqueeze(-1), 0.0)
        back = order.argsort()
        return output[back], reached[back]

    def _smooth_window(
        self, window: Window, queries: Tensor, keys: Tensor, values: Tensor, leave_out: bool
    ) -> tuple[Float[Tensor, "rows outputs"], Bool[Tensor, " rows"]]:
        rows, columns = window
        q, k = self._score.project(queries[rows], keys[columns])
        v = values[columns]
        own = rows.start - columns.start if leave_out else None
        if self.kernel != "gaussian" and k.shape[-1] == 1 and not wants_gradients(q, k):
            return _average(q, k, v, _COMPACT_KERNELS[self.kernel], own)
        if own is None:
            output, logsumexp = self._stream(q, k, v, self._dtype)
        else:
            output, logsumexp = self._stream_others(q, k, v, own)
        return output, logsumexp > -math.inf

    def _stream_others(self, q: Tensor, k: Tensor, v: Tensor, own: int) -> StreamOutput:
        """For query number i all keys but number ``own + i``, its own."""
        if self.kernel == "gaussian" and not wants_gradients(q, k):
            # Take the own key, whose score is 0, out again: if enough is left without it.
            mine = v[own : own + len(q)]
            for dtype, enough in ((torch.float32, 0.2), (torch.float64, 1e-3)):
                if dtype == torch.float64 or self._dtype == torch.float32:
                    output, logsumexp = self._stream(q, k, v, dtype)
                    others = 1 - torch.exp(-logsumexp).unsqueeze(-1)
                    if bool((others > enough).all()):
                        return StreamOutput(mine + (output - mine) / others, logsumexp)
        parts = []
        for first in range(0, len(q), _ROWS_OF_A_WINDOW):
            some = q[first : first + _ROWS_OF_A_WINDOW]
            start, stop = own + first, own + first + len(some)
            but_one = ~torch.eye(len(some), dtype=torch.bool, device=q.device)
            pieces = (
                (slice(0, start), None),
                (slice(start, stop), but_one),
                (slice(stop, None), None),
            )
            parts.append(
                merge_attention(
                    self._stream(some, k[piece], v[piece], torch.float64, mask)
                    for piece, mask in pieces
                    if len(k[piece]) > 0
                )
            )
        outputs, logs = zip(*parts, strict=True)
        return StreamOutput(torch.cat(outputs), torch.cat(logs))

    def _stream(
        self, q: Tensor, k: Tensor, v: Tensor, dtype: torch.dtype, mask: Tensor | None = None
    ) -> StreamOutput:
        """Attention of projected points, by moments or by the fused kernel if it can be."""
        if self.kernel == "gaussian" and len(k) > 0:
            if k.shape[-1] == 1 and mask is None and not wants_gradients(q, k):
                summed = _by_moments(q.squeeze(-1), k.squeeze(-1), v)
                if summed is not None:
                    return summed
            disguised = _as_dot_product(q, k, dtype)
            if disguised is not None:
                output, logsumexp = stream_dot_products(
                    *disguised, v.to(disguised[0].dtype), mask=mask
                )
                return StreamOutput(output.double(), logsumexp)
        return stream_attention(KernelScore(self.kernel), q, k, v, mask=mask)

    @torch.no_grad()
    def _windows(
        self, queries: Tensor, keys: Tensor, leave_out: bool, progress: bool
    ) -> Iterable[Window]:
        """Some queries at a time, with all keys that may count for any of them."""
        windows: Iterable[Window] = [Window(slice(0, len(queries)), slice(0, len(keys)))]
        if keys.shape[-1] == 1:
            h = self.bandwidth.double().squeeze()
            q, k = queries.squeeze(-1) / h, keys.squeeze(-1) / h
            if self.kernel == "gaussian":
                beyond = reach_of_a_gaussian(len(k), 37.0 if self._dtype == torch.float64 else 17.0)
                nearest = distance_to_nearest(q, k, leave_out=leave_out)
                reach = (nearest.square() + beyond**2).sqrt()
            else:
                reach = torch.full_like(q, 1.0 + 1e-9)  # who is just inside is settled later
            windows = cover(q, k, reach, _SPAN_OF_A_WINDOW, _ROWS_OF_A_WINDOW)
        return _progress_bar("window", list(windows)) if progress else windows

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name in ("x", "y"):  # room for measurements of any shape, also before `fit`
            if prefix + name in state_dict:
                setattr(self, name, torch.empty_like(state_dict[prefix + name]))
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _fitted(self) -> tuple[Tensor, Tensor]:
        if self.x is None or self.y is None:
            raise RuntimeError("call fit(x, y) first: there are no measurements yet")
        return self.x, self.y

    def _queries_keys_values(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values as float64 matrices, after a look at the queries."""
        keys, values = self._fitted()
        _check_measurements("x", x)
        if x.shape[1:] != keys.shape[1:]:
            expected = "(m,)" if keys.ndim == 1 else f"(m, {keys.shape[1]})"
            raise ValueError(f"x must have shape {expected}, as fitted; got {tuple(x.shape)}")
        if x.dtype != keys.dtype:
            raise TypeError(f"x must have the dtype that was fitted, {keys.dtype}; got {x.dtype}")
        if x.device != keys.device:
            raise ValueError(f"x must be on {keys.device}, as fitted; got {x.device}")
        return _columns(x).double(), _columns(keys).double(), _columns(values).double()

    def _shaped(self, outputs: Float[Tensor, "m outputs"]) -> Float[Tensor, "m *outputs"]:
        """Outputs with the dtype of the fitted ``y``, and as many axes."""
        _, y = self._fitted()
        return outputs.reshape(len(outputs), *y.shape[1:]).to(y.dtype)


def _known_kernel(kernel: str) -> str:
    if not isinstance(kernel, str) or kernel not in _KERNELS:
        raise ValueError(f"kernel must be one of {', '.join(_KERNELS)}; got {kernel!r}")
    return kernel


def _positive(name: str, bandwidth: Bandwidth, num_features: int | None = None) -> Tensor:
    """A checked bandwidth: a positive finite number, or one for each feature."""
    try:
        h = torch.as_tensor(bandwidth)
        if h.dtype == torch.bool or h.is_complex():
            raise TypeError
        if not (isinstance(bandwidth, Tensor) and h.is_floating_point()):
            h = torch.as_tensor(bandwidth, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise TypeError(
            f"{name} must be a number, or one for each feature; got {bandwidth!r}"
        ) from None
    if h.ndim > 1 or h.numel() == 0 or (h.ndim == 1 and num_features not in (None, len(h))):
        features = "features" if num_features is None else num_features
        raise ValueError(
            f"{name} must be a number or have shape ({features},), one for each feature; "
            f"got shape {tuple(h.shape)}"
        )
    if first_index(~((h > 0) & h.isfinite())) is not None:
        raise ValueError(f"{name} must be positive and finite; got {h.tolist()}")
    return h


def _divide(tokens: Tensor, h: Tensor) -> Tensor:
    wide = at_least_float32(tokens)
    return wide / h.to(wide)


def _gaussian_compare(q: Tensor, k: Tensor) -> Tensor:
    # Differences first: expanding the square loses all digits at small bandwidths.
    return -0.5 * (q.unsqueeze(-2) - k.unsqueeze(-3)).square().sum(dim=-1)


def _as_dot_product(
    q: Tensor, k: Tensor, preferred: torch.dtype
) -> tuple[Tensor, Tensor, float] | None:
    """:meth:`KernelScore.as_dot_product` in a preferred dtype or else in float64.

    The rounding errors change a score by about eps * the largest square, and an average by half
    of that times the range of the values.
    """
    for dtype in dict.fromkeys((preferred, torch.float64)):
        wide = torch.promote_types(q.dtype, dtype)
        origin = k.detach().to(wide).mean(dim=-2, keepdim=True)
        near_q, near_k = ((x.to(wide) - origin).to(dtype) for x in (q, k))
        q_square, k_square = (x.square().sum(dim=-1, keepdim=True) for x in (near_q, near_k))
        largest = torch.maximum(q_square.detach().amax(), k_square.detach().amax())
        allowed = 1e-5 if dtype == torch.float32 else 1e-9
        if bool(largest * torch.finfo(dtype).eps <= allowed):
            ones_q, ones_k = torch.ones_like(q_square), torch.ones_like(k_square)
            long_q = torch.cat([near_q, ones_q, -0.5 * q_square], dim=-1)
            return long_q, torch.cat([near_k, -0.5 * k_square, ones_k], dim=-1), 1.0
    return None


def _check_measurements(name: str, tensor: Tensor) -> None:
    check_floating(name, tensor)
    if tensor.ndim not in (1, 2) or tensor.shape[1:] == (0,):
        raise ValueError(
            f"{name} must have shape (n,) or (n, columns) with at least one column; "
            f"got {tuple(tensor.shape)}"
        )
    index = first_index(~tensor.isfinite())
    if index is not None:
        raise ValueError(f"{name} must be finite; got {tensor[index].item()} at index {index}")


def _columns(tensor: Float[Tensor, "n *columns"]) -> Float[Tensor, "n columns"]:
    return tensor.unsqueeze(-1) if tensor.ndim == 1 else tensor


def _by_moments(
    q: Float[Tensor, " m"], k: Float[Tensor, " n"], values: Float[Tensor, "n outputs"]
) -> StreamOutput | None:
    r"""Gaussian attention of queries that lie together, without a number for each pair.

    .. math:: e^{-(q - k)^2 / 2} = e^{-q^2 / 2} \sum_p
              \frac{q^p}{\sqrt{p!}} \, \frac{k^p}{\sqrt{p!}} \, e^{-k^2 / 2}

    The sums over the keys are the same for all queries. With :math:`|q k| \le 4`, measured from
    the middle of the queries, some 40 terms leave a relative error below 1e-11 in every kernel,
    and so in every average; otherwise the answer is None.

    References
    ----------
    Greengard and Strain, "The Fast Gauss Transform" (1991).
    """
    middle = (q.amin() + q.amax()) / 2
    q, k = q - middle, k - middle
    largest = float(q.abs().amax() * k.abs().amax())
    if not largest <= 4.0:
        return None
    values = torch.cat([values, torch.ones_like(k).unsqueeze(-1)], dim=-1).T.contiguous()
    of_q, of_k = torch.ones_like(q), torch.exp(-0.5 * k.square())
    sums = q.new_zeros(len(values), len(q))
    term, p = 1.0, 0
    while term > 1e-17:
        sums += torch.outer(values @ of_k, of_q)
        p += 1
        term *= largest / p
        of_q, of_k = of_q * (q / math.sqrt(p)), of_k * (k / math.sqrt(p))
    totals = sums[-1]
    if not bool((totals > 1e-250).all()):  # all keys are far away
        return None
    return StreamOutput((sums[:-1] / totals).T, totals.log() - 0.5 * q.square())


def _average(
    q: Float[Tensor, "m 1"],
    k: Float[Tensor, "n 1"],
    values: Float[Tensor, "n outputs"],
    kernel: Callable[[Tensor], Tensor],
    own: int | None,
) -> tuple[Float[Tensor, "m outputs"], Bool[Tensor, " m"]]:
    """Kernels over their sum, which is safe where they end before they underflow.

    Without its own key, number ``own + i``, for query number i; and who reaches any key.
    """
    values = torch.cat([values, torch.ones_like(k)], dim=-1).T.contiguous()
    sums = values.new_zeros(len(values), len(q))
    rows = max(1, _PAIRS_OF_A_TILE // max(1, len(k)))
    for start in range(0, len(q), rows):
        some = slice(start, start + rows)
        kernels = kernel(q[some] - k.T).clamp_(min=0.0)
        if own is not None:
            kernels.diagonal(own + start).fill_(0.0)
        sums[:, some] = values @ kernels.T  # four times as fast as kernels @ values.T
    total = sums[-1]
    reached = total > 0
    return (sums[:-1] / total.masked_fill(~reached, 1.0)).T, reached


def _progress_bar(unit: str, items: Sequence[Any] | None = None) -> Any:
    from tqdm.auto import tqdm

    return tqdm(items, unit=unit)
