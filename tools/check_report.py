"""Open a report in headless Chromium and say what is wrong with it.

    python tools/check_report.py report.html --axe axe.min.js --out report_check.json --shots DIR

Checked, in light and in dark, 1400 and 390 pixels wide: no error in the console, no request leaves
the file, nothing is wider than the window, every slider moves and follows the keyboard, a point of
a figure says what it is under the mouse, every table sorts, the first one copies as CSV, the switch
of light and dark works, and axe-core finds nothing serious.
It needs Chromium with its driver, Selenium (`pip install selenium`) and axe-core
(`npm install axe-core`). Where one is missing it says so and ends with status 77.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MISSING = 77
WIDTHS = (1400, 390)
LARGEST = 10_000_000
"""Bytes that a report may have."""
SERIOUS = ("serious", "critical")
ARGUMENTS = (
    "headless=new",
    "no-sandbox",
    "disable-gpu",
    "disable-dev-shm-usage",
    "hide-scrollbars",
)


class Absent(Exception):
    """What the check needs and this machine has not."""


@contextlib.contextmanager
def browser(*, dark: bool = False) -> Iterator[Any]:
    """Open headless Chromium, which logs its console and its requests.

    Raises:
        Absent: if Selenium, Chromium or its driver is missing.
    """
    try:
        from selenium import webdriver
    except ImportError:
        raise Absent("Selenium is not installed: pip install selenium") from None
    programs = [shutil.which(name) for name in ("chromium", "chromedriver")]
    if None in programs:
        raise Absent("Chromium is not installed: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = str(programs[0])
    for argument in ARGUMENTS:
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(executable_path=str(programs[1]))
    driver = webdriver.Chrome(options=options, service=service)
    try:
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        yield driver
    finally:
        driver.quit()


def at_width(driver: Any, width: int, height: int = 900) -> None:
    """Give the page a window of a width, as a phone would where it is narrow."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def opened(driver: Any, file: Path) -> None:
    """Open a report and wait until its script is through."""
    from selenium.webdriver.support.ui import WebDriverWait

    driver.get(file.resolve().as_uri())
    WebDriverWait(driver, 60).until(
        lambda d: d.execute_script("return document.documentElement.dataset.ready") == "true"
    )


def requests(driver: Any) -> list[str]:
    """List what was asked for, but the file itself and what it holds."""
    found = []
    for entry in driver.get_log("performance"):
        message = json.loads(entry["message"])["message"]
        if message["method"] == "Network.requestWillBeSent":
            address = message["params"]["request"]["url"]
            if not address.startswith(("data:", "blob:", "file:")):
                found.append(address)
    return found


SLIDERS = """
return [...document.querySelectorAll('input[type=range]')].map((range) => {
  const block = range.closest('.change, .modulation');
  const state = () => block.getAttribute('style') + block.querySelector('.notes').innerText
    + (block.querySelector('output')?.textContent ?? '')
    + [...block.querySelectorAll('.frames img')].map((image) => image.src).join();
  const before = state();
  range.value = range.value === range.max ? range.min : range.max;
  range.dispatchEvent(new Event('input', { bubbles: true }));
  return { name: range.getAttribute('aria-label'), moved: state() !== before };
});
"""
TABLES = """
return [...document.querySelectorAll('.tabled')].map((block) => {
  const table = block.querySelector('table'), heads = [...table.querySelectorAll('.sort')];
  const column = heads.length - 1, cells = () => [...table.tBodies[0].rows].map(
    (row) => row.cells[column].dataset.value);
  const rows = cells().length;
  heads[column].click();
  const first = cells();
  heads[column].click();
  const second = cells();
  const known = (list) => list.filter((value) => value !== '');
  const sorted = JSON.stringify(known(first).map(String)) ===
    JSON.stringify(known(second).reverse().map(String)) || new Set(first).size < first.length;
  return { name: block.querySelector('h3').textContent, rows, sorted,
    state: heads[column].parentElement.getAttribute('aria-sort') };
});
"""
WIDE = """
const wide = document.documentElement.clientWidth;
return [...document.querySelectorAll('body *')].filter((one) => !one.closest('.scroll') &&
  !one.closest('.skip') && one.getBoundingClientRect().right > wide + 1).slice(0, 5).map(
  (one) => one.tagName + '.' + one.getAttribute('class'));
"""


POINT = """
const plot = document.querySelector('.plot');
if (!plot) return null;
plot.scrollIntoView({ block: 'center', behavior: 'instant' });
const trace = plot.data.find((one) => one.hovertemplate), { xaxis, yaxis } = plot._fullLayout;
const place = Math.floor(trace.x.length / 2), box = plot.getBoundingClientRect();
return [box.left + xaxis._offset + xaxis.d2p(trace.x[place]),
  box.top + yaxis._offset + yaxis.d2p(trace.y[place])];
"""


def hovered(driver: Any) -> str | None:
    """Read what the first figure says under the mouse; None where there is no figure."""
    place = driver.execute_script(POINT)
    if place is None:
        return None
    for shift in (3, 0):
        where = {"type": "mouseMoved", "x": place[0] + shift, "y": place[1]}
        driver.execute_cdp_cmd("Input.dispatchMouseEvent", where)
        time.sleep(0.4)
    text = "return [...document.querySelectorAll('.hoverlayer text')].map((x) => x.textContent)"
    return " ".join(driver.execute_script(text))


def keyed(driver: Any) -> list[bool]:
    """Press an arrow on each slider: whether it moves."""
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    moved = []
    for slider in driver.find_elements(By.CSS_SELECTOR, "input[type=range]"):
        before = slider.get_property("value")
        slider.send_keys(Keys.ARROW_RIGHT if before == "0" else Keys.ARROW_LEFT)
        moved.append(slider.get_property("value") != before)
    return moved


def copied(driver: Any) -> list[str] | None:
    """Copy the first table: the lines of its CSV; None where there is no table."""
    from selenium.webdriver.common.by import By

    buttons = driver.find_elements(By.CSS_SELECTOR, "button.copy")
    if not buttons:
        return None
    allowed = ["clipboardReadWrite", "clipboardSanitizedWrite"]
    driver.execute_cdp_cmd("Browser.grantPermissions", {"permissions": allowed})
    driver.execute_script("arguments[0].click()", buttons[0])
    time.sleep(0.3)
    read = "navigator.clipboard.readText().then(arguments[0], (e) => arguments[0](String(e)))"
    return str(driver.execute_async_script(read)).splitlines()


def console(driver: Any) -> list[str]:
    """List what the console holds, but what it says for information."""
    return [x["message"] for x in driver.get_log("browser") if x["level"] not in ("INFO", "DEBUG")]


def axe(driver: Any, script: str) -> list[dict[str, Any]]:
    """List what axe-core finds: rule, impact, what it is, and the first places."""
    driver.execute_script(script)
    driver.set_script_timeout(120)
    found = driver.execute_async_script(
        "const done = arguments[0]; axe.run(document, {resultTypes: ['violations']})"
        ".then((result) => done(result.violations), (error) => done([{id: String(error),"
        " impact: 'critical', help: '', nodes: []}]));"
    )
    return [
        {
            "rule": one["id"],
            "impact": one["impact"],
            "help": one["help"],
            "places": [node["target"] for node in one["nodes"][:3]],
        }
        for one in found
    ]


def check(file: Path, script: str | None, shots: Path | None) -> dict[str, Any]:
    """Check one report, in light and dark, wide and narrow."""
    views = []
    for dark in (False, True):
        with browser(dark=dark) as driver:
            version = driver.capabilities["browserVersion"]
            for width in WIDTHS:
                at_width(driver, width)
                opened(driver, file)
                name = f"{file.stem}-{width}-{'dark' if dark else 'light'}"
                if shots is not None:
                    shoot(driver, shots / f"{name}.png", width)
                views.append({"width": width, "dark": dark, **viewed(driver, script)})
    return {"file": file.name, "bytes": file.stat().st_size, "chromium": version, "views": views}


def viewed(driver: Any, script: str | None) -> dict[str, Any]:
    """Use one view of a report as a reader would."""
    found: dict[str, Any] = {"wider_than_window": driver.execute_script(WIDE)}
    found["axe"] = None if script is None else axe(driver, script)
    found["plots"] = driver.execute_script(
        "return document.querySelectorAll('.plot .main-svg').length > 0"
        " || !document.querySelector('.plot');"
    )
    ground = "return getComputedStyle(document.body).backgroundColor"
    before = driver.execute_script(ground)
    driver.execute_script("document.getElementById('theme').click()")
    found["switches"] = driver.execute_script(ground) != before
    found["hover"], found["keyboard"] = hovered(driver), keyed(driver)
    found["csv"] = copied(driver)
    found["sliders"] = driver.execute_script(SLIDERS)
    found["tables"] = driver.execute_script(TABLES)
    found["console"] = console(driver)
    found["requests"] = requests(driver)
    return found


def shoot(driver: Any, file: Path, width: int) -> None:
    """Take a picture of the whole page."""
    height = driver.execute_script("return document.documentElement.scrollHeight")
    at_width(driver, width, min(int(height), 12000))
    file.parent.mkdir(parents=True, exist_ok=True)
    driver.save_screenshot(str(file))
    at_width(driver, width)


def wrong(report: dict[str, Any]) -> list[str]:
    """Say what of a check is not as it has to be, a line each."""
    said = []
    if report["bytes"] > LARGEST:
        said.append(f"{report['file']} has {report['bytes']} bytes, over {LARGEST}")
    for view in report["views"]:
        place = f"{report['file']} {view['width']} {'dark' if view['dark'] else 'light'}"
        said += [f"{place}: console: {line}" for line in view["console"]]
        said += [f"{place}: request: {line}" for line in view["requests"]]
        said += [f"{place}: wider than the window: {one}" for one in view["wider_than_window"]]
        said += [f"{place}: axe: {x}" for x in view["axe"] or [] if x["impact"] in SERIOUS]
        said += [f"{place}: {s['name']} does not move" for s in view["sliders"] if not s["moved"]]
        said += [f"{place}: {t['name']} does not sort" for t in view["tables"] if not t["sorted"]]
        said += [f"{place}: a slider does not follow the keyboard"] * (not all(view["keyboard"]))
        said += [f"{place}: a figure says nothing under the mouse"] * (view["hover"] == "")
        said += [f"{place}: no CSV: {view['csv']}"] * (view["csv"] is not None and not csv_of(view))
        said += [f"{place}: no figure is drawn"] * (not view["plots"])
        said += [f"{place}: light and dark do not switch"] * (not view["switches"])
    return said


def csv_of(view: dict[str, Any]) -> bool:
    """Say whether what was copied is the first table: its head and a line per row."""
    return bool(view["csv"][0].count(",")) and len(view["csv"]) == 1 + view["tables"][0]["rows"]


def recorded(reports: list[dict[str, Any]], lines: list[str]) -> dict[str, Any]:
    """Put what was found beside what it was found with, as the benchmarks' results have it."""
    sys.path.insert(0, str(Path(__file__).parent.parent))
    from benchmarks.environment import environment

    return {
        "command": f"tools/check_report.py {' '.join(report['file'] for report in reports)}",
        "environment": environment(),
        "bytes": {report["file"]: report["bytes"] for report in reports},
        "wrong": lines,
        "reports": reports,
    }


def main() -> int:
    """Check the files that are named, print what is wrong, and write what was found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--axe", type=Path, help="axe.min.js of axe-core")
    parser.add_argument("--out", type=Path, help="write what was found as JSON")
    parser.add_argument("--shots", type=Path, help="folder for pictures of the pages")
    given = parser.parse_args()
    script = None if given.axe is None else given.axe.read_text(encoding="utf-8")
    try:
        reports = [check(file, script, given.shots) for file in given.files]
    except Absent as error:
        print(f"NOT CHECKED: {error}", file=sys.stderr)
        return MISSING
    lines = [line for report in reports for line in wrong(report)]
    lines += ["axe-core did not look: give --axe axe.min.js"] if script is None else []
    print("\n".join(lines) or f"{len(reports)} reports, {len(WIDTHS) * 2} views each: all well")
    if given.out is not None:
        given.out.write_text(json.dumps(recorded(reports, lines), indent=1) + "\n")
    return 1 if lines else 0


if __name__ == "__main__":
    raise SystemExit(main())
