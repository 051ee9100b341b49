"""Checks for the exercises of chapter 4, additive attention."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from d2lattn.additive import additive_score
from d2lattn.exercises.engine import Mistake, Verdict, check_function, check_numbers, fresh
from d2lattn.exercises.language import _


def check_04_by_hand(answer: Any) -> Verdict:
    """Check the additive scores of (2, 1) with (-1, 0) and (0, -1), matrices as in the chapter."""
    q, keys = torch.tensor([2.0, 1.0]), torch.tensor([[-1.0, 0.0], [0.0, -1.0]])
    w_q, w_k = torch.tensor([[1.0, 0.0], [1.0, -1.0]]), torch.tensor([[1.0, 1.0], [0.0, 2.0]])
    w_v = torch.tensor([1.0, 2.0])
    sums = q @ w_q.mT + keys @ w_k.mT
    right = sums.tanh() @ w_v
    return check_numbers(
        answer,
        expected=right,
        mistakes=[
            Mistake(sums @ w_v, _("The tanh is missing: squash each sum before you weigh them.")),
            Mistake(sums.tanh().sum(-1), _("The hidden features are weighed before they are added: "
                    "the second one counts twice.")),
            Mistake((q @ w_k.mT + keys @ w_q.mT).tanh() @ w_v, _("The matrices are exchanged: W_q "
                    "belongs to the query, W_k to the keys.")),
            Mistake((q @ w_q + keys @ w_k).tanh() @ w_v, _("You multiplied by columns. Row times "
                    "vector: the first number of W_q q is 1 · 2 + 0 · 1.")),
            Mistake((q @ w_q.mT).tanh() @ w_v + (keys @ w_k.mT).tanh() @ w_v, _("You squashed "
                    "query and key apart. Add them first: the bend has to come after the sum.")),
            Mistake((sums @ w_v).tanh(), _("The tanh came last. It is taken of each sum, before "
                    "they are weighed.")),
            Mistake((q @ w_q.mT - keys @ w_k.mT).tanh() @ w_v, _("You subtracted the key. This "
                    "attention is called additive.")),
            Mistake((q @ w_q.mT * (keys @ w_k.mT)).tanh() @ w_v, _("You multiplied query and key. "
                    "This attention is called additive.")),
            Mistake((q + keys).tanh() @ w_v, _("You added query and key as they are. Project each "
                    "by its own matrix first.")),
            Mistake(right.softmax(0), _("These are weights. The scores are asked for.")),
            Mistake(right.flip(0), _("The order is turned: the key (−1, 0) comes first.")),
        ],
        right=_("Every key stays below 3 here, and comes near it where both features saturate. See "
                "“Where does it break?”"),
    )  # fmt: skip


def check_04_score(answer: Any) -> Verdict:
    """Check the additive score, ``answer(queries, keys, W_q, W_k, w_v)``."""

    def reference(
        queries: Tensor,
        keys: Tensor,
        W_q: Tensor,  # noqa: N803  (the reader is told these names)
        W_k: Tensor,  # noqa: N803
        w_v: Tensor,
    ) -> Tensor:
        return additive_score(queries @ W_q.mT, keys @ W_k.mT, w_v)

    def with_sums(finish: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
        """Another end to the same sums."""

        def wrong(queries: Tensor, keys: Tensor, w_q: Tensor, w_k: Tensor, w_v: Tensor) -> Tensor:
            sums = (queries @ w_q.mT)[:, :, None] + (keys @ w_k.mT)[:, None]
            return finish(sums, w_v)

        return wrong

    def apart(queries: Tensor, keys: Tensor, w_q: Tensor, w_k: Tensor, w_v: Tensor) -> Tensor:
        q, k = (queries @ w_q.mT).tanh(), (keys @ w_k.mT).tanh()
        return (q[:, :, None] + k[:, None]) @ w_v

    def by_product(queries: Tensor, keys: Tensor, w_q: Tensor, w_k: Tensor, w_v: Tensor) -> Tensor:
        return ((queries @ w_q.mT)[:, :, None] * (keys @ w_k.mT)[:, None]).tanh() @ w_v

    def one_to_one(queries: Tensor, keys: Tensor, w_q: Tensor, w_k: Tensor, w_v: Tensor) -> Tensor:
        return (queries @ w_q.mT + keys @ w_k.mT).tanh() @ w_v

    random = fresh()

    def case(batch: int, queries: int, keys: int, size_q: int, size_k: int, hidden: int) -> Any:
        shapes = ((batch, queries, size_q), (batch, keys, size_k), (hidden, size_q),
                  (hidden, size_k), (hidden,))  # fmt: skip
        return tuple(torch.randn(shape, generator=random) for shape in shapes)

    w_q, w_k = torch.tensor([[1.0, 0.0], [1.0, -1.0]]), torch.tensor([[1.0, 1.0], [0.0, 2.0]])
    return check_function(
        answer,
        reference=reference,
        cases=[
            (torch.tensor([[[1.0]]]), torch.tensor([[[0.0], [1.0]]]), torch.ones(2, 1),
             torch.ones(2, 1), torch.tensor([1.0, 2.0])),
            (torch.tensor([[[1.0, 2.0], [0.0, 1.0]]]), torch.tensor([[[1.0, 0.0], [-1.0, 1.0]]]),
             w_q, w_k, torch.tensor([1.0, 2.0])),
            case(2, 3, 3, 4, 4, 4),
            case(2, 4, 5, 3, 2, 6),
            case(1, 6, 2, 1, 7, 3),
            case(3, 1, 4, 5, 5, 2),
        ],
        mistakes=[
            Mistake(with_sums(lambda sums, w: sums @ w), _("The tanh is missing, and with it the "
                    "query's say. See “What the tanh is for”.")),
            Mistake(with_sums(lambda sums, w: sums.relu() @ w), _("A relu is another score. The "
                    "additive one bends with a tanh.")),
            Mistake(with_sums(lambda sums, w: sums.sigmoid() @ w), _("A sigmoid is another score: "
                    "it is never negative. The additive one bends with a tanh.")),
            Mistake(with_sums(lambda sums, w: sums.tanh().sum(-1)), _("w_v has no influence: it "
                    "says what each hidden feature is worth.")),
            Mistake(with_sums(lambda sums, w: sums.tanh().mean(-1)), _("You averaged the hidden "
                    "features. w_v says what each is worth.")),
            Mistake(with_sums(lambda sums, w: (sums @ w).tanh()), _("The tanh came last. It is "
                    "taken of each hidden feature, before they are weighed.")),
            Mistake(with_sums(lambda sums, w: (sums.tanh() @ w).softmax(-1)), _("These are "
                    "weights. A score comes before the softmax.")),
            Mistake(with_sums(lambda sums, w: sums.tanh() @ w / math.sqrt(len(w))),
                    _("Nothing is divided by a square root here: that belongs to the dot "
                      "product.")),
            Mistake(with_sums(lambda sums, w: (sums.tanh() @ w).mT), _("Queries and keys are "
                    "exchanged: rows are queries, columns are keys. Which of them gets the axis of "
                    "size 1 in front?")),
            Mistake(with_sums(lambda sums, w: sums.tanh() * w), _("The hidden features are weighed "
                    "but not yet added up.")),
            Mistake(with_sums(lambda sums, w: (sums.tanh() @ w)[..., None]), _("An axis of size 1 "
                    "is left at the end: there is one number for each query and key.")),
            Mistake(with_sums(lambda sums, w: w @ sums.tanh()), _("w_v met the keys: a vector in "
                    "front sums over the last axis but one. Behind, it sums over the last.")),
            Mistake(apart, _("You squashed queries and keys apart. Then the query is the same for "
                    "all keys again: the bend has to come *after* the sum.")),
            Mistake(by_product, _("You multiplied the two. This attention is called additive.")),
            Mistake(one_to_one, _("Query 1 met key 1 only, query 2 key 2 only. Every query meets "
                    "every key: each needs an axis of size 1 where the other has its own.")),
            Mistake(lambda q, k, a, b, w: reference(q, k, a.mT, b.mT, w), _("The matrices are "
                    "transposed. They have a row for each hidden feature, and tokens are rows, "
                    "too: multiply by the transpose.")),
            Mistake(lambda q, k, a, b, w: reference(q, k, b, a, w), _("The matrices are exchanged, "
                    "and no shape complained: W_q belongs to queries, W_k to keys.")),
        ],
        right=_("The widths of queries and keys never met: only their hidden features did. Where "
                "those are many, this is also where the memory goes."),
    )  # fmt: skip


def check_04_same_weights(answer: Any) -> Verdict:
    """Check when every score gives the same weights, ``answer(keys, valid_lens)``."""

    def reference(keys: Tensor, valid_lens: Tensor) -> bool:
        return all(
            bool((rows[:length] == rows[:1]).all())
            for rows, length in zip(keys, valid_lens.tolist(), strict=True)
        )

    def sums(keys: Tensor, valid_lens: Tensor) -> bool:
        return reference(keys.sum(-1, keepdim=True), valid_lens)

    def across(keys: Tensor, valid_lens: Tensor) -> bool:
        valid = [rows[:length] for rows, length in zip(keys, valid_lens.tolist(), strict=True)]
        return bool((torch.cat(valid) == torch.cat(valid)[:1]).all())

    def one_feature(place: int) -> Callable[[Tensor, Tensor], bool]:
        return lambda keys, valid_lens: reference(keys[..., [place]], valid_lens)

    def nearly(distance: float) -> Callable[[Tensor, Tensor], bool]:
        def wrong(keys: Tensor, valid_lens: Tensor) -> bool:
            return all(
                bool(((rows - rows[:1])[:length].abs() <= distance).all())
                for rows, length in zip(keys, valid_lens.tolist(), strict=True)
            )

        return wrong

    def some(keys: Tensor, valid_lens: Tensor) -> bool:
        return any(reference(*one) for one in zip(keys[:, None], valid_lens[:, None], strict=True))

    ones = torch.ones(1, 3, 1)
    last, second = torch.tensor([[[1.0], [1.0], [2.0]]]), torch.tensor([[[1.0], [2.0], [1.0]]])
    equal_sums = torch.tensor([[[1.0, 2.0], [2.0, 1.0]]])
    random = fresh()
    drawn = torch.randn(3, 4, 2, generator=random)
    return check_function(
        answer,
        reference=reference,
        cases=[
            (ones, torch.tensor([3])),
            (3 * ones, torch.tensor([2])),
            (last, torch.tensor([2])),
            (last, torch.tensor([3])),
            (second, torch.tensor([2])),
            (second, torch.tensor([1])),
            (second, torch.tensor([0])),
            (second, torch.tensor([3])),
            (torch.cat([ones, 2 * ones]), torch.tensor([3, 2])),
            (torch.cat([second, ones]), torch.tensor([2, 3])),
            (equal_sums, torch.tensor([2])),
            (torch.tensor([[[1.0, 2.0], [1.0, 3.0]]]), torch.tensor([2])),
            (torch.tensor([[[1.0, 2.0], [3.0, 2.0]]]), torch.tensor([2])),
            (torch.tensor([[[1.0], [1.5]]]), torch.tensor([2])),
            (torch.tensor([[[1.0], [1.001]]]), torch.tensor([2])),
            (torch.tensor([[[1.0, -2.0], [-1.0, 2.0]]]), torch.tensor([2])),
            (drawn, torch.tensor([2, 4, 3])),
            (drawn, torch.tensor([1, 0, 1])),
            (drawn[:, :1].expand(3, 4, 2), torch.tensor([4, 4, 2])),
        ],
        mistakes=[
            Mistake(lambda keys, n: bool((keys == 1).all()), _("Ones are nothing special. What is "
                    "it about them that leaves a score nothing to do?")),
            Mistake(lambda keys, n: bool((keys == keys[:, :1]).all()), _("Keys behind the valid "
                    "length have no weight. Which keys take part in the softmax?")),
            Mistake(lambda keys, n: bool((keys == keys[:1, :1]).all()), _("You compared every key "
                    "of the batch. Padding takes no part, and the examples are separate "
                    "problems.")),
            Mistake(across, _("You compared keys of different examples. Each is a problem of its "
                    "own: a softmax never runs across the batch.")),
            Mistake(some, _("It has to hold in *each* example of the batch, not in some.")),
            Mistake(lambda keys, n: reference(keys[:1], n[:1]), _("You looked at the first example "
                    "only.")),
            Mistake(sums, _("Two keys with the same sum can still differ, and a score can tell "
                    "them apart. Compare feature by feature.")),
            *(
                Mistake(one_feature(place), _("You compared one feature of the keys. Keys are "
                        "equal if all their features are."))
                for place in (0, -1)
            ),
            Mistake(lambda keys, n: reference(keys, n + 1), _("One key too many: a key takes part "
                    "if its number, counted from 0, is *less* than the valid length.")),
            Mistake(lambda keys, n: reference(keys, n - 1), _("One key too few: with valid length "
                    "2 the keys 0 and 1 take part.")),
            *(
                Mistake(nearly(distance), _("Keys that are nearly equal passed as equal. However "
                        "little they differ, a score can make much of it: it may multiply the "
                        "difference by any number."))
                for distance in (0.002, 0.01, 0.05, 0.1, 0.2, 0.5, 0.9, 1.0)
            ),
            Mistake(lambda keys, n: len(set(n.tolist())) == 1, _("Equal lengths say nothing of the "
                    "keys. What do you know of their scores?")),
            Mistake(lambda keys, n: not reference(keys, n), _("It is the other way round: where "
                    "keys differ, a score can tell them apart.")),
            Mistake(lambda keys, n: torch.tensor(reference(keys, n)), _("This is a tensor that "
                    "holds a truth value. `bool(…)` makes a Python one of it.")),
            Mistake(lambda keys, n: True, _("This is always true. When can a score tell two keys "
                    "apart?")),
            Mistake(lambda keys, n: False, _("This is always false. Think of keys that are all "
                    "equal: which scores can they have?")),
        ],
        right=_("So the published example tests the mask and the average, but no score. A test "
                "that every score passes tells nothing about yours."),
    )  # fmt: skip


def check_04_lost_matrix(answer: Any) -> Verdict:
    """Check weights of a score without tanh, ``answer(queries, keys, W_k, w_v)``."""

    def reference(
        queries: Tensor,
        keys: Tensor,
        W_k: Tensor,  # noqa: N803  (the reader is told this name)
        w_v: Tensor,
    ) -> Tensor:
        return (keys @ W_k.mT @ w_v).softmax(-1).expand(len(queries), -1)

    def scores(queries: Tensor, keys: Tensor, w_k: Tensor, w_v: Tensor) -> Tensor:
        return (keys @ w_k.mT @ w_v).expand(len(queries), -1)

    random = fresh()

    def case(queries: int, keys: int, size_q: int, size_k: int, hidden: int) -> Any:
        shapes = (queries, size_q), (keys, size_k), (hidden, size_k), (hidden,)
        return tuple(torch.randn(shape, generator=random) for shape in shapes)

    return check_function(
        answer,
        reference=reference,
        cases=[
            (torch.tensor([[1.0]]), torch.tensor([[0.0], [1.0]]), torch.tensor([[1.0]]),
             torch.tensor([2.0])),
            (torch.tensor([[1.0], [5.0]]), torch.tensor([[0.0], [1.0], [3.0]]),
             torch.tensor([[1.0], [-1.0]]), torch.tensor([1.0, 2.0])),
            case(3, 3, 2, 2, 2),
            case(4, 2, 3, 5, 6),
            case(1, 6, 7, 2, 3),
        ],
        mistakes=[
            Mistake(lambda q, k, m, w: ((k @ m.mT).tanh() @ w).softmax(-1).expand(len(q), -1),
                    _("This model has no tanh.")),
            Mistake(lambda q, k, m, w: scores(q, k, m, w), _("These are scores. The weights are "
                    "asked for.")),
            Mistake(lambda q, k, m, w: (k @ m.mT @ w).softmax(-1), _("This is one row. It is right "
                    "for every query, so give each query one.")),
            Mistake(lambda q, k, m, w: scores(q, k, m, w).softmax(0), _("The softmax runs over the "
                    "queries: a query shares out one unit among the *keys*.")),
            Mistake(lambda q, k, m, w: reference(q, k, m, w).mT, _("Rows are queries, columns are "
                    "keys: every query gets a row.")),
            Mistake(lambda q, k, m, w: torch.full((len(q), len(k)), 1 / len(k), dtype=k.dtype),
                    _("The *query* has no say. The keys still have their own term in the score, so "
                      "they do not all weigh the same.")),
            Mistake(lambda q, k, m, w: (k @ m.mT).sum(-1).softmax(-1).expand(len(q), -1),
                    _("w_v has no influence: it says what each hidden feature is worth.")),
            Mistake(lambda q, k, m, w: (k @ m @ w).softmax(-1).expand(len(q), -1),
                    _("The matrix is transposed: it has a row for each hidden feature, and keys "
                      "are rows, too.")),
            Mistake(lambda q, k, m, w: (q @ m.mT @ (k @ m.mT).mT).softmax(-1), _("You used W_k for "
                    "the queries and a product. What does the sum lose in the softmax?")),
            Mistake(lambda q, k, m, w: ((q @ m.mT)[:, None] + k @ m.mT).tanh().matmul(w)
                    .softmax(-1), _("This model has no tanh, and W_k does not belong to queries.")),
            Mistake(lambda q, k, m, w: reference(q, k, m, w) / len(q), _("Each query shares out "
                    "one whole unit: every row adds up to one.")),
        ],
        right=_("Nothing was lost with W_q: the softmax never saw it. What is the same for all "
                "keys of a query never matters."),
    )  # fmt: skip


def check_04_rescue(answer: Any) -> Verdict:
    """Check the matrix between (k, k²) and (x, 1) that scores by distance."""
    return check_numbers(
        answer,
        expected=[[2.0, 0.0], [0.0, -1.0]],
        mistakes=[
            Mistake([[2.0, 0.0], [0.0, 1.0]], _("The sign of k² is wrong: with it, far keys would "
                    "win. See what is left of −(x − k)².")),
            Mistake([[-2.0, 0.0], [0.0, 1.0]], _("Every sign is turned: this scores by the "
                    "distance itself, so the *farthest* key wins.")),
            Mistake([[-2.0, 0.0], [0.0, -1.0]], _("The sign of the product is wrong: minus times "
                    "minus in −(x − k)².")),
            Mistake([[1.0, 0.0], [0.0, -1.0]], _("The product comes twice in the square of a "
                    "difference.")),
            Mistake([[1.0, 0.0], [0.0, -0.5]], _("Half of it: this is the Gaussian score with its "
                    "factor ½. Multiply out −(x − k)² itself.")),
            Mistake([[0.0, 2.0], [-1.0, 0.0]], _("The columns are exchanged: the first belongs to "
                    "x, the second to the 1.")),
            Mistake([[0.0, -1.0], [2.0, 0.0]], _("The rows are exchanged: the first belongs to k, "
                    "the second to k².")),
            Mistake([[2.0, -1.0], [0.0, 0.0]], _("k² has a row of its own: your −1 multiplies k.")),
            Mistake([[1.0, 0.0], [0.0, 1.0]], _("With this matrix the score is the plain dot "
                    "product. Compare it with −(x − k)², multiplied out.")),
        ],
        right=_("What no dot product of the raw numbers could do, one more feature made possible. "
                "Chapter 5 goes the same way with the Gaussian kernel."),
    )  # fmt: skip


def check_04_bound(answer: Any) -> Verdict:
    """Check how large the bound has to be for a weight of 9/10 among 10 and 1000 keys."""

    def bounds(factor: float, odds: float, fewer: int = 1) -> list[float]:
        return [factor * math.log(odds * (n - fewer)) for n in (10, 1000)]

    return check_numbers(
        answer,
        expected=bounds(1 / 2, 9),
        mistakes=[
            Mistake(bounds(1, 9), _("Twice too large: the others need not stay at 0. They can go "
                    "down to −B while the winner goes up to B.")),
            Mistake(bounds(1 / 2, 9, fewer=0), _("The winner is not its own rival: of n keys, n − "
                    "1 are left.")),
            Mistake(bounds(1 / 2, 1 / 9), _("The odds are upside down: the winner should have nine "
                    "times what all the others have together.")),
            Mistake(bounds(1 / 2, 10), _("A weight of 9/10 is nine times the rest, not ten "
                    "times.")),
            Mistake([math.log(9) / 2] * 2, _("The number of keys has no influence. Each of the "
                    "others takes a share, however small.")),
            Mistake([b / math.log(10) for b in bounds(1 / 2, 9)], _("These are logarithms to base "
                    "10. The softmax raises e.")),
            Mistake([81.0, 8991.0], _("This is what e to the power of 2B has to be. Take its "
                    "logarithm, and half of it.")),
            Mistake([-b for b in bounds(1 / 2, 9)], _("The sign is turned: B is a sum of absolute "
                    "values.")),
        ],
        right=_("A hundred times as many keys ask for only about twice the bound. A fresh layer of "
                "a few hidden features is still below: additive attention starts nearly even and "
                "has to grow sharp."),
        tolerance=0.002,
    )  # fmt: skip


def check_04_bytes(answer: Any) -> Verdict:
    """Check the bytes of the sums and of the scores, batch 32, 1000 times 1000, 128 hidden."""
    pairs = 32 * 1000 * 1000
    sums, scores = 4 * 128 * pairs, 4 * pairs
    return check_numbers(
        answer,
        expected=[sums, scores],
        mistakes=[
            Mistake([sums / 4, scores / 4], _("You counted numbers. How many bytes does one of "
                    "them take?")),
            Mistake([2 * sums, 2 * scores], _("These are numbers of `float64`. `float32` has 32 "
                    "bits, and a byte has 8.")),
            Mistake([8 * sums, 8 * scores], _("These are bits. A byte has 8.")),
            Mistake([sums / 32, scores / 32], _("The batch is missing: there are 32 examples.")),
            Mistake([scores, scores], _("The sums have a fourth axis. See the shapes under “What "
                    "is the formula?”")),
            Mistake([sums, sums], _("The scores have no hidden axis any more: it is summed away.")),
            Mistake([scores, sums], _("The order is turned: the sums come first.")),
            Mistake([sums / 1e9, scores / 1e9], _("These are gigabytes. Bytes are asked for.")),
            Mistake([sums / 1e9, scores / 1e6], _("These are gigabytes and megabytes. Bytes are "
                    "asked for.")),
            Mistake([4 * 128 * 32 * 2000, 4 * 32 * 2000], _("Every query meets every key: multiply "
                    "their numbers, do not add them.")),
        ],
        right=_("The factor between the two is the number of hidden features. A dot product never "
                "holds the sums, and the package does not either: it takes some pairs at a time."),
    )  # fmt: skip
