"""Evaluation of many items, conditions and models: resumed, compared, drawn; and the same through inspect."""

from __future__ import annotations

import json

import pytest
from conftest import make_subject
from schemas import check_schema
from servers import running

from llm_persona.analysis.reliability import class_changes, order_changes
from llm_persona.analysis.trait_scoring import answer_row, likelihood_row, match_option
from llm_persona.domain.condition import BASE, Condition
from llm_persona.domain.errors import UserError
from llm_persona.domain.item_sources import load_items
from llm_persona.domain.items import OPTIONS
from llm_persona.domain.traits import LEVELS, load_trait
from llm_persona.instruments.trait_benchmark import TraitBenchmark, evaluate
from llm_persona.interfaces.cli.main import run
from llm_persona.interfaces.serve.app import make_app
from llm_persona.studies.compare import compare, read_runs
from llm_persona.studies.evaluation import EvaluationPlan, evaluate_sets
from llm_persona.studies.evaluation_parts import PART
from llm_persona.studies.profile_figure import save_profile
from llm_persona.subject.remote.api_subject import connect

LABELS = ("A", "B", "C", "D")
OPTION_TEXTS = ["Go and see the desert.", "Stay at home with tea.", "Learn to paint clouds.", "Do the bills first."]


@pytest.fixture(autouse=True)
def own_cache(request, tmp_path, monkeypatch):
    if "smol" in request.fixturenames:
        request.getfixturevalue("smol")  # fetched into the common cache
    monkeypatch.setenv("LLM_PERSONA_CACHE", str(tmp_path / "cache"))


def short_items(count):
    """Items that fit the tiny model, more than the bank has."""
    items = [i for name in ("openness", "machiavellianism") for i in load_items(name)][:count]
    return [
        type(i)(**{**i.__dict__, "id": str(n), "situation": f"It rains, {n}.", "query": "And now?",
                   "paraphrased_situation": "Rain.", "paraphrased_query": "Now?",
                   **{name: i.responses[name][:12] for name in OPTIONS}})
        for n, i in enumerate(items)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "place"),
    [("B", 1), ("B.", 1), ("(C) because", 2), ("Answer: D", 3), ("I would choose option A.", 0), ("**B**", 1),
     ("My answer is (D).", 3), ("Stay at home with tea", 1), ("I'd go see the big desert tomorrow", 0)],
)  # fmt: skip
def test_a_written_answer_is_matched_to_the_option_it_names(text, place):
    assert match_option(text, LABELS, OPTION_TEXTS)[0] == place


@pytest.mark.parametrize(
    ("text", "reason"),
    [("", "empty"), ("I'm sorry, I can't decide that.", "refusal"), ("As an AI language model I have none", "refusal"),
     ("A good question, that.", "matches no option"), ("Either A or B would do, option A or option B.", "matches no"),
     ("Go and see the desert. Stay at home with tea.", "matches no option"), ("perhaps", "matches no option")],
)  # fmt: skip
def test_what_names_no_option_is_unscored_with_the_reason(text, reason):
    place, why = match_option(text, LABELS, OPTION_TEXTS)
    assert place is None
    assert reason in why


def test_orders_that_name_opposite_poles_are_a_tie():
    item = load_items("openness")[0]
    assert answer_row("x", ["A", "B"], item, LABELS)["high"] is True  # reversed, B is a high option
    assert "tie" in answer_row("x", ["A", "A"], item, LABELS)["unscored"]
    assert answer_row("x", ["A", "hm"], item, LABELS)["high"] is True


def test_the_forms_of_likelihood_are_what_they_say():
    import numpy as np

    given = [np.array([-1.0]), np.array([-1.0, -1.5]), np.array([-3.0, -1.0, -1.0]), np.array([-2.0])]
    alone = [np.array([-1.0]), np.array([-2.0, -2.5]), np.array([-9.0, -1.0, -1.0]), np.array([-2.0])]
    rows = {form: likelihood_row("x", given, alone, form) for form in ("mean", "sum", "unconditional")}
    weights = {
        "mean": [-1.0, -1.25, -5 / 3, -2.0],
        "sum": [-1.0, -2.5, -5.0, -2.0],
        "unconditional": [0.0, 2.0, 6.0, 0.0],
    }
    for form, values in weights.items():
        shares = np.exp(values) / np.exp(values).sum()
        assert rows[form]["preference"] == pytest.approx(shares[0] + shares[2])  # options 1 and 3 are the high ones
        assert rows[form]["high"] is bool(np.argmax(values) in (0, 2))
    with pytest.raises(UserError, match="needs the responses"):
        likelihood_row("x", given, None, "unconditional")


def test_class_changes_are_counted_over_items_scored_both_times():
    first = [{"id": "a", "high": True}, {"id": "b", "high": False}, {"id": "c", "unscored": "tie"}]
    second = [{"id": "b", "high": True}, {"id": "a", "high": True}, {"id": "c", "high": True}]
    found = class_changes(first, second)
    assert (found["changed"], found["n"], found["n_left_out"]) == (50.0, 2, 1)
    assert order_changes(first) is None


@pytest.mark.parametrize("level", LEVELS)
def test_every_level_of_instruction_tells_the_poles_apart(level):
    for name in ("openness", "psychopathy"):
        trait = load_trait(name)
        high, low = trait.instruction("high", level), trait.instruction("low", level)
        assert high != low
        assert min(len(high), len(low)) > 20
    assert len(trait.instruction("high", "facets")) > len(trait.instruction("high", "description"))
    with pytest.raises(UserError, match="choose one of"):
        trait.instruction("high", "loud")


def test_paraphrases_are_asked_instead_and_missing_ones_are_named(tiny):
    items = short_items(2)
    as_written, other = evaluate(tiny, items), evaluate(tiny, items, paraphrase=True)
    assert [r["id"] for r in as_written.rows] == [r["id"] for r in other.rows]
    assert as_written.rows[0]["logprobs"] != other.rows[0]["logprobs"]
    with pytest.raises(UserError, match="has no paraphrased_situation"):
        evaluate(tiny, load_items("openness", author="second")[:1], paraphrase=True)


def test_an_evaluation_that_was_killed_goes_on_at_the_last_saved_part(tiny, monkeypatch):
    from llm_persona.domain.items import Items

    sets = {"openness": Items(short_items(2 * PART + 5), "test")}
    plan = EvaluationPlan(TraitBenchmark(()))
    whole = evaluate_sets(tiny, sets, {"openness": BASE}, plan)

    def killed(count):
        killed.done += count
        if killed.done > PART:
            raise KeyboardInterrupt

    killed.done = 0
    with pytest.raises(KeyboardInterrupt):
        evaluate_sets(tiny, sets, {"openness": BASE}, plan, killed)
    asked, done, kept = [], [], []
    original = TraitBenchmark.measure
    monkeypatch.setattr(
        TraitBenchmark, "measure", lambda s, *a, **k: asked.append(len(s.items)) or original(s, *a, **k)
    )
    assert evaluate_sets(tiny, sets, {"openness": BASE}, plan, done.append, kept.append) == whole
    assert (asked, done, kept) == ([5], [5], [PART, PART])


def test_parts_of_another_state_or_question_are_not_taken_over(tiny):
    from llm_persona.domain.items import Items

    sets = {"openness": Items(short_items(4), "test")}
    base = evaluate_sets(tiny, sets, {"openness": BASE}, EvaluationPlan(TraitBenchmark(())))
    told = evaluate_sets(tiny, sets, {"openness": Condition("x", "Be bold.")}, EvaluationPlan(TraitBenchmark(())))
    assert base["traits"]["openness"]["rows"] != told["traits"]["openness"]["rows"]


def test_reliability_compares_templates_orders_and_paraphrases(tiny):
    from llm_persona.domain.items import Items

    sets = {"openness": Items(short_items(6), "test")}
    plan = EvaluationPlan(TraitBenchmark((), "choice"), reliability=True)
    found = evaluate_sets(tiny, sets, {"openness": BASE}, plan)["traits"]["openness"]["reliability"]
    assert {"template 1 / template 2", "template 1 / paraphrase", "template 1: orders"} <= found.keys()
    assert all(0 <= c["changed"] <= 100 for c in found.values() if c["changed"] is not None)
    assert plan.count(sets) == 4 * 6


def result(scores, name="base"):
    rows = [{"id": str(n), "high": h, "preference": 0.9 if h else 0.2} for n, h in enumerate(scores)]
    from llm_persona.analysis.trait_scoring import summarise

    traits = {t: {**summarise(rows), "rows": rows} for t in ("openness", "extraversion", "narcissism")}
    return {"model": "m", "mode": "choice", "condition": {"name": name}, "traits": traits}


def test_results_on_disk_are_compared_item_by_item_and_drawn(tmp_path, capsys):
    paths = []
    for name, scores in (("base", [False] * 12), ("tuned", [True] * 10 + [False] * 2)):
        paths.append(tmp_path / f"{name}.json")
        paths[-1].write_text(json.dumps(result(scores, name)))
    out = tmp_path / "c.json"
    assert run(["report", "compare", *map(str, paths), "--json", str(out), "--figure", str(tmp_path / "p.png")]) == 0
    found = json.loads(out.read_text())
    shift = found["differences"]["m, tuned, choice"]["openness"]
    assert shift["score_shift"] == pytest.approx(1000 / 12)
    assert shift["p_value"] <= shift["p_holm"] < 0.05
    assert (tmp_path / "p.png").stat().st_size > 10_000
    assert (tmp_path / "p.svg").read_text().startswith("<?xml")


def test_comparing_one_result_or_something_else_is_refused(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(result([True])))
    assert run(["report", "compare", str(path)]) == 2
    path.write_text("[1]")
    with pytest.raises(UserError, match="neither the JSON of `evaluate`"):
        read_runs(path)


def test_runs_of_other_items_have_no_difference(tmp_path):
    other = result([True] * 3)
    for trait in other["traits"].values():
        for row in trait["rows"]:
            row["id"] = f"other {row['id']}"
    found = compare([result([True] * 3), other])
    assert found["differences"]["m, base, choice (2)"]["openness"]["score_shift"] is None
    save_profile(found, tmp_path / "x.png")


def test_items_are_read_from_parquet_folders_and_the_hub_s_cache(tmp_path, monkeypatch):
    import pyarrow as pa
    import pyarrow.parquet as pq

    records = [{**{k: v for k, v in i.__dict__.items() if isinstance(v, str)}, "personality": "Openness", "idx": n}
               for n, i in enumerate(load_items("openness")[:5])]  # fmt: skip
    for record in records:
        del record["split"], record["id"]
    revision = "0123456789abcdef0123456789abcdef01234567"
    repo = tmp_path / "hub" / "datasets--some--TRAIT"
    folder = repo / "snapshots" / revision / "data"
    folder.mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(revision)
    pq.write_table(pa.Table.from_pylist(records), folder / "Openness-00000-of-00001.parquet")
    from_file = load_items(path=folder / "Openness-00000-of-00001.parquet")
    assert [i.situation for i in from_file] == [r["situation"] for r in records]
    assert list(load_items(path=folder)) == list(from_file)
    import huggingface_hub.constants as hub

    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path / "hub"))
    assert list(load_items("openness", path="hub:some/TRAIT")) == list(from_file)
    with pytest.raises(UserError, match=r"cannot be fetched.*give their folder"):
        load_items(path="hub:other/TRAIT")
    with pytest.raises(UserError, match="write hub:OWNER/NAME"):
        load_items(path="hub:TRAIT")
    (folder / "broken.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(UserError, match=r"broken\.parquet: cannot be read as Parquet"):
        load_items(path=folder)


def test_a_gated_data_set_without_a_token_says_what_to_do(monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import GatedRepoError

    class Response:
        status_code, headers, request, url, text = 403, {}, None, "", ""

    def refuse(*_, **__):
        raise GatedRepoError("gated", response=Response())

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(UserError, match=r"gated; accept its terms.*HF_TOKEN"):
        load_items(path="hub:mirlab/TRAIT")


def test_the_command_compares_conditions_and_models_behind_an_api(tmp_path, capsys, monkeypatch):
    subject = make_subject()
    path = tmp_path / "items.json"
    path.write_text(json.dumps([{**{n: getattr(i, n) for n in ("situation", "query", *OPTIONS)}, "idx": i.id,
                                 "personality": "Openness"} for i in short_items(3)]))  # fmt: skip
    out = tmp_path / "out.json"
    with running(make_app(subject, {})) as address:
        arguments = [
            "evaluate",
            "--model",
            f"openai:{subject.name}",
            "--base-url",
            f"{address}/v1",
            "--items",
            str(path),
        ]
        settings = ["--mode", "generate", "--instruct", "none", "--instruct", "high", "--level", "name"]
        assert run([*arguments, *settings, "--price", "1/2", "--json", str(out)]) == 0
        found = json.loads(out.read_text())
        assert [r["condition"]["name"] for r in found["runs"]] == ["base", "instructed high (name)"]
        assert "calls (0 more are cached)" in capsys.readouterr().err
        assert run([*arguments, "--mode", "generate", "--json", str(out)]) == 0
        found = json.loads(out.read_text())
        check_schema("evaluate", found)
        assert found["calls"]["cached"] == 6
        assert run([*arguments, "--mode", "likelihood"]) == 2
        assert "--mode choice" in capsys.readouterr().err
        assert run([*arguments, "--price", "cheap"]) == 2


@pytest.mark.model
@pytest.mark.parametrize("mode", ["choice", "generate"])
def test_inspect_and_our_own_api_subject_score_as_we_do_on_the_real_model(mode, smol, tmp_path, monkeypatch):
    from inspect_ai import eval as inspect_eval

    items = load_items("openness").split("test")[:4]
    own = evaluate(smol, items, mode=mode)
    path = tmp_path / "items.json"
    path.write_text(json.dumps([{**{n: getattr(i, n) for n in ("situation", "query", *OPTIONS)}, "idx": i.id}
                                for i in items]))  # fmt: skip
    monkeypatch.chdir(tmp_path)
    with running(make_app(smol, {})) as address:
        behind = evaluate(connect(f"openai:{smol.name}", f"{address}/v1"), items, mode=mode)
        log = inspect_eval(
            "llm_persona/trait", model=f"openai-api/here/{smol.name}", model_base_url=f"{address}/v1",
            model_args={"api_key": "none"}, log_dir=str(tmp_path), display="none",
            task_args={"items": str(path), "mode": mode},
        )[0]  # fmt: skip
    assert log.status == "success", log.error
    scores = {s.id: s.scores["persona_scorer"] for s in log.samples}
    for row, other in zip(own.rows, behind.rows, strict=True):
        assert other.get("unscored") == row.get("unscored")
        if "unscored" in row:
            assert scores[row["id"]].reason == row["unscored"]
        else:
            assert other["high"] == row["high"] == bool(scores[row["id"]].value)
            assert other["preference"] == pytest.approx(row["preference"], abs=0.02)
            assert scores[row["id"]].metadata["preference"] == pytest.approx(row["preference"], abs=0.02)
