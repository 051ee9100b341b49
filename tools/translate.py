"""`make translate-status`: what of the Chinese edition is missing, stale or wrong.

    python -m tools.translate status [PAGE ...]   the list; 0 if there is nothing on it
    python -m tools.translate update [PAGE ...]   put every piece into its place in book/zh/, with
                                                  the English where there is no Chinese yet
    python -m tools.translate accept [PAGE ...]   note that the Chinese is that of today's English

PAGE is a part of a name, such as ``04``. `accept` takes what has no fault; it is for somebody who
has just read both.
"""

from __future__ import annotations

import difflib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from words import BOOK, Piece, Words, exchanged, kept, kept_in, pages, pieces, stamp, written

from tools.translation import faults

NEW = "new"


def open_work(
    page: Path, wanted: list[Piece] | None = None, known: dict[str, Words] | None = None
) -> Iterator[tuple[str, str]]:
    """The pieces of a page that need somebody, and why."""
    wanted, known = wanted or pieces(page), kept(page) if known is None else known
    for piece in wanted:
        words = known.get(piece.name)
        if words is None:
            yield piece.name, f"no Chinese for: {piece.text[:80]!r}"
            continue
        yield from ((piece.name, fault) for fault in faults(piece.text, words.text))
        was, now = words.stamp, stamp(piece, words.text)
        if was == NEW:
            yield piece.name, "nobody has accepted it yet"
        elif was[:8] != piece.digest:
            yield piece.name, f"the English has changed:\n{change(page, piece, was[:8])}"
        elif was != now:
            yield piece.name, f"accepted with{was[8:]}, has{now[8:]}"
    names = [piece.name for piece in wanted]
    for name in known.keys() - set(names):
        yield name, "there is no such piece any more"
    if [name for name in known if name in names] != [name for name in names if name in known]:
        yield "the whole page", "the pieces stand in another order than in English"


def change(page: Path, piece: Piece, digest: str) -> str:
    """How the English differs from that which was translated, as far as git remembers it."""
    texts = (text for text in earlier(page, piece.name) if Piece("", text).digest == digest)
    old = next(texts, None)
    if old is None:
        return f"  now: {piece.text}"
    lines = difflib.unified_diff(old.splitlines(), piece.text.splitlines(), n=1, lineterm="")
    return "\n".join(f"  {line}" for line in list(lines)[2:])


def earlier(page: Path, name: str) -> Iterator[str]:
    """A piece in each commit that touched its page, the latest first."""
    path = (BOOK / page).relative_to(BOOK.parent).as_posix()
    log = _git("log", "--format=%H", "--", path)
    for commit in log.split():
        source = _git("show", f"{commit}:{path}")
        found = list[str]()

        def note(piece: str, text: str, found: list[str] = found) -> str:
            if piece == name:
                found.append(text)
            return text

        if source:
            exchanged(page, source, note)
        yield from found


def _git(*arguments: str) -> str:
    run = subprocess.run(
        ["git", *arguments], cwd=BOOK.parent, capture_output=True, text=True, check=False
    )
    return run.stdout


def update(page: Path) -> None:
    """Every piece in its place, with the English where there is no Chinese yet."""
    known = kept(page)
    entries = {p.name: known.get(p.name, Words(p.text, NEW)) for p in pieces(page)}
    path = kept_in(page)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(written(entries), encoding="utf-8")


def accept(page: Path) -> None:
    known = kept(page)
    for piece in pieces(page):
        words = known.get(piece.name)
        if words is not None and not list(faults(piece.text, words.text)):
            known[piece.name] = Words(words.text, stamp(piece, words.text))
    kept_in(page).write_text(written(known), encoding="utf-8")


def status(page: Path) -> int:
    found = list(open_work(page))
    path = kept_in(page).relative_to(BOOK.parent)
    for name, fault in found:
        print(f"{path} | {name}\n    {fault}")
    return len(found)


def main(arguments: list[str]) -> int:
    command, *names = arguments or ["status"]
    chosen = [page for page in pages() if not names or any(name in str(page) for name in names)]
    if command == "status":
        total = sum(map(status, chosen))
        done = sum(len(kept(page)) for page in chosen)
        print(f"{total} to do; {done} pieces in {len(chosen)} pages")
        return int(total > 0)
    for page in chosen:
        {"update": update, "accept": accept}[command](page)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
