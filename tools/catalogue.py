"""`make catalogue`: the messages of the checks, for those who translate them, and compiled.

Every ``_("…")`` in `d2lattn.exercises` gets its entry in each ``d2lattn.po`` of `d2lattn/locale`;
what is translated stays so, and what no code says any more goes. Fill in the empty ``msgstr`` and
run it again: the checks read the ``.mo`` beside it.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path

from babel.messages import Catalog
from babel.messages.extract import extract_from_dir
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po, write_po

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "d2lattn"
CATALOGUES = sorted(PACKAGE.glob("locale/*/LC_MESSAGES/d2lattn.po"))
UNDATED = datetime(2000, 1, 1, tzinfo=UTC)  # what Babel would otherwise make the time of the run


def messages() -> Catalog:
    """Everything that the code hands to ``_``, in its order."""
    found = Catalog(project="d2lattn")
    folder = PACKAGE / "exercises"
    for name, _line, message, comments, context in extract_from_dir(folder, keywords={"_": None}):
        place = (folder / name).relative_to(ROOT).as_posix()
        found.add(message, None, [(place, 0)], auto_comments=comments, context=context)
    return found


def updated(path: Path) -> Catalog:
    """A catalogue with today's messages; of changed ones, no guess from similar ones."""
    catalogue = read(path)
    catalogue.update(messages(), no_fuzzy_matching=True)
    catalogue.obsolete.clear()
    return catalogue


def read(path: Path) -> Catalog:
    with path.open("rb") as file:
        return read_po(file, locale=path.parents[1].name)


def written(catalogue: Catalog) -> bytes:
    """The same for the same messages: no dates, no line numbers, no lines broken."""
    file = BytesIO()
    write_po(file, catalogue, width=0, omit_header=True, include_lineno=False)
    return HEADER.format(language=catalogue.locale_identifier).encode() + file.getvalue()


HEADER = """\
# What the checks of the exercises say: see `make catalogue`.
msgid ""
msgstr ""
"Language: {language}\\n"
"MIME-Version: 1.0\\n"
"Content-Type: text/plain; charset=utf-8\\n"
"Content-Transfer-Encoding: 8bit\\n"

"""


def compiled(catalogue: Catalog) -> bytes:
    """What gettext reads: also without dates, of translated messages alone."""
    plain = read_po(BytesIO(written(catalogue)), locale=catalogue.locale_identifier)
    plain.creation_date = UNDATED
    file = BytesIO()
    write_mo(file, plain)
    return file.getvalue()


def main() -> int:
    missing = 0
    for path in CATALOGUES:
        catalogue = updated(path)
        path.write_bytes(written(catalogue))
        path.with_suffix(".mo").write_bytes(compiled(catalogue))
        open_ones = [message for message in catalogue if message.id and not message.string]
        missing += len(open_ones)
        print(f"{path.relative_to(ROOT)}: {len(catalogue)} messages, {len(open_ones)} to translate")
    return int(missing > 0)


if __name__ == "__main__":
    sys.exit(main())
