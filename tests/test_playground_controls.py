"""What the playground's controls say: the settings made of them, the sliders, the panes and the gauge."""

from __future__ import annotations

import numpy as np
import pytest
from stand_in_runs import a_run, a_vector

from llm_persona.domain.condition import Condition
from llm_persona.domain.errors import UserError
from llm_persona.interfaces.playground.settings import NO_ADAPTER, understood
from llm_persona.interfaces.playground.shelf import stock
from llm_persona.interfaces.playground.sliders import dose_slider, marks
from llm_persona.interfaces.playground.view import READERS, Shown, changes, gauge, panes
from llm_persona.studies.side_by_side import Pair, Written, Zero


@pytest.fixture
def shelf(tmp_path):
    return stock(str(a_run(tmp_path / "first")), [], None, "default")


def settings(shelf, dose=0.1, layer=2, chosen=("openness",), **other):
    given = {"model": "tiny", "adapter": NO_ADAPTER, "system": "", "tokens": 16, "question": "Hello?", **other}
    return understood(shelf, chosen=list(chosen), doses=[dose, 0.3], layers=[layer, 1], **given)


def test_what_is_set_is_what_is_copied_and_what_the_model_is_put_into(shelf):
    adapter = shelf.adapters_of("tiny")[0]
    found = settings(shelf, -0.15, 3, system="Be brief.", adapter=adapter)
    steer = found.condition.steers[0]
    push = found.recipe.pushes[0]
    assert (steer.dose, steer.layer) == (push.dose, push.layer) == (-0.15, 3)
    assert found.condition.system == found.recipe.system == "Be brief."
    assert found.condition.adapter == found.recipe.adapter == adapter
    assert found.condition.name == "system turn + adapter openness-high + openness@3 dose -0.15"
    assert changes(found)


def test_a_dose_of_zero_steers_nothing_but_its_vector_is_still_read(shelf):
    found = settings(shelf, 0.0)
    assert not changes(found)
    assert found.recipe.pushes == ()
    assert len(found.vectors) == 1


def test_a_vector_put_away_neither_steers_nor_is_read(shelf):
    found = settings(shelf, 0.2, chosen=())
    assert not changes(found)
    assert found.offers == ()


def test_a_dose_beyond_the_usable_range_is_warned_of(shelf):
    assert settings(shelf, 0.3).warning == ""
    assert "beyond the usable range (-0.2 to +0.3)" in settings(shelf, 0.31).warning
    assert "beyond" in settings(shelf, -0.21).warning


def test_nothing_that_is_not_on_offer_can_be_loaded(shelf):
    with pytest.raises(UserError, match="model is not on offer"):
        settings(shelf, model="/etc")
    with pytest.raises(UserError, match="adapter is not on offer"):
        settings(shelf, adapter="/tmp/elsewhere")


def test_a_slider_goes_beyond_its_usable_range_and_marks_it(shelf, tmp_path):
    offer = shelf.offers[0]
    found = dose_slider(offer, True)
    assert -found["minimum"] == found["maximum"] == pytest.approx(0.45)
    assert "-0.2 to +0.3" in found["info"]
    style = marks(shelf.offers)
    assert "#dose-0 input" in style
    assert f"* {(-0.2 + 0.45) / 0.9:.4f})" in style
    assert f"* {(0.3 + 0.45) / 0.9:.4f})" in style
    a_vector().save(tmp_path / "unmeasured.safetensors")
    other = stock(None, [str(tmp_path / "unmeasured.safetensors")], None, "m")
    assert "not measured" in dose_slider(other.offers[0], True)["info"]
    assert marks(other.offers) == ""


def test_panes_are_coloured_by_the_vector_layer_and_reader_asked_for(shelf):
    offer = shelf.offers[0]
    zero = Zero(np.zeros((4, 32)), np.zeros((4, 32)), np.zeros((2, 4, 32)), 2, 8)
    one = np.arange(4.0).reshape(1, 1, 4) * offer.vector.norms
    base = Written((1, 2), 1, ("Yes",), "stop", by_itself=one, by_base=one)
    other = Written((1, 2), 1, ("No",), "stop", by_itself=-one, by_base=2 * one)
    shown = Shown(Pair("?", Condition("openness@2 dose +0.1"), base, other), (offer,), zero)
    left, right, legend = panes(shown, "openness", 2, READERS[0])
    assert 'data-v="+2.00"' in left
    assert 'data-v="+4.00"' in right
    assert "at layer 2" in legend
    assert "8 high and low responses to 2 questions" in legend
    assert 'data-v="-3.00"' in panes(shown, "openness", 3, READERS[1])[1]
    assert "data-v" not in "".join(panes(shown, None, 0, READERS[0]))


def test_the_gauge_reads_each_vector_at_its_steering_layer(shelf):
    offer = shelf.offers[0]
    zero = Zero(np.zeros((4, 32)), np.zeros((4, 32)), np.random.default_rng(0).standard_normal((3, 4, 32)), 3, 12)
    opening = np.arange(4.0)[None] * offer.vector.norms
    page = gauge(settings(shelf, layer=1), opening, 2 * opening, zero)
    assert "openness, layer 1: base +1.00, with your settings +2.00" in page
    assert "0 is the mean of 3 questions" in page
