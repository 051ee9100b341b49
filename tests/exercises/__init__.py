"""The exercises: what tries a reader's answer, and answers to try it with."""

from collections.abc import Callable
from typing import Any

from d2lattn.exercises import Verdict

Check = Callable[[Any], Verdict]
