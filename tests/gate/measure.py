"""How far apart two numbers, two texts or two images are, and how far is still the same."""

from __future__ import annotations

import io
import math
import re
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

from PIL import Image, ImageChops, ImageStat


@dataclass(frozen=True)
class Tolerance:
    """What another CPU may change. A cell may widen it: metadata `{"gate": {"rtol": 0.01}}`.

    Measured with `ATEN_CPU_CAPABILITY=default` against AVX-512: float32 moves a kernel regression
    by 3e-5 pt, float64 moves no figure of chapter 1 at all and no number by more than 1e-15 of
    it. Five hundred steps of Adam in float32 end a quarter apart, so chapters train in float64.
    A Gaussian exponent scaled by 1.01 moves the curves of chapter 1 by 0.06 to 0.6 pt.
    """

    rtol: float = 1e-4  # of a printed or glued number
    atol: float = 1e-12  # ... near zero: what is left where float64 should cancel
    beside: float = 1e-8  # ... of the largest number in the same brackets: float32 sums them alike
    points: float = 0.01  # distance in a figure; a point is 0.35 mm
    rms: float = 0.5  # of an image, in levels of 255: noise moves few pixels
    level: int = 3  # of any pixel's channel: a step of a map of 256 colours

    @classmethod
    def of(cls, cell: Mapping[str, Any]) -> Self:
        """The tolerance that a notebook cell asks for."""
        wanted = cell.get("metadata", {}).get("gate", {})
        unknown = set(wanted) - {field.name for field in fields(cls)}
        if unknown:
            raise ValueError(f"cell metadata 'gate' knows no {sorted(unknown)}")
        return cls(**wanted)


# A number is not part of a word: "line2d_7" and "x1" hold none.
NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d+\.\d*|\.\d+|\d+)(?:[eE][-+]?\d+)?(?!\w)")
_BRACKET_OR_NUMBER = re.compile(rf"[\[\]]|{NUMBER.pattern}")


def text_differences(stored: str, fresh: str, tolerance: Tolerance) -> list[str]:
    """Words must be equal; decimals may differ within the tolerance; integers may not."""
    if NUMBER.split(stored) != NUMBER.split(fresh):
        return [_first_changed_line(stored, fresh)]
    moved: list[tuple[float, str]] = []
    pairs = list(zip(NUMBER.finditer(stored), NUMBER.finditer(fresh), strict=True))
    scales = _scales(stored)
    for old, new in pairs:
        floor = tolerance.atol + tolerance.beside * scales.get(old.start(), 0.0)
        excess = _excess(old[0], new[0], tolerance.rtol, floor)
        if excess > 1:
            line = stored.count("\n", 0, old.start()) + 1
            change = _change(old[0], new[0])
            moved.append((excess, f"{old[0]} became {new[0]} in line {line} ({change})"))
    if not moved:
        return []
    worst = max(moved)[1]
    return [f"{len(moved)} of {len(pairs)} numbers moved, most of all {worst}"]


def _scales(text: str) -> dict[int, float]:
    """For the place of each decimal in brackets, the size of the largest one beside it.

    The entries of a printed tensor are rounded alike, however small one of them is. Numbers of a
    sentence are not: an error of 1e-9 at a bandwidth of 0.5 is a number of its own.
    """
    groups: list[list[re.Match[str]]] = []
    depth = 0
    for part in _BRACKET_OR_NUMBER.finditer(text):
        if part[0] in "[]":
            groups += [[]] if part[0] == "[" and depth == 0 else []
            depth = max(0, depth + (1 if part[0] == "[" else -1))
        elif depth and not _is_count(part[0]):
            groups[-1].append(part)
    sizes = [max((abs(float(number[0])) for number in group), default=0.0) for group in groups]
    return {
        number.start(): size for group, size in zip(groups, sizes, strict=True) for number in group
    }


def _is_count(number: str) -> bool:
    return number.lstrip("+-").isdigit()


def _excess(old: str, new: str, rtol: float, floor: float) -> float:
    """The distance of two printed numbers in units of the tolerance; at most 1 is the same."""
    if old == new:
        return 0.0
    if _is_count(old) or _is_count(new):
        return math.inf  # counts are exact, and 1 is not printed as 1.0
    allowed = floor + rtol * abs(float(old))
    return abs(float(new) - float(old)) / allowed if allowed else math.inf


def _change(old: str, new: str) -> str:
    distance = float(new) - float(old)
    return (
        f"{distance:+.2g}, {abs(distance / float(old)):.2%}" if float(old) else f"{distance:+.2g}"
    )


def _first_changed_line(stored: str, fresh: str) -> str:
    old_lines, new_lines = stored.splitlines(), fresh.splitlines()
    for number, (old, new) in enumerate(zip(old_lines, new_lines, strict=False), start=1):
        if NUMBER.split(old) != NUMBER.split(new):
            return f'line {number}: "{_clip(old)}" became "{_clip(new)}"'
    return f"{len(old_lines)} lines became {len(new_lines)}"


def _clip(text: str, length: int = 100) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def image_differences(stored: str, fresh: str, tolerance: Tolerance) -> list[str]:
    """Compare two base64-encoded images, pixel by pixel."""
    old, new = decode_image(stored), decode_image(fresh)
    if old.size != new.size:
        return [f"{_size(old)} pixels became {_size(new)}"]
    statistics = ImageStat.Stat(ImageChops.difference(old, new))
    rms = math.sqrt(sum(value**2 for value in statistics.rms) / len(statistics.rms))
    level = max(int(high) for _, high in statistics.extrema)
    if rms <= tolerance.rms and level <= tolerance.level:
        return []
    return [f"pixels differ by {rms:.2g} of 255 (RMS) and by {level} at most"]


def decode_image(encoded: str) -> Image.Image:
    """The pixels of a base64-encoded image, always with four channels."""
    return Image.open(io.BytesIO(b64decode(encoded))).convert("RGBA")


def _size(image: Image.Image) -> str:
    return f"{image.width} × {image.height}"
