"""Names in prose that no code has (any more)."""

from __future__ import annotations

import ast
import builtins
import importlib
import importlib.util
import inspect
import keyword
import pkgutil
import re
from collections.abc import Iterator
from functools import cache
from types import ModuleType
from typing import Any

from tests.gate.pages import CODE_SPAN, ROLE, Book, Page, prose

_LIBRARIES = {
    "d2lattn": "d2lattn",
    "torch": "torch",
    "numpy": "numpy",
    "np": "numpy",
    "matplotlib": "matplotlib",
    "plt": "matplotlib.pyplot",
    "statsmodels": "statsmodels",
    "math": "math",
}
_CALL = re.compile(r"\.?[A-Za-z_][\w.]*(?:\(.*\))?", re.DOTALL)
_KEYWORD = re.compile(r"([A-Za-z_]\w*)\s*=\s*[^=].*", re.DOTALL)
_FILE = re.compile(r"[\w.*-]*(?:/[\w.*-]+)*(?:/|\.(?:py|md|ipynb|toml|ya?ml|txt|bib|css|js|cff))")
_PY_ROLE = re.compile(r"py:(?:func|class|meth|mod|attr|data|obj|exc|property)")


def names(page: Page, book: Book) -> list[str]:
    """Every piece of code that prose mentions exists: names, files and make targets."""
    chapter = _chapter_names(page)
    found = [
        f"{cell.where} imports {name} from {module}, which has no such name"
        for cell in page.code
        for module, name in _imports_from_package(cell.tree)
        if not _imports(f"{module}.{name}")
    ]
    for where, passage in page.passages():
        text = prose(passage)
        for role in ROLE.finditer(text):
            if _PY_ROLE.fullmatch(role["role"]):
                target = re.sub(r".*<(.*)>$", r"\1", role["body"], flags=re.DOTALL).lstrip("~!")
                if not _imports(target):
                    found.append(f"{where}: {role[0]} points to a name that does not exist")
        for span in CODE_SPAN.finditer(ROLE.sub("", text)):
            missing = _missing(" ".join(span[2].split()), chapter, book)
            if missing:
                found.append(f"{where}: `{span[2].strip()}` is mentioned but {missing}")
    return found


def _missing(code: str, chapter: dict[str, str], book: Book) -> str:
    """What a piece of inline code names that does not exist; empty if nothing."""
    if target := re.match(r"make ([\w-]+)", code):
        makefile = book.root / "Makefile"
        rules = makefile.read_text(encoding="utf-8") if makefile.exists() else ""
        known = re.search(rf"^{re.escape(target[1])}\s*:", rules, re.MULTILINE)
        return "" if known else f"the Makefile has no target {target[1]}"
    if _FILE.fullmatch(code) or ((book.root / code.split("/")[0]).is_dir() and "/" in code):
        return "" if _file_exists(code, book) else "there is no such file"
    if assignment := _KEYWORD.fullmatch(code):
        return "" if _known(assignment[1], chapter) else f"nothing is called {assignment[1]}"
    if not _CALL.fullmatch(code):
        return ""
    for name in _mentioned(code):
        if not _known(name, chapter):
            owner = "d2lattn" if "." not in name else "no library or chapter code here"
            return f"{owner} has {'no such name' if owner == 'd2lattn' else 'it'}: {name}"
    return ""


def _file_exists(path: str, book: Book) -> bool:
    if path.startswith("_build"):
        return True  # not in a fresh clone
    return any(any(folder.glob(path)) for folder in (book.root, book.root / "book"))


def _mentioned(code: str) -> Iterator[str]:
    """The dotted names and keyword arguments of a name or a call."""
    try:
        tree = ast.parse(code.lstrip("."), mode="eval")
    except SyntaxError:
        yield code.partition("(")[0]
        return
    if not isinstance(tree.body, ast.Call):
        yield code
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ("." if node is tree.body and code[0] == "." else "") + ast.unparse(node.func)
        elif isinstance(node, ast.keyword) and node.arg:
            yield node.arg


def _known(dotted: str, chapter: dict[str, str]) -> bool:
    root, *rest = dotted.split(".")
    if not root:  # ".predict": of whatever the sentence is about
        return all(name in _attributes() or name in chapter for name in rest)
    library = chapter.get(root) or _LIBRARIES.get(root)
    if library:
        return _imports(".".join([library, *rest]))
    if root in _public():
        return _has(_public()[root], rest)
    if rest:
        owner = root in chapter or root in _words()
        return owner and all(name in _attributes() or name in chapter for name in rest)
    return len(root) == 1 or root in chapter or root in _words() or root in _attributes(own=True)


def _chapter_names(page: Page) -> dict[str, str]:
    """What the page's own code defines; modules with the path that they were imported from.

    Names imported from the package do not count: the package must have them itself.
    """
    known: dict[str, str] = {}
    for node in (node for cell in page.code for node in ast.walk(cell.tree)):
        match node:
            case ast.Import():
                known |= {a.asname: a.name for a in node.names if a.asname}
                known |= {
                    a.name.split(".")[0]: a.name.split(".")[0] for a in node.names if not a.asname
                }
            case ast.ImportFrom() if node.module and not node.module.startswith("d2lattn"):
                known |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
            case ast.Name(ctx=ast.Store()):
                known.setdefault(node.id, "")
            case ast.FunctionDef() | ast.ClassDef():
                known.setdefault(node.name, "")
            case ast.arg() | ast.keyword(arg=str()):
                known.setdefault(str(node.arg), "")
            case ast.Constant(value=str()):
                known.setdefault(str(node.value), "")
    return known


def _imports_from_package(tree: ast.Module) -> Iterator[tuple[str, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("d2lattn"):
            yield from ((str(node.module), alias.name) for alias in node.names)


@cache
def _imports(dotted: str) -> bool:
    """Whether a dotted path leads to a module or to something in one."""
    parts = dotted.split(".")
    for split in range(len(parts), 0, -1):
        try:
            module = importlib.import_module(".".join(parts[:split]))
        except ImportError:
            continue
        return _has(module, parts[split:])
    return _has(_public().get(parts[0]), parts[1:]) if parts[0] in _public() else False


def _has(thing: Any, path: list[str]) -> bool:
    for name in path:
        if not hasattr(thing, name):
            # `model.bandwidth`: instances have more than their class
            return not isinstance(thing, ModuleType) and name in _attributes(own=True)
        thing = getattr(thing, name)
    return True


@cache
def _modules() -> dict[str, ModuleType]:
    import d2lattn

    found = (info.name for info in pkgutil.iter_modules(d2lattn.__path__))
    return {name: importlib.import_module(f"d2lattn.{name}") for name in found}


@cache
def _public() -> dict[str, Any]:
    """Everything that the package and its modules define under a public name."""
    things: dict[str, Any] = dict(_modules())
    for module in _modules().values():
        for name, thing in vars(module).items():
            home = getattr(thing, "__module__", "d2lattn") or ""
            if not name.startswith("_") and home.startswith("d2lattn"):
                things.setdefault(name, thing)
    return {name: t for name, t in things.items() if not inspect.ismodule(t) or name in _modules()}


@cache
def _attributes(own: bool = False) -> frozenset[str]:
    """Attributes and parameters of the package's things; of tensors as well, unless `own`."""
    found: set[str] = set()
    for thing in _public().values():
        if inspect.isclass(thing):
            found |= {name for base in thing.__mro__ for name in vars(base)
                      if own is False or base.__module__.startswith("d2lattn")}  # fmt: skip
            found |= {n for method in vars(thing).values() for n in _parameters(method)}
        found |= set(_parameters(thing))
    for module in _modules().values():
        for node in ast.walk(ast.parse(inspect.getsource(module))):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                found.add(node.attr)
            if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Tuple):
                found |= set(_axes(node.slice.elts[-1]))  # Float[Tensor, "queries features"]
    if not own:
        import torch

        found |= set(dir(torch.Tensor))
    return frozenset(found)


def _axes(shape: ast.expr) -> list[str]:
    text = shape.value if isinstance(shape, ast.Constant) else ""
    return re.findall(r"[a-z]\w*", text) if isinstance(text, str) else []


def _parameters(thing: Any) -> list[str]:
    try:
        return list(inspect.signature(thing).parameters)
    except (TypeError, ValueError):
        return []


@cache
def _words() -> frozenset[str]:
    """Names that need no library: Python's own, PyTorch's dtypes, and tools."""
    import torch

    dtypes = {name for name in dir(torch) if isinstance(getattr(torch, name), torch.dtype)}
    tools = {"make", "pip", "git", "nbval", "pytest", "python", "python3", "jupyter"}
    numbers = {"nan", "inf"}  # as Python prints them
    return frozenset({*numbers, *dir(builtins), *keyword.kwlist, *dtypes, *tools, *_LIBRARIES})
