"""Building the book, serving it as a static host would, and the browser that opens it."""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path

from editions import UNDER, write_settings
from playwright.sync_api import ViewportSize

ROOT = Path(__file__).resolve().parents[1]
BROWSERS = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
WINDOWLESS = "chromium-headless-shell"  # Debian's Chromium, without what draws windows
QUIET = [  # it asks for nothing by itself
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
UNREAD = ("index.html", "404.html")
DESK = ViewportSize(width=1280, height=900)
TEXT = {".html", ".css", ".js", ".mjs", ".svg", ".json", ".ipynb", ".txt", ".xml"}


def build(
    folder: Path,
    builder: str = "html",
    edition: Mapping[str, str] | None = None,
    *,
    chinese: bool = False,
    was_read: bool = False,
) -> subprocess.CompletedProcess[str]:
    """Build the book into ``folder/_build``, as `make book` does; every warning is an error.

    As pages it is built in both languages; in other forms in English, or in Chinese. With
    ``was_read`` it is written from what another form, built there a moment ago, has read.
    """
    kind = ["--builder", "custom", "--custom-builder", builder] if builder != "html" else []
    kind += [] if was_read else ["--all"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("BOOK_")}
    environment |= {"BOOK_WAS_READ": "1"} if was_read else {}
    command = f"build {ROOT} --path-output {folder} -W -n --keep-going".split() + kind
    command += write_settings(folder) if chinese else []
    return subprocess.run(
        [sys.executable, "-c", "from jupyter_book.cli.main import main; main()", *command],
        cwd=folder,
        env={**environment, **(edition or {})},
        capture_output=True,
        text=True,
        check=False,
    )


class StaticHost(SimpleHTTPRequestHandler):
    """Files under ``/course/``, text compressed, as GitHub Pages sends them."""

    protocol_version = "HTTP/1.1"

    def translate_path(self, path: str) -> str:
        inside = path.startswith("/course/")
        return super().translate_path(path.removeprefix("/course") if inside else "/absent")

    def send_head(self) -> BytesIO | None:
        path = Path(self.translate_path(self.path))
        if path.is_dir():
            path /= "index.html"
        found = path.is_file()
        if not found:
            path = Path(self.directory, "404.html")
        body = path.read_bytes()
        self.send_response(200 if found else 404)
        self.send_header("Content-Type", self.guess_type(str(path)))
        if path.suffix in TEXT and "gzip" in self.headers.get("Accept-Encoding", ""):
            body = gzip.compress(body, compresslevel=6)
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        return BytesIO(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # the browser left, that is all
            super().handle_error(request, client_address)  # type: ignore[arg-type]


@contextmanager
def served(site: Path) -> Iterator[str]:
    """The address of the pages, under a path of their own as on GitHub Pages."""
    server = Server(("127.0.0.1", 0), partial(StaticHost, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/course"
    finally:
        server.shutdown()
        server.server_close()


def system_chromium(*, windowless: bool = False) -> str | None:
    """The system's Chromium: the whole, as readers have it, or the one that takes half the time."""
    order = (WINDOWLESS, *BROWSERS) if windowless else (*BROWSERS, WINDOWLESS)
    return next(filter(None, map(shutil.which, order)), None)


def reader_pages(site: Path) -> list[Path]:
    """Every page that a reader can reach by a link.

    Left out are the first page of each edition, which only leads to its home page, and the page
    for addresses that do not exist, which works at such an address only.
    """
    found = sorted(path for path in site.rglob("*.html") if "_static" not in path.parts)
    unread = {folder / name for folder in (site, site / UNDER) for name in UNREAD}
    return [path for path in found if path not in unread]
