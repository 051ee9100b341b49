"""Runs in the kernel of a chapter before its cells: what agrees there agrees to rounding.

Where no tolerance is named, ``torch.allclose`` lets five digits pass, and a sentence beside it says
that two ways give the same. So in double precision the cells of a chapter mean it: whoever is
content with less has to name a tolerance, which a reader then sees.
"""

import sys
from typing import Any

from IPython.core.getipython import get_ipython

RTOL, ATOL = 1e-9, 1e-12  # of float64, which keeps sixteen digits


def mean_it(_: Any) -> None:
    """Once a cell has imported torch."""
    torch: Any = sys.modules.get("torch")
    shell = get_ipython()
    if torch is None or shell is None:
        return
    shell.events.unregister("post_run_cell", mean_it)
    lenient = torch.allclose

    def allclose(
        input: Any,
        other: Any,
        rtol: float | None = None,
        atol: float | None = None,
        equal_nan: bool = False,
    ) -> bool:
        strict = input.dtype == torch.float64 and sys._getframe(1).f_globals is shell.user_ns
        relative = (0.0 if atol is not None else RTOL) if strict else 1e-5
        absolute = (0.0 if rtol is not None else ATOL) if strict else 1e-8
        return bool(
            lenient(
                input,
                other,
                rtol=relative if rtol is None else rtol,
                atol=absolute if atol is None else atol,
                equal_nan=equal_nan,
            )
        )

    torch.allclose = allclose


def begin() -> None:
    shell = get_ipython()
    if shell is not None:
        shell.events.register("post_run_cell", mean_it)
