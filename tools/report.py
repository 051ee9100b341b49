"""`make site-report`: what each page costs its reader, against what it may cost.

Every page is loaded with an empty cache from a local server that compresses text as a static
host does, then scrolled to its end; bytes and requests are those of the whole visit. The paint
is measured in a second visit, with the processor four times slower behind a line of 1.6 Mbit/s
with 150 ms round trip. Layout shifts are added up over that visit, scrolling included. Three
more visits drive every control of every laboratory by keyboard, mouse and finger, the processor
again four times slower. What else runs on the machine can only make an answer slower, so of a
control's slowest answers in the three visits the least counts. Of the listings of source code,
the largest stands for all.
"""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, CDPSession, Locator, Page, sync_playwright

from tools.serving import DESK, QUIET, build, reader_pages, served, system_chromium

SLOWER = 4
ATTEMPTS = 3  # visits to a laboratory
LINE = {"offline": False, "latency": 150, "downloadThroughput": 2e5, "uploadThroughput": 2e5}
TARGETS = {
    "transferred (kB)": 1200,
    "requests": 25,
    "paint (s)": 2.5,
    "shift": 0.05,
    "lab (ms)": 100,
}

WATCH = """
window.seen = {paint: 0, shift: 0, slowest: 0};
const watch = (type, then, more) => new PerformanceObserver(list =>
    list.getEntries().forEach(then)).observe({type, buffered: true, ...more});
watch("largest-contentful-paint", e => { seen.paint = e.startTime; });
watch("layout-shift", e => { if (!e.hadRecentInput) seen.shift += e.value; });
// An answer is complete when the frame that follows an event is laid out and painted: the first
// task behind it. `event` entries also wait until a frame is shown, and without a screen that says
// little: a key that took 5 ms and changed nothing, between frames below 50 ms, counted as 1.3 s.
for (const type of ["pointerdown", "pointermove", "pointerup", "keydown", "input", "click"])
    addEventListener(type, event => requestAnimationFrame(() => {
        const {port1, port2} = new MessageChannel();
        port1.onmessage = () => {
            seen.slowest = Math.max(seen.slowest, performance.now() - event.timeStamp);
        };
        port2.postMessage(0);
    }), {capture: true, passive: true});
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
    """Drive every control of every laboratory by each hand, the processor slowed down.

    None on a page without laboratory; an error where there is one that cannot be measured.
    """
    visits = [answers(browser, url) for _ in range(ATTEMPTS)]
    return max((min(each) for each in zip(*visits, strict=True)), default=None)


def answers(browser: Browser, url: str) -> list[float]:
    """The slowest answer of each control in one visit."""
    context = browser.new_context(viewport=DESK, has_touch=True)
    context.add_init_script(WATCH)
    page = context.new_page()
    page.goto(url, wait_until="networkidle")
    placed, built = page.locator(".lab").count(), page.locator("figure.has-lab > .lab-body")
    if placed:
        built.last.wait_for()  # the network rests, but the processor may not
    controls = built.locator(CONTROLS).all()
    if built.count() != placed or len(controls) < placed:
        raise RuntimeError(f"{url}: {built.count()} of {placed} laboratories, {controls}")
    session = context.new_cdp_session(page)
    slow_down(session, line=False)
    slowest = []
    for control in controls:
        control.scroll_into_view_if_needed()
        page.wait_for_timeout(300)
        page.evaluate("seen.slowest = 0")
        drive(page, session, control)
        page.wait_for_timeout(300)
        slowest.append(float(page.evaluate("seen.slowest")))
    context.close()
    if controls and not any(slowest):
        raise RuntimeError(f"{url}: the laboratory was driven, but no answer was seen")
    return slowest


def drive(page: Page, session: CDPSession, control: Locator) -> None:
    """Keys, mouse and finger as they come from the system: what a tool asks the page before it
    presses for us would count as the page's own work."""
    kind = control.evaluate("e => e.type || e.localName")
    box = control.bounding_box()
    assert box
    if kind not in ("range", "svg"):
        middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        for act in (
            lambda: page.keyboard.press("Space"),
            lambda: page.mouse.click(*middle),
            lambda: touch(session, [middle]),
        ):
            if control.is_enabled():
                control.focus()
                page.wait_for_timeout(100)
                act()
                page.wait_for_timeout(100)
        return
    if kind == "range":
        control.focus()
    for key in KEYS if kind == "range" else []:
        page.keyboard.press(key)
        page.wait_for_timeout(60)
    path = [
        (box["x"] + box["width"] * (0.3 + 0.05 * i), box["y"] + box["height"] / 2 + i)
        for i in range(9)
    ]
    page.mouse.move(*path[0])
    page.mouse.down()
    for at in path:
        page.mouse.move(*at)
        page.wait_for_timeout(30)
    page.mouse.up()
    touch(session, path)


def touch(session: CDPSession, path: list[tuple[float, float]]) -> None:
    """A finger that comes down, goes along a path, and is lifted."""
    for i, (x, y) in enumerate(path):
        kind = "touchMove" if i else "touchStart"
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y}]})
        time.sleep(0.03)
    session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})


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
        ("the whole site", size, 25, "MB"),
        ("`make book`", seconds, 30, "s"),
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
        start = time.perf_counter()
        result = build(Path(folder))
        seconds = time.perf_counter() - start
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
