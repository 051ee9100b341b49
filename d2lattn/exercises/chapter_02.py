"""Checks for the exercises of chapter 2, queries, keys and values."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from d2lattn.exercises.engine import Mistake, Verdict, check_function, check_numbers, fresh
from d2lattn.exercises.language import _

_TINY = [10.0**-n for n in range(1, 40)] + [2.0**-23, 2.0**-52, 2.0**-126]


def check_02_by_hand(answer: Any) -> Verdict:
    """Check the outputs for the scores log 3, 0 and for log 3, 0, log 4."""
    return check_numbers(
        answer,
        expected=[[3.0, 2.0], [5.5, 5.0]],
        mistakes=[
            Mistake([[2.0, 4.0], [4.0, 16 / 3]], _("You averaged the values without asking the "
                    "scores: e raised to the score says how loudly each value is heard.")),
            Mistake([[12.0, 8.0], [44.0, 40.0]], _("These are sums, not averages: divide the "
                    "exponentials by their sum, so that the weights add up to one.")),
            Mistake([[4 * math.log(3), 0.0], [4 * math.log(3) + 8 * math.log(4), 8 * math.log(4)]],
                    _("You took scores as weights. Raise e to their power first, and divide by the "
                      "sum.")),
            Mistake([[4.0, 0.0], [4 * math.log(3, 12) + 8 * math.log(4, 12), 8 * math.log(4, 12)]],
                    _("You divided the *scores* by their sum. Raise e to their power first: even a "
                      "score of 0 is heard, since e⁰ is 1.")),
            Mistake([[4.0, 0.0], [8.0, 8.0]], _("You let the highest score decide alone. The "
                    "others are less loud, not silent.")),
            Mistake([[3.0, 2.0], [7.0, 6.0]], _("The first is right. The third pair does not come "
                    "on top: its weight is taken from the other two. Add up the exponentials "
                    "anew.")),
            Mistake([[1.0, 6.0], [5.0, 6.0]], _("The weights are the wrong way round: the higher "
                    "score has the larger weight.")),
        ],
        right=_("The new pair took the same half from both, and the ratio of their weights is "
                "still 3: competition changes shares, never the order of two keys."),
    )  # fmt: skip


def check_02_shapes(answer: Any) -> Verdict:
    """Check the shapes of scores, weights and output for given queries, keys and values."""
    scores, output = [8, 4, 10, 20], [8, 4, 10, 32]
    turned = [8, 4, 20, 10]
    return check_numbers(
        answer,
        expected=[scores, scores, output],
        mistakes=[
            Mistake([turned, turned, output], _("Scores and weights are turned: rows are queries, "
                    "columns are keys.")),
            Mistake([scores, turned, output], _("A softmax changes numbers, not shapes: scores and "
                    "weights have the same.")),
            Mistake([scores, scores, [8, 4, 10, 64]], _("What comes out is an average of *values*, "
                    "so it is as wide as a value. See “A library”.")),
            Mistake([scores, scores, [8, 4, 20, 32]], _("Every *query* gets one output, not every "
                    "key.")),
            Mistake([scores, [8, 4, 10, 32], output], _("The weights do not know how wide a value "
                    "is. There is one for each query and key.")),
            Mistake([[8, 4, 10, 64], scores, output], _("A score is one number for each pair of "
                    "query and key: the features are summed away.")),
            Mistake([[8, 8, 10, 20], [8, 8, 10, 20], output], _("Batch axes go through unchanged: "
                    "eight sentences, four heads.")),
        ],
        right=_("No 64 is left anywhere: the width of queries and keys is summed away, so it may "
                "change without anybody behind noticing."),
    )  # fmt: skip


def check_02_backwards(answer: Any) -> Verdict:
    """Check the scores, largest 0, that are behind given weights, ``answer(weights)``."""

    def reference(weights: Tensor) -> Tensor:
        scores = weights.log()
        return scores - scores.amax(-1, keepdim=True)

    random = fresh()

    def weights(*shape: int) -> Tensor:
        return (2 * torch.randn(shape, generator=random)).softmax(-1)

    return check_function(
        answer,
        reference=reference,
        cases=[
            (torch.tensor([0.5, 0.25, 0.25]),),
            (torch.tensor([[0.5, 0.5], [0.75, 0.25]]),),
            (torch.tensor([1.0, 0.0, 0.0]),),
            (weights(3, 5),),
            (weights(2, 3, 4),),
        ],
        mistakes=[
            Mistake(lambda w: w.log(), _("These scores give the right weights. Of all that do, "
                    "those are asked for whose largest is 0: what may be added to a row?")),
            Mistake(lambda w: w.log() - w.log().max(), _("Each row has its own largest score: look "
                    "for it along the last axis only. You took the largest of the whole table.")),
            Mistake(lambda w: w.log() - w.log().amax(0), _("The largest score is looked for among "
                    "the queries. A row belongs to one query: look along the last axis.")),
            Mistake(lambda w: w.log() - w.log().mean(-1, keepdim=True), _("These scores add up to "
                    "0. The *largest* should be 0.")),
            Mistake(lambda w: w.log() - w.log().amin(-1, keepdim=True), _("Your smallest score is "
                    "0. The *largest* should be.")),
            Mistake(lambda w: w / w.amax(-1, keepdim=True), _("You divided weights. A score is "
                    "what e is raised to: which function undoes that? See “Why is a weight not a "
                    "similarity?”")),
            Mistake(lambda w: w - w.amax(-1, keepdim=True), _("You shifted weights. Which function "
                    "undoes the exponential?")),
            Mistake(lambda w: reference(w) / math.log(2), _("These are logarithms to base 2. The "
                    "softmax raises e, so the natural logarithm undoes it.")),
            Mistake(lambda w: reference(w) / math.log(10), _("These are logarithms to base 10. The "
                    "softmax raises e, so the natural logarithm undoes it.")),
            Mistake(lambda w: w.softmax(-1), _("You went forwards once more. Which function undoes "
                    "the exponential?")),
            Mistake(lambda w: -reference(w), _("The sign is turned: a larger weight comes from a "
                    "larger score.")),
            Mistake(lambda w: -w.log(), _("The sign is turned: a larger weight comes from a larger "
                    "score.")),
            *(
                Mistake(lambda w, tiny=tiny: reference(w + tiny), _("You kept away from the "
                        "logarithm of 0, and a weight of exactly 0 came out with a finite score. "
                        "Its score is −∞, which a tensor can hold."))
                for tiny in _TINY
            ),
            *(
                Mistake(lambda w, tiny=tiny: reference(w.clamp(min=tiny)), _("You kept away from "
                        "the logarithm of 0, and a weight of exactly 0 came out with a finite "
                        "score. Its score is −∞, which a tensor can hold."))
                for tiny in _TINY
            ),
        ],
        right=_("From weights one reads differences of scores, never scores: the level of each row "
                "was yours to choose, and that is all that a softmax forgets."),
    )  # fmt: skip


def check_02_counted(answer: Any) -> Verdict:
    """Check attention over pairs that count, ``answer(scores, counts, values)``."""

    def reference(scores: Tensor, counts: Tensor, values: Tensor) -> Tensor:
        return (scores + counts.log()).softmax(-1) @ values

    def by_division(scores: Tensor, counts: Tensor, values: Tensor) -> Tensor:
        loud = counts * scores.exp()
        return loud / loud.sum(-1, keepdim=True) @ values

    random = fresh()

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random)

    pair = torch.tensor([[3.0], [0.0]])
    return check_function(
        answer,
        reference=reference,
        cases=[
            (torch.zeros(1, 2), torch.tensor([2, 1]), pair),
            (torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.tensor([1, 3]), pair),
            (torch.zeros(1, 2), torch.tensor([0, 1]), pair),
            (torch.tensor([[1000.0, 1000.0]]), torch.tensor([2, 1]), pair),
            (normal(4, 6), torch.tensor([1, 5, 0, 2, 1, 3]), normal(6, 2)),
            (normal(2, 3), torch.tensor([4, 1, 2]), normal(3, 3)),
            (torch.tensor([[1000.0, 0.0]]), torch.tensor([0, 1]), pair),
            (torch.tensor([[1000.0, 990.0]]), torch.tensor([1, 1]), pair),
            (torch.tensor([[1000.0, 990.0], [-1000.0, 0.0]]), torch.tensor([3, 1]), pair),
        ],
        mistakes=[
            Mistake(lambda s, c, v: s.softmax(-1) @ v, _("The counts have no influence. How does a "
                    "pair that comes twice enter the numerator and the denominator?")),
            Mistake(lambda s, c, v: (s * c).softmax(-1) @ v, _("You multiplied scores by counts. "
                    "It is the exponential that comes twice: 2eᵃ is not e²ᵃ.")),
            Mistake(lambda s, c, v: (s + c).softmax(-1) @ v, _("You added counts to scores. A pair "
                    "that comes twice enters with 2eᵃ: which single exponential is that?")),
            Mistake(lambda s, c, v: (s.softmax(-1) * c) @ v, _("The weights no longer add up to "
                    "one: counts belong in the denominator as well.")),
            Mistake(lambda s, c, v: (s + (c + 1).log()).softmax(-1) @ v, _("You took the logarithm "
                    "of the count plus one. A count of 0 should have the score −∞, and PyTorch's "
                    "logarithm of 0 is just that.")),
            Mistake(lambda s, c, v: (s + c.clamp(min=1).log()).softmax(-1) @ v, _("A pair that "
                    "does not count still takes its share. Which score has weight zero?")),
            Mistake(lambda s, c, v: c * s.exp() / (c * s.exp()).sum() @ v, _("You divided by the "
                    "sum of the whole table. Each query has a denominator of its own: its row.")),
            Mistake(by_division, _("The exponential of a large score is ∞, and ∞/∞ is `nan`. "
                    "Change the score instead of its exponential, and let the softmax do the "
                    "rest.")),
            Mistake(lambda s, c, v: (s + c.log()).softmax(0) @ v, _("The softmax runs over the "
                    "queries: each *query* shares out one unit among the keys.")),
            Mistake(lambda s, c, v: (s + c.log()).softmax(-1), _("These are the weights. The "
                    "output is asked for, which averages the values with them.")),
            Mistake(lambda s, c, v: (s + c.log2()).softmax(-1) @ v, _("Right idea, wrong base: the "
                    "softmax raises e.")),
            Mistake(lambda s, c, v: (s + (c / c.sum())).softmax(-1) @ v, _("You added the share of "
                    "each pair to its score. Shares multiply exponentials, and what multiplies "
                    "there is added as a logarithm here.")),
        ],
        right=_("A bonus on the score multiplies the weight. Masks (log 0) and priors are bonuses "
                "of the same kind."),
    )  # fmt: skip


def check_02_fair(answer: Any) -> Verdict:
    """Check a look-up by cosine, ``answer(queries, keys, values, sharpness)``."""

    def cosine(queries: Tensor, keys: Tensor) -> Tensor:
        return normalize(queries, dim=-1) @ normalize(keys, dim=-1).mT

    def reference(queries: Tensor, keys: Tensor, values: Tensor, sharpness: float) -> Tensor:
        return (sharpness * cosine(queries, keys)).softmax(-1) @ values

    def divided(queries: Tensor, keys: Tensor, of_both: float = 0, of_each: float = 0) -> Tensor:
        norms = (queries.norm(dim=-1)[:, None] + of_each) * (keys.norm(dim=-1) + of_each)
        return queries @ keys.mT / (norms + of_both)

    nothing = _("A vector of zeros has the norm 0, and 0/0 is `nan`. Its cosine is 0 by decree.")
    random = fresh()

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random)

    return check_function(
        answer,
        reference=reference,
        cases=[
            (torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, 0.0], [2.0, 2.0]]),
             torch.tensor([[0.0], [6.0]]), 3.0),
            (torch.tensor([[1.0, 1.0]]), torch.tensor([[0.0, 0.0], [3.0, 4.0]]),
             torch.tensor([[0.0], [6.0]]), 1.0),
            (torch.zeros(1, 2), torch.tensor([[0.0, 1.0], [3.0, 4.0]]),
             torch.tensor([[0.0], [6.0]]), 2.0),
            (torch.tensor([[0.002, 0.0]]), torch.tensor([[0.001, 0.0], [0.0, 0.002]]),
             torch.tensor([[0.0], [6.0]]), 3.0),
            (3 * normal(5, 4), 3 * normal(3, 4), normal(3, 2), 2.5),
            (normal(2, 3), normal(6, 3), normal(6, 6), 0.5),
            (normal(3, 2), normal(3, 2), normal(3, 1), 4.0),
        ],
        mistakes=[
            Mistake(lambda q, k, v, s: (s * q @ k.mT).softmax(-1) @ v, _("Large vectors still "
                    "outscore those that fit: these are dot products. Divide by both norms.")),
            Mistake(lambda q, k, v, s: (s * normalize(q, dim=-1) @ k.mT).softmax(-1) @ v,
                    _("Only the queries have norm 1, so a large key still outscores one that "
                      "equals the query.")),
            Mistake(lambda q, k, v, s: (s * q @ normalize(k, dim=-1).mT).softmax(-1) @ v,
                    _("The keys are fair now, but a large query makes all its scores larger, and "
                      "its weights sharper. A cosine is between −1 and 1.")),
            Mistake(lambda q, k, v, s: (s * divided(q, k)).softmax(-1) @ v, nothing),
            *(
                Mistake(wrong, _("You added a small number to the norms, so that nothing is "
                        "divided by 0. It makes the cosines of short vectors smaller: a vector of "
                        "norm 0.002 should count like one of norm 2. Treat zeros alone, or let no "
                        "norm be *less* than the small number."))
                for tiny in _TINY
                for wrong in (
                    lambda q, k, v, s, tiny=tiny: (s * divided(q, k, tiny)).softmax(-1) @ v,
                    lambda q, k, v, s, tiny=tiny: (s * divided(q, k, 0.0, tiny)).softmax(-1) @ v,
                )
            ),
            Mistake(lambda q, k, v, s: cosine(q, k).softmax(-1) @ v,
                    _("The sharpness has no influence. It multiplies every score.")),
            Mistake(lambda q, k, v, s: (cosine(q, k) / s).softmax(-1) @ v,
                    _("The sharpness *multiplies* scores: the larger it is, the more goes to the "
                      "best key.")),
            Mistake(lambda q, k, v, s: s * cosine(q, k).softmax(-1) @ v,
                    _("The sharpness came after the softmax, so the weights no longer add up to "
                      "one. It belongs to the scores.")),
            Mistake(lambda q, k, v, s: s * cosine(q, k) @ v,
                    _("You averaged with scores. They become weights by the softmax.")),
            Mistake(lambda q, k, v, s: (s * cosine(q, k)).softmax(0) @ v,
                    _("The softmax runs over the queries: each *query* shares out one unit among "
                      "the keys.")),
            Mistake(lambda q, k, v, s: (s * normalize(q, p=1.0, dim=-1)
                    @ normalize(k, p=1.0, dim=-1).mT).softmax(-1) @ v,
                    _("You divided by the sum of the absolute features. The norm of a vector is "
                      "the square root of the sum of squares.")),
            Mistake(lambda q, k, v, s: (s * normalize(q, dim=0) @ normalize(k, dim=0).mT)
                    .softmax(-1) @ v,
                    _("You divided along the wrong axis: each *row* is a vector and should have "
                      "norm 1.")),
            Mistake(lambda q, k, v, s: (s * q @ k.mT / (q.norm() * k.norm())).softmax(-1) @ v,
                    _("You divided by the norm of the whole table. Each row is a vector and has a "
                      "norm of its own.")),
            Mistake(lambda q, k, v, s: (-s * torch.cdist(q, k)).softmax(-1) @ v,
                    _("This scores by distance. A cosine looks at directions only, not at norms.")),
            Mistake(lambda q, k, v, s: (s * cosine(q, k)).softmax(-1),
                    _("These are the weights. The output is asked for, which averages the values "
                      "with them.")),
        ],
        right=_("Among keys of norm 1, the highest dot product is the nearest key. Memories that "
                "are read by similarity score like this, sharpness included."),
    )  # fmt: skip


def check_02_key_gradient(answer: Any) -> Verdict:
    """Check the output's derivative in a key, ``answer(query, keys, values, s, j)``."""

    def weights(query: Tensor, keys: Tensor, s: float) -> Tensor:
        return (s * keys @ query).softmax(0)

    def reference(query: Tensor, keys: Tensor, values: Tensor, s: float, j: int) -> Tensor:
        alpha = weights(query, keys, s)
        return s * alpha[j] * torch.outer(values[j] - alpha @ values, query)

    def alike(query: Tensor, keys: Tensor, values: Tensor, s: float, j: int) -> Tensor:
        alpha = weights(query, keys, s)
        return s * alpha[j] * (1 - alpha[j]) * torch.outer(values[j], query)

    def without_others(query: Tensor, keys: Tensor, values: Tensor, s: float, j: int) -> Tensor:
        return s * weights(query, keys, s)[j] * torch.outer(values[j], query)

    def by_query(query: Tensor, keys: Tensor, values: Tensor, s: float, j: int) -> Tensor:
        alpha = weights(query, keys, s)
        return s * alpha[j] * torch.outer(values[j] - alpha @ values, keys[j] - alpha @ keys)

    def whole(query: Tensor, keys: Tensor, values: Tensor, s: float) -> Tensor:
        alpha = weights(query, keys, s)
        return s * ((alpha[:, None] * (values - alpha @ values)).mT @ (keys - alpha @ keys))

    random = fresh()

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random)

    return check_function(
        answer,
        reference=reference,
        cases=[
            (torch.tensor([2.0]), torch.zeros(2, 1), torch.tensor([[4.0], [0.0]]), 1.0, 0),
            (torch.tensor([1.0, 2.0]), torch.zeros(2, 2), torch.tensor([[4.0], [0.0]]), 0.5, 1),
            (normal(3), normal(6, 3), normal(6, 2), 0.7, 4),
            (normal(2), normal(3, 2), normal(3, 2), 1.5, 0),
            (normal(4), normal(5, 4), normal(5, 1), 0.3, 2),
        ],
        mistakes=[
            Mistake(without_others, _("You let one weight grow and left the others as they are. "
                    "They shrink, since all add up to one, and that pulls the output back by f.")),
            Mistake(alike, _("This is the part of the key's own value. The other weights move as "
                    "well, by −αᵢαⱼ each, and bring in their values.")),
            Mistake(lambda q, k, v, s, j: -reference(q, k, v, s, j), _("The sign is turned: a key "
                    "that scores higher pulls the output *towards* its value.")),
            Mistake(lambda q, k, v, s, j: reference(q, k, v, s, j) / s, _("The scale is missing: "
                    "the score is s times a dot product, and so is its derivative.")),
            Mistake(lambda q, k, v, s, j: s * reference(q, k, v, 1.0, j), _("The weights were made "
                    "without the scale. It belongs to the scores.")),
            Mistake(lambda q, k, v, s, j: reference(q, k, v, s, j) / weights(q, k, s)[j],
                    _("The weight of the key is missing: a pair that is not attended to moves "
                      "nothing.")),
            Mistake(lambda q, k, v, s, j: reference(q, k, v, s, j) * (1 - weights(q, k, s)[j]),
                    _("The factor 1 − α is one too many: moving the score by a little moves the "
                      "output by α(v − f), and the others are in f already.")),
            Mistake(lambda q, k, v, s, j: reference(q, k, v, s, j).mT, _("Rows and columns are "
                    "exchanged: the rows belong to the features of the output.")),
            Mistake(by_query, _("This is one term of the derivative in the *query*. How does the "
                    "score move when the key moves?")),
            Mistake(lambda q, k, v, s, j: whole(q, k, v, s), _("This is the derivative in the "
                    "*query*. How does the score move when one key moves?")),
            Mistake(lambda q, k, v, s, j: weights(q, k, s)[j] * torch.eye(v.shape[1]),
                    _("This is the derivative in the *value*. Here the key moves, and with it a "
                      "score.")),
        ],
        right=_("Each step of training pulls a key along the query: towards it if its value would "
                "help, away if not, and only as far as it was listened to."),
    )  # fmt: skip
