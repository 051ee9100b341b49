"""Every wrong call raises at once, and says which argument, what it was and what was expected."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from d2lattn import (
    AdditiveAttention,
    AdditiveScore,
    Attention,
    Biased,
    BilinearScore,
    DotProductAttention,
    DotProductScore,
    GaussianScore,
    KernelScore,
    LocalLinear,
    Mask,
    NadarayaWatson,
    SoftCapped,
    additive_score,
    bilinear_score,
    causal_mask,
    dot_product_score,
    gaussian_score,
    length_mask,
    log_kernel,
    masked_softmax,
    merge_attention,
    stream_attention,
)
from d2lattn.notebook import glue, show_source, use_house_style
from d2lattn.plotting import (
    show_choices,
    show_curves,
    show_heatmaps,
    show_regression,
    show_signed_weights,
)

Call = Callable[[], Any]
Table = dict[str, tuple[Call, type[Exception], str]]

# 2 batch elements, 3 queries, 5 keys, 4 features; values of 2 features.
Q, K, V = torch.zeros(2, 3, 4), torch.zeros(2, 5, 4), torch.zeros(2, 5, 2)
SCORES = torch.zeros(2, 3, 5)
LENS = torch.tensor([2, 5])
X, Y = torch.arange(6.0), torch.arange(6.0) ** 2
NAN, INF = math.nan, math.inf


def lens(*numbers: Any, **options: Any) -> torch.Tensor:
    return torch.tensor(numbers, **options)


def attend(*inputs: Any, **options: Any) -> Any:
    return DotProductAttention()(*inputs, **options)


def fitted(**options: Any) -> NadarayaWatson:
    return NadarayaWatson(**options).fit(X, Y)


def signed(weights: Any, **options: Any) -> Any:
    given: dict[str, Any] = {"titles": ["a"], "yticks": ["0"], **options}
    return show_signed_weights(weights, xlabel="", ylabel="", limit=1.0, **given)


LENGTHS_AND_MASKS: Table = {
    "a length beyond the keys": (
        lambda: masked_softmax(SCORES, lens(5, 6)),
        ValueError, r"valid_lens must lie in \[0, 5\], the number of keys; got 6 at index \(1,\)",
    ),
    "a negative length": (
        lambda: masked_softmax(SCORES, lens(-1, 5)),
        ValueError, r"valid_lens must lie in \[0, 5\].*got -1 at index \(0,\)",
    ),
    "a length per query beyond the keys": (
        lambda: attend(Q, K, V, lens([1, 2, 3], [4, 9, 0])),
        ValueError, r"valid_lens must lie in \[0, 5\].*got 9 at index \(1, 1\)",
    ),
    "one length beyond the keys": (
        lambda: length_mask(torch.tensor(3), 2),
        ValueError, r"valid_lens must lie in \[0, 2\].*got 3 at index \(\)",
    ),
    "lengths of floats": (
        lambda: masked_softmax(SCORES, lens(2.0, 5.0)),
        TypeError, r"valid_lens must hold integers; got torch\.float32",
    ),
    "lengths of booleans": (
        lambda: masked_softmax(SCORES, lens(True, False)),
        TypeError, r"valid_lens must hold integers; got torch\.bool",
    ),
    "lengths of complex numbers": (
        lambda: length_mask(lens(1j), 3),
        TypeError, r"valid_lens must hold integers; got torch\.complex64",
    ),
    "a list of lengths": (
        lambda: attend(Q, K, V, [2, 5]),
        TypeError, r"valid_lens must be an integer tensor; got list",
    ),
    "a number as length": (
        lambda: length_mask(2, 5),  # type: ignore[arg-type]
        TypeError, r"valid_lens must be an integer tensor; got int",
    ),
    "three lengths for two batch elements": (
        lambda: masked_softmax(SCORES, lens(1, 2, 3)),
        ValueError, r"valid_lens must have shape \(2,\).* or \(2, 3\).*; got \(3,\)",
    ),
    "one length for a batch": (
        lambda: attend(Q, K, V, torch.tensor(2)),
        ValueError, r"valid_lens must have shape \(2,\).* or \(2, 3\).*; got \(\)",
    ),
    "lengths per query of too many queries": (
        lambda: attend(Q, K, V, torch.ones(2, 4, dtype=torch.long), need_weights=False),
        ValueError, r"valid_lens must have shape \(2,\).* or \(2, 3\).*; got \(2, 4\)",
    ),
    "lengths with an axis too many": (
        lambda: attend(Q, K, V, torch.ones(2, 1, 1, dtype=torch.long)),
        ValueError, r"valid_lens must have shape \(2,\).* or \(2, 3\).*; got \(2, 1, 1\)",
    ),
    "lengths on another device": (
        lambda: masked_softmax(SCORES, LENS.to("meta")),
        ValueError, r"valid_lens must be on cpu.*; got meta",
    ),
    "a mask of floats": (
        lambda: masked_softmax(SCORES, mask=torch.zeros(3, 5)),
        TypeError, r"mask must be a boolean tensor.*got torch\.float32.*another convention",
    ),
    "a mask of integers": (
        lambda: attend(Q, K, V, mask=torch.ones(3, 5, dtype=torch.long)),
        TypeError, r"mask must be a boolean tensor.*got torch\.int64",
    ),
    "a list as mask": (
        lambda: masked_softmax(SCORES, mask=[True] * 5),  # type: ignore[arg-type]
        TypeError, r"mask must be a boolean tensor.*got list",
    ),
    "a mask of too many keys": (
        lambda: masked_softmax(SCORES, mask=torch.ones(3, 6, dtype=torch.bool)),
        ValueError, r"mask must broadcast to .* = \(2, 3, 5\); got \(3, 6\)",
    ),
    "a mask of batch elements, not of keys": (
        lambda: attend(Q, K, V, mask=torch.ones(2, dtype=torch.bool)),
        ValueError, r"mask must broadcast to .* = \(2, 3, 5\); got \(2,\)",
    ),
    "a mask with an axis too many": (
        lambda: attend(Q, K, V, mask=torch.ones(1, 2, 3, 5, dtype=torch.bool)),
        ValueError, r"mask must broadcast to .* = \(2, 3, 5\); got \(1, 2, 3, 5\)",
    ),
    "a mask on another device": (
        lambda: attend(Q, K, V, mask=causal_mask(3, 5, device="meta")),
        ValueError, r"mask must be on cpu.*; got meta",
    ),
    "scores of integers": (
        lambda: masked_softmax(SCORES.long()),
        TypeError, r"scores must be floating point; got torch\.int64",
    ),
    "a list of scores": (
        lambda: masked_softmax([[1.0]]),  # type: ignore[arg-type]
        TypeError, r"scores must be a tensor; got list",
    ),
    "a score without axes": (
        lambda: masked_softmax(torch.tensor(5.0)),
        ValueError, r"scores must have shape \(\*batch, queries, keys\) or \(keys,\); got \(\)",
    ),
    "a window that is negative": (
        lambda: Mask.window(-1),
        ValueError, r"before must be at least 0; got -1",
    ),
    "a window ahead that is no integer": (
        lambda: Mask.window(1, 0.5),  # type: ignore[arg-type]
        TypeError, r"after must be an integer; got 0\.5",
    ),
    "a predicate of scores": (
        lambda: Mask.where(lambda score, i, j: score > 0),  # type: ignore[arg-type,misc]
        TypeError, r"predicate must be a function of two tensors.*takes \(score, i, j\)",
    ),
    "a predicate that is a tensor": (
        lambda: Mask.where(torch.ones(3, 5)),  # type: ignore[arg-type]
        TypeError, r"predicate must be a function of positions \(i, j\); got tensor",
    ),
    "a predicate that returns numbers": (
        lambda: attend(Q, K, V, mask=Mask.where(lambda i, j: i - j)),
        TypeError, r"predicate must return a boolean tensor; got torch\.int64",
    ),
    "a predicate that returns True": (
        lambda: attend(Q, K, V, mask=Mask.where(lambda i, j: True)),  # type: ignore[arg-type,return-value]
        TypeError, r"predicate must return a boolean tensor; got bool",
    ),
    "a predicate of another shape": (
        lambda: attend(Q, K, V, mask=Mask.where(lambda i, j: torch.ones(7, dtype=torch.bool))),
        ValueError, r"what predicate returns must broadcast to .* = \(2, 3, 5\); got \(7,\)",
    ),
    "documents of another length": (
        lambda: attend(Q, K, V, mask=Mask.documents(torch.arange(3), torch.arange(4))),
        ValueError, r"key_ids must hold one number for each of the 5 keys; got 4",
    ),
    "documents that are no integers": (
        lambda: Mask.documents(torch.zeros(3), torch.arange(5)),
        TypeError, r"query_ids must hold integers; got torch\.float32",
    ),
    "documents of another batch": (
        lambda: attend(Q, K, V, mask=Mask.documents(torch.zeros(4, 3).long(), torch.arange(5))),
        ValueError, r"query_ids must broadcast to .*; got \(4, 3\)",
    ),
    "lengths of a mask out of range": (
        lambda: attend(Q, K, V, mask=Mask.lengths(lens(6, 0))),
        ValueError, r"valid_lens must lie in \[0, 5\].*got 6 at index \(0,\)",
    ),
    "a mask and something else": (
        lambda: Mask.causal() & 3,  # type: ignore[operator]
        TypeError, r"unsupported operand",
    ),
    "a mask and a tensor of floats": (
        lambda: Mask.causal() | torch.ones(3, 5),
        TypeError, r"mask must be a boolean tensor or a Mask.*got torch\.float32",
    ),
    "a mask and then another": (
        lambda: Mask.causal() and Mask.window(2),
        TypeError, r"a mask has no truth value: masks are joined by & and \|, inverted by ~",
    ),
    "a mask made of booleans": (
        lambda: Mask(torch.ones(3, 5, dtype=torch.bool)),  # type: ignore[arg-type]
        TypeError, r"a Mask is made by Mask\.causal\(\),.* tensor \(of booleans\); got Tensor",
    ),
    "documents of other batches": (
        lambda: Mask.documents(lens([1, 2], [1, 1]), lens([1, 2], [1, 1], [2, 2])).dense(2, 2),
        ValueError, r"batch axes within Mask\.documents\(\(2, 2\), \(3, 2\)\) must broadcast",
    ),
    "a bias of one argument": (
        lambda: Biased(DotProductScore(), lambda distance: -distance),  # type: ignore[arg-type,misc]
        TypeError, r"bias must be a function of two tensors.*takes \(distance\)",
    ),
    "a bias of imaginary numbers": (
        lambda: Biased(DotProductScore(), lambda i, j: 1j * (i - j))(Q, K),
        TypeError, r"bias must return a tensor of numbers; got torch\.complex64",
    ),
    "a bias elsewhere": (
        lambda: Biased(DotProductScore(), torch.zeros(3, 5, device="meta"))(Q, K),
        ValueError, r"bias must be on cpu, as the rest; got meta",
    ),
    "a capped function that returns nothing": (
        lambda: Attention(SoftCapped(lambda q, k: None, 1.0))(Q, K, V),  # type: ignore[arg-type,return-value]
        TypeError, r"score must return a tensor; got NoneType",
    ),
    "a text that streams": (
        lambda: stream_attention("dot", Q, K, V),  # type: ignore[arg-type]
        TypeError, r"score must be a function of \(queries, keys\).*got 'dot'",
    ),
    "a part alone": (
        lambda: merge_attention(stream_attention(DotProductScore(), Q, K, V)),  # type: ignore[arg-type]
        TypeError, r"parts must be several \(output, logsumexp\), in a list; got StreamOutput",
    ),
    "a part without logsumexp": (
        lambda: merge_attention([(V,)]),  # type: ignore[list-item]
        TypeError, r"parts\[0\] must be a pair \(output, logsumexp\); got tuple of 1",
    ),
    "parts of several dtypes": (
        lambda: merge_attention([(V, V[..., 0]), (V.double(), V[..., 0])]),
        TypeError, r"outputs of one dtype, torch\.float32; got torch\.float64 at index 1",
    ),
    "a bias of another shape": (
        lambda: Biased(DotProductScore(), torch.zeros(3, 4))(Q, K),
        ValueError, r"bias must broadcast to .* = \(2, 3, 5\); got \(3, 4\)",
    ),
    "a bias of integers": (
        lambda: Biased(DotProductScore(), torch.zeros(3, 5).long()),
        TypeError, r"bias must be floating point; got torch\.int64",
    ),
    "a bias that is a number": (
        lambda: Biased(DotProductScore(), 0.5),  # type: ignore[arg-type]
        TypeError, r"bias must be a tensor, or a function or module of positions.*got 0\.5",
    ),
    "a bias that returns booleans": (
        lambda: Biased(DotProductScore(), lambda i, j: i >= j)(Q, K),
        TypeError, r"bias must return a tensor of numbers; got torch\.bool.*Mask\.where",
    ),
    "a bias that returns another shape": (
        lambda: Biased(DotProductScore(), lambda i, j: torch.zeros(2))(Q, K),
        ValueError, r"what bias returns must broadcast to .* = \(2, 3, 5\); got \(2,\)",
    ),
    "a bias on a class": (
        lambda: Biased(DotProductScore, torch.zeros(3, 5)),  # type: ignore[arg-type]
        TypeError, r"score must be a function of \(queries, keys\) or a module",
    ),
    "a cap that is not positive": (
        lambda: SoftCapped(DotProductScore(), 0.0),
        ValueError, r"cap must be positive; got 0\.0",
    ),
    "a cap that is infinite": (
        lambda: SoftCapped(DotProductScore(), float("inf")),
        ValueError, r"cap must be finite; got inf",
    ),
    "a cap that is a text": (
        lambda: SoftCapped(DotProductScore(), "2"),  # type: ignore[arg-type]
        TypeError, r"cap must be a number; got '2'",
    ),
    "a negative number of keys": (
        lambda: length_mask(lens(0), -1),
        ValueError, r"num_keys must be at least 0; got -1",
    ),
    "half a query": (
        lambda: causal_mask(2.5, 3),  # type: ignore[arg-type]
        TypeError, r"num_queries must be an integer; got 2\.5",
    ),
    "a truth as number of keys": (
        lambda: causal_mask(2, True),
        TypeError, r"num_keys must be an integer; got True",
    ),
}  # fmt: skip

TOKENS: Table = {
    "queries of integers": (
        lambda: attend(Q.long(), K, V),
        TypeError, r"queries must be floating point; got torch\.int64",
    ),
    "keys of integers": (
        lambda: dot_product_score(Q, K.int()),
        TypeError, r"keys must be floating point; got torch\.int32",
    ),
    "values of integers": (
        lambda: attend(Q, K, V.long()),
        TypeError, r"values must be floating point; got torch\.int64",
    ),
    "complex queries": (
        lambda: attend(Q * 1j, K, V),
        TypeError, r"queries must be floating point; got torch\.complex64",
    ),
    "a list as queries": (
        lambda: attend([[1.0]], K, V),
        TypeError, r"queries must be a tensor; got list",
    ),
    "no keys at all": (
        lambda: attend(Q, None, V),
        TypeError, r"keys must be a tensor; got NoneType",
    ),
    "queries of one axis": (
        lambda: attend(Q[0, 0], K, V),
        ValueError, r"queries must have shape \(\*batch, queries, features\); got \(4,\)",
    ),
    "values of one axis": (
        lambda: attend(Q[0], K[0], V[0, :, 0]),
        ValueError, r"values must have shape \(\*batch, keys, features\); got \(5,\)",
    ),
    "keys of another dtype": (
        lambda: attend(Q, K.double(), V),
        TypeError, r"keys must have the dtype of the queries, torch\.float32; got torch\.float64",
    ),
    "values of another dtype": (
        lambda: attend(Q.half(), K.half(), V),
        TypeError, r"values must have the dtype of the queries, torch\.float16; got torch\.float32",
    ),
    "keys on another device": (
        lambda: attend(Q, K.to("meta"), V),
        ValueError, r"keys must be on cpu.*; got meta",
    ),
    "values on another device": (
        lambda: attend(Q, K, V.to("meta")),
        ValueError, r"values must be on cpu.*; got meta",
    ),
    "keys of another batch": (
        lambda: attend(Q, K[:1], V),
        ValueError, r"keys must have the batch axes of the queries, \(2,\); got \(1,\)",
    ),
    "values of fewer batch axes": (
        lambda: attend(Q, K, V[0]),
        ValueError, r"values must have the batch axes of the queries, \(2,\); got \(\)",
    ),
    "fewer values than keys": (
        lambda: attend(Q, K, V[:, :4]),
        ValueError, r"values must be as many as the keys, 5; got 4",
    ),
    "queries and keys without features": (
        lambda: attend(Q[..., :0], K[..., :0], V),
        ValueError, r"queries must have at least one feature; got \(2, 3, 0\)",
    ),
    "keys without features": (
        lambda: bilinear_score(Q, K[..., :0], torch.zeros(0, 4)),
        ValueError, r"keys must have at least one feature; got \(2, 5, 0\)",
    ),
}  # fmt: skip

SCORING: Table = {
    "a dot product of different widths": (
        lambda: dot_product_score(Q, K[..., :3]),
        ValueError,
        r"keys must have as many features as the queries, 4; got 3 "
        r"\(BilinearScore or AdditiveScore compare different widths\)",
    ),
    "dot-product attention of different widths": (
        lambda: attend(Q[..., :1], K, V, LENS),
        ValueError, r"keys .* queries, 1; got 4 .*BilinearScore or AdditiveScore",
    ),
    "a distance between different widths": (
        lambda: gaussian_score(Q, K[..., :3]),
        ValueError, r"keys must have as many features as the queries, 4; got 3",
    ),
    "a kernel score of different widths": (
        lambda: GaussianScore()(Q, K[..., :3]),
        ValueError, r"keys must have as many features as the queries, 4; got 3",
    ),
    "queries that the layer was not made for": (
        lambda: AdditiveScore(key_size=4, query_size=3, num_hiddens=8)(Q, K),
        ValueError, r"queries must have the 3 features that the layer was made for; got 4",
    ),
    "keys that the layer was not made for": (
        lambda: AdditiveAttention(3, 4, 8)(Q, K, V, LENS),
        ValueError, r"keys must have the 3 features that the layer was made for; got 4",
    ),
    "queries that the matrix was not made for": (
        lambda: BilinearScore(key_size=4, query_size=3)(Q, K),
        ValueError, r"queries must have the 3 features that the layer was made for; got 4",
    ),
    "keys that the matrix was not made for": (
        lambda: BilinearScore(key_size=3, query_size=4)(Q, K),
        ValueError, r"keys must have the 3 features that the layer was made for; got 4",
    ),
    "double tokens for a float layer": (
        lambda: AdditiveAttention(4, 4, 8)(Q.double(), K.double(), V.double()),
        TypeError, r"queries must have the dtype of the layer, torch\.float32; got torch\.float64",
    ),
    "tokens on another device than the layer": (
        lambda: BilinearScore(4, 4)(Q.to("meta"), K.to("meta")),
        ValueError, r"queries must be on cpu.*; got meta",
    ),
    "no hidden features": (
        lambda: AdditiveScore(4, 4, 0),
        ValueError, r"num_hiddens must be at least 1; got 0",
    ),
    "a negative key size": (
        lambda: BilinearScore(-2, 4),
        ValueError, r"key_size must be at least 1; got -2",
    ),
    "a query size that is no integer": (
        lambda: AdditiveAttention(4, 4.0, 8),  # type: ignore[arg-type]
        TypeError, r"query_size must be an integer; got 4\.0",
    ),
    "a scale that is no number": (
        lambda: BilinearScore(4, 4, scale=None),  # type: ignore[arg-type]
        TypeError, r"scale must be a number; got None",
    ),
    "a truth as size": (
        lambda: BilinearScore(True, 4),
        TypeError, r"key_size must be an integer; got True",
    ),
    "one weight too few": (
        lambda: additive_score(Q, K, torch.zeros(3)),
        ValueError, r"w_v must have shape \(4,\), .*; got \(3,\)",
    ),
    "weights of another dtype": (
        lambda: additive_score(Q, K, torch.zeros(4).double()),
        TypeError, r"w_v must have the dtype of the queries, torch\.float32; got torch\.float64",
    ),
    "weights that are a list": (
        lambda: additive_score(Q, K, [1.0] * 4),  # type: ignore[arg-type]
        TypeError, r"w_v must be a tensor; got list",
    ),
    "projections of different widths": (
        lambda: additive_score(Q, K[..., :3], torch.zeros(4)),
        ValueError, r"keys .* queries, 4; got 3 \(project both to the same number",
    ),
    "a transposed matrix": (
        lambda: bilinear_score(Q[..., :3], K, torch.zeros(3, 4)),
        ValueError, r"weight must have shape \(key_size, query_size\) = \(4, 3\); got \(3, 4\)",
    ),
    "a matrix of another dtype": (
        lambda: bilinear_score(Q, K, torch.zeros(4, 4).half()),
        TypeError, r"weight must have the dtype of the queries, torch\.float32; got torch\.float16",
    ),
    "a matrix of integers": (
        lambda: bilinear_score(Q, K, torch.zeros(4, 4).long()),
        TypeError, r"weight must be floating point; got torch\.int64",
    ),
    "an infinite scale": (
        lambda: DotProductScore(scale=INF),
        ValueError, r"scale must be finite; got inf",
    ),
    "a scale that is not a number": (
        lambda: dot_product_score(Q, K, NAN),
        ValueError, r"scale must be finite; got nan",
    ),
    "a text as scale": (
        lambda: DotProductAttention(scale="sqrt"),  # type: ignore[arg-type]
        TypeError, r"scale must be a number or None; got 'sqrt'",
    ),
    "dropout below 0": (
        lambda: AdditiveAttention(4, 4, 8, dropout=-0.1),
        ValueError, r"dropout must be a probability in \[0, 1\]; got -0\.1",
    ),
    "dropout above 1": (
        lambda: DotProductAttention(1.5),
        ValueError, r"dropout must be a probability in \[0, 1\]; got 1\.5",
    ),
    "dropout that is not a number": (
        lambda: DotProductAttention(dropout=NAN),
        ValueError, r"dropout must be a probability in \[0, 1\]; got nan",
    ),
    "a text as dropout": (
        lambda: Attention(dot_product_score, "0.1"),  # type: ignore[arg-type]
        TypeError, r"dropout must be a number in \[0, 1\]; got '0\.1'",
    ),
    "a text as score": (
        lambda: Attention("gaussian"),  # type: ignore[arg-type]
        TypeError, r"score must be a function of \(queries, keys\).*got 'gaussian'",
    ),
    "a class instead of a score": (
        lambda: Attention(DotProductScore),  # type: ignore[arg-type]
        TypeError, r"score must be a function .* or a module, made with its arguments; got <class",
    ),
    "a score that scores values": (
        lambda: Attention(lambda q, k: q)(Q, K, V),
        ValueError, r"score must return shape .* = \(2, 3, 5\); got \(2, 3, 4\)",
    ),
    "a score that returns no tensor": (
        lambda: Attention(lambda q, k: None)(Q, K, V),  # type: ignore[arg-type, return-value]
        TypeError, r"score must return a tensor; got NoneType",
    ),
}  # fmt: skip

WRONG_BANDWIDTHS: list[tuple[Any, type[Exception], str]] = [
    (0.0, ValueError, r"bandwidth must be positive and finite; got 0\.0"),
    (-1.0, ValueError, r"bandwidth must be positive and finite; got -1\.0"),
    (NAN, ValueError, r"bandwidth must be positive and finite; got nan"),
    (INF, ValueError, r"bandwidth must be positive and finite; got inf"),
    ([1.0, 0.0], ValueError, r"bandwidth must be positive and finite; got \[1\.0, 0\.0\]"),
    ([], ValueError, r"bandwidth must be a number or have shape .*; got shape \(0,\)"),
    ([[1.0]], ValueError, r"bandwidth must be a number or have shape .*; got shape \(1, 1\)"),
    ("auto", TypeError, r"bandwidth must be a number, or one for each feature; got 'auto'"),
    (True, TypeError, r"bandwidth must be a number, or one for each feature; got True"),
    (None, TypeError, r"bandwidth must be a number, or one for each feature; got None"),
    (1j, TypeError, r"bandwidth must be a number, or one for each feature; got 1j"),
    (torch.tensor(True), TypeError, r"bandwidth must be a number.*; got tensor\(True\)"),
    ([1.0, None], TypeError, r"bandwidth must be a number.*; got \[1\.0, None\]"),
]
BANDWIDTHS: Table = {
    f"bandwidth {bandwidth!r}": (partial(GaussianScore, bandwidth), error, message)
    for bandwidth, error, message in WRONG_BANDWIDTHS
}

KERNEL_REGRESSION: Table = {
    "an unknown kernel": (
        lambda: NadarayaWatson(kernel="tricube"),
        ValueError,
        r"kernel must be one of gaussian, boxcar, triangular, epanechnikov; got 'tricube'",
    ),
    "a kernel in capitals": (
        lambda: log_kernel(X, "Gaussian"),
        ValueError, r"kernel must be one of gaussian.*; got 'Gaussian'",
    ),
    "no kernel": (
        lambda: KernelScore(None),  # type: ignore[arg-type]
        ValueError, r"kernel must be one of gaussian.*; got None",
    ),
    "distances of integers": (
        lambda: log_kernel(torch.arange(3)),
        TypeError, r"u must be floating point; got torch\.int64",
    ),
    "a bandwidth of 0": (
        lambda: NadarayaWatson(0),
        ValueError, r"bandwidth must be positive and finite; got 0\.0",
    ),
    "a text as bandwidth": (
        lambda: gaussian_score(Q, K, "wide"),  # type: ignore[arg-type]
        TypeError, r"bandwidth must be a number.*; got 'wide'",
    ),
    "two bandwidths for four features": (
        lambda: gaussian_score(Q, K, [1.0, 2.0]),
        ValueError, r"bandwidth must be a number or have shape \(4,\).*; got shape \(2,\)",
    ),
    "two bandwidths for four features, in a module": (
        lambda: GaussianScore([1.0, 2.0])(Q, K),
        ValueError, r"bandwidth must be a number or have shape \(4,\).*; got shape \(2,\)",
    ),
    "two bandwidths for one feature": (
        lambda: fitted(bandwidth=[1.0, 2.0]),
        ValueError, r"bandwidth must be a number or have shape \(1,\).*; got shape \(2,\)",
    ),
    "predict before fit": (
        lambda: NadarayaWatson().predict(X),
        RuntimeError, r"call fit\(x, y\) first",
    ),
    "weights before fit": (
        lambda: NadarayaWatson().weights(X),
        RuntimeError, r"call fit\(x, y\) first",
    ),
    "residuals before fit": (
        lambda: NadarayaWatson().loo_residuals(),
        RuntimeError, r"call fit\(x, y\) first",
    ),
    "selection before fit": (
        lambda: NadarayaWatson().select_bandwidth(),
        RuntimeError, r"call fit\(x, y\) first",
    ),
    "no measurements": (
        lambda: NadarayaWatson().fit(X[:0], Y[:0]),
        ValueError, r"x must hold at least one measurement; got none",
    ),
    "fewer y than x": (
        lambda: NadarayaWatson().fit(X, Y[:4]),
        ValueError, r"y must have as many measurements as x, 6; got 4",
    ),
    "measurements in a list": (
        lambda: NadarayaWatson().fit([1.0, 2.0], Y),  # type: ignore[arg-type]
        TypeError, r"x must be a tensor; got list",
    ),
    "measurements in an array": (
        lambda: NadarayaWatson().fit(X.numpy(), Y),  # type: ignore[arg-type]
        TypeError, r"x must be a tensor; got ndarray: .*torch\.as_tensor.*KernelRegressor",
    ),
    "a prediction for an array": (
        lambda: fitted().predict(X.numpy()),  # type: ignore[arg-type]
        TypeError, r"x must be a tensor; got ndarray: .*torch\.as_tensor.*KernelRegressor",
    ),
    "weights of measurements in an array": (
        lambda: LocalLinear().fit(X, Y, X.numpy()),  # type: ignore[arg-type]
        TypeError, r"sample_weight must be a tensor; got ndarray: .*torch\.as_tensor",
    ),
    "weights of integers": (
        lambda: NadarayaWatson().fit(X, Y, torch.arange(6)),
        TypeError, r"sample_weight must be floating point; got torch\.int64",
    ),
    "weights of another dtype": (
        lambda: NadarayaWatson().fit(X, Y, Y.double()),
        TypeError, r"sample_weight must have the dtype of x, torch\.float32; got torch\.float64",
    ),
    "weights on another device": (
        lambda: NadarayaWatson().fit(X, Y, Y.to("meta")),
        ValueError, r"sample_weight must be on the device of x, cpu; got meta",
    ),
    "fewer weights than measurements": (
        lambda: NadarayaWatson().fit(X, Y, Y[:5]),
        ValueError, r"sample_weight must have shape \(6,\), one for each .*; got \(5,\)",
    ),
    "a column of weights": (
        lambda: NadarayaWatson().fit(X, Y, Y.unsqueeze(1)),
        ValueError, r"sample_weight must have shape \(6,\).*; got \(6, 1\)",
    ),
    "a negative weight": (
        lambda: NadarayaWatson().fit(X, Y, Y - 1),
        ValueError, r"sample_weight must be finite and not negative; got -1\.0 at index \(0,\)",
    ),
    "a weight that is NaN": (
        lambda: NadarayaWatson().fit(X, Y, Y.masked_fill(X == 3, NAN)),
        ValueError, r"sample_weight must be finite and not negative; got nan at index \(3,\)",
    ),
    "no weight at all": (
        lambda: NadarayaWatson().fit(X, Y, 0 * Y),
        ValueError, r"sample_weight must be positive somewhere; got only zeros",
    ),
    "a text for where nobody is reached": (
        lambda: fitted(kernel="boxcar").predict(X, empty="mean"),  # type: ignore[arg-type]
        ValueError, r"empty must be a number or 'nearest'; got 'mean'",
    ),
    "a truth for where nobody is reached": (
        lambda: fitted(kernel="boxcar").predict(X, empty=True),
        ValueError, r"empty must be a number or 'nearest'; got True",
    ),
    "a tensor for where nobody is reached": (
        lambda: fitted(kernel="boxcar").predict(X, empty=Y),  # type: ignore[arg-type]
        ValueError, r"empty must be a number or 'nearest'; got tensor",
    ),
    "nothing for where nobody is reached": (
        lambda: fitted(kernel="boxcar").predict(X, empty=None),  # type: ignore[arg-type]
        ValueError, r"empty must be a number or 'nearest'; got None",
    ),
    "standard errors before fit": (
        lambda: LocalLinear().standard_errors(X),
        RuntimeError, r"call fit\(x, y\) first",
    ),
    "degrees of freedom before fit": (
        lambda: LocalLinear().dof,
        RuntimeError, r"call fit\(x, y\) first",
    ),
    "standard errors where nothing is left": (
        lambda: fitted(bandwidth=1e-3).standard_errors(X),
        ValueError, r"bandwidth must leave residuals.*; got 0\.001.*passes through",
    ),
    "a bandwidth selected from measurements of which two count": (
        lambda: NadarayaWatson().fit(X, Y, (X < 2).float()).select_bandwidth(),
        ValueError, r"x must hold at least 3 different measurements .*; got 2",
    ),
    "measurements of integers": (
        lambda: NadarayaWatson().fit(X, Y.long()),
        TypeError, r"y must be floating point; got torch\.int64",
    ),
    "measurements of two dtypes": (
        lambda: NadarayaWatson().fit(X, Y.double()),
        TypeError, r"y must have the dtype of x, torch\.float32; got torch\.float64",
    ),
    "measurements on two devices": (
        lambda: NadarayaWatson().fit(X, Y.to("meta")),
        ValueError, r"y must be on the device of x, cpu; got meta",
    ),
    "measurements with three axes": (
        lambda: NadarayaWatson().fit(X.view(1, 2, 3), Y),
        ValueError, r"x must have shape \(n,\) or \(n, columns\).*; got \(1, 2, 3\)",
    ),
    "a single number": (
        lambda: NadarayaWatson().fit(torch.tensor(1.0), torch.tensor(1.0)),
        ValueError, r"x must have shape \(n,\) or \(n, columns\).*; got \(\)",
    ),
    "measurements without features": (
        lambda: NadarayaWatson().fit(torch.zeros(6, 0), Y),
        ValueError, r"x must have shape .* at least one column; got \(6, 0\)",
    ),
    "NaN among the measurements": (
        lambda: NadarayaWatson().fit(X, Y.masked_fill(X == 2, NAN)),
        ValueError, r"y must be finite; got nan at index \(2,\)",
    ),
    "an infinite place": (
        lambda: NadarayaWatson().fit(X.masked_fill(X == 3, -INF), Y),
        ValueError, r"x must be finite; got -inf at index \(3,\)",
    ),
    "a prediction at NaN": (
        lambda: fitted().predict(torch.tensor([0.0, NAN])),
        ValueError, r"x must be finite; got nan at index \(1,\)",
    ),
    "a prediction in another dtype": (
        lambda: fitted().predict(X.double()),
        TypeError, r"x must have the dtype that was fitted, torch\.float32; got torch\.float64",
    ),
    "a prediction on another device": (
        lambda: fitted().predict(X.to("meta")),
        ValueError, r"x must be on cpu, as fitted; got meta",
    ),
    "a prediction for columns after a fit of a vector": (
        lambda: fitted().predict(X.unsqueeze(1)),
        ValueError, r"x must have shape \(m,\), as fitted; got \(6, 1\)",
    ),
    "a prediction for three features after a fit of two": (
        lambda: NadarayaWatson().fit(torch.zeros(6, 2), Y).predict(torch.zeros(6, 3)),
        ValueError, r"x must have shape \(m, 2\), as fitted; got \(6, 3\)",
    ),
    "leaving out the only measurement": (
        lambda: NadarayaWatson().fit(X[:1], Y[:1]).loo_residuals(),
        ValueError, r"x must hold at least 2 measurements to leave one out; got 1",
    ),
    "a bandwidth selected from one measurement": (
        lambda: NadarayaWatson().fit(X[:1], Y[:1]).select_bandwidth(),
        ValueError, r"x must hold at least 3 different measurements .*; got 1",
    ),
    "a bandwidth selected from copies of one measurement": (
        lambda: NadarayaWatson().fit(torch.ones(9), torch.ones(9)).select_bandwidth(),
        ValueError, r"x must hold at least 3 different measurements .*; got 1",
    ),
    "a bandwidth selected where x is constant": (
        lambda: NadarayaWatson().fit(torch.ones(6), Y).select_bandwidth(),
        ValueError, r"x must vary to select a bandwidth; got only \[1\.0\]",
    ),
    "a bandwidth selected where y is constant": (
        lambda: NadarayaWatson().fit(X, torch.ones(6)).select_bandwidth(),
        ValueError, r"y must vary to select a bandwidth; got only \[1\.0\]",
    ),
    "no candidates": (
        lambda: fitted().select_bandwidth([]),
        ValueError, r"candidates must hold at least one bandwidth; got none",
    ),
    "one number as candidates": (
        lambda: fitted().select_bandwidth(0.5),  # type: ignore[arg-type]
        TypeError, r"candidates must be several bandwidths; got 0\.5",
    ),
    "a negative candidate": (
        lambda: fitted().select_bandwidth([0.5, -1.0]),
        ValueError, r"candidates\[1\] must be positive and finite; got -1\.0",
    ),
    "a candidate for two features": (
        lambda: fitted().select_bandwidth([[0.5, 1.0]]),
        ValueError, r"candidates\[0\] must be a number or have shape \(1,\).*; got shape \(2,\)",
    ),
    "candidates that reach no neighbour": (
        lambda: fitted(kernel="boxcar").select_bandwidth([0.1, 0.2]),
        ValueError, r"candidates must reach from each point to another.*without neighbours",
    ),
}  # fmt: skip

SHOWING: Table = {
    "weights above one": (
        lambda: show_heatmaps(torch.full((2, 3), 1.5)),
        ValueError, r"weights must lie in \[0, 1\]; got values from 1\.5 to 1\.5",
    ),
    "weights that are scores": (
        lambda: show_heatmaps(torch.tensor([[-1.0, 0.5]])),
        ValueError, r"weights must lie in \[0, 1\]; got values from -1\.0 to 0\.5",
    ),
    "weights that are NaN": (
        lambda: show_heatmaps(torch.full((2, 3), NAN)),
        ValueError, r"weights must lie in \[0, 1\]; got values from nan to nan",
    ),
    "weights of one axis": (
        lambda: show_heatmaps(torch.zeros(3)),
        ValueError, r"weights must have shape \(queries, keys\).*got \(3,\)",
    ),
    "weights of five axes": (
        lambda: show_heatmaps(torch.zeros(1, 1, 1, 2, 2)),
        ValueError, r"weights must have shape .*got \(1, 1, 1, 2, 2\)",
    ),
    "weights of integers": (
        lambda: show_heatmaps(torch.eye(2).long()),
        TypeError, r"weights must be floating-point tensors; got torch\.int64",
    ),
    "no maps": (
        lambda: show_heatmaps([]),
        ValueError, r"weights must hold at least one map; got none",
    ),
    "maps of two shapes": (
        lambda: show_heatmaps([torch.eye(2), torch.eye(3)]),
        ValueError, r"weights must be maps of one shape .*got \(3, 3\) beside \(2, 2\)",
    ),
    "a map without keys": (
        lambda: show_heatmaps(torch.zeros(2, 0)),
        ValueError, r"weights must be maps .* not empty; got \(2, 0\)",
    ),
    "too few titles": (
        lambda: show_heatmaps(torch.zeros(2, 2, 2), titles=["one"]),
        ValueError, r"titles must be as many as the maps, 2; got 1",
    ),
    "too many names of keys": (
        lambda: show_heatmaps(torch.eye(2), xticks=["a", "b", "c"]),
        ValueError, r"xticks must have a name for each of 2; got 3",
    ),
    "a gamma of 0": (
        lambda: show_heatmaps(torch.eye(2), gamma=0.0),
        ValueError, r"gamma must be positive; got 0\.0",
    ),
    "measurements that do not match": (
        lambda: show_regression(X, Y[:5]),
        ValueError, r"y must have the shape of x, \(6,\); got \(5,\)",
    ),
    "a curve without a grid": (
        lambda: show_regression(X, Y, curves={"fit": Y}),
        ValueError, r"grid must be given, for curves\['fit'\] is evaluated there; got None",
    ),
    "a curve off its grid": (
        lambda: show_regression(X, Y, grid=X, curves={"fit": Y[:2]}),
        ValueError, r"curves\['fit'\] must have the shape of grid, \(6,\); got \(2,\)",
    ),
    "queries without predictions": (
        lambda: show_regression(X, Y, queries=X),
        ValueError, r"queries and predictions must be given together",
    ),
    "panels without curves": (
        lambda: show_regression(X, Y, panels=True),
        ValueError, r"curves must hold at least one curve for panels; got none",
    ),
    "negative weights of measurements": (
        lambda: show_regression(X, Y, weights=-Y),
        ValueError, r"weights must be finite and not negative",
    ),
    "a band without a curve": (
        lambda: show_regression(X, Y, grid=X, curves={"fit": Y}, bands={"other": Y}),
        ValueError, r"bands must belong to curves, \['fit'\]; got 'other'",
    ),
    "a negative band": (
        lambda: show_regression(X, Y, grid=X, curves={"fit": Y}, bands={"fit": -Y}),
        ValueError, r"bands\['fit'\] must be finite and not negative",
    ),
    "a shorter band": (
        lambda: show_regression(X, Y, grid=X, curves={"fit": Y}, bands={"fit": Y[:2]}),
        ValueError, r"bands\['fit'\] must have the shape of curves\['fit'\], \(6,\); got \(2,\)",
    ),
    "signed weights beyond the limit": (
        lambda: signed([torch.tensor([[1.5, -0.5]])]),
        ValueError, r"weights\[0\] must lie in \[-1\.0, 1\.0\]; got values from -0\.5 to 1\.5",
    ),
    "signed weights that are NaN": (
        lambda: signed([torch.full((1, 2), NAN)]),
        ValueError, r"weights\[0\] must lie in \[-1\.0, 1\.0\]; got values from nan to nan",
    ),
    "signed weights of two shapes": (
        lambda: signed([torch.eye(2), torch.zeros(1, 2)], titles=["a", "b"], yticks=["0", "1"]),
        ValueError, r"weights\[1\] must have shape \(2, 2\); got \(1, 2\)",
    ),
    "signed weights of integers": (
        lambda: signed([torch.eye(1).long()]),
        TypeError, r"weights\[0\] must be a floating-point tensor; got torch\.int64",
    ),
    "no signed weights": (
        lambda: signed([]),
        ValueError, r"titles must be as many as the maps, 0; got 1",
    ),
    "too few names of queries": (
        lambda: signed([torch.zeros(2, 2)]),
        ValueError, r"yticks must have a name for each of 2; got 1",
    ),
    "choices that are negative": (
        lambda: show_choices(Y + 1, -Y, xlabel="", ylabel=""),
        ValueError, r"chosen must be positive; got -25\.0",
    ),
    "fewer choices": (
        lambda: show_choices(Y + 1, Y[1:], xlabel="", ylabel=""),
        ValueError, r"chosen must have the shape of best, \(6,\); got \(5,\)",
    ),
    "measurements in a list to draw": (
        lambda: show_regression([1.0], Y),  # type: ignore[arg-type]
        TypeError, r"x must be a tensor; got list",
    ),
    "a matrix of curves": (
        lambda: show_curves(X, {"a": torch.zeros(6, 2)}, xlabel="", ylabel=""),
        ValueError, r"curves\['a'\] must have shape \(n,\).*; got \(6, 2\)",
    ),
    "a shorter curve": (
        lambda: show_curves(X, {"a": Y[:3]}, xlabel="", ylabel=""),
        ValueError, r"curves\['a'\] must have the shape of x, \(6,\); got \(3,\)",
    ),
    "a glued list": (
        lambda: glue("a", [1.0]),  # type: ignore[arg-type]
        TypeError, r"value must be a number or a text; got list",
    ),
    "a glued truth": (
        lambda: glue("a", True),
        TypeError, r"value must be a number or a text; got bool",
    ),
    "a glued tensor of two elements": (
        lambda: glue("a", torch.zeros(2)),
        TypeError, r"value must have one element; got a tensor \(2,\)",
    ),
    "a glued NaN": (
        lambda: glue("a", torch.tensor(NAN)),
        ValueError, r"value must be finite to be quoted; got nan",
    ),
    "a glued name with a space": (
        lambda: glue("the answer", 42),
        ValueError, r"name must consist of letters, digits, - and _; got 'the answer'",
    ),
    "a glued value without a name": (
        lambda: glue("", 42),
        ValueError, r"name must consist of .*; got ''",
    ),
    "a number as name": (
        lambda: glue(42, 42),  # type: ignore[arg-type]
        TypeError, r"name must be a text; got int",
    ),
    "a text as seed": (
        lambda: use_house_style(seed="0"),  # type: ignore[arg-type]
        TypeError, r"seed must be an integer; got '0'",
    ),
    "the source of a number": (
        lambda: show_source(42),
        TypeError, r"obj must have source code to show; got 42",
    ),
}  # fmt: skip

WRONG_CALLS: Table = {
    **LENGTHS_AND_MASKS, **TOKENS, **SCORING, **BANDWIDTHS, **KERNEL_REGRESSION, **SHOWING,
}  # fmt: skip


@pytest.mark.parametrize(("call", "error", "message"), WRONG_CALLS.values(), ids=WRONG_CALLS.keys())
def test_a_wrong_call_names_the_argument_what_it_was_and_what_was_expected(call, error, message):
    with pytest.raises(error, match=message) as caught:
        call()
    assert type(caught.value) is error  # not, say, some subclass from deep inside PyTorch
    assert len(str(caught.value)) < 300  # a sentence, not a dump


def test_nothing_is_read_or_drawn_before_a_wrong_argument_is_found():
    """The same wrong arguments, whatever the other options are."""
    for need_weights in (True, False):
        with pytest.raises(ValueError, match="valid_lens"):
            attend(Q, K, V, lens(6, 0), need_weights=need_weights)
        with pytest.raises(TypeError, match="mask"):
            attend(Q, K, V, mask=torch.ones(3, 5), need_weights=need_weights)


def test_a_failed_fit_leaves_the_earlier_one_in_place():
    model = fitted()
    before = model.predict(X)
    with pytest.raises(ValueError, match="y must have as many"):
        model.fit(X, Y[:2])
    assert torch.equal(model.predict(X), before)


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("size", [6, 300, 700])
def test_what_a_function_of_positions_returns_is_told_of_all_scores(size, need_weights):
    x = torch.randn(2, size, 4)
    expected = rf"\(2, {size}, {size}\); got \(3, {size}, {size}\)"
    for below in (DotProductScore(), GaussianScore(0.5)):
        score = Biased(below, lambda i, j: torch.ones(3, 1, 1) * (i - j))
        with pytest.raises(
            ValueError, match="what bias returns must broadcast to .* = " + expected
        ):
            Attention(score)(x, x, x, need_weights=need_weights)
        mask = Mask.where(lambda i, j: (i >= j).expand(3, -1, -1))
        with pytest.raises(ValueError, match="what predicate returns must .* = " + expected):
            Attention(below)(x, x, x, mask=mask, need_weights=need_weights)
