"""Keep what a figure was, what it is now, and their difference, for somebody to look at."""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from collections.abc import Sequence
from pathlib import Path

from PIL import ImageChops

from tests.gate.compare import GLUED, Difference, Output
from tests.gate.measure import decode_image

_SUFFIX = {"image/svg+xml": "svg", "image/png": "png", "image/jpeg": "jpg"}


def keep_figures(
    differences: Sequence[Difference],
    stored: Sequence[Output],
    fresh: Sequence[Output],
    folder: Path,
) -> bool:
    """Write the images that differ into a folder; tell whether there were any."""
    changed = {(d.output, d.mime) for d in differences if d.mime.removeprefix(GLUED) in _SUFFIX}
    for position, mime in sorted(changed):
        folder.mkdir(parents=True, exist_ok=True)
        suffix = _SUFFIX[mime.removeprefix(GLUED)]
        pair = stored[position]["data"][mime], fresh[position]["data"][mime]
        number = f"-{position + 1}" if len({p for p, _ in changed}) > 1 else ""
        for name, image in zip(("stored", "fresh"), pair, strict=True):
            content = image.encode() if suffix == "svg" else b64decode(image)
            (folder / f"{name}{number}.{suffix}").write_bytes(content)
        if suffix == "svg":
            overlay = folder / f"difference{number}.svg"
            overlay.write_text(_overlay(*pair), encoding="utf-8")
        else:
            old, new = (decode_image(image).convert("RGB") for image in pair)
            if old.size == new.size:
                ImageChops.difference(old, new).save(folder / f"difference{number}.png")
    return bool(changed)


def _overlay(stored: str, fresh: str) -> str:
    """One drawing on the other: black where they agree."""
    box = re.search(r'viewBox="([^"]+)"', stored)
    images = "".join(
        f'<image width="100%" height="100%" style="mix-blend-mode: {mode}" '
        f'href="data:image/svg+xml;base64,{b64encode(drawing.encode()).decode()}"/>\n'
        for drawing, mode in ((stored, "normal"), (fresh, "difference"))
    )
    view = f'viewBox="{box[1]}"' if box else ""
    return f'<svg xmlns="http://www.w3.org/2000/svg" {view}>\n{images}</svg>\n'
