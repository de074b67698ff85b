"""Open a run's report in a real browser, as a person would, and say what is not as it should be.

Needs Chromium and Playwright for Python (both beside the package, not in it):
    apt-get install chromium; python -m venv browser; browser/bin/pip install playwright
Usage: browser/bin/python benchmarks/browser_report.py runs/quick [--out shots] [--chromium /usr/bin/chromium]

A hostile copy of the report, with markup in every text of the model, is made by the package's own interpreter:
`--python .venv/bin/python`. Nothing is fetched: the pages are opened from the disk with the network off.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

ARGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync",
        "--disable-component-update", "--no-first-run"]  # fmt: skip
HOSTILE = '<script>document.title="owned"</script><img src=x onerror="document.title=\'owned\'"> & </blockquote>'
SCREENS = {
    "desktop": {"viewport": {"width": 1280, "height": 800}},
    "phone": {
        "viewport": {"width": 390, "height": 844},
        "device_scale_factor": 2,
        "is_mobile": True,
        "has_touch": True,
    },
}
PATIENCE = 180_000
"""Milliseconds for one step: a busy machine draws a long page slowly."""
LIMIT = 6_000_000
"""Bytes of a report."""

CONTRAST = """
() => {
  const linear = v => { v /= 255; return v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4; };
  const luminance = c => { const [r, g, b] = c.map(linear);
    return .2126 * r + .7152 * g + .0722 * b; };
  const parse = text => {
    const n = text.match(/[\\d.]+/g).map(Number); return [n.slice(0, 3), n.length > 3 ? n[3] : 1]; };
  const behind = element => {  // backgrounds from the root down, each over what is under it
    const chain = []; for (let e = element; e; e = e.parentElement) chain.unshift(e);
    let under = [255, 255, 255];
    for (const e of chain) {
      const [c, a] = parse(getComputedStyle(e).backgroundColor); under = under.map((u, k) => c[k] * a + u * (1 - a)); }
    return under; };
  const found = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const element = walk.currentNode.parentElement, text = walk.currentNode.textContent.trim();
    if (!text || element.closest("script, style, svg, .skip, #tip") || !element.checkVisibility()) continue;
    const [ink] = parse(getComputedStyle(element).color), under = behind(element);
    const [a, b] = [luminance(ink), luminance(under)];
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < 4.5) found.push(`${ratio.toFixed(2)}: ${element.tagName}.${element.className} "${text.slice(0, 40)}"`);
  }
  return found;
}
"""
STRUCTURE = """
() => {
  const wrong = [];
  const heads = [...document.querySelectorAll("h1, h2, h3, h4, h5, h6")].map(h => +h.tagName[1]);
  if (heads.filter(h => h === 1).length !== 1) wrong.push("not one h1");
  if (document.documentElement.lang !== "en") wrong.push("no lang");
  if (!document.querySelector("main")) wrong.push("no main");
  const ids = [...document.querySelectorAll("[id]")].map(e => e.id);
  const twice = ids.filter((id, n) => ids.indexOf(id) !== n);
  if (twice.length) wrong.push("ids twice: " + [...new Set(twice)].slice(0, 5));
  for (const svg of document.querySelectorAll("svg"))
    if (!(svg.getAttribute("aria-label") || "").trim()) wrong.push("svg without words");
  for (const table of document.querySelectorAll("table")) {
    if (!table.caption) wrong.push("table without caption");
    if ([...table.querySelectorAll("th")].some(th => !th.scope)) wrong.push("th without scope");
  }
  for (const a of document.querySelectorAll("a[href^='#']"))
    if (!document.getElementById(a.getAttribute("href").slice(1))) wrong.push("dead link " + a.href);
  for (const use of document.querySelectorAll("svg use")) {
    const to = (use.getAttribute("href") || use.getAttribute("xlink:href") || "").slice(1);
    if (!document.getElementById(to)) { wrong.push("drawing refers to nothing: " + to); break; } }
  return wrong;
}
"""


class Checks:
    """What was asserted, and what failed."""

    def __init__(self) -> None:
        self.done, self.failed = 0, []  # type: ignore[var-annotated]

    def that(self, good: bool, what: str) -> None:
        """Count one assertion."""
        self.done += 1
        if not good:
            self.failed.append(what)
            print(f"FAILED: {what}", flush=True)


def hostile_copy(run: Path, python: str, folder: Path) -> Path:
    """A copy of the run whose every text by the model holds markup and script; its page is made anew."""
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))

    def spoil(part: Any) -> None:
        if isinstance(part, dict):
            for sample in part.get("samples", []) if isinstance(part.get("samples"), list) else []:
                sample["text"] = HOSTILE + sample["text"]
                if "tokens" in sample:
                    sample["tokens"] = [[HOSTILE, 0.9], *sample["tokens"]]
            for value in part.values():
                spoil(value)
        elif isinstance(part, list):
            for value in part:
                spoil(value)

    spoil(results["traits"])
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(results), encoding="utf-8")
    code = "import sys; from llm_persona.studies.report import write_report; write_report(sys.argv[1])"
    subprocess.run([python, "-c", code, str(folder)], check=True)
    return folder / "report.html"


def open_page(context: Any, page_file: Path, checks: Checks, name: str) -> Any:
    """The page from the disk; a console error or a request to anywhere else is a failure."""
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    page.on("console", lambda m: checks.that(m.type not in ("error", "warning"), f"{name}: console: {m.text}"))
    page.on("pageerror", lambda e: checks.that(False, f"{name}: script error: {e}"))
    here = page_file.absolute().as_uri()
    page.on("request", lambda r: checks.that(r.url.startswith((here, "data:")), f"{name}: request to {r.url}"))
    page.goto(here)
    return page


def first_screen(page: Any, checks: Checks, name: str, whole: bool) -> None:
    """Question, answer and profile are seen without scrolling (on a phone: the profile has begun)."""
    height = page.viewport_size["height"]
    boxes = {what: page.locator(what).first.bounding_box() for what in ("h1", ".answer", "#profile svg")}
    for what, box in boxes.items():
        checks.that(box is not None, f"{name}: {what} is not shown")
    if all(boxes.values()):
        checks.that(boxes["h1"]["y"] + boxes["h1"]["height"] < height, f"{name}: the question is cut")
        checks.that(boxes[".answer"]["y"] + boxes[".answer"]["height"] <= height, f"{name}: the answer is cut")
        profile = boxes["#profile svg"]
        end = profile["y"] + (profile["height"] if whole else 60)
        checks.that(end <= height, f"{name}: the profile is not in the first screen")
    count = page.locator(".answer > p:not(.soft)").count()
    checks.that(count == 3, f"{name}: the answer has {count} sentences, not 3")


def look(browser: Any, page_file: Path, checks: Checks, out: Path) -> None:
    """Every screen size in light and dark, and print."""
    for screen, settings in SCREENS.items():
        for scheme in ("light", "dark"):
            name = f"{screen} {scheme}"
            context = browser.new_context(**settings, color_scheme=scheme, offline=True)
            page = open_page(context, page_file, checks, name)
            first_screen(page, checks, name, whole=screen == "desktop")
            wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
            checks.that(wide <= 0, f"{name}: {wide} pixels too wide")
            for line in page.evaluate(CONTRAST)[:10]:
                checks.that(False, f"{name}: contrast {line}")
            checks.that(True, "contrast computed")
            for line in page.evaluate(STRUCTURE):
                checks.that(False, f"{name}: {line}")
            page.screenshot(path=str(out / f"{screen}-{scheme}-first.png"))
            page.screenshot(path=str(out / f"{screen}-{scheme}.png"), full_page=True)
            context.close()
    context = browser.new_context(viewport={"width": 1280, "height": 900}, offline=True, color_scheme="dark")
    page = open_page(context, page_file, checks, "print")
    page.emulate_media(media="print")
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    checks.that(paper == "rgb(255, 255, 255)", f"print: the paper is {paper} under a dark scheme")
    checks.that(page.locator(".copy").first.is_hidden(), "print: copy buttons are printed")
    for line in page.evaluate(CONTRAST)[:10]:
        checks.that(False, f"print: contrast {line}")
    page.pdf(path=str(out / "print.pdf"), format="A4", print_background=True)
    context.close()


def use(browser: Any, page_file: Path, checks: Checks, out: Path) -> None:
    """Keyboard, copying, what points and tokens say, foldable parts."""
    context = browser.new_context(**SCREENS["desktop"], offline=True, permissions=["clipboard-read", "clipboard-write"])
    page = open_page(context, page_file, checks, "use")
    page.keyboard.press("Tab")
    checks.that(
        page.evaluate("document.activeElement.className") == "skip", "use: Tab does not reach the skip link first"
    )
    page.keyboard.press("Enter")
    checks.that(page.url.endswith("#answer"), "use: the skip link does not lead to the answer")
    button, text = page.locator(".copy").first, page.locator(".code pre").first.text_content()
    button.focus()
    page.keyboard.press("Enter")
    page.wait_for_function("document.querySelector('.copy').textContent !== 'Copy'")
    checks.that(button.text_content() == "Copied", f"use: the copy button says {button.text_content()}")
    checks.that(page.evaluate("navigator.clipboard.readText()") == text, "use: what was copied is not the command")
    point = page.locator("#profile .pt").first
    point.scroll_into_view_if_needed()
    box = point.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    said = page.locator("#tip").text_content()
    checks.that(page.locator("#tip").is_visible() and "%" in (said or ""), f"use: a point of the profile says {said!r}")
    tokens = page.locator("details[open] .t[data-p]")
    if tokens.count():
        tokens.first.scroll_into_view_if_needed()
        tokens.first.hover()
        said = page.locator("#tip").text_content()
        checks.that("pole gaps" in (said or ""), f"use: a token says {said!r}")
        page.screenshot(path=str(out / "tokens.png"))
    folded = page.locator("details:not([open]) > summary").first
    folded.focus()
    page.keyboard.press("Enter")
    checks.that(
        page.evaluate("document.activeElement.parentElement.open") is True, "use: a folded part is shut to the keyboard"
    )
    context.close()
    context = browser.new_context(**SCREENS["desktop"], offline=True, java_script_enabled=False)
    page = open_page(context, page_file, checks, "without scripts")
    first_screen(page, checks, "without scripts", whole=True)
    checks.that(page.locator(".copy").count() == 0, "without scripts: a copy button that does nothing")
    context.close()


def attack(browser: Any, page_file: Path, checks: Checks) -> None:
    """Markup in what the model wrote is text."""
    context = browser.new_context(**SCREENS["desktop"], offline=True)
    page = open_page(context, page_file, checks, "hostile")
    checks.that(page.title() != "owned", "hostile: a script of the model ran")
    checks.that(
        page.locator("main img").count() == 0 and page.locator("main script").count() == 0,
        "hostile: markup became elements",
    )
    seen = page.locator(".card blockquote").first.inner_text()
    checks.that(HOSTILE in seen, f"hostile: the text is not shown as it was written: {seen[:80]!r}")
    context.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished run")
    parser.add_argument("--out", type=Path, default=Path("shots"), help="where screenshots go")
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    parser.add_argument("--python", default=".venv/bin/python", help="interpreter that has llm-persona")
    given = parser.parse_args()
    from playwright.sync_api import sync_playwright

    given.out.mkdir(parents=True, exist_ok=True)
    page_file, checks = given.run / "report.html", Checks()
    size = page_file.stat().st_size
    checks.that(size < LIMIT, f"the report has {size} bytes")
    with tempfile.TemporaryDirectory() as place, sync_playwright() as playwright:
        spoilt = hostile_copy(given.run, given.python, Path(place) / "hostile")
        browser = playwright.chromium.launch(executable_path=given.chromium, args=ARGS)
        look(browser, page_file, checks, given.out)
        use(browser, page_file, checks, given.out)
        attack(browser, spoilt, checks)
        browser.close()
    told = f"{checks.done} assertions, {len(checks.failed)} failed"
    print(f"{page_file}: {size / 1e6:.2f} MB; {told}; screenshots in {given.out}")
    if checks.failed:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
