"""Kernel regression: attention whose score is the logarithm of a kernel of the distance."""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from d2lattn.attention import Attention
from d2lattn.bandwidth import (
    gaussian_losses,
    least,
    minimise,
    minimise_by_feature,
    reach_of_a_gaussian,
    sensible_range,
    without_copies,
)
from d2lattn.checks import check_floating, first_index, wants_gradients
from d2lattn.kernels import (
    COMPACT_KERNELS,
    Bandwidth,
    KernelScore,
    check_bandwidth,
)
from d2lattn.neighbours import Window, cover, distance_to_nearest
from d2lattn.streaming import (
    StreamOutput,
    merge_attention,
    stream_attention,
)

__all__ = ["NadarayaWatson"]


_PAIRS_AT_ONCE = 2**16  # more are smoothed window by window
_PAIRS_OF_A_TILE = 2**18
_ROWS_OF_A_WINDOW = 512
_SPAN_OF_A_WINDOW = 0.7  # bandwidths; narrow enough for moments


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
        check_bandwidth("bandwidth", self.bandwidth, _columns(x).shape[-1])
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
                check_bandwidth(f"candidates[{i}]", h, points.shape[-1]).detach().double()
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
        h = self.bandwidth.to(queries)
        q, k = queries[rows] / h, keys[columns] / h
        v = values[columns]
        own = rows.start - columns.start if leave_out else None
        if self.kernel != "gaussian" and k.shape[-1] == 1 and not wants_gradients(q, k):
            return _average(q, k, v, COMPACT_KERNELS[self.kernel], own)
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
            q, k, v = q.to(dtype), k.to(dtype), v.to(dtype)
        output, logsumexp = stream_attention(KernelScore(self.kernel), q, k, v, mask=mask)
        return StreamOutput(output.double(), logsumexp)

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
