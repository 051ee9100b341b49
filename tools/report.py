"""`make site-report`: what each page costs its reader, against what it may cost.

Every page is opened with an empty cache from a local server that compresses text as a static host
does, with the processor four times slower behind a line of 1.6 Mbit/s with 150 ms round trip, then
scrolled to its end: bytes, requests and layout shifts are those of the whole visit. Other visits
drive every control of every laboratory by keyboard, mouse and finger. What counts is the processor
time that the page spends until an action is answered, drawn and done with, four-fold, and a frame:
a clock would measure what else runs on the machine. Where an action takes too long, the laboratory
is visited again, and of each action's times the least counts; so is a page that is painted too
late, and the largest of its shifts counts. Of the listings of source code, the largest stands for
all.

`make book` is what somebody waits for, by the clock. The site is as it makes it, without the PDF
and EPUB that other commands add.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, CDPSession, Locator, Page, sync_playwright
from tqdm import tqdm

from tools.serving import DESK, QUIET, build, reader_pages, served, system_chromium

SLOWER = 4
# The frame behind an action is drawn, and what waits behind it is done.
ANSWERED = """() => new Promise(go => requestAnimationFrame(() => requestAnimationFrame(
    () => setTimeout(go))))"""
ATTEMPTS = 5  # visits to a page or a laboratory that takes too long, at most
FRAME = 1000 / 60  # ms that an answer may have to wait for a frame
LINE = {"offline": False, "latency": 150, "downloadThroughput": 2e5, "uploadThroughput": 2e5}
TARGETS = {
    "transferred (kB)": 1200,
    "requests": 25,
    "paint (s)": 2.5,
    "shift": 0.05,
    "lab (ms)": 100,
}

WATCH = """
window.seen = {paint: 0, shift: 0};
const watch = (type, then, more) => new PerformanceObserver(list =>
    list.getEntries().forEach(then)).observe({type, buffered: true, ...more});
watch("largest-contentful-paint", e => { seen.paint = e.startTime; });
watch("layout-shift", e => { if (!e.hadRecentInput) seen.shift += e.value; });
"""
KEYS = ["ArrowRight"] * 5 + ["PageUp", "Home", "End", "PageDown"]
CONTROLS = "input, select, button, .lab-touch, .lab-across"  # the last two are drawings


@dataclass(frozen=True)
class Visit:
    """What one visit to a page cost."""

    kilobytes: float
    requests: int
    paint: float
    shift: float
    lab: float | None  # the slowest answer of a laboratory; None without one

    def row(self) -> list[float | None]:
        return [self.kilobytes, self.requests, self.paint, self.shift, self.lab]


def scroll_through(page: Page) -> None:
    page.evaluate(
        """async () => {
        for (let y = 0; y < document.documentElement.scrollHeight; y += 450) {
            window.scrollTo({top: y, behavior: "instant"});
            await new Promise(done => setTimeout(done, 50));
        }
    }"""
    )
    page.wait_for_load_state("networkidle")


def open_page(page: Page, url: str) -> None:
    """Until all has come: the network may rest while the page is still being read."""
    page.goto(url, wait_until="load", timeout=90_000)
    page.wait_for_load_state("networkidle")


def loaded(browser: Browser, url: str) -> tuple[float, int, float, float]:
    """Kilobytes, requests, seconds until the largest paint, and layout shift of a visit."""
    context = browser.new_context(viewport=DESK)
    context.add_init_script(WATCH)
    page = context.new_page()
    session = context.new_cdp_session(page)
    sizes, inside = dict[str, float](), set[str]()

    def asked(event: Any) -> None:
        if event["request"]["url"].startswith(("data:", "blob:")):  # came with the page
            inside.add(event["requestId"])

    def arrived(event: Any) -> None:
        sizes[event["requestId"]] = event["encodedDataLength"]

    session.on("Network.requestWillBeSent", asked)
    session.on("Network.loadingFinished", arrived)
    session.send("Network.enable")
    session.send("Network.emulateNetworkConditions", LINE)
    session.send("Emulation.setCPUThrottlingRate", {"rate": SLOWER})
    open_page(page, url)
    page.wait_for_function("seen.paint > 0", timeout=30_000)  # told some time after it happened
    page.wait_for_timeout(500)
    paint = page.evaluate("seen.paint") / 1000
    scroll_through(page)
    page.wait_for_timeout(200)
    shift = page.evaluate("seen.shift")
    context.close()
    fetched = [size for request, size in sizes.items() if request not in inside]
    return sum(fetched) / 1000, len(fetched), paint, shift


def slowest_interaction(browser: Browser, url: str) -> float | None:
    """Drive every control of every laboratory by each hand.

    None on a page without laboratory; an error where there is one that cannot be measured.
    """
    least = answers(browser, url)
    if not least:
        return None
    for _ in range(ATTEMPTS - 1):
        if as_waited(least) < TARGETS["lab (ms)"]:
            break
        least = [min(times) for times in zip(least, answers(browser, url), strict=True)]
    return as_waited(least)


def as_waited(times: list[float]) -> float:
    """What the slowest of these answers is on a slower machine."""
    return max(times) * SLOWER + FRAME


def answers(browser: Browser, url: str) -> list[float]:
    """Milliseconds of the page's processor time for each action of one visit."""
    context = browser.new_context(viewport=DESK, has_touch=True)
    page = context.new_page()
    open_page(page, url)
    placed, built = page.locator(".lab").count(), page.locator("figure.has-lab > .lab-body")
    if placed:
        built.last.wait_for()  # the network rests, but the processor may not
    controls = built.locator(CONTROLS).all()
    if built.count() != placed or len(controls) < placed:
        raise RuntimeError(f"{url}: {built.count()} of {placed} laboratories, {controls}")
    session, taken = context.new_cdp_session(page), list[float]()
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    for control in controls:
        control.scroll_into_view_if_needed()
        page.wait_for_timeout(300)  # what comes into sight is drawn for the first time
        for act in actions(page, session, control):
            page.evaluate(ANSWERED)
            before = processor_time(session)
            act()
            page.evaluate(ANSWERED)
            taken.append(processor_time(session) - before)
    context.close()
    return taken


def processor_time(session: CDPSession) -> float:
    metrics = session.send("Performance.getMetrics")["metrics"]
    return 1000 * float(next(each["value"] for each in metrics if each["name"] == "TaskDuration"))


def actions(page: Page, session: CDPSession, control: Locator) -> Iterator[Callable[[], None]]:
    """Keys, mouse and finger as they come from the system: what a tool asks the page before it
    presses for us would count as the page's own work."""
    kind, mouse = control.evaluate("e => e.type || e.localName"), page.mouse

    def touch(kind: str, *places: tuple[float, float]) -> None:
        points = [{"x": x, "y": y} for x, y in places]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    if kind not in ("range", "svg"):
        control.focus()
        yield lambda: page.keyboard.press("Space")
        yield partial(mouse.click, *along(control, 0.5))  # an answer may have moved it
        yield partial(touch, "touchStart", along(control, 0.5))
        yield lambda: touch("touchEnd")
        return
    if kind == "range":
        control.focus()
        yield from (partial(page.keyboard.press, key) for key in KEYS)
    path = [along(control, 0.3 + 0.05 * i) for i in range(9)]
    mouse.move(*path[0])
    yield mouse.down
    yield from (partial(mouse.move, *place) for place in path)
    yield mouse.up
    yield lambda: touch("touchStart", path[0])
    yield from (partial(touch, "touchMove", place) for place in path)
    yield lambda: touch("touchEnd")


def along(control: Locator, share: float) -> tuple[float, float]:
    """A place half way down a control, this share of its width from the left."""
    box = control.bounding_box()
    assert box
    return box["x"] + share * box["width"], box["y"] + box["height"] / 2


def visit(browser: Browser, url: str) -> Visit:
    kilobytes, requests, paint, shift = loaded(browser, url)
    for _ in range(ATTEMPTS - 1):
        if paint < TARGETS["paint (s)"]:
            break
        *_, again, moved = loaded(browser, url)
        paint, shift = min(paint, again), max(shift, moved)
    return Visit(kilobytes, requests, paint, shift, slowest_interaction(browser, url))


def printed(
    visits: dict[str, Visit], size: float, downloads: float, seconds: float
) -> tuple[str, bool]:
    """The table, and whether every target is met."""
    met = True
    lines = ["| page | " + " | ".join(TARGETS) + " |", "|---|" + "---:|" * len(TARGETS)]
    lines.append("| *target* | " + " | ".join(f"< {most:g}" for most in TARGETS.values()) + " |")
    for name, seen in visits.items():
        cells = []
        for value, most in zip(seen.row(), TARGETS.values(), strict=True):
            text = "–" if value is None else f"{value:.3g}" if value < 10 else f"{value:.0f}"
            missed = value is not None and value >= most
            met &= not missed
            cells.append(f"**{text}, not met**" if missed else text)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    for what, seen_total, most, unit in (
        ("the whole site", size, 40, "MB"),
        ("`make book`, both editions, by the clock", seconds, 60, "s"),
    ):
        verdict = "met" if seen_total < most else "**not met**"
        met &= seen_total < most
        lines.append(f"\n{what}: {seen_total:.1f} {unit}, target under {most} {unit}: {verdict}")
    lines.append(f"\nPDF and EPUB, which other commands add: {downloads:.1f} MB")
    return "\n".join(lines), met


def megabytes(paths: Iterable[Path]) -> float:
    return sum(path.stat().st_size for path in paths if path.is_file()) / 1e6


def measured_pages(site: Path) -> list[Path]:
    pages = reader_pages(site)
    listings = [path for path in pages if "_modules" in path.parts]
    largest = max(listings, key=lambda path: path.stat().st_size)
    return [path for path in pages if path not in listings] + [largest]


def main(names: list[str]) -> int:
    program = system_chromium()
    if program is None:
        print("no Chromium on this machine: nothing was measured", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        start = time.monotonic()
        result = build(Path(folder))
        seconds = time.monotonic() - start
        if result.returncode:
            print(result.stderr[-4000:], file=sys.stderr)
            return 1
        site = Path(folder, "_build", "html")
        downloads = megabytes(site.rglob("downloads/*"))
        size = megabytes(site.rglob("*")) - downloads
        browser = playwright.chromium.launch(executable_path=program, args=QUIET)
        with served(site) as address:
            pages = [
                str(path.relative_to(site))
                for path in measured_pages(site)
                if any(name in path.name for name in names)
            ]
            visits = {
                page: visit(browser, f"{address}/{page}")
                for page in tqdm(pages, unit="page", leave=False, disable=None)
            }
        browser.close()
    table, met = printed(visits, size, downloads, seconds)
    print(table)
    return 0 if met else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:] or [""]))
