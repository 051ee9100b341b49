"""Which part of a matplotlib SVG moved, and by how much.

Structure, words and colours must be equal; distances may differ by what another CPU changes.
Two things in such a file are not what they seem: ids that end in a hash of the geometry (markers,
clip paths, images) change with its last digit, so only their order counts; and every label is
drawn as glyphs, but preceded by a comment that holds its text.
"""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass

from tests.gate.measure import Tolerance, image_differences

MOST_LINES = 5  # per figure: a wrong axis moves everything

_REFERENCES = {"id", "href", "clip-path", "mask", "filter"}
_POINTS = {"d", "points"}
_GEOMETRY = _POINTS | {"x", "y", "x1", "y1", "x2", "y2", "cx", "cy", "r", "rx", "ry", "dx", "dy"}
_GEOMETRY |= {"width", "height", "transform", "viewBox"}
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_HASHED = re.compile(r"(?<=[\w#(])[0-9a-f]{10}\b")
_PNG = "data:image/png;base64,"
# A scale or a rotation acts on lengths of about a hundred points.
_LEVER = 100.0


@dataclass(frozen=True)
class _Change:
    where: str
    what: str
    size: float  # in tolerances; infinite when it is no distance


def svg_differences(stored: str, fresh: str, tolerance: Tolerance) -> list[str]:
    """Say what differs between two figures, the worst first."""
    try:
        old, new = _parse(stored), _parse(fresh)
    except ET.ParseError as error:
        return [] if stored == fresh else [f"one of the two is not XML: {error}"]
    changes = sorted(_compare(old, new, "figure", tolerance), key=lambda change: -change.size)
    by_place: dict[str, list[_Change]] = {}
    for change in changes:
        by_place.setdefault(change.where, []).append(change)
    lines = [
        f"{where}: {group[0].what}" + (f" (and {len(group) - 1} more)" if group[1:] else "")
        for where, group in by_place.items()
    ]
    if len(lines) > MOST_LINES:
        rest = len(lines) - MOST_LINES
        lines[MOST_LINES:] = [f"... and {rest} more elements changed"]
    return lines


def _parse(text: str) -> ET.Element:
    """The drawing without `<metadata>` and with hashes replaced by their order."""
    order: dict[str, str] = {}

    def rank(match: re.Match[str]) -> str:
        return order.setdefault(match[0], f"~{len(order)}")

    root = ET.fromstring(text, ET.XMLParser(target=ET.TreeBuilder(insert_comments=True)))
    for child in list(root):
        if isinstance(child.tag, str) and child.tag.endswith("}metadata"):
            root.remove(child)
    for element in root.iter():
        for name, value in element.attrib.items():
            if name.rpartition("}")[2] in _REFERENCES and not value.startswith(_PNG):
                element.set(name, _HASHED.sub(rank, value))
    return root


def _compare(old: ET.Element, new: ET.Element, where: str, t: Tolerance) -> Iterator[_Change]:
    where = _place(old, where)
    if old.tag != new.tag:
        yield _Change(where, f"{_kind(old)} became {_kind(new)}", math.inf)
        return
    labels = _label(old), _label(new)
    if labels[0] != labels[1]:
        yield _Change(where, f"label {labels[0]} became {labels[1]}", math.inf)
        return  # its glyphs differ, of course
    if (old.text or "").strip() != (new.text or "").strip():
        yield _Change(where, f'text "{old.text}" became "{new.text}"', math.inf)
    yield from _compare_attributes(old, new, where, t)
    if len(old) != len(new):
        parts = f"{len(old)} parts became {len(new)}"
        names = [set(map(_name, element)) for element in (old, new)]
        lost, found = (", ".join(sorted(filter(None, some))) for some in
                       (names[0] - names[1], names[1] - names[0]))  # fmt: skip
        gone = f"; gone: {lost}" if lost else ""
        extra = f"; new: {found}" if found else ""
        yield _Change(where, parts + gone + extra, math.inf)
        return
    for old_child, new_child in zip(old, new, strict=True):
        yield from _compare(old_child, new_child, where, t)


def _compare_attributes(
    old: ET.Element, new: ET.Element, where: str, t: Tolerance
) -> Iterator[_Change]:
    for name in sorted(old.attrib.keys() | new.attrib.keys()):
        before, after = old.get(name), new.get(name)
        short = name.rpartition("}")[2]
        if before == after:
            continue
        if before is None or after is None:
            yield _Change(where, f"{short} {before} became {after}", math.inf)
        elif short == "href" and before.startswith(_PNG) and after.startswith(_PNG):
            for what in image_differences(before[len(_PNG) :], after[len(_PNG) :], t):
                yield _Change(where, f"image: {what}", math.inf)
        elif short in _GEOMETRY:
            yield from _compare_geometry(short, before, after, where, t)
        elif short == "style":
            yield _Change(where, _style_change(before, after), math.inf)
        else:
            yield _Change(where, f"{short} {before} became {after}", math.inf)


def _compare_geometry(
    name: str, before: str, after: str, where: str, t: Tolerance
) -> Iterator[_Change]:
    old, new = ([float(n) for n in _NUMBER.findall(text)] for text in (before, after))
    if _NUMBER.sub("#", before) != _NUMBER.sub("#", after):
        what = (
            f"path with {len(old) // 2} vertices became one with {len(new) // 2}"
            if name in _POINTS and len(old) != len(new)
            else f"{name} {before[:60]} became {after[:60]}"
        )
        yield _Change(where, what, math.inf)
        return
    if name in _POINTS and len(old) % 2 == 0:
        moves = [math.dist(old[i : i + 2], new[i : i + 2]) for i in range(0, len(old), 2)]
        worst = max(range(len(moves)), key=moves.__getitem__)
        distance = moves[worst]
        i = 2 * worst
        detail = f" at vertex {worst + 1} of {len(moves)}: ({old[i]:g}, {old[i + 1]:g}) became"
        detail += f" ({new[i]:g}, {new[i + 1]:g})"
    else:
        lever = _LEVER if name == "transform" and not before.startswith("translate") else 1.0
        distance = lever * max(abs(a - b) for a, b in zip(old, new, strict=True))
        detail = f": {name} {before[:60]} became {after[:60]}"
    if distance > t.points:
        yield _Change(where, f"moved by {distance:.3g} pt{detail}", distance / t.points)


def _style_change(before: str, after: str) -> str:
    old, new = (
        dict(part.strip().split(":", 1) for part in text.split(";") if ":" in part)
        for text in (before, after)
    )
    changed = [
        f"{key}{old.get(key, ' nothing')} became{new.get(key, ' nothing')}"
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]
    return ", ".join(changed) or f"style {before} became {after}"


def _place(element: ET.Element, outer: str) -> str:
    """The nearest name that matplotlib gave: `axes_1`, `line2d_7`, `text_3 "x"`."""
    name = _name(element)
    if not name or name.startswith("figure_"):
        return outer
    label = _label(element)
    return f"{name} {label}" if label != "none" else name


def _name(element: ET.Element) -> str:
    name = element.get("id", "") if isinstance(element.tag, str) and _kind(element) == "g" else ""
    return "" if "~" in name else name


def _label(element: ET.Element) -> str:
    """The text of a label, which matplotlib writes as a comment before its glyphs."""
    words = [(child.text or "").strip() for child in element if not isinstance(child.tag, str)]
    return '"' + " ".join(words) + '"' if words else "none"


def _kind(element: ET.Element) -> str:
    return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else "comment"
