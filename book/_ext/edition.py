"""What a learner gets who downloads a chapter: the plain edition's cells, without Sphinx.

The cells are those of the book. What only a page can use is said in a way that any notebook
program understands: a role has become words, a figure has its caption under it, what is computed
for the text alone stands in folded cells, and an exercise can be started without what comes
before it. `plain` asks Sphinx for the words.
"""

from __future__ import annotations

import ast
import builtins
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeGuard

from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell

KEPT = {"hide-cell", "hide-input", "hide-output"}  # tags that other programs understand
FOLDED = {"source_hidden": True, "outputs_hidden": True}
QUOTING = "from d2lattn.notebook import glue\n\n"


@dataclass(frozen=True)
class Voice:
    """How this edition says what the book leaves to Sphinx."""

    say: Callable[[str], str]  # Markdown of the book -> plain Markdown
    caption: Callable[[str, str], str]  # a figure's name and caption -> both, with its number
    words: dict[str, str]
    page: str = ""  # the chapter's address, if it has one
    requirement: str = "d2lattn[notebook]"  # as pip takes it
    language: str = "en"  # in which checks answer


def plain_cells(cells: list[NotebookNode], voice: Voice) -> list[NotebookNode]:
    """The cells of the plain edition, in order; those of the book stay as they are."""
    code = Code.of(cells)
    out = [setup(voice)]
    for cell in cells:
        if cell.cell_type != "code":
            out.append(new_markdown_cell(voice.say(cell.source), id=cell.id))
            continue
        teaching, quoted = parted(cell.source, code.trees[cell.id], code.used)
        shown = shown_outputs(cell.outputs)
        if cell.id.startswith("exercise-"):
            teaching = startable(cell.id, teaching, code, voice.words)
        if teaching or shown:
            metadata = plain_metadata(cell.metadata)
            out.append(new_code_cell(teaching, id=cell.id, metadata=metadata, outputs=shown))
        figure = cell.metadata.get("mystnb", {}).get("figure")
        if figure:
            caption = voice.caption(figure["name"], figure["caption"])
            if figure["name"] in code.labs:
                lab = voice.words["lab link" if voice.page else "lab"]
                caption += " " + lab.format(f"{voice.page}#{figure['name']}")
            out.append(new_markdown_cell(caption, id=f"{cell.id}-caption"))
        if quoted:
            # Colab shows the title in place of the code.
            source = f"# @title {voice.words['numbers']}\n{QUOTING}{quoted}"
            metadata = {"tags": ["hide-cell"], "jupyter": dict(FOLDED), "cellView": "form"}
            name = f"{cell.id}-quoted"
            out.append(new_code_cell(source, id=name, metadata=metadata))
    for number, cell in enumerate((cell for cell in out if cell.cell_type == "code"), 1):
        cell.execution_count = number
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = number
    return out


@dataclass(frozen=True)
class Code:
    """The code of a chapter: what each cell holds, and which names it needs and imports."""

    trees: dict[str, ast.Module]
    used: Counter[str]  # by how many statements, without those that are for the page alone
    imports: dict[str, tuple[str, str]]  # where a name comes from, and as what it is imported
    labs: set[str]  # figures that the page makes touchable

    def is_ours(self, name: str) -> bool:
        return self.imports.get(name, ("", ""))[0].partition(".")[0] == "d2lattn"

    @classmethod
    def of(cls, cells: list[NotebookNode]) -> Code:
        trees = {cell.id: ast.parse(cell.source) for cell in cells if cell.cell_type == "code"}
        nodes = [node for tree in trees.values() for node in tree.body]
        used = Counter(name for node in nodes for name in loaded(node, taught=True))
        labs = {
            str(keyword.value.value)
            for node in nodes
            if (call := calls(node, "show_lab"))
            for keyword in call.keywords
            if keyword.arg == "figure" and isinstance(keyword.value, ast.Constant)
        }
        imports = dict[str, tuple[str, str]]()
        for node in nodes:
            if is_import(node):
                module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
                for alias in node.names:
                    name = alias.asname or alias.name.partition(".")[0]
                    imports.setdefault(name, (module, ast.unparse(alias)))
        return cls(trees, used, imports, labs)


def setup(voice: Voice) -> NotebookNode:
    source = (
        f"# {voice.words['setup']}\n"
        "from importlib.util import find_spec\n\n"
        'if find_spec("d2lattn") is None:\n'
        f'    %pip install --quiet "{voice.requirement}"'
    )
    if voice.language != "en":
        source += f'\n\nfrom d2lattn.exercises import speak\n\nspeak("{voice.language}")'
    return new_code_cell(source, id="setup")


def plain_metadata(metadata: dict[str, Any]) -> dict[str, Any]:
    tags = [tag for tag in metadata.get("tags", []) if tag in KEPT]
    folded = dict(metadata.get("jupyter", {}))
    if "hide-input" in tags or "hide-cell" in tags:
        folded["source_hidden"] = True
    return {key: value for key, value in {"tags": tags, "jupyter": folded}.items() if value}


# What a cell computes for the text


def calls(node: ast.stmt, name: str) -> ast.Call | None:
    """The call of a function, if a statement is no more than that."""
    call = node.value if isinstance(node, ast.Expr) else None
    if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == name:
        return call
    return None


def quotes(node: ast.stmt) -> bool:
    """Whether a statement does nothing but store values for the text."""
    if isinstance(node, ast.For):
        return all(map(quotes, node.body)) and not node.orelse
    return calls(node, "glue") is not None


def for_the_page(node: ast.stmt) -> bool:
    return quotes(node) or calls(node, "show_lab") is not None


def parted(source: str, tree: ast.Module, used: Counter[str]) -> tuple[str, str]:
    """The code that a reader should read, and the code that is there for the text's numbers:
    what quotes them, and the variables that nothing else asks for.

    Where a loop quotes a number in every turn, it does so no more.
    """
    lines, start = source.splitlines(), 0
    moved = for_nobody_else([node for node in tree.body if for_the_page(node)], tree.body, used)
    teaching, quoted = list[str](), list[str]()
    for node in tree.body:
        end = node.end_lineno or node.lineno
        if node in moved:
            if not calls(node, "show_lab"):
                quoted += lines[start:end]
        else:
            inside = [n for n in ast.walk(node) if isinstance(n, ast.stmt)]
            gone = for_nobody_else([n for n in inside if for_the_page(n)], inside, used)
            numbers = {i for n in gone for i in range(n.lineno - 1, n.end_lineno or n.lineno)}
            piece = "\n".join(lines[i] for i in range(start, end) if i not in numbers)
            teaching.append(without_unused(node, piece, used))
        start = end
    teaching += lines[start:]
    return tidy(teaching), tidy(quoted)


def for_nobody_else(
    moved: list[ast.stmt], around: list[ast.stmt], used: Counter[str]
) -> list[ast.stmt]:
    """Statements for the page, and the variables around them that only these ask for."""
    wanted = set().union(*map(loaded, moved))
    for node in reversed(around if moved else []):
        names = bound(node) if isinstance(node, ast.Assign | ast.AnnAssign) else set()
        if names and names <= wanted and not any(used[name] for name in names):
            moved.append(node)
            wanted |= loaded(node)
            used.subtract(loaded(node))
    return moved


def tidy(pieces: list[str]) -> str:
    text = "\n".join(pieces).strip("\n")
    return re.sub(r"\n{4,}", "\n\n\n", text).rstrip()


def without_unused(node: ast.stmt, piece: str, used: Counter[str]) -> str:
    """The helpers for the page are not imported where nothing calls them any more."""
    if not isinstance(node, ast.ImportFrom) or node.module != "d2lattn.notebook":
        return piece
    names = [alias.name for alias in node.names if used[alias.name]]
    if len(names) == len(node.names):
        return piece
    before = piece[: piece.index("from")]
    line = f"from d2lattn.notebook import {', '.join(names)}"
    if len(line) > 79:
        line = "from d2lattn.notebook import (\n    " + ",\n    ".join(names) + ",\n)"
    return before + line if names else before.rstrip("\n")


def shown_outputs(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Without what is noted for the text, which nobody sees, and laboratories, whose scripts
    the book has."""
    return [
        output
        for output in outputs
        if "scrapbook" not in output.get("metadata", {})
        and 'class="lab"' not in "".join(output.get("data", {}).get("text/html", ""))
    ]


# An exercise by itself


def startable(name: str, source: str, code: Code, words: dict[str, str]) -> str:
    """The code of an exercise, which imports what it needs and says what else it stands on.

    An answer may need PyTorch, and what the solution needs of other packages than ours: with what
    it needs of ours, the solution would be told.
    """
    exercise, _, part = name.rpartition("-")
    begins = f"{exercise}-start" in code.trees
    here = code.trees[name]
    wanted = set[str]()
    if part == "start":
        solution = code.trees.get(f"{exercise}-solution", here)
        others = {n for n in unbound(solution) if not code.is_ours(n)}
        wanted = {"torch"} | others | unbound(here)
    elif not begins:
        wanted = unbound(here)
    top = import_lines(wanted & code.imports.keys() - bound(here), code)
    if top:
        first = here.body[0]
        is_definition = isinstance(first, ast.FunctionDef | ast.ClassDef)
        top += "\n" * (3 if is_definition else 1 if is_import(first) else 2)
    note = ""
    if part == "solution":
        foreign = unbound(here) - code.imports.keys()
        foreign -= bound(code.trees[f"{exercise}-start"]) if begins else set()
        if foreign:
            note = f"# {words['needs'].format(words['and'].join(sorted(foreign)))}\n"
    return note + top + source


def import_lines(names: Iterable[str], code: Code) -> str:
    """Imports of these names, as a writer of code sorts them."""
    modules = dict[str, list[str]]()
    for name in sorted(names):
        module, alias = code.imports[name]
        modules.setdefault(module, []).append(alias)
    plain = [f"import {alias}" for alias in modules.pop("", [])]
    modules = dict(sorted(modules.items(), key=lambda item: item[0].partition(".")[0] == "d2lattn"))
    return "\n".join([*plain, *(f"from {m} import {', '.join(a)}" for m, a in modules.items())])


def loaded(node: ast.AST, taught: bool = False) -> set[str]:
    """The names that some code asks for; with `taught`, without what is there for the page."""
    if isinstance(node, ast.Name):
        return {node.id} if is_read(node) else set()
    if taught and isinstance(node, ast.stmt) and for_the_page(node):
        return set()
    return set().union(*(loaded(part, taught) for part in ast.iter_child_nodes(node)))


def is_import(node: ast.AST) -> TypeGuard[ast.Import | ast.ImportFrom]:
    return isinstance(node, ast.Import | ast.ImportFrom)


def is_read(name: ast.Name) -> bool:
    return isinstance(name.ctx, ast.Load)


def bound(node: ast.AST) -> set[str]:
    """Every name that some part of the code gives a meaning, arguments of functions included."""
    names = set()
    for n in ast.walk(node):
        if isinstance(n, ast.Name) and not is_read(n):
            names.add(n.id)
        elif isinstance(n, ast.FunctionDef | ast.ClassDef):
            names.add(n.name)
        elif isinstance(n, ast.arg):
            names.add(n.arg)
        elif is_import(n):
            names |= {alias.asname or alias.name.partition(".")[0] for alias in n.names}
    return names


def unbound(node: ast.AST) -> set[str]:
    return loaded(node) - bound(node) - set(dir(builtins))
