"""Checks for the exercises of chapter 5, scaled dot-product attention."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from d2lattn.dot_product import bilinear_score, dot_product_score
from d2lattn.exercises.engine import Mistake, Verdict, check_function, check_numbers, fresh, whole
from d2lattn.exercises.language import _
from d2lattn.exercises.words import over_axis
from d2lattn.kernels import gaussian_score


def check_05_by_hand(answer: Any) -> Verdict:
    """Check a weight and two outputs: query (1, 1), keys (1, 1) and (1, -1), values 10 and 20."""

    def sharpness(ahead: float) -> list[float]:
        first = 1 / (1 + math.exp(-ahead))
        return [first, 10 * first + 20 * (1 - first), 10.0]

    right = sharpness(math.sqrt(2))
    return check_numbers(
        answer,
        expected=right,
        mistakes=[
            Mistake(sharpness(2), _("You left the products as they are. A *scaled* score is "
                    "divided by √d; see “What mends it?”")),
            Mistake(sharpness(1), _("You divided by d. It is the square root of d that keeps the "
                    "spread; see “What mends it?”")),
            Mistake(sharpness(2 * math.sqrt(2)), _("You multiplied by √d instead of dividing by "
                    "it.")),
            Mistake([*sharpness(-math.sqrt(2))[:2], 20.0], _("The weights are the wrong way round: "
                    "the higher score gets the larger weight.")),
            Mistake([math.sqrt(2), *right[1:]], _("The first number is the score. The *weight* is "
                    "what the softmax makes of both scores.")),
            Mistake([*right[:2], 100 * right[1]], _("A larger query multiplies the scores, not the "
                    "output. An average of 10 and 20 cannot leave the space between them.")),
            Mistake([*right[:2], right[1]], _("The query's norm does not cancel: both scores are "
                    "multiplied by a hundred, and so is their difference.")),
            Mistake([*right[:2], 15.0], _("Are the scores of the large query more equal, or less? "
                    "See “What does a dot product reward?”")),
        ],
        right=_("A larger query asks the same question more loudly: the order of the weights "
                "stays, and the winner takes more."),
    )  # fmt: skip


def check_05_distance(answer: Any) -> Verdict:
    """Check scores with a Gaussian's weights, ``answer(queries, keys, bandwidth)``."""

    def half_square(x: Tensor) -> Tensor:
        return x.square().sum(-1) / 2

    def reference(queries: Tensor, keys: Tensor, bandwidth: float) -> Tensor:
        product = dot_product_score(queries, keys, scale=1.0)
        return (product - half_square(keys)) / bandwidth**2

    def product(queries: Tensor, keys: Tensor) -> Tensor:
        return queries @ keys.mT

    random = fresh()

    def vectors(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random)

    return check_function(
        answer,
        reference=reference,
        cases=[
            (torch.tensor([[1.0, 3.0]]), torch.tensor([[0.0, 0.0], [2.0, 4.0]]), 1.0),
            (torch.tensor([[2.0, 1.0]]), torch.tensor([[4.0, 0.0], [0.0, 2.0]]), 2.0),
            (vectors(5, 3), vectors(4, 3), 0.7),
            (vectors(3, 3), vectors(3, 3), 1.6),
            (vectors(1, 6), vectors(8, 6), 3.0),
        ],
        mistakes=[
            Mistake(lambda q, k, h: product(q, k),
                    _("This is the dot product alone: large keys win whatever the distance. See "
                      "“What does the softmax see of a distance?”")),
            Mistake(lambda q, k, h: product(q, k) / h**2,
                    _("This is the dot product alone: large keys win whatever the distance. See "
                      "“What does the softmax see of a distance?”")),
            Mistake(gaussian_score,
                    _("The weights are right, but the query's own squared norm is still inside. It "
                      "is the same for every key: leave it out.")),
            Mistake(lambda q, k, h: (product(q, k) - 2 * half_square(k)) / h**2,
                    _("The key's term is twice too large. Multiply −½‖q − k‖² out: where does the "
                      "½ end?")),
            Mistake(lambda q, k, h: (product(q, k) + half_square(k)) / h**2,
                    _("The key's term has the wrong sign: it takes from large keys what the "
                      "product gives them.")),
            Mistake(lambda q, k, h: (product(q, k) - k.norm(dim=-1) / 2) / h**2,
                    _("You subtracted half the norm of the key; it takes the *squared* norm.")),
            Mistake(lambda q, k, h: (product(q, k) - half_square(q)[:, None]) / h**2,
                    _("You subtracted the query's term. The softmax does not see that one; it does "
                      "see the key's.")),
            Mistake(lambda q, k, h: 2 * reference(q, k, h),
                    _("All is twice too large, so the weights are too sharp: the Gaussian has half "
                      "of the squared distance.")),
            Mistake(lambda q, k, h: reference(q, k, 1.0),
                    _("The bandwidth has no influence.")),
            Mistake(lambda q, k, h: reference(q, k, h**0.5),
                    _("The bandwidth is not squared: dividing both vectors by it divides a product "
                      "by its square.")),
            Mistake(lambda q, k, h: reference(q, k, 1 / h),
                    _("A large bandwidth makes the weights even: it *divides*.")),
            Mistake(lambda q, k, h: product(q, k) / h**2 - half_square(k),
                    _("Only the product is divided by the squared bandwidth. The key's term is a "
                      "product as well.")),
            Mistake(lambda q, k, h: reference(q, k, h).softmax(-1),
                    _("These are weights. Return the scores, before the softmax.")),
            Mistake(lambda q, k, h: reference(q, k, h) / q.shape[-1] ** 0.5,
                    _("There is no √d in a Gaussian: its bandwidth is the scale.")),
        ],
        right=_("So no difference of a query and a key need be taken: the keys' half squares may "
                "be ready before any query arrives, and the rest is one matrix product."),
    )  # fmt: skip


def check_05_bilinear(answer: Any) -> Verdict:
    """Check scores of unequal features, ``answer(queries, keys, weight)``, the weight between."""

    def reference(queries: Tensor, keys: Tensor, weight: Tensor) -> Tensor:
        return bilinear_score(queries, keys, weight)

    random = fresh()

    def vectors(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random)

    return check_function(
        answer,
        reference=reference,
        cases=[
            (torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 2.0], [0.0, 1.0]]),
             torch.tensor([[0.0, 1.0], [2.0, 0.0]])),
            (torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0]]), torch.tensor([[1.0, 1.0]])),
            (vectors(3, 3), vectors(3, 3), vectors(3, 3)),
            (vectors(2, 4, 3), vectors(2, 5, 6), vectors(6, 3)),
            (vectors(1, 7, 5), vectors(1, 2, 2), vectors(2, 5)),
        ],
        mistakes=[
            Mistake(lambda q, k, w: q @ w @ k.mT,
                    _("The matrix is turned round: in kᵀ W q its rows belong to the key, its "
                      "columns to the query. Square matrices hide this.")),
            Mistake(lambda q, k, w: q @ k.mT,
                    _("The matrix has no influence. See “What if queries and keys have different "
                      "widths?”")),
            Mistake(lambda q, k, w: reference(q, k, w).mT,
                    _("Rows are queries, columns are keys: your table is transposed.")),
            Mistake(lambda q, k, w: reference(q, k, w).softmax(-1),
                    _("These are weights. Return the scores, before the softmax.")),
            Mistake(lambda q, k, w: reference(q, k, w) / k.shape[-1] ** 0.5,
                    _("You divided by the root of a width. A learned matrix has its scale in its "
                      "numbers.")),
            Mistake(lambda q, k, w: reference(q, k, w) / q.shape[-1] ** 0.5,
                    _("You divided by the root of a width. A learned matrix has its scale in its "
                      "numbers.")),
            Mistake(lambda q, k, w: (q @ w.mT).sum(-1)[..., None] * k.sum(-1)[..., None, :],
                    _("You added up the features first and multiplied the sums. Multiply feature "
                      "by feature, then add.")),
            Mistake(lambda q, k, w: (q @ w.mT).sum(-1)[..., None] + k.sum(-1)[..., None, :],
                    _("Projected query and key are added here. A score that compares them needs "
                      "their product.")),
        ],
        right=_("Whichever side meets the matrix, each of its tokens need meet it only once. Then "
                "a pair costs what it costs with a plain dot product."),
    )  # fmt: skip


def check_05_limit(answer: Any) -> Verdict:
    """Check the weights of scores multiplied by an ever larger number, ``answer(scores)``."""

    def best(scores: Tensor) -> Tensor:
        return (scores == scores.amax(-1, keepdim=True)).to(scores.dtype)

    def reference(scores: Tensor) -> Tensor:
        return best(scores) / best(scores).sum(-1, keepdim=True)

    def first(scores: Tensor) -> Tensor:
        places = torch.arange(scores.shape[-1])
        return (places == scores.argmax(-1, keepdim=True)).to(scores.dtype)

    random = fresh()
    tied = torch.randint(4, (5, 7), generator=random).to(torch.get_default_dtype())
    return check_function(
        answer,
        reference=reference,
        cases=[
            (torch.tensor([[1.0, 3.0]]),),
            (torch.tensor([[2.0, 2.0, 0.0]]),),
            (torch.tensor([[5.0, 5.01]]),),
            (torch.tensor([[0.0, 1.0], [3.0, 2.0]]),),
            (torch.tensor([[-3.0, -1.0, -2.0]]),),
            (torch.tensor([[1.0, 1.0001]]),),
            (torch.tensor([[1.0, 1.0 + 2.0**-22]]),),
            (torch.tensor([[1e31, 2e31]]),),
            (tied,),
            (torch.randn(4, 3, generator=random),),
        ],
        mistakes=[
            Mistake(first,
                    _("Two best keys share: multiplying equal scores by the same number leaves "
                      "them equal. You gave all to one of them.")),
            Mistake(best,
                    _("Several best keys get one each. A row still adds up to one.")),
            Mistake(lambda s: s.softmax(-1),
                    _("This is the softmax before anything grows. Which terms survive when every "
                      "difference becomes huge?")),
            Mistake(lambda s: torch.full_like(s, 1 / s.shape[-1]),
                    _("Even weights are what happens when the factor goes to *zero*.")),
            Mistake(lambda s: reference(-s),
                    _("The lowest score has won. Factors are positive here.")),
            *(
                Mistake(lambda s, factor=factor: (factor * s).softmax(-1),
                        _("This factor is large for some scores, and not for closer ones; and a "
                          "huge one makes ∞ of scores. The limit is asked for: which scores are "
                          "left in it?"))
                for factor in (f * 10.0**n for n in range(1, 13) for f in (1, 2, 5))
            ),
            Mistake(lambda s: reference(s.mT).mT,
                    _("You looked for the best query of each key. A row is a query, and its "
                      "weights run over the keys.")),
            Mistake(lambda s: (s == s.max()).to(s.dtype) / (s == s.max()).sum(),
                    _("You looked for the best score of the whole table. Every row has its own.")),
            Mistake(lambda s: (s > 0).to(s.dtype) / (s > 0).sum(-1, keepdim=True).clamp(min=1),
                    _("The sign of a score means nothing to a softmax. Only differences count.")),
        ],
        right=_("In the limit the softmax is a choice, a soft *argmax*. A small change of any "
                "score changes no weight, except at a tie, where it changes everything."),
    )  # fmt: skip


def check_05_multi_query(answer: Any) -> Verdict:
    """Check heads that share keys and values, ``answer(queries, keys, values)``."""

    def attend(scores: Tensor, values: Tensor, axis: int = -1) -> Tensor:
        return scores.softmax(axis) @ values[:, None]

    def scaled(queries: Tensor, keys: Tensor) -> Tensor:
        return dot_product_score(queries, keys[:, None].expand(-1, queries.shape[1], -1, -1))

    def reference(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        return attend(scaled(queries, keys), values)

    def rescaled(factor: Any) -> Any:
        return lambda q, k, v: attend(scaled(q, k) * factor(q, k), v)

    def over(axis: int) -> Any:
        return lambda q, k, v: attend(scaled(q, k), v, axis)

    random = fresh()

    def vectors(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random)

    return check_function(
        answer,
        reference=reference,
        cases=[
            (torch.tensor([[[[2.0, 0.0, 0.0, 0.0]], [[0.0, 4.0, 0.0, 0.0]]]]),
             torch.tensor([[[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]]]),
             torch.tensor([[[10.0], [20.0]]])),
            (vectors(2, 2, 3, 4), vectors(2, 5, 4), vectors(2, 5, 1)),
            (vectors(3, 3, 3, 2), vectors(3, 3, 2), vectors(3, 3, 2)),
            (vectors(1, 4, 6, 3), vectors(1, 2, 3), vectors(1, 2, 5)),
        ],
        mistakes=[
            Mistake(lambda q, k, v: (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v,
                    _("Keys and values are lined up with the *heads*: head 1 reads the first "
                      "sentence, head 2 the second. They belong to the batch, and every head reads "
                      "them all: where do they need an axis?")),
            Mistake(rescaled(lambda q, k: q.shape[-1] ** 0.5),
                    _("The scale is missing. See “What mends it?”")),
            Mistake(rescaled(lambda q, k: q.shape[-1] ** -0.5),
                    _("You divided by d. The root of d keeps the spread; see “What mends it?”")),
            Mistake(rescaled(lambda q, k: q.shape[-1]),
                    _("You multiplied by √d instead of dividing by it.")),
            Mistake(rescaled(lambda q, k: q.shape[1] ** -0.5),
                    _("Which d is it? The width of the vectors that are multiplied, whatever the "
                      "number of heads.")),
            Mistake(rescaled(lambda q, k: (q.shape[-1] / k.shape[-2]) ** 0.5),
                    _("You divided by the root of the number of *keys*. It is the width of the "
                      "vectors that are multiplied.")),
            Mistake(over(-2), over_axis(_("queries"))),
            Mistake(over(1), over_axis(_("heads"))),
            Mistake(lambda q, k, v: scaled(q, k) @ v[:, None],
                    _("These are scores times values. The softmax is missing.")),
            Mistake(lambda q, k, v: reference(q.mean(1, keepdim=True).expand_as(q), k, v),
                    _("The heads are averaged. Each asks its own question.")),
            Mistake(lambda q, k, v: reference(q[:, :1].expand_as(q), k, v),
                    _("Every head gets the answer of the first. Each asks its own question.")),
            Mistake(lambda q, k, v: reference(q, k, v).transpose(1, 2),
                    _("The axes of heads and queries have changed places in the result.")),
            Mistake(lambda q, k, v: reference(q, k, v).mean(1),
                    _("The heads are averaged. Keep their axis: each gives its own answer.")),
        ],
        right=_("One table of keys and one of values serve all heads. A model that writes one word "
                "at a time keeps both for all words before, so with 8 heads it keeps an eighth."),
    )  # fmt: skip


def check_05_pixels(answer: Any) -> Verdict:
    """Check the variances of a dot product of 144 even numbers, over pairs and over keys."""
    return check_numbers(
        answer,
        expected=[7.0, 4.0],
        mistakes=[
            Mistake([144.0, 144.0], _("The rule Var = d needs mean 0 and variance 1. Neither holds "
                    "here; see “Where does 1/√d break?”")),
            Mistake([1.0, 4.0], _("The variance of a product is not the product of the variances "
                    "when the means are not zero. Look at the first number again.")),
            Mistake([16.0, 4.0], _("A mean square is not yet a variance: take off the square of "
                    "the mean from the first number.")),
            Mistake([7.0, 7.0], _("For one given query, its components are constants: only the "
                    "keys vary.")),
            Mistake([7.0, 12.0], _("Each key component is multiplied by a component of the query: "
                    "how large is that one's square, on average?")),
            Mistake([7.0, 3.0], _("For the second number you squared the mean of a component. It "
                    "takes the mean of its *square*.")),
            Mistake([7.0, 1.0], _("For the second number you took the variance of the query's "
                    "components. A given query does not vary; what counts is its mean square.")),
            Mistake([4.0, 7.0], _("The right numbers in the wrong order.")),
            Mistake([7 / 144, 4 / 144], _("That is for one component. Variances of independent "
                    "numbers add up: there are 144.")),
        ],
        right=_("The softmax compares the keys of one query, so it sees the 4 only: after the "
                "division by √144 the scores spread by a sixth, and the weights are nearly even."),
    )  # fmt: skip


def check_05_cosine_scale(answer: Any) -> Verdict:
    """Check the factor for cosines, ``answer(num_keys, weight)``: the least that can reach it."""

    def reference(num_keys: int, weight: float) -> float:
        return 0.5 * math.log(weight / (1 - weight) * (num_keys - 1))

    random = fresh()
    return check_function(
        answer,
        reference=reference,
        cases=[
            (2, 0.9),
            (3, 0.75),
            (10, 0.99),
            (1000, 0.99),
            (50, 0.5),
            (whole(random, 20, 900), whole(random, 51, 98) / 100),
        ],
        mistakes=[
            Mistake(lambda n, w: 2 * reference(n, w),
                    _("This is the lead that the best score must have. How far apart do −s and s "
                      "lie?")),
            Mistake(lambda n, w: 0.5 * math.log(w / (1 - w)),
                    _("This is for a single rival. All the others together take the rest.")),
            Mistake(lambda n, w: 0.5 * math.log(w / (1 - w) * n),
                    _("One rival too many: the best key is not its own rival.")),
            Mistake(lambda n, w: 0.5 * math.log(w * (n - 1)),
                    _("A weight is measured against the rest: compare it with 1 − weight.")),
            Mistake(lambda n, w: 0.5 * math.log((n - 1) / (1 - w)),
                    _("Nearly: the numerator of the weight against the rest is missing.")),
            Mistake(lambda n, w: 0.5 * math.log10(w / (1 - w) * (n - 1)),
                    _("You took the logarithm to base 10. The softmax uses e.")),
            Mistake(lambda n, w: -reference(n, w),
                    _("The sign is the wrong way round: the best key has the cosine 1 and the "
                      "others −1.")),
            Mistake(lambda n, w: w / (1 - w) * (n - 1),
                    _("This is how many times larger the best *exponential* is than one rival's. "
                      "Which s makes it so?")),
        ],
        right=_("It grows like the logarithm of the number of keys: a thousand times more of them "
                "ask for only 3.5 more."),
    )  # fmt: skip
