"""What a study's results and page say of doses: cost, length and perplexity of answers, and comparisons."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import numpy as np
import pytest

import llm_persona as lp
from llm_persona.instruments.perplexity import Perplexity, neutral_texts
from llm_persona.studies.stored_answers import FILE
from llm_persona.subject.packing import Row
from llm_persona.subject.steer import steering


class Text(HTMLParser):
    """The page's text, as one string."""

    def __init__(self, page):
        super().__init__()
        self.parts = []
        self.feed(page)

    def handle_data(self, data):
        self.parts.append(data)

    def __str__(self):
        return " ".join("".join(self.parts).split())


@pytest.fixture(scope="module")
def trait(tiny_run):
    results = json.loads((tiny_run.folder / "results.json").read_text())
    return next(iter(results["traits"].values()))


@pytest.fixture(scope="module")
def subject(tiny_run):
    return lp.load_subject(tiny_run.model, dtype="float32")


def test_the_perplexity_of_answers_is_the_base_s_reading_of_what_was_written(trait, subject, tiny_run):
    answers = [json.loads(line) for line in (tiny_run.folder / FILE).read_text().splitlines()]
    for row, name in [(trait["baseline"], "base"), *((p, f"steered {p['dose']:+g}") for p in trait["steering"])]:
        own = [Row(a["question"], a["answer"]) for a in answers if a["condition"] == name and a["answer"]]
        assert own
        found = Perplexity(own).measure(subject).summary["perplexity"]
        assert row["response_perplexity"] == pytest.approx(found, rel=1e-4)


def test_the_cost_of_a_dose_is_the_ratio_of_its_perplexities_with_an_interval_over_passages(trait, subject, tiny_run):
    point = trait["steering"][-1]
    passages = Perplexity(neutral_texts()[: point["cost_passages"]])
    vector = lp.PersonaVector.load(tiny_run.folder / trait["vector"]["file"])
    base = passages.measure(subject).summary["perplexity"]
    with steering(subject, vector, layer=point["layer"], dose=point["dose"]):
        steered = passages.measure(subject).summary["perplexity"]
    assert point["cost"] == pytest.approx(steered / base, rel=1e-4)
    assert point["cost"] == pytest.approx(point["perplexity"] / trait["baseline"]["perplexity"], rel=1e-4)
    if point["cost_passages"] > 1:
        assert point["cost_ci"][0] <= point["cost"] <= point["cost_ci"][1]


def test_the_length_of_answers_is_their_mean_number_of_tokens(trait, tiny_run):
    answers = [json.loads(line) for line in (tiny_run.folder / FILE).read_text().splitlines()]
    own = [a["tokens"] for a in answers if a["condition"] == "base"]
    assert trait["baseline"]["mean_tokens"] == pytest.approx(np.mean(own))
    assert len(trait["baseline"]["mean_tokens_ci"]) == 2


def test_every_figure_of_a_dose_response_has_an_interval_and_every_dose_a_composite(trait):
    found = trait["dose_response"]
    for name in ("slope", "slope_below", "slope_above", "departure", "curvature", "r2", "spearman", "monotone"):
        assert len(found[f"{name}_ci"]) == 2
    assert len(found["wrong_way_ci"]) == 2
    assert [c["dose"] for c in found["composites"]] == [p["dose"] for p in trait["steering"]]


def test_the_page_shows_the_dose_response_with_its_table(trait, tiny_run):
    page = str(Text((tiny_run.folder / "report.html").read_text()))
    for words in ("Departure from a line", "Items that move the wrong way", "Steps between neighbouring doses",
                  "below 0", "above 0", "Answers' length", "Steering less this"):  # fmt: skip
        assert words in page
    for point in trait["steering"]:
        assert f"{point['mean_tokens']:.1f}" in page


def test_conditions_are_compared_with_steering_item_by_item(trait):
    low, high = trait["dose_response"]["usable_range"]
    for pole, end in (("high", high), ("low", low)):
        for row in trait["comparison"][pole]:
            less = row["steering_less_this"]
            if end == 0 or row["condition"].startswith("steered"):
                assert less is None
            else:
                steered = next(p for p in trait["steering"] if p["dose"] == end)
                assert less["n"] <= steered["shift"]["n"]
                assert less["difference_ci"][0] <= less["difference"] <= less["difference_ci"][1]
