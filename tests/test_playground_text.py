"""Text of models on the playground's page: escaped wherever it is shown, coloured, readable without seeing it."""

from __future__ import annotations

from html.parser import HTMLParser

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from llm_persona.interfaces.playground import paint
from llm_persona.studies.side_by_side import Written

HOSTILE = ["<script>alert(1)</script>", '<img src=x onerror="alert(1)">', "${alert(1)}", "{{value}}", "a & b", "'\"`"]


class Seen(HTMLParser):
    """Tags and text of a page, as a browser has them."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.tags, self.text = [], ""

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, tuple(name for name, _ in attrs)))

    def handle_data(self, data):
        self.text += data


def seen(page):
    found = Seen()
    found.feed(page)
    return found


OURS = {"section", "h3", "div", "p", "span", "b", "i", "br", "small"}


@given(st.one_of(st.sampled_from(HOSTILE), st.text(max_size=40)))
def test_model_text_is_text_wherever_it_is_shown(text):
    values = np.array([0.8])
    drawn = [
        paint.answer(text, Written(pieces=(text,)), None, 1.0, text),
        paint.answer(text, Written(pieces=(text,), finish="stop"), values, 1.0),
        paint.legend(text, 3, 1.0, text),
        paint.gauge([paint.Needle(text, 3, 0.1, 0.5, 0.2)], text),
        paint.warning(text),
    ]
    for page in drawn:
        found = seen(page)
        assert {tag for tag, _ in found.tags} <= OURS
        assert not {a for _, attrs in found.tags for a in attrs if a.startswith("on") or a in ("src", "href")}
        assert not any(mark in page for mark in ("${", "{{", "<script", "<img"))
    for page in drawn[:2]:
        assert "".join(text.split()) in "".join(seen(page).text.split())


def test_a_token_carries_its_number_its_side_and_more_than_a_colour():
    written = Written(pieces=("Yes", ", b", "old", ""), finish="length")
    page = paint.answer("x", written, np.array([1.0, -0.5, 0.01, 3.0]), 1.0)
    assert 'class="lp-t lp-high lp-strong"' in page
    assert 'class="lp-t lp-low"' in page
    assert 'data-v="-0.50"' in page
    assert page.count("data-v") == 3  # a token without a character of its own is not drawn
    assert "4 tokens, cut at the length asked for; mean +0.88 pole gaps" in page


def test_colours_are_full_at_a_round_distance_that_most_tokens_stay_below():
    assert paint.limit_of([np.array([0.1, -0.2])]) == 1.0
    assert paint.limit_of([np.linspace(-2.2, 2.2, 100)]) == 2.5
    assert paint.limit_of([]) == 1.0
    assert paint.limit_of([np.array([np.nan])]) == 1.0


def test_the_gauge_is_readable_without_seeing_it():
    page = paint.gauge([paint.Needle("openness", 17, -0.07, 1.34, 0.1)], "note")
    assert 'aria-label="openness, layer 17: base -0.07, with your settings +1.34"' in page
