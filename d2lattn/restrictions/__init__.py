"""Kinds of masks, as an engine asks them."""

from d2lattn.restrictions.base import Restriction, Stretch, register_tree
from d2lattn.restrictions.joined import Both, Inverse
from d2lattn.restrictions.opaque import Booleans, Where
from d2lattn.restrictions.part import Part
from d2lattn.restrictions.regular import FAR, Band, Documents, Lengths

__all__ = [
    "FAR",
    "Band",
    "Booleans",
    "Both",
    "Documents",
    "Inverse",
    "Lengths",
    "Part",
    "Restriction",
    "Stretch",
    "Where",
    "register_tree",
]
