"""What a chapter needs to show things: house style, glued values, laboratories, real source.

IPython and matplotlib are imported when they are used: ``pip install 'd2lattn[notebook]'``.
"""

import ast
import inspect
import json
import math
import random
import textwrap
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from d2lattn.extras import needs
from d2lattn.plotting import HOUSE_STYLE

__all__ = ["glue", "show_lab", "show_source", "use_house_style"]


def use_house_style(seed: int = 0) -> None:
    """Seed the random generators; draw figures as reproducible SVG, in the book's style.

    Parameters
    ----------
    seed
        For PyTorch, NumPy and Python's ``random``: a chapter gives the same numbers each time.

    Raises
    ------
    TypeError
        If the seed is not an integer.

    Examples
    --------
    >>> use_house_style(seed=1)
    """
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"seed must be an integer; got {seed!r}")
    with needs("notebook"):
        import matplotlib
        import numpy as np
        from IPython import get_ipython

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    torch.set_printoptions(precision=4, sci_mode=False, linewidth=79)
    np.set_printoptions(precision=4, suppress=True, linewidth=79)
    matplotlib.rcParams.update(HOUSE_STYLE)
    if get_ipython() is not None:
        with needs("notebook"):
            from matplotlib_inline.backend_inline import set_matplotlib_formats

        # No date in the file, and a size that does not follow the tick labels.
        set_matplotlib_formats("svg", metadata={"Date": None}, bbox_inches=None)


def glue(name: str, value: float | str | Tensor) -> None:
    """Store a value in the notebook under a name, for the text to quote.

    In prose, ``{glue:text}`` with the chapter's file name, ``::``, this name and a format shows
    the value as the code computed it. Nothing is shown in the cell itself.

    Parameters
    ----------
    name
        A name, unique in the chapter: Latin letters, digits, ``-`` and ``_``.
    value
        A number, a text, or a tensor with one element.

    Raises
    ------
    TypeError
        If the value is none of these, or the name no text.
    ValueError
        If the name has other characters, or the number is not finite.

    Examples
    --------
    >>> glue("answer", 42)
    """
    if not isinstance(name, str):
        raise TypeError(f"name must be a text; got {type(name).__name__}")
    if not name.isascii() or not name.replace("-", "").replace("_", "").isalnum():
        raise ValueError(f"name must consist of letters, digits, - and _; got {name!r}")
    if isinstance(value, Tensor):
        if value.numel() != 1:
            raise TypeError(f"value must have one element; got a tensor {tuple(value.shape)}")
        value = value.item()
    if isinstance(value, float):
        value = float(value)  # NumPy's numbers are floats that print as something else
    if isinstance(value, bool) or not isinstance(value, float | int | str):
        raise TypeError(f"value must be a number or a text; got {type(value).__name__}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"value must be finite to be quoted; got {value}")
    with needs("notebook"):
        from IPython import get_ipython
        from IPython.display import display

    if get_ipython() is None:
        return  # outside a notebook there is no text to quote it
    prefix = "application/papermill.record/"  # where MyST-NB looks for glued values
    display(
        {prefix + "text/plain": repr(value)},
        metadata={"scrapbook": {"name": name, "mime_prefix": prefix}},
        raw=True,
    )


def show_lab(name: str, data: Mapping[str, Any], figure: str) -> None:
    """Make a figure of this chapter one that a reader can touch: a laboratory.

    The page gets the data, and the book's script of that name draws them where the figure stands.
    In a notebook, on paper and without JavaScript there is only the figure: it shows how the
    laboratory starts.

    Parameters
    ----------
    name
        Which laboratory: the name of its script in ``book/_labs``.
    data
        What it needs, by name: numbers, texts, tensors, and lists or mappings of these. Decimals
        are rounded to six digits, to be the same on every CPU.
    figure
        The figure's name, as in the metadata of the cell that draws it.

    Raises
    ------
    TypeError
        If a name is no text, or something is neither a number, a text, a tensor nor made of
        these.
    ValueError
        If a name has other characters than letters, digits and ``-``, or a number is not finite.

    Examples
    --------
    >>> show_lab("kernel-regression", {"x": torch.arange(3.0)}, figure="fig-lab")
    """
    for argument, text in (("name", name), ("figure", figure)):
        if not isinstance(text, str):
            raise TypeError(f"{argument} must be a text; got {type(text).__name__}")
        if not text.isascii() or not text.replace("-", "").isalnum():
            raise ValueError(f"{argument} must consist of letters, digits and -; got {text!r}")
    text = json.dumps(_rounded("data", data))
    for sign in "<>&":  # nothing ends the script, and EPUB's stricter HTML takes it too
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    with needs("notebook"):
        from IPython import get_ipython
        from IPython.display import display

    if get_ipython() is None:
        return
    script = f'<script type="application/json">{text}</script>'
    place = f'<div class="lab" data-lab="{name}" data-figure="{figure}">{script}</div>'
    display({"text/html": place}, raw=True)


def show_source(obj: Any, *, docstring: bool = False) -> Any:
    """The real source code of a function, class or method of the package, for a chapter.

    Parameters
    ----------
    obj
        What to show.
    docstring
        Whether to show docstrings too; by default only the code.

    Returns
    -------
    IPython.display.Markdown
        A listing, headed by the name of the file that it stands in.

    Raises
    ------
    TypeError
        If the object has no source code.
    """
    with needs("notebook"):
        from IPython.display import Markdown

    try:
        source = textwrap.dedent(inspect.getsource(obj))
    except (OSError, TypeError):
        raise TypeError(f"obj must have source code to show; got {obj!r}") from None
    if not docstring:
        source = _without_docstrings(source)
    file = inspect.getmodule(obj).__name__.replace(".", "/") + ".py"  # type: ignore[union-attr]
    return Markdown(f"```python\n# {file}\n{source.rstrip()}\n```")


def _rounded(name: str, value: Any) -> Any:
    """What JSON can hold, with six digits of every decimal."""
    if isinstance(value, Tensor):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _rounded(f"{name}[{key!r}]", item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(f"{name}[{i}]", item) for i, item in enumerate(value)]
    if not isinstance(value, float | int | str):
        raise TypeError(f"{name} must be made of numbers and texts; got {type(value).__name__}")
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{name} must be finite; got {value}")
        return float(f"{value:.6g}")
    return value


def _without_docstrings(source: str) -> str:
    lines = source.splitlines()
    dropped: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        code = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
        if isinstance(node, code) and ast.get_docstring(node):
            text = node.body[0]
            dropped.update(range(text.lineno - 1, text.end_lineno or text.lineno))
            after = text.end_lineno or text.lineno
            if isinstance(node, ast.ClassDef) and after < len(lines) and not lines[after].strip():
                dropped.add(after)  # the blank line between a docstring and the first method
    return "\n".join(line for i, line in enumerate(lines) if i not in dropped)
