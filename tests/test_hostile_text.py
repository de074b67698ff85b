"""What a model, a file or a server says is shown as text: on a terminal, in Markdown, on a page."""

from __future__ import annotations

import ast
import io
import json
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from rich.console import Console

from llm_persona.domain import markdown
from llm_persona.domain.terminal_text import UNSAFE, one_line, plain
from llm_persona.interfaces.cli import main as cli
from llm_persona.interfaces.cli import terminal
from llm_persona.interfaces.cli.plain_stream import PlainStream

SOURCE = Path(cli.__file__).parents[3]
COLOUR = "\x1b[31mred"
TITLE = "\x1b]0;owned\x07"
LINK = "\x1b]8;;http://attacker.example\x1b\\click\x1b]8;;\x1b\\"
CLIPBOARD = "\x1b]52;c;cm0gLXJm\x07"
EIGHT_BIT = "\x9b2J"
BACKWARDS = "\u202egpj.exe"
OVERWRITE = "harmless\r$ rm -rf"
HOSTILE = [COLOUR, TITLE, LINK, CLIPBOARD, EIGHT_BIT, BACKWARDS, OVERWRITE, "a\x08b", "\ud83d"]


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_that_steers_a_terminal_is_left(text):
    for shown in (plain(text), one_line(text)):
        assert not UNSAFE.search(shown)
        assert not any(ord(c) < 32 or 0x7F <= ord(c) < 0xA0 for c in shown)
    assert "\N{REPLACEMENT CHARACTER}" in plain(text)


@pytest.mark.parametrize("text", ["a\tb\nc", "naïve — «ok»", "日本語", "עברית", "می‌خواهم", "👩‍🔬 🇪🇺", "a\u00a0b", ""])
def test_ordinary_text_of_any_script_is_shown_as_it_is(text):
    assert plain(text) == text


@given(st.text())
def test_plain_text_stays_plain_and_keeps_its_length(text):
    assert len(plain(text)) == len(text)
    assert plain(plain(text)) == plain(text)
    assert "\n" not in one_line(text)


def test_whatever_a_command_prints_goes_through_the_same_door(tmp_path, monkeypatch, capsys):
    from importlib import resources

    trait = (resources.files("llm_persona.domain") / "data/traits/openness.yaml").read_text(encoding="utf-8")
    lines = [r'title: "x\e[31m\e]0;owned\a"' if line.startswith("title:") else line for line in trait.splitlines()]
    (tmp_path / "mine.yaml").write_text("\n".join(lines))
    for name in ("stdout", "stderr"):  # put back what main() replaces
        monkeypatch.setattr(sys, name, getattr(sys, name))
    for command in (["traits", "show", str(tmp_path / "mine.yaml")], ["evaluate", "--trait", COLOUR]):
        monkeypatch.setattr(sys, "argv", ["llm-persona", *command])
        with pytest.raises(SystemExit):
            cli.main()
    shown = capsys.readouterr()
    assert "owned" in shown.out
    assert "31mred" in shown.err
    assert not UNSAFE.search(shown.out + shown.err)


def test_rich_keeps_its_own_colours_behind_that_door():
    below = io.StringIO()
    stream = PlainStream(below)
    stream.writelines([COLOUR, "\n"])
    console = Console(file=stream, force_terminal=True)
    console.print("x", style="bold red")
    assert stream.rich_proxied_file is below
    assert "\x1b" not in below.getvalue().partition("\n")[0]


@pytest.fixture
def screen(monkeypatch):
    """Both consoles as terminals that write into one text."""
    shown = io.StringIO()
    for name in ("out", "err"):
        monkeypatch.setattr(terminal, name, Console(file=shown, force_terminal=True, width=200, color_system=None))
    return shown


MARKUP = "[bold]loud[/bold] [link=x]y[/link]\x1b]0;t\x07"


def shown_in_table():
    terminal.table(MARKUP, [MARKUP], [[MARKUP]])


def shown_in_status():
    with terminal.status(MARKUP):
        pass


def shown_in_count():
    with terminal.counting(MARKUP, 1) as step:
        step(1)


def shown_in_progress():
    with terminal.StudyProgress(1) as progress:
        progress.begin(MARKUP)
        progress.end(MARKUP, 0.0, False)


@pytest.mark.parametrize("show", [shown_in_table, shown_in_status, shown_in_count, shown_in_progress])
def test_tables_and_progress_show_markup_and_escapes_as_text(show, screen):
    show()
    shown = screen.getvalue()
    assert shown.count("[bold]loud[/bold] [link=x]y[/link]") >= (3 if show is shown_in_table else 1)
    assert "\x1b]0;" not in shown
    assert "\x1b]8;" not in shown


# Markdown

READER = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
texts = st.text(st.sampled_from("ab <>&|`*_[]()!#\\\n\r-+.~$:/=\"'@\x1b1\u202e"), max_size=30) | st.text(max_size=20)


def inline(tokens):
    return [child for token in tokens for child in token.children or []]


@given(texts)
def test_escaped_text_is_read_letter_by_letter(text):
    found = inline(READER.parse(f"x {markdown.escaped(text)} x"))
    assert {child.type for child in found} <= {"text"}
    assert "".join(child.content for child in found) == f"x {one_line(text, 1 << 20)} x"


@given(texts)
def test_a_code_span_holds_any_text(text):
    found = inline(READER.parse(f"x {markdown.code(text)} x"))
    assert [c.type for c in found] == ["text", "code_inline", "text"]
    assert found[1].content.strip() == one_line(text, 1 << 20)


@given(st.lists(st.tuples(texts, texts), min_size=1, max_size=3), st.booleans())
def test_no_cell_leaves_its_place_in_a_table(rows, escape):
    rows = [tuple(map(markdown.escaped, row)) if escape else row for row in rows]
    tokens = READER.parse("\n".join(markdown.table(["one", "two"], rows)))
    assert sum(t.type == "tr_open" for t in tokens) == 1 + len(rows)
    assert sum(t.type == "td_open" for t in tokens) == 2 * len(rows)
    assert not {"html_block", "html_inline", "link_open", "image"} & {t.type for t in [*tokens, *inline(tokens)]}


def test_a_cell_of_ours_keeps_its_emphasis_and_its_intervals():
    assert markdown.cell("**12** [-.3, .4], p < .001 & more") == "**12** [-.3, .4], p < .001 & more"


def test_a_model_card_cannot_be_written_by_the_name_of_a_data_set(tmp_path):
    import yaml
    from conftest import make_subject

    from llm_persona.domain.condition import Condition
    from llm_persona.training.data import from_chat
    from llm_persona.training.finetune import finetune
    from llm_persona.training.recipe import RECIPES, adjusted

    rows = tmp_path / "x`<b onclick=x>`.jsonl"
    row = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes."}]}
    rows.write_text("\n".join([json.dumps(row)] * 4))
    subject = make_subject()
    subject.name = "a\nlicense: mit"
    under = Condition("x](http://attacker.example) <script>", system="<img src=x onerror=alert(1)>")
    recipe = adjusted(RECIPES["plain"], max_steps=1)
    finetune(subject, from_chat(rows), tmp_path / "out", recipe, under=under)
    _, front, text = (tmp_path / "out" / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(front).keys() == {"library_name", "base_model", "tags"}
    tokens = READER.parse(text)
    assert not {"html_block", "html_inline", "link_open", "image"} & {t.type for t in [*tokens, *inline(tokens)]}


def test_no_spreadsheet_file_is_written():
    """A cell that begins with = + - @ would be run by a spreadsheet: what writes CSV has to quote it first, in one
    place, and this test is where to say so."""
    for path in SOURCE.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        names = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
        names |= {n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
        called = {n.func.attr for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute)}
        assert "csv" not in names, path
        assert not {"to_csv", "savetxt", "write_csv"} & called, path


# pages


class Tags(HTMLParser):
    """Element names and attributes of a page."""

    def __init__(self):
        super().__init__()
        self.names, self.attributes = set(), set()

    def handle_starttag(self, tag, attrs):
        self.names.add(tag)
        self.attributes |= {name for name, _ in attrs}


def tags_of(page):
    found = Tags()
    found.feed(page)
    return found


def test_a_page_shows_markup_of_its_results_as_text():
    from llm_persona.studies.page import render_page

    texts = ["</pre><script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "{{ 7*7 }}"]
    none = {"spearman": None, "spearman_ci": None, "n": 0}
    results = {
        "base": texts[0], "tuned": {}, "traits": {}, "provenance": {"plan": {"seed": texts[1]}, "x": texts},
        "sentences": texts, "rule": texts[2], "groups": {}, "base_perplexity": 1.0, "matrix": {"columns": texts},
        "agreement": dict.fromkeys(("both", "author", "reader", "fixed_texts"), none),
    }  # fmt: skip
    page = render_page("audit.html.j2", {"matrix": {"svg": "<svg></svg>", "alt": texts[1]}}, r=results)
    found = tags_of(page)
    assert not {"script", "img", "iframe", "object"} & found.names
    assert not [name for name in found.attributes if name.startswith("on")]
    assert "{{ 7*7 }}" in page
    assert "default-src 'none'" in page


def test_a_figure_shows_a_label_as_text_and_not_as_a_formula_or_markup(tmp_path):
    from llm_persona.studies.profile_figure import save_profile

    row = {"score": 50.0, "score_ci": [40.0, 60.0]}
    label = r"$\frac$ <script>alert(1)</script> --> $\input{x}$"
    runs = [{"label": label, "condition": {}, "traits": dict.fromkeys(("a", "b<img src=x>", "$c"), row)}]
    drawn = [p for p in save_profile({"runs": runs}, tmp_path / "p") if p.suffix == ".svg"]
    found = tags_of(drawn[0].read_text(encoding="utf-8"))
    assert not {"script", "img", "foreignobject"} & found.names
    assert not [name for name in found.attributes if name.startswith("on")]
