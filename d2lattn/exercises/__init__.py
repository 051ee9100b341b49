"""Checks for the exercises of the book: they try an answer, and say what is wrong with it.

Each takes a reader's function or numbers and returns a :class:`Verdict`. It prints nothing,
changes nothing, and never shows the solution.
"""

from d2lattn.exercises.chapter_01 import (
    check_01_by_hand,
    check_01_leave_one_out,
    check_01_more_data,
    check_01_triangular,
    check_01_two_widths,
)
from d2lattn.exercises.chapter_02 import (
    check_02_backwards,
    check_02_by_hand,
    check_02_counted,
    check_02_fair,
    check_02_key_gradient,
    check_02_shapes,
)
from d2lattn.exercises.chapter_03 import (
    check_03_by_hand,
    check_03_gradient,
    check_03_left_padding,
    check_03_masked_softmax,
    check_03_window,
)
from d2lattn.exercises.chapter_04 import (
    check_04_bound,
    check_04_by_hand,
    check_04_bytes,
    check_04_lost_matrix,
    check_04_rescue,
    check_04_same_weights,
    check_04_score,
)
from d2lattn.exercises.chapter_05 import (
    check_05_bilinear,
    check_05_by_hand,
    check_05_cosine_scale,
    check_05_distance,
    check_05_limit,
    check_05_multi_query,
    check_05_pixels,
)
from d2lattn.exercises.chapter_06 import (
    check_06_bandwidth,
    check_06_bill,
    check_06_break_even,
    check_06_by_hand,
    check_06_choose,
    check_06_traffic,
)
from d2lattn.exercises.chapter_07 import (
    check_07_honest_width,
    check_07_in_place,
    check_07_rubbish,
    check_07_shapes,
    check_07_square_batch,
    check_07_two_answers,
    check_07_two_faults,
)
from d2lattn.exercises.chapter_08 import (
    check_08_blocks,
    check_08_by_hand,
    check_08_gradient,
    check_08_merge,
    check_08_one_tile,
    check_08_square,
)
from d2lattn.exercises.engine import Verdict

__all__ = [
    "Verdict",
    "check_01_by_hand",
    "check_01_leave_one_out",
    "check_01_more_data",
    "check_01_triangular",
    "check_01_two_widths",
    "check_02_backwards",
    "check_02_by_hand",
    "check_02_counted",
    "check_02_fair",
    "check_02_key_gradient",
    "check_02_shapes",
    "check_03_by_hand",
    "check_03_gradient",
    "check_03_left_padding",
    "check_03_masked_softmax",
    "check_03_window",
    "check_04_bound",
    "check_04_by_hand",
    "check_04_bytes",
    "check_04_lost_matrix",
    "check_04_rescue",
    "check_04_same_weights",
    "check_04_score",
    "check_05_bilinear",
    "check_05_by_hand",
    "check_05_cosine_scale",
    "check_05_distance",
    "check_05_limit",
    "check_05_multi_query",
    "check_05_pixels",
    "check_06_bandwidth",
    "check_06_bill",
    "check_06_break_even",
    "check_06_by_hand",
    "check_06_choose",
    "check_06_traffic",
    "check_07_honest_width",
    "check_07_in_place",
    "check_07_rubbish",
    "check_07_shapes",
    "check_07_square_batch",
    "check_07_two_answers",
    "check_07_two_faults",
    "check_08_blocks",
    "check_08_by_hand",
    "check_08_gradient",
    "check_08_merge",
    "check_08_one_tile",
    "check_08_square",
]
