"""The playground in a real browser, driven as a person would: what is visible, what is copied, what is never fetched.

    python benchmarks/browser_playground.py [--run RUN | --vector FILE] [--shots FOLDER] [--chromium PATH]

Two parts. A tiny subject that always writes markup and script: everything it writes must show as text (about a minute).
With --run or --vector: the real model, a slider moved, both answers awaited, colours, gauge, copies, phone width; its
screenshots are there to be looked at. Needs `playwright` (the Python package alone) and a Chromium that is installed.
"""

from __future__ import annotations

import argparse
import re
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from playwright.sync_api import Browser, Page, expect, sync_playwright

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from conftest import make_subject
from servers import running

from llm_persona.analysis.vectors import PersonaVector
from llm_persona.interfaces.playground.app import make_app
from llm_persona.interfaces.playground.desk import Desk
from llm_persona.interfaces.playground.page import Page as Playground
from llm_persona.interfaces.playground.shelf import stock
from llm_persona.interfaces.serve.guard import LOOPBACK
from llm_persona.subject.load import load_subject
from llm_persona.subject.locate import DEFAULT_MODEL

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync",
         "--disable-component-update", "--no-first-run"]  # fmt: skip
HOSTILE = "<script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\"> ${1+1} {{value}} **b**"
TOKEN = "browser-test-token"
MINUTES = 60_000
"""One minute, in the milliseconds that the browser counts in."""


def main() -> None:
    """Run the parts that were asked for; the first thing that is not as it should be ends it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", help="a run folder of `llm-persona run`")
    parser.add_argument("--vector", action="append", default=[], help="a vector file of the real model")
    parser.add_argument("--shots", type=Path, help="where screenshots go (default: a temporary folder)")
    parser.add_argument("--chromium", default="/usr/bin/chromium")
    given = parser.parse_args()
    shots = given.shots or Path(tempfile.mkdtemp(prefix="playground-"))
    shots.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=given.chromium, args=FLAGS)
        try:
            hostile(browser, shots)
            if given.run or given.vector:
                real(browser, shots, given.run, given.vector)
        finally:
            browser.close()
    print(f"all as it should be; screenshots in {shots}")


def said(text: str) -> None:
    """A line of the report."""
    print(f"- {text}", flush=True)


@contextmanager
def visiting(browser: Browser, address: str, width: int = 1280, height: int = 900) -> Iterator[Page]:
    """A page of its own; nothing may be asked of another origin, and no script may fail."""
    context = browser.new_context(viewport={"width": width, "height": height})
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.set_default_timeout(3 * MINUTES)
    expect.set_options(timeout=3 * MINUTES)
    asked: list[str] = []
    failed: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: failed.append(str(error)))
    page.on("console", lambda message: failed.append(message.text) if "Content Security" in message.text else None)
    page.goto(address)
    yield page
    elsewhere = [url for url in asked if not url.startswith((address.split("?")[0], "data:", "blob:"))]
    assert not elsewhere, f"asked of another origin: {elsewhere}"
    assert not failed, f"errors on the page: {failed}"
    context.close()


def hostile(browser: Browser, shots: Path) -> None:
    """What a model writes is text, whatever it writes; the page asks for its token."""
    subject = scripted(HOSTILE)
    with tempfile.TemporaryDirectory() as folder:
        rng = np.random.default_rng(0)
        shape = (subject.n_layers, subject.hidden_size)
        vector = PersonaVector(rng.standard_normal(shape).astype(np.float32), np.full(shape[0], 5.0, np.float32),
                               {"trait": "<b>openness</b>", "model": "tiny-llama"})  # fmt: skip
        vector.save(Path(folder) / "v.safetensors")
        shelf = stock(None, [str(Path(folder) / "v.safetensors")], None, "tiny-llama")
        desk = Desk(lambda name: subject)
        page = Playground(shelf, desk, Path(folder) / "made")
        with running(make_app(page, TOKEN, LOOPBACK)) as address, visiting(browser, f"{address}/") as seen:
            expect(seen.get_by_label("Token of this playground")).to_be_visible()
            assert not seen.locator("#ask").count()
            seen.get_by_label("Token of this playground").fill(TOKEN)
            seen.get_by_role("button", name="Open").click()
            expect(seen.locator("#ask")).to_be_visible()
            said("without the token there is a form for it, with it the page")
            set_dose(seen, 0, 0.1)
            set_length(seen, 160)
            ask(seen, None)
            for pane in ("#base", "#shown"):
                written = seen.locator(f"{pane} .lp-answer").inner_text()
                assert HOSTILE.split() == written.split(), f"{pane} shows {written!r}"
                assert not seen.locator(f"{pane} script, {pane} img").count()
            assert seen.title() == "llm-persona playground", "a script of the model's ran"
            expect(seen.locator("#gauge .lp-name").first).to_contain_text("<b>openness</b>")
            seen.locator("#question textarea").fill("<img src=x onerror=\"document.title='taken'\">")
            seen.locator("#question textarea").blur()
            expect(seen.locator("#command .cm-content")).to_contain_text("onerror")
            assert seen.title() == "llm-persona playground"
            said("markup, script and template marks in answers, names and questions show as text")
            seen.screenshot(path=shots / "markup.png", full_page=True)
            stop_early(seen)
        desk.close()


def stop_early(seen: Page) -> None:
    """Stop keeps what is written; the next question is answered."""
    seen.locator("#stop").click()
    ask(seen, "And again?")
    said("after Stop the next question is answered")


def real(browser: Browser, shots: Path, run: str | None, vectors: list[str]) -> None:
    """The real model: a slider, two answers, colours, gauge, copies; then on a phone."""
    shelf = stock(run, vectors, None, DEFAULT_MODEL)
    subjects: dict[str, Any] = {}
    desk = Desk(lambda name: subjects.setdefault(name, load_subject(name)))
    began = time.monotonic()
    desk.zero(shelf.first)
    said(f"model and zero ready after {time.monotonic() - began:.0f} s")
    page = Playground(shelf, desk, Path(tempfile.mkdtemp()))
    with running(make_app(page, None, LOOPBACK)) as address:
        with visiting(browser, f"{address}/") as seen:
            expect(seen.locator("#gauge .lp-row").first).to_be_visible()
            before = seen.locator("#gauge .lp-figures").first.inner_text()
            set_dose(seen, 0, 0.2)
            expect(seen.locator("#gauge .lp-figures").first).not_to_have_text(before)
            set_length(seen, 32)
            began = time.monotonic()
            ask(seen, "How should I spend the weekend?")
            said(f"both answers after {time.monotonic() - began:.0f} s")
            said(f"gauge of {shelf.offers[0].name}: {before}, at dose +0.2 {figures(seen)}")
            base, shown = (seen.locator(f"{pane} .lp-answer").inner_text() for pane in ("#base", "#shown"))
            assert base.strip()
            assert shown.strip() and shown != base
            said(f"base: {base!r}; steered: {shown!r}")
            tokens = seen.locator("#shown .lp-t")
            fills = {tokens.nth(n).evaluate("e => getComputedStyle(e).backgroundColor") for n in range(tokens.count())}
            assert len(fills) > 3, "tokens are not coloured"
            tokens.first.hover()
            number = tokens.first.evaluate("e => getComputedStyle(e, '::after').content")
            assert re.fullmatch(r'"[+-]\d+\.\d\d"', number), number
            said(f"{tokens.count()} tokens in {len(fills)} shades; the first says {number} when pointed at")
            copies(seen, run, vectors)
            seen.mouse.move(0, 0)
            seen.screenshot(path=shots / "playground.png", full_page=True)
            recolour(seen)
            seen.emulate_media(color_scheme="dark")
        with visiting(browser, f"{address}/?__theme=dark") as seen:
            set_dose(seen, 0, -0.2)
            set_length(seen, 32)
            ask(seen, None)
            seen.screenshot(path=shots / "dark.png", full_page=True)
        with visiting(browser, f"{address}/", width=390, height=844) as seen:
            set_dose(seen, 0, 0.2)
            set_length(seen, 32)
            ask(seen, None)
            wide = seen.evaluate("document.documentElement.scrollWidth")
            assert wide <= 390, f"on a phone the page is {wide} pixels wide"
            said("at 390 pixels nothing has to be scrolled sideways")
            seen.screenshot(path=shots / "phone.png", full_page=True)
    desk.close()


def copies(seen: Page, run: str | None, vectors: list[str]) -> None:
    """What is copied is what is set."""
    seen.locator("#command button[aria-label*='opy'], #command button[title*='opy']").first.click()
    words = shlex.split(seen.evaluate("navigator.clipboard.readText()"))
    assert words[:2] == ["llm-persona", "steer"], words
    assert words[words.index("--dose") + 1] == "0.2", words
    assert words[words.index("--prompt") + 1] == "How should I spend the weekend?", words
    assert Path(words[words.index("--vector") + 1]).is_file(), words
    seen.get_by_role("tab", name="Copy as Python").click()
    expect(seen.locator("#python .cm-content")).to_contain_text("dose=0.2")
    seen.get_by_role("tab", name="Copy as command").click()
    said(f"copied: {shlex.join(words)}")


def recolour(seen: Page) -> None:
    """Another reading layer colours the same answers anew."""
    text = seen.locator("#shown .lp-answer").inner_text()
    before = seen.locator("#shown .lp-answer").inner_html()
    slider = seen.locator("#colour-layer input[type=range]")
    slider.focus()
    while int(slider.input_value()) > 5:
        slider.press("ArrowLeft")
    seen.wait_for_function("before => document.querySelector('#shown .lp-answer').innerHTML != before", arg=before)
    assert seen.locator("#shown .lp-answer").inner_text() == text
    expect(seen.locator("#legend")).to_contain_text("at layer 5")
    said("another layer colours the same words anew, without asking again")


def figures(seen: Page) -> str:
    """The gauge's first row."""
    return seen.locator("#gauge .lp-figures").first.inner_text()


def set_dose(seen: Page, number: int, value: float) -> None:
    """Move a slider with the keyboard, step by step of .01, as far as `value`."""
    slider = seen.locator(f"#dose-{number} input[type=range]")
    expect(slider).to_be_visible()
    slider.focus()
    for _ in range(round(abs(value) / 0.01)):
        slider.press("ArrowRight" if value > 0 else "ArrowLeft")
    expect(seen.locator(f"#dose-{number} input[type=number]")).to_have_value(f"{value:g}")
    expect(seen.locator("#command .cm-content")).to_contain_text(f"{value:g}")


def set_length(seen: Page, tokens: int) -> None:
    """Ask for short answers."""
    seen.get_by_role("button", name="System turn, length").click()
    slider = seen.locator("#tokens input[type=range]")
    slider.focus()
    now = int(slider.input_value())
    for _ in range(abs(tokens - now) // 8):
        slider.press("ArrowRight" if tokens > now else "ArrowLeft")
    expect(seen.locator("#command .cm-content")).to_contain_text(f"--max-new-tokens {tokens}")


def ask(seen: Page, question: str | None) -> None:
    """Ask, and wait until both answers are written and read."""
    if question is not None:
        seen.locator("#question textarea").fill(question)
    seen.locator("#ask").click()
    if question is not None:
        seen.wait_for_timeout(300)
    for pane in ("#base", "#shown"):
        expect(seen.locator(f"{pane} .lp-foot")).to_contain_text("pole gaps")


def scripted(text: str) -> Any:
    """A tiny subject that answers every question with `text`."""
    subject = make_subject()
    answer = [*subject.tokenizer(text, add_special_tokens=False)["input_ids"], subject.tokenizer.eos_token_id]

    def write(_module: Any, _args: Any, kwargs: dict[str, Any], out: Any) -> Any:
        if kwargs.get("logits_to_keep") == 1:
            ids = kwargs["input_ids"]
            write.place = 0 if ids.shape[1] > 1 else write.place + 1  # type: ignore[attr-defined]
            out.logits.fill_(-1e4)
            out.logits[..., answer[min(write.place, len(answer) - 1)]] = 0.0  # type: ignore[attr-defined]
        return out

    subject.model.register_forward_hook(write, with_kwargs=True)
    return subject


if __name__ == "__main__":
    main()
