"""Attention is a weighted average; here only the scoring function ever changes."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from d2lattn.additive import AdditiveAttention, AdditiveScore, additive_score
from d2lattn.attention import Attention, AttentionOutput
from d2lattn.biased import Biased, SoftCapped
from d2lattn.dot_product import (
    BilinearScore,
    DotProductAttention,
    DotProductScore,
    bilinear_score,
    dot_product_score,
)
from d2lattn.kernel_regression import LocalLinear, NadarayaWatson
from d2lattn.kernels import GaussianScore, KernelScore, gaussian_score, log_kernel
from d2lattn.masking import causal_mask, length_mask, masked_softmax
from d2lattn.masks import Mask
from d2lattn.multihead import MultiHeadAttention
from d2lattn.positions import RelativeBias, RotaryScore, alibi_slopes
from d2lattn.score import Score
from d2lattn.streaming import StreamOutput, merge_attention, stream_attention

if TYPE_CHECKING:
    from d2lattn import notebook, plotting

__version__ = "0.1.0"  # of everything; a tag names it

__all__ = [
    "AdditiveAttention",
    "AdditiveScore",
    "Attention",
    "AttentionOutput",
    "Biased",
    "BilinearScore",
    "DotProductAttention",
    "DotProductScore",
    "GaussianScore",
    "KernelScore",
    "LocalLinear",
    "Mask",
    "MultiHeadAttention",
    "NadarayaWatson",
    "RelativeBias",
    "RotaryScore",
    "Score",
    "SoftCapped",
    "StreamOutput",
    "additive_score",
    "alibi_slopes",
    "bilinear_score",
    "causal_mask",
    "dot_product_score",
    "gaussian_score",
    "length_mask",
    "log_kernel",
    "masked_softmax",
    "merge_attention",
    "notebook",
    "plotting",
    "stream_attention",
]


def __getattr__(name: str) -> Any:
    """What only shows things, when it is first asked for: a third of the time of an import."""
    if name in ("notebook", "plotting"):
        return import_module(f"d2lattn.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
