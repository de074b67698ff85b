"""`steer` by command: each vector its own layer and strength, positions, operators, ranges of layers."""

from __future__ import annotations

import json

import numpy as np
import pytest
from schemas import check_schema
from tiny_inputs import random_vector

import llm_persona as lp
from llm_persona.analysis.vectors import PersonaVector, increments
from llm_persona.domain.condition import Condition, Steer
from llm_persona.domain.errors import UserError
from llm_persona.interfaces.cli.main import run
from llm_persona.interfaces.cli.vector_settings import parse_vector
from llm_persona.subject.generate import generate
from llm_persona.subject.steer import steering

PROMPTS = ["Hi", "What should I do at the weekend?"]


@pytest.fixture(scope="module")
def subject(tiny_folders):
    return lp.load_subject(tiny_folders[0], dtype="float32")


@pytest.fixture(scope="module")
def files(subject, tmp_path_factory):
    """Two vectors with a recommended layer and coefficient, and their files."""
    place = tmp_path_factory.mktemp("vectors")
    found = []
    for n, name in enumerate(("openness", "machiavellianism")):
        plain = random_vector(subject, n)
        meta = {"trait": name, "recommended": {"balanced": n + 1, "coefficient": 1.5 - n}}
        vector = PersonaVector(plain.directions, plain.reference_norms, meta)
        vector.save(place / f"{name}.safetensors")
        found.append((vector, str(place / f"{name}.safetensors")))
    return found


@pytest.fixture
def steer(tiny_folders, tmp_path):
    """Runs `steer`; the answers' texts, and what the JSON says was steered."""

    def by_command(*arguments, fails=0):
        out = tmp_path / "out.json"
        asked = [part for text in PROMPTS for part in ("--prompt", text)]
        command = ["steer", "--model", tiny_folders[0], "--dtype", "float32", "--max-new-tokens", "8", *asked]
        assert run([*command, "--no-compare", "--json", str(out), *map(str, arguments)]) == fails
        if fails:
            return None
        found = json.loads(out.read_text())
        return [a["text"] for a in found["answers"]], found["condition"]["steering"]

    return by_command


def written(subject, *steers):
    with subject.under(Condition("wanted", steers=steers)):
        return [a.text for a in generate(subject, PROMPTS, 8)]


def test_two_vectors_have_each_their_layer_and_one_a_dose_the_other_a_coefficient(subject, files, steer):
    (a, one), (b, two) = files
    texts, said = steer("--vector", f"{one}:layer=1:dose=3", "--vector", f"{two}:layer=2:coefficient=-4")
    assert texts == written(subject, Steer(a, 1, dose=3), Steer(b, 2, coefficient=-4))
    assert texts != written(subject, Steer(a, 1, dose=3))
    assert [(s["vector"], s["layer"], s["coefficient"], s["dose"]) for s in said] == [
        ("openness", 1, None, 3.0), ("machiavellianism", 2, -4.0, None)
    ]  # fmt: skip


def test_repeated_options_pair_with_the_vectors_in_their_order(subject, files, steer):
    (a, one), (b, two) = files
    options = ["--vector", one, "--layer", 2, "--dose", 3, "--vector", two, "--layer", 3, "--dose", -2]
    assert steer(*options)[0] == written(subject, Steer(a, 2, dose=3), Steer(b, 3, dose=-2))


def test_options_go_to_the_vectors_that_do_not_say_it_themselves(subject, files, steer):
    (a, one), (b, two) = files
    options = ["--vector", f"{one}:dose=3", "--vector", f"{two}:layer=3", "--layer", 2, "--coefficient", 4]
    assert steer(*options)[0] == written(subject, Steer(a, 2, dose=3), Steer(b, 3, coefficient=4))


def test_without_a_strength_the_recommended_layer_and_coefficient_are_taken(subject, files, steer):
    _, said = steer("--vector", files[0][1], "--vector", files[1][1])
    assert [(s["layer"], s["coefficient"]) for s in said] == [(1, 1.5), (2, 0.5)]


@pytest.mark.parametrize("positions", ["prompt", "response"])
def test_positions_by_command_are_those_of_the_library(positions, subject, files, steer):
    vector, path = files[0]
    wanted = written(subject, Steer(vector, 2, coefficient=4, positions=positions))
    assert steer("--vector", path, "--layer", 2, "--coefficient", 4, "--positions", positions)[0] == wanted
    assert steer("--vector", f"{path}:positions={positions}", "--layer", 2, "--coefficient", 4)[0] == wanted
    assert wanted != written(subject, Steer(vector, 2, coefficient=4))


def test_operators_by_command_are_those_of_the_library(subject, files, steer):
    vector, path = files[0]
    assert steer("--vector", path, "--layer", 2, "--operator", "ablate")[0] == written(
        subject, Steer(vector, 2, operator="ablate")
    )
    for bounds in ({"floor": 3.0}, {"ceiling": -3.0}, {"floor": 1.0, "ceiling": 2.0}):
        options = [part for name, value in bounds.items() for part in (f"--{name}", value)]
        texts, said = steer("--vector", path, "--layer", 2, "--operator", "cap", *options)
        assert texts == written(subject, Steer(vector, 2, operator="cap", **bounds))
        assert {name: said[0][name] for name in bounds} == bounds


def test_an_operator_of_one_vector_leaves_the_other_as_the_options_say(subject, files, steer):
    (a, one), (b, two) = files
    texts, _ = steer("--vector", f"{one}:operator=cap:floor=4:layer=1", "--vector", two, "--layer", 2, "--dose", 3)
    assert texts == written(subject, Steer(a, 1, operator="cap", floor=4.0), Steer(b, 2, dose=3))


def test_bounds_go_to_the_vectors_that_cap_and_to_no_other(subject, files, steer):
    (a, one), (b, two) = files
    options = ["--vector", f"{one}:operator=cap:layer=1", "--vector", f"{two}:operator=ablate:layer=2", "--floor", 4]
    wanted = (Steer(a, 1, operator="cap", floor=4.0), Steer(b, 2, operator="ablate"))
    assert steer(*options)[0] == written(subject, *wanted)


def test_a_range_of_layers_adds_each_layer_s_increment(subject, files, steer):
    vector, path = files[0]
    steps = increments(vector, 1)
    wanted = [Steer(steps, layer, coefficient=2) for layer in (1, 2, 3)]
    assert steer("--vector", path, "--layer", "1-3", "--coefficient", 2)[0] == written(subject, *wanted)


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--vector", "{0}", "--vector", "{1}", "--dose", 1, "--coefficient", 1], "each vector its own: --vector FILE:"),
     (["--vector", "{0}:dose=1:dose=2"], "gives dose twice"),
     (["--vector", "{0}:layer="], "layer is empty"),
     (["--vector", "{0}:dose=much"], "dose 'much' is not a number"),
     (["--vector", "{0}:positions=last"], "choose one of all, prompt, response"),
     (["--vector", "{0}:dose=1:coefficient=1"], "give a coefficient or a dose, one of the two"),
     (["--vector", "{0}:dose=1", "--dose", 2], "there is no --vector left that takes it"),
     (["--vector", "{0}", "--operator", "ablate", "--dose", 2], "there is no --vector left that takes it"),
     (["--vector", "{0}", "--vector", "{1}", "--layer", 1], "2 --vector, 1 --layer"),
     (["--vector", "{0}", "--layer", "1-3", "--dose", 1], "give --coefficient, one for all layers"),
     (["--vector", "{0}", "--dose", 1, "--floor", 1], "belongs to operator cap"),
     (["--operator", "ablate"], "belong to a --vector"),
     (["--vector", "{0}:operator=ablate", "--floor", 1], "--floor 1: no --vector caps; write the one that"),
     (["--vector", "{0}:operator=add:dose=1", "--operator", "cap", "--ceiling", 2], "--ceiling 2: no --vector caps"),
     (["--vector", "{0}:operator=cap:floor=1", "--ceiling", 2], "--ceiling 2: every --vector that caps has bounds")],
)  # fmt: skip
def test_settings_that_do_not_fit_together_end_in_one_line(options, message, files, steer, capsys):
    steer(*(str(o).format(*(path for _, path in files)) for o in options), fails=2)
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


def test_a_colon_that_begins_no_setting_belongs_to_the_file_s_name():
    assert parse_vector("C:\\a:b.safetensors:dose=1").path == "C:\\a:b.safetensors"
    assert parse_vector("runs/a:x=1.safetensors").path == "runs/a:x=1.safetensors"


def test_evaluate_refuses_the_overlap_of_a_vector_with_settings_of_its_own(subject, tiny_folders, tmp_path, capsys):
    items = lp.load_items("openness").split("test")[:2]
    vector = PersonaVector(random_vector(subject).directions, np.ones(4, np.float32), {"items": list(items.ids)})
    vector.save(tmp_path / "v.safetensors")
    arguments = ["evaluate", "--trait", "openness", "--limit", "2", "--model", tiny_folders[0]]
    assert run([*arguments, "--vector", f"{tmp_path / 'v.safetensors'}:layer=1:dose=0.1"]) == 2
    assert "v.safetensors: made from 2 of these 2 items" in capsys.readouterr().err


def test_an_overlap_that_was_allowed_stands_in_the_result_of_the_condition_it_concerns(
    subject, tiny_folders, tmp_path, capsys
):
    items = lp.load_items("openness").split("test")[:2]
    file, out = str(tmp_path / "v.safetensors"), tmp_path / "out.json"
    PersonaVector(random_vector(subject).directions, np.ones(4, np.float32), {"items": [items.ids[0]]}).save(file)
    arguments = ["evaluate", "--trait", "openness", "--trait", "narcissism", "--limit", "2", "--json", str(out),
                 "--model", tiny_folders[0]]  # fmt: skip
    assert run([*arguments, "--vector", file, "--layer", "1", "--dose", "0.1", "--allow-overlap"]) == 0
    assert f"openness: in-sample: {file} was made from 1 of the items" in capsys.readouterr().out
    found = json.loads(out.read_text())
    assert (found["allow_overlap"], found["overlap"]) == (True, {"openness": {file: 1}})
    check_schema("evaluate", found)
    assert run(arguments) == 0
    found = json.loads(out.read_text())
    assert (found["allow_overlap"], found["overlap"]) == (False, {})


def test_increments_through_a_model_add_up_layer_by_layer(subject, files):
    """Through the model: at the first layer the increment is the vector itself; above, what each layer adds is on top
    of what the layers below made of theirs."""
    from tiny_inputs import ROWS

    vector, _ = files[0]
    steps = increments(vector, 1)
    plain = lp.record(subject, ROWS).values
    with steering(subject, steps, layer=1, coefficient=0.5):
        first = lp.record(subject, ROWS).values
    np.testing.assert_allclose(first[:, 1] - plain[:, 1], np.tile(0.5 * vector.directions[1], (4, 1)), atol=1e-4)
    with steering(subject, steps, layer=1, coefficient=0.5), steering(subject, steps, layer=2, coefficient=0.5):
        both = lp.record(subject, ROWS).values
    step = 0.5 * (vector.directions[2] - vector.directions[1])
    np.testing.assert_array_equal(both[:, 1], first[:, 1])
    np.testing.assert_allclose(both[:, 2] - first[:, 2], np.tile(step, (4, 1)), atol=1e-4)


def test_strengths_are_needed_where_a_vector_recommends_none(subject, tmp_path):
    random_vector(subject).save(tmp_path / "v.safetensors")
    with pytest.raises(UserError, match="say how strongly"):
        parse_vector(f"{tmp_path / 'v.safetensors'}:layer=1:operator=add").steers()
