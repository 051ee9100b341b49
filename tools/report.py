"""`make site-report`: what each page costs its reader, against what it may cost.

Every page is loaded with an empty cache from a local server that compresses text as a static
host does, then scrolled to its end; bytes and requests are those of the whole visit. The paint
is measured in a second visit, with the processor four times slower behind a line of 1.6 Mbit/s
with 150 ms round trip. Layout shifts are added up over that visit, scrolling included. Three
more visits drive every control of every laboratory by keyboard, mouse and finger. What counts is
the processor time that the page spends until an action is answered, drawn and done with, four-fold,
and a frame: a clock would measure what else runs on the machine. `make book` is measured likewise.
Of an action's three times the least counts. Of the listings of source code, the largest stands
for all.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, CDPSession, Locator, Page, sync_playwright

from tools.serving import DESK, QUIET, build, reader_pages, served, system_chromium

SLOWER = 4
# The frame behind an action is drawn, and what waits behind it is done.
ANSWERED = """() => new Promise(go => requestAnimationFrame(() => requestAnimationFrame(
    () => setTimeout(go))))"""
ATTEMPTS = 3  # visits to a laboratory
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


def slow_down(session: CDPSession, line: bool) -> None:
    session.send("Emulation.setCPUThrottlingRate", {"rate": SLOWER})
    if line:
        session.send("Network.enable")
        session.send("Network.emulateNetworkConditions", LINE)


def transferred(browser: Browser, url: str) -> tuple[float, int]:
    context = browser.new_context(viewport=DESK)
    page = context.new_page()
    session = context.new_cdp_session(page)
    sizes, inside = dict[str, float](), set[str]()

    def asked(event: Any) -> None:
        if event["request"]["url"].startswith(("data:", "blob:")):  # came with the page
            inside.add(event["requestId"])

    def loaded(event: Any) -> None:
        sizes[event["requestId"]] = event["encodedDataLength"]

    session.on("Network.requestWillBeSent", asked)
    session.on("Network.loadingFinished", loaded)
    session.send("Network.enable")
    page.goto(url, wait_until="networkidle")
    scroll_through(page)
    page.wait_for_timeout(200)
    context.close()
    fetched = [size for request, size in sizes.items() if request not in inside]
    return sum(fetched) / 1000, len(fetched)


def painted(browser: Browser, url: str) -> tuple[float, float]:
    context = browser.new_context(viewport=DESK)
    context.add_init_script(WATCH)
    page = context.new_page()
    slow_down(context.new_cdp_session(page), line=True)
    page.goto(url, wait_until="networkidle", timeout=90_000)
    page.wait_for_function("seen.paint > 0", timeout=30_000)  # told some time after it happened
    page.wait_for_timeout(500)
    paint = page.evaluate("seen.paint")
    scroll_through(page)
    shift = page.evaluate("seen.shift")
    context.close()
    return paint / 1000, shift


def slowest_interaction(browser: Browser, url: str) -> float | None:
    """Drive every control of every laboratory by each hand.

    None on a page without laboratory; an error where there is one that cannot be measured.
    """
    first = answers(browser, url)
    if not first:
        return None
    visits = [first] + [answers(browser, url) for _ in range(ATTEMPTS - 1)]
    return max(min(times) for times in zip(*visits, strict=True)) * SLOWER + FRAME


def answers(browser: Browser, url: str) -> list[float]:
    """Milliseconds of the page's processor time for each action of one visit."""
    context = browser.new_context(viewport=DESK, has_touch=True)
    page = context.new_page()
    page.goto(url, wait_until="networkidle")
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


def processor_time_of_children() -> float:
    spent = os.times()
    return spent.children_user + spent.children_system


def visit(browser: Browser, url: str) -> Visit:
    return Visit(
        *transferred(browser, url), *painted(browser, url), slowest_interaction(browser, url)
    )


def printed(visits: dict[str, Visit], size: float, seconds: float) -> tuple[str, bool]:
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
        ("`make book`, both editions, processor time", seconds, 60, "s"),
    ):
        verdict = "met" if seen_total < most else "**not met**"
        met &= seen_total < most
        lines.append(f"\n{what}: {seen_total:.1f} {unit}, target under {most} {unit}: {verdict}")
    return "\n".join(lines), met


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
        before = processor_time_of_children()
        result = build(Path(folder))
        seconds = processor_time_of_children() - before
        if result.returncode:
            print(result.stderr[-4000:], file=sys.stderr)
            return 1
        site = Path(folder, "_build", "html")
        size = sum(path.stat().st_size for path in site.rglob("*") if path.is_file()) / 1e6
        browser = playwright.chromium.launch(executable_path=program, args=QUIET)
        with served(site) as address:
            visits = {
                str(path.relative_to(site)): visit(browser, f"{address}/{path.relative_to(site)}")
                for path in measured_pages(site)
                if any(name in path.name for name in names)
            }
        browser.close()
    table, met = printed(visits, size, seconds)
    print(table)
    return 0 if met else 1


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:] or [""]))
