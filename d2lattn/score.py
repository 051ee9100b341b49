"""A scoring function in two halves, and what an engine may ask of one."""

from collections.abc import Callable
from contextlib import nullcontext
from types import ModuleType
from typing import Any, ClassVar, NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook
from torch.nn.utils import parametrize

from d2lattn.blocks import Block
from d2lattn.checks import at_least_float32, check_device, check_scores, check_tokens, is_autocast

__all__ = ["Score"]

ScoreFunction = Callable[[Tensor, Tensor], Tensor]
_HALVES = ("project", "compare")


def _defined_in(module: ModuleType, function: Callable[..., Any]) -> Callable[..., Any] | None:
    """It, unless somebody put it in the place of another before."""
    return function if getattr(function, "__globals__", None) is vars(module) else None


_CALL = _defined_in(nn.modules.module, nn.Module.__call__)
_FORWARD = {
    nn.Linear: _defined_in(nn.modules.linear, nn.Linear.forward),
    nn.Dropout: _defined_in(nn.modules.dropout, nn.Dropout.forward),
}

# From what is added to the scores, if something is, to the sum; None if a look at them forbids it.
Glance = Callable[[Tensor | None], Tensor | None]


class Pairs(NamedTuple):
    """How to score the pairs of any block, again and again, with every tensor that takes part.

    Attributes
    ----------
    compare
        From projected queries, projected keys and their block to scores. It holds the tensors
        that the scores depend on, as they are now; it does not ask the module again.
    tensors
        Those tensors.
    features
        How many numbers are held for each pair while its score is made.
    by_batch
        Whether it may be given some of the batch only.
    unknown
        Whether it may use other tensors as well, from elsewhere.
    times
        How many times as many pairs go together as of other scores, where no gradient follows:
        more where they are gone through once for each feature, so that a call is for little.
    """

    compare: Callable[[Tensor, Tensor, Block], Tensor]
    tensors: tuple[Tensor, ...] = ()
    features: int = 1
    by_batch: bool = True
    unknown: bool = False
    times: int = 1


class Score(nn.Module):
    r"""A scoring function in two halves: what is done per token, and what is done per pair.

    .. math:: a(q, k) = \mathrm{compare}(\mathrm{project}(q), \mathrm{project}(k))

    Subclasses define :meth:`compare`, and :meth:`project` where there is something to do once
    for each token. Calling the module gives all scores, in the dtype of the queries. Where
    weights are not asked for, :meth:`compare` is given some of the queries and keys at a time:
    it must treat each pair on its own (:class:`~d2lattn.Biased` adds what depends on positions).

    Examples
    --------
    >>> class Cosine(Score):
    ...     def project(self, queries, keys):
    ...         return queries / queries.norm(dim=-1, keepdim=True), keys
    ...
    ...     def compare(self, q, k):
    ...         return q @ k.mT
    >>> Cosine()(torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0, 0.0], [0.0, 2.0]]))
    tensor([[0.6000, 1.6000]])
    """

    _as_made: ClassVar[dict[str, Any]] = {}
    # Up to so many are made at a glance where neither weights nor gradients are asked for.
    few: ClassVar[int] = 2**16

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls._as_made = dict(vars(cls))

    def project(
        self,
        queries: Float[Tensor, "*batch queries query_features"],
        keys: Float[Tensor, "*batch keys key_features"],
    ) -> tuple[
        Float[Tensor, "*batch queries hidden"],
        Float[Tensor, "*batch keys hidden"],
    ]:
        """Done once for each query and once for each key; by default nothing."""
        return queries, keys

    def compare(
        self,
        q: Float[Tensor, "*batch queries hidden"],
        k: Float[Tensor, "*batch keys hidden"],
    ) -> Float[Tensor, "*batch queries keys"]:
        """Done once for each pair of a projected query and a projected key."""
        raise NotImplementedError(f"{type(self).__name__} must define compare(q, k)")

    def forward(
        self,
        queries: Float[Tensor, "*batch queries query_features"],
        keys: Float[Tensor, "*batch keys key_features"],
    ) -> Float[Tensor, "*batch queries keys"]:
        """All scores, shape ``(*batch, queries, keys)``."""
        check_tokens(queries=queries, keys=keys)
        return self._wide(queries, keys).to(queries.dtype)

    def _wide(self, queries: Tensor, keys: Tensor) -> Float[Tensor, "*batch queries keys"]:
        """All scores in at least float32."""
        q, k = (at_least_float32(tokens) for tokens in self.project(queries, keys))
        with without_autocast(q):
            return compared(self, q, k)

    def in_halves(self) -> bool:
        """Whether calling it is calling its two halves, and nobody listens."""
        kind = type(self)
        plainly = kind.forward is Score.forward and kind.__call__ is nn.Module.__call__
        return plainly and _is_as_made(Score, "forward") and not is_hooked(self)

    def placed(self, block: Block) -> "Score":
        """The same score, for only those queries and keys of all that stand in a block. A score
        that depends on positions finds them there, as it is never given any others."""
        return self

    # Shortcuts: what a score knows of its own `compare`. They hold for a subclass only as long as
    # it does not compare in another way; `knows` says so.

    def as_dot_product(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor, float] | None:
        """Queries, keys and a scale whose dot product :meth:`compare` is; None if it is none."""
        return None

    def at_a_glance(self, queries: Tensor, keys: Tensor) -> Glance | None:
        """How to make all scores in few calls, with nothing else that anybody could notice; None
        if that cannot be seen at once. The tokens are checked, and have a single batch axis."""
        return None

    def pairs(self, q: Tensor, k: Tensor) -> Pairs | None:
        """How to compare block by block; None if only all at once will do."""
        return None

    def mixes_tokens(self) -> bool:
        """Whether what a token is as a factor of :meth:`as_dot_product` depends on others."""
        return False

    def shows_tokens(self) -> bool:
        """Whether the score of a token that is not finite is not finite either, and nobody would
        notice if the tokens were projected and compared once more, or the scores written over."""
        return False


Score._as_made = dict(vars(Score))


def knows(score: Score, shortcut: str, of: str = "compare") -> bool:
    """Whether a shortcut is one for the method that the score has, mixins and all."""
    order = type(score).__mro__
    method, known = (
        next(i for i, kind in enumerate(order) if name in vars(kind)) for name in (of, shortcut)
    )
    return known <= method and of not in vars(score) and _is_as_made(order[method], of)


def _is_as_made(kind: type, *names: str) -> bool:
    """Whether nobody has put other methods into a class after it was made."""
    now = vars(kind)
    made = now.get("_as_made", {})
    for name in names:  # noqa: SIM110 - `all` takes longer than what it asks here
        if made.get(name) is not now.get(name):
            return False
    return True


def compared(score: Score, q: Tensor, k: Tensor) -> Tensor:
    """The second half, given at least float32; or what its own layers take, if those are in half
    precision and take nothing else."""
    try:
        return score.compare(q, k)
    except RuntimeError:
        halves = [x.dtype for x in score.parameters() if x.dtype in (torch.half, torch.bfloat16)]
        if not halves:
            raise
        return score.compare(q.to(halves[0]), k.to(halves[0]))


def all_scores(score: ScoreFunction, queries: Tensor, keys: Tensor) -> Tensor:
    """All scores: by the halves, or by calling what has none or is listened to."""
    if isinstance(score, Score) and score.in_halves():
        return score._wide(queries, keys)
    scores = score(queries, keys)
    check_scores(scores, (*queries.shape[:-1], keys.shape[-2]))
    return scores


def is_hooked(module: nn.Module) -> bool:
    """Whether something else happens as well when this module is called."""
    state = vars(module)
    return bool(
        state["_forward_hooks"]
        or state["_forward_pre_hooks"]
        or state["_backward_hooks"]
        or state["_backward_pre_hooks"]
        or "forward" in state
        or _has_any_global_hook()
        or nn.Module.__call__ is not _CALL
    )


def is_untouched(score: Score, kind: type[Score]) -> bool:
    """Whether it is of this very class, as it was made, and nobody listens."""
    return (
        type(score) is kind
        and _is_as_made(kind, *_HALVES)
        and vars(score).keys().isdisjoint(_HALVES)
        and score.in_halves()
    )


def is_hooked_inside(module: nn.Module) -> bool:
    """The same of it and all modules in it; or whether those cannot be told, or what they make of
    parameters is kept for now, and would be made anew for the gradient."""
    kept = parametrize._cache_enabled > 0
    try:
        inside = list(module.modules())
    except TypeError:  # of modules that are compared by what they hold, and have no hash
        return True
    return any(is_hooked(x) or (kept and parametrize.is_parametrized(x)) for x in inside)


def is_of_pytorch(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether it is of this very class, with the method that PyTorch gave it, and unhooked."""
    return type(module) is kind and kind.forward is _FORWARD[kind] and not is_hooked(module)


def only_weight(layer: nn.Module) -> Tensor | None:
    """The weight of a linear layer as PyTorch makes it, if that is all there is to it."""
    if (
        not is_of_pytorch(layer, nn.Linear)
        or nn.functional.linear is not torch._C._nn.linear
        or layer._parameters.get("bias", ...) is not None
    ):
        return None
    weight = layer._parameters.get("weight")
    return weight if weight is not None and weight.layout is torch.strided else None


def without_autocast(tensor: Tensor) -> Any:
    """A context in which operations keep the dtypes that they are given."""
    if is_autocast(tensor.device):
        return torch.autocast(tensor.device.type, enabled=False)
    return nullcontext()


def apply_linear(
    name: str, tokens: Float[Tensor, "*batch tokens features"], layer: nn.Module
) -> Float[Tensor, "*batch tokens hidden"]:
    """The layer's output, after a check that names the argument if the tokens do not fit it."""
    parameters = layer._parameters
    weight = parameters["weight"] if "weight" in parameters else None  # noqa: SIM401 - no dict where scripted
    features = getattr(layer, "in_features", 0)  # 0 in a lazy layer
    if weight is not None and type(layer) is nn.Linear:
        features = weight.shape[-1]
    if features and tokens.shape[-1] != features:
        raise ValueError(
            f"{name} must have the {features} features that the layer was made for; "
            f"got {tokens.shape[-1]}"
        )
    if weight is not None:  # it may be something else, or be made anew each time that it is read
        if tokens.dtype != weight.dtype and not is_autocast(tokens.device):
            raise TypeError(
                f"{name} must have the dtype of the layer, {weight.dtype}; got {tokens.dtype}"
            )
        check_device(name, tokens, weight.device)
    return cast(Tensor, layer(tokens))
