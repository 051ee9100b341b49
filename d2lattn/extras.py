"""What is imported only when it is used, and what to install where it is missing."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["Tick", "needs", "progress_bar", "tqdm_here"]

Tick = Callable[[float], Any]  # told how much was done since


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """Import inside this what only an extra of the package installs.

    Parameters
    ----------
    extra
        Its name in ``pyproject.toml``.

    Raises
    ------
    ModuleNotFoundError
        If an import inside finds nothing: with the command that installs the extra.

    Examples
    --------
    >>> with needs("notebook"):
    ...     import matplotlib
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{error.name} must be installed for this; `pip install 'd2lattn[{extra}]'` does so",
            name=error.name,
        ) from None


def tqdm_here() -> Any:
    """What draws progress bars; an error that says what to install where it is missing."""
    with needs("notebook"):
        from tqdm.auto import tqdm

        return tqdm


@contextmanager
def progress_bar(
    unit: str, total: float | None, wanted: bool, done: int = 0
) -> Iterator[Tick | None]:
    """Something to call with how much work was done since; None if no bar is wanted."""
    if not wanted:
        yield None
        return
    with tqdm_here()(total=total, initial=done, unit=unit) as bar:
        yield bar.update
