"""Checks for the exercises of chapter 6, choosing a score."""

from __future__ import annotations

import math
from typing import Any

from d2lattn.exercises.engine import (
    Mistake,
    Verdict,
    check_function,
    check_numbers,
    fresh,
    whole,
)
from d2lattn.exercises.language import _


def check_06_by_hand(answer: Any) -> Verdict:
    """Check Gaussian scores and dot products of (2, 0) with (1, 0), (4, 0) and (0, 3)."""
    near, product = [-0.5, -2.0, -6.5], [2.0, 8.0, 0.0]
    return check_numbers(
        answer,
        expected=[near, product],
        mistakes=[
            Mistake([[-1.0, -4.0, -13.0], product], _("The Gaussian score has *half* of the "
                    "squared distance.")),
            Mistake([[0.5, 2.0, 6.5], product], _("A score is higher where a key fits better, so "
                    "the distance counts against it: mind the sign of the Gaussian scores.")),
            Mistake([[-0.5, -1.0, -math.sqrt(13) / 2], product], _("You took half the distance. "
                    "The Gaussian score has the *squared* distance.")),
            Mistake([[math.exp(score) for score in near], product], _("You went one step too far: "
                    "the exponential belongs to the softmax, not to the score.")),
            Mistake([near, [score / math.sqrt(2) for score in product]], _("The second row should "
                    "be the plain dot products, without a scale.")),
            Mistake([near, [1.0, 1.0, 0.0]], _("The second row holds cosines. A dot product counts "
                    "the norms as well.")),
            Mistake([product, near], _("The right numbers in the wrong order: Gaussian first.")),
        ],
        right=_("The first key wins by distance, the second by product, with its larger norm: one "
                "query, the same keys, two meanings of “fits”."),
    )  # fmt: skip


def check_06_bill(answer: Any) -> Verdict:
    """Check the counts of the additive score, ``answer(num_queries, num_keys, …)``."""

    def reference(
        num_queries: int, num_keys: int, query_size: int, key_size: int, num_hiddens: int
    ) -> tuple[int, int, int]:
        project = num_hiddens * (num_queries * query_size + num_keys * key_size)
        pairs = num_queries * num_keys * num_hiddens
        return num_hiddens * (query_size + key_size + 1), project + pairs, pairs

    def parameters(count: Any) -> Any:
        return lambda m, n, a, b, h: (count(a, b, h), *reference(m, n, a, b, h)[1:])

    def products(count: Any) -> Any:
        def wrong(m: int, n: int, a: int, b: int, h: int) -> tuple[int, int, int]:
            right = reference(m, n, a, b, h)
            return right[0], count(m, n, a, b, h), right[2]

        return wrong

    def tanhs(count: Any) -> Any:
        return lambda m, n, a, b, h: (*reference(m, n, a, b, h)[:2], count(m, n, h))

    random = fresh()
    return check_function(
        answer,
        reference=reference,
        cases=[
            (1, 2, 3, 4, 5),
            (3, 2, 5, 1, 4),
            (10, 20, 64, 96, 32),
            (7, 7, 6, 6, 6),
            (1, 1, 1, 1, 2),
            tuple(whole(random, 2, 90) for _ in range(5)),
        ],
        mistakes=[
            Mistake(parameters(lambda a, b, h: h * (a + b)),
                    _("Parameters: both matrices are counted, and `w_v` is missing.")),
            Mistake(parameters(lambda a, b, h: h * (a + b) + 1),
                    _("Parameters: `w_v` has one number for each hidden feature.")),
            Mistake(parameters(lambda a, b, h: h * (a + b + 2)),
                    _("Parameters: the layers of the package have no bias.")),
            Mistake(parameters(lambda a, b, h: h * (a + b + 3)),
                    _("Parameters: the layers of the package have no bias.")),
            Mistake(parameters(lambda a, b, h: a * b + h),
                    _("Parameters: there are two matrices, from the queries' features to the "
                      "hidden ones and from the keys' features to the hidden ones.")),
            Mistake(products(lambda m, n, a, b, h: m * n * h * (a + b + 1)),
                    _("Multiplications: you project both vectors again for every *pair*. A token "
                      "is projected once. See “Where is the work done?”")),
            Mistake(products(lambda m, n, a, b, h: h * (m * a + n * b)),
                    _("Multiplications: the tokens are projected, and the comparison is free. What "
                      "does `w_v` do for each pair?")),
            Mistake(products(lambda m, n, a, b, h: m * n * h),
                    _("Multiplications: the comparison is counted, and the two projections are "
                      "missing.")),
            Mistake(products(lambda m, n, a, b, h: h * (a + b) + m * n * h),
                    _("Multiplications: a matrix is applied to every token, not once.")),
            Mistake(products(lambda m, n, a, b, h: h * (m * b + n * a) + m * n * h),
                    _("Multiplications: are the sizes of queries and keys exchanged?")),
            Mistake(products(lambda m, n, a, b, h: h * (m * a + n * b) + m * n),
                    _("Multiplications: comparing a pair takes one for each hidden feature.")),
            Mistake(products(lambda m, n, a, b, h: h * m * a + m * n * h),
                    _("Multiplications: the keys are projected as well.")),
            Mistake(tanhs(lambda m, n, h: m * n),
                    _("Hyperbolic tangents: one for each pair *and* each hidden feature. The sum "
                      "with `w_v` comes after.")),
            Mistake(tanhs(lambda m, n, h: (m + n) * h),
                    _("Hyperbolic tangents: they are taken of the *sum* of a query and a key, so "
                      "they cannot be taken once per token.")),
            Mistake(tanhs(lambda m, n, h: n * n * h),
                    _("Hyperbolic tangents: there are queries times keys pairs.")),
        ],
        right=_("Only the last term of the multiplications and the tangents grow with queries "
                "times keys, and neither depends on how wide the vectors were."),
    )  # fmt: skip


def check_06_break_even(answer: Any) -> Verdict:
    """Check the most hidden features, by comparison alone and with the projections."""
    return check_numbers(
        answer,
        expected=[512, 102],
        mistakes=[
            Mistake([512, 170], _("The second number: *both* queries and keys are projected.")),
            Mistake([512, 128], _("The second number: the comparison has to be paid as well, not "
                    "only the projections.")),
            Mistake([512, 512], _("The second number: two projections come on top, so fewer hidden "
                    "features can be paid for.")),
            Mistake([512, 0], _("The second number: did you project once per pair? A token is "
                    "projected once; see “Where is the work done?”")),
            Mistake([512, 256], _("The second number: per pair, an additive score takes one "
                    "multiplication for each hidden feature. What do the tokens take?")),
            Mistake([512, 103], _("The second number: round down, or it is more than the dot "
                    "product takes.")),
            Mistake([256, 102], _("The first number: comparing takes one multiplication for each "
                    "*feature*, whatever the length of the sequence.")),
            Mistake([256, 256], _("The length of the sequence is the same for both scores. Compare "
                    "the multiplications of one pair first.")),
        ],
        right=_("Equal multiplications are not equal time: the additive score still takes 102 "
                "hyperbolic tangents for every pair, and the dot product none."),
    )  # fmt: skip


def check_06_traffic(answer: Any) -> Verdict:
    """Check multiplications for each number moved, ``answer(num_queries, num_keys, …)``."""

    def reference(num_queries: int, num_keys: int, width: int, value_width: int) -> float:
        moved = (num_queries + num_keys) * (width + value_width)
        return num_queries * num_keys * (width + value_width) / moved

    def work(m: int, n: int, d: int, c: int) -> int:
        return m * n * (d + c)

    def moved(m: int, n: int, d: int, c: int) -> int:
        return (m + n) * (d + c)

    random = fresh()
    return check_function(
        answer,
        reference=reference,
        cases=[
            (1, 3, 2, 4),
            (6, 3, 5, 2),
            (1, 1000, 64, 64),
            (512, 512, 64, 32),
            tuple(whole(random, 2, 90) for _ in range(4)),
        ],
        mistakes=[
            Mistake(lambda m, n, d, c: m * n * d / moved(m, n, d, c),
                    _("Only the scores are counted. The weighted sum is a matrix product as "
                      "well.")),
            Mistake(lambda m, n, d, c: m * n * c / moved(m, n, d, c),
                    _("Only the weighted sum is counted. The scores are a matrix product as "
                      "well.")),
            Mistake(lambda m, n, d, c: m * n * d * c / moved(m, n, d, c),
                    _("The two matrix products follow each other: their multiplications add up.")),
            Mistake(lambda m, n, d, c: work(m, n, d, c) / (moved(m, n, d, c) - m * c),
                    _("The output has to be written as well.")),
            Mistake(lambda m, n, d, c: work(m, n, d, c) / (moved(m, n, d, c) - n * c),
                    _("The values have to be read as well.")),
            Mistake(lambda m, n, d, c: work(m, n, d, c) / (moved(m, n, d, c) + m * n),
                    _("You let the table of weights travel. A fused kernel never writes it.")),
            Mistake(lambda m, n, d, c: work(m, n, d, c) / (moved(m, n, d, c) + 2 * m * n),
                    _("You let the table of weights travel. A fused kernel never writes it.")),
            Mistake(lambda m, n, d, c: work(m, n, d, c) / (m * d + n * d + m * c),
                    _("The values have to be read as well.")),
            Mistake(lambda m, n, d, c: moved(m, n, d, c) / work(m, n, d, c),
                    _("This is numbers moved for each multiplication: upside down.")),
            Mistake(lambda m, n, d, c: work(m, n, d, c) / (m * n * (d + c)),
                    _("You read both vectors again for every pair. Each token is read once.")),
            Mistake(lambda m, n, d, c: float(work(m, n, d, c)),
                    _("This is the work alone. Divide by the numbers that are read and written.")),
        ],
        right=_("The widths cancel. With as many queries as keys there is work for the processor, "
                "half the length for each number. One query alone leaves less than one: it waits "
                "for the memory."),
    )  # fmt: skip


def check_06_bandwidth(answer: Any) -> Verdict:
    """Check a bandwidth that keeps the scores' spread for every width, ``answer(width)``."""

    def reference(width: int) -> float:
        return width**0.25

    return check_function(
        answer,
        reference=reference,
        cases=[(16,), (1,), (81,), (256,), (50,), (whole(fresh(), 2, 4000),)],
        mistakes=[
            Mistake(lambda d: d**0.5,
                    _("Too wide: that makes the variance *fall* with the width. Dividing the "
                      "vectors by h divides the score by h², and the variance by what?")),
            Mistake(lambda d: float(d),
                    _("Far too wide. Dividing the vectors by h divides the score by h², and the "
                      "variance by what?")),
            Mistake(lambda d: 1.0, _("With one bandwidth for all widths the variance grows with "
                    "d.")),
            Mistake(lambda d: d**-0.25,
                    _("Upside down: more features make larger distances, so the bandwidth grows.")),
            Mistake(lambda d: d**-0.5,
                    _("Upside down: more features make larger distances, so the bandwidth grows.")),
            Mistake(lambda d: (1.5 * d) ** 0.25,
                    _("That makes the variance 1 for every width. It should stay what it is with "
                      "one feature and h = 1.")),
            Mistake(lambda d: (1.5 * d) ** 0.5,
                    _("Too wide: dividing the vectors by h divides the score by h², and the "
                      "variance by what?")),
            Mistake(lambda d: d ** (1 / 3), _("Which power of h divides the *variance* of a "
                    "score?")),
            Mistake(lambda d: d**0.125,
                    _("The variance takes the fourth power of the bandwidth, and grows with the "
                      "first power of d.")),
        ],
        right=_("Half the squared distance divided by √d: the Gaussian meets the scale of the dot "
                "product again."),
    )  # fmt: skip


def check_06_choose(answer: Any) -> Verdict:
    """Check a score for each of five jobs, as numbers from 1 (Gaussian) to 4 (additive)."""
    choice = [1, 2, 3, 4, 4]
    why_not = {
        (0, 2): _("a product of positions is large for *far* positions. What does near mean "
                  "there?"),
        (0, 3): _("its matrix would have to be learned, and there is nothing to learn from."),
        (0, 4): _("its matrices would have to be learned, and there is nothing to learn from."),
        (1, 1): _("it works, and a distance has no advantage where layers have shaped the vectors; "
                  "the plain product saves the keys' squares and rounds better."),
        (1, 3): _("the layers before have a matrix already. Another one says nothing new."),
        (1, 4): _("count the numbers that it holds for 8000 times 8000 pairs. See the table in "
                  "“How do I choose?”"),
        (2, 1): _("how would you subtract 300 numbers from 2048?"),
        (2, 2): _("a dot product takes vectors of one width."),
        (2, 4): _("its tanh mixes phrase and photo, so no index of dot products can hold the "
                  "photos."),
        (3, 1): _("encoder and decoder have different widths."),
        (3, 2): _("encoder and decoder have different widths."),
        (3, 3): _("it is linear in the query and in the key. What if the relation is not?"),
        (4, 1): _("the nearest of all would win, and it should not."),
        (4, 2): _("it is linear in the key, so one end of the time line always wins."),
        (4, 3): _("it is linear in the key, so one end of the time line always wins. See “What can "
                  "each one express?”"),
    }  # fmt: skip

    def with_one(job: int, wrong: int) -> list[int]:
        return [*choice[:job], wrong, *choice[job + 1 :]]

    return check_numbers(
        answer,
        expected=choice,
        mistakes=[
            Mistake(with_one(job, wrong), _("Job {number}: {why}").format(number=job + 1, why=why))
            for (job, wrong), why in why_not.items()
        ],
        right=_(
            "Each choice was made by a constraint, and none by which score is best in general."
        ),
    )
