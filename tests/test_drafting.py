"""Traits drafted by a writer: a good one is accepted, faults are repaired, and what is unusable ends in few calls."""

from __future__ import annotations

import json
import re

import pytest
import yaml
from servers import asked, completion, live, running

from llm_persona.domain.drafts import Unusable, core_of, json_of, places
from llm_persona.domain.errors import UserError
from llm_persona.domain.traits import load_trait, read_trait
from llm_persona.instruments.judging.writing import LocalWriter, ScriptedWriter, open_writer
from llm_persona.interfaces.cli.main import run
from llm_persona.studies.drafting import DraftPlan, draft_path, draft_trait

pytestmark = pytest.mark.usefixtures("cache")

NAME = "breadth"
SECRET = "sk-planted-secret-0123456789"


class Bank:
    """A writer that knows a bundled trait by heart: what it writes meets the standard."""

    def __init__(self, trait="openness"):
        self.trait = load_trait(trait)
        self.items = [i for split in ("fit", "select", "test") for i in self.trait.bank if i.split == split]
        self.asked = []

    def reply(self, step, prompt):
        self.asked.append(step)
        trait = self.trait
        if step == "core":
            fields = ("title", "family", "definition", "source", "sentiment", "adjectives", "descriptions", "facets")
            whole = trait.model_dump()
            return {name: whole[name] for name in fields} | {"rubric": "Signs of the high end: it sends people toward "
                    "the new. Signs of the low end: it sends people toward the known. Length is no sign."}  # fmt: skip
        if step == "pairs":
            return {"pairs": [{"high": p.high, "low": p.low} for p in trait.instruction_pairs]}
        if step == "questions":
            return {"questions": [q.text for q in trait.questions]}
        return {"items": [self.item(int(n)) for n in re.findall(r"^- place (\d+):", prompt, re.MULTILINE)]}

    def item(self, number):
        one = self.items[number - 1]
        names = ("statement", "situation", "query", "paraphrased_situation", "paraphrased_query")
        return {"place": number, **{name: getattr(one, name) for name in names}, **one.responses}


def writer(reply, name="bank"):
    def text(request):
        found = reply(request.step, request.prompt)
        return found if isinstance(found, str) else "Here it is:\n```json\n" + json.dumps(found) + "\n```"

    return ScriptedWriter(text, name)


def test_a_good_writer_gives_a_whole_trait_that_meets_the_standard_and_is_marked(tmp_path, capsys):
    bank = Bank()
    path = tmp_path / f"{NAME}.yaml"
    heard = []
    trait, checks = draft_trait(writer(bank.reply), DraftPlan(NAME), path, heard.append)
    assert all(check.ok for check in checks)
    assert bank.asked == ["core", "pairs", "questions", *["items"] * 10]
    assert len(bank.asked) == len(DraftPlan(NAME).sizes())
    assert read_trait(path) == trait
    assert trait.status == "drafted, unreviewed"
    assert trait.source.startswith("Drafted by scripted:bank")
    assert [sum(i.split == s for i in trait.bank) for s in ("fit", "select", "test")] == [40, 15, 25]
    assert [len(trait.questions_of(s)) for s in ("fit", "select", "test")] == [20, 5, 15]
    assert not draft_path(path).exists()
    assert heard[-1] == "items: 80 of 80 usable"
    assert run(["traits", "show", str(path)]) == 0
    assert "Status: drafted, unreviewed" in capsys.readouterr().out
    assert run(["traits", "check", str(path)]) == 0
    assert "status: drafted, unreviewed" in capsys.readouterr().out


def test_who_has_reviewed_a_trait_does_not_change_its_digest():
    trait = load_trait("openness")
    assert trait.status == ""
    assert trait.model_copy(update={"status": "read by me"}).digest == trait.digest


def test_faults_go_back_with_what_is_wrong_and_only_they_do(tmp_path):
    bank = Bank()
    prompts = []

    def reply(step, prompt):
        prompts.append((step, prompt))
        found = bank.reply(step, prompt)
        first = sum(s == step for s, _ in prompts) == 1
        if step == "core" and first:
            del found["rubric"]
        if step == "pairs" and first:
            found["pairs"] = [*found["pairs"][:4], {"high": "Be brief.", "low": "Speak at very great length, please."}]
        if step == "questions" and first:
            found["questions"] = [found["questions"][0], *found["questions"][:-3]]
        if step == "items" and "fault of an earlier item" not in prompt:
            for item in found["items"]:
                if item["place"] == 3:
                    item["response_high1"] += " That has breadth."
                if item["place"] == 12:
                    del item["query"]
                if item["place"] == 20:
                    item["response_low1"] += " And so on" * 8
            found["items"] = [i for i in found["items"] if i["place"] != 31]
        return found

    trait, _ = draft_trait(writer(reply), DraftPlan(NAME), tmp_path / "t.yaml")
    assert len(trait.bank) == 80
    steps = [step for step, _ in prompts]
    assert [steps.count(s) for s in ("core", "pairs", "questions", "items")] == [2, 2, 2, 11]
    repairs = dict(prompts)  # the last of each step
    assert "rubric: Field required" in repairs["core"]
    assert "Write 2 pairs" in repairs["pairs"]
    assert "equally long" in repairs["pairs"]
    assert "Write 3 short questions" in repairs["questions"]
    assert re.findall(r"^- place (\d+):", repairs["items"], re.MULTILINE) == ["3", "12", "20", "31"]
    for said in ("forbidden words: breadth", "query: missing", "-", "no item came for this place"):
        assert said in repairs["items"]


def test_a_writer_without_json_is_rejected_after_two_calls(tmp_path):
    asked = []
    idle = writer(lambda step, prompt: (asked.append(step), "What a fine trait that would be!")[1], "idle")
    with pytest.raises(UserError, match=r"rejected at 'core'.*no JSON object in the reply \('What a fine trait"):
        draft_trait(idle, DraftPlan(NAME, rounds=9), tmp_path / "t.yaml")
    assert asked == ["core"] * 2
    assert not (tmp_path / "t.yaml").exists()


@pytest.mark.parametrize("text", ['{"title": "Breadth"}', '{"title": "Brea', '{"a": ' * 5000])
def test_json_that_never_fits_is_rejected_after_the_rounds(text, tmp_path):
    asked = []
    with pytest.raises(UserError, match="rejected at 'core' after 2 rounds"):
        draft_trait(writer(lambda s, p: (asked.append(s), text)[1], "odd"), DraftPlan(NAME), tmp_path / "t.yaml")
    assert len(asked) == 3


def test_near_duplicates_are_sent_back_and_a_writer_that_keeps_them_is_rejected_with_its_draft_kept(tmp_path):
    def repeating(stubborn):
        bank = Bank()

        def reply(step, prompt):
            found = bank.reply(step, prompt)
            for item in found["items"] if step == "items" else ():
                if item["place"] == 5 and (stubborn or "almost that of place 1" not in prompt):
                    item |= {"situation": bank.items[0].situation + " Again.", "query": bank.items[0].query}
            return found

        return bank, writer(reply, f"repeats {stubborn}")

    bank, once = repeating(stubborn=False)
    draft_trait(once, DraftPlan(NAME), tmp_path / "a.yaml")
    assert bank.asked.count("items") == 11
    bank, always = repeating(stubborn=True)
    path = tmp_path / "b.yaml"
    with pytest.raises(UserError, match=r"rejected at 'items' .*place 5: its situation is almost that of place 1"):
        draft_trait(always, DraftPlan(NAME), path)
    assert bank.asked.count("items") == 12
    assert len(bank.asked) <= DraftPlan(NAME).most_calls
    kept = yaml.safe_load(draft_path(path).read_text())
    assert (len(kept["items"]), len(kept["questions"]), kept["status"]) == (79, 40, "unfinished draft")
    assert "place 5" in kept["faults"][0]
    assert not path.exists()


def test_a_balance_that_fails_over_all_items_sends_back_those_that_upset_it(tmp_path):
    bank = Bank()

    def reply(step, prompt):
        found = bank.reply(step, prompt)
        for item in found["items"] if step == "items" else ():
            if item["place"] <= 11 and "over all items" not in prompt:
                item |= {name: item[name].rstrip(".") + "!" for name in ("response_high1", "response_high2")}
        return found

    heard = []
    draft_trait(writer(reply), DraftPlan(NAME), tmp_path / "t.yaml", heard.append)
    assert any("register" in line for line in heard)
    assert bank.asked.count("items") == 12


def test_places_cover_facets_and_domains_in_every_split():
    for count in (32, 80, 101):
        found = places(count, [f"f{n}" for n in range(6)])
        assert [place.number for place in found] == list(range(1, count + 1))
        for split in ("fit", "select", "test"):
            assert {p.facet for p in found if p.split == split} == {f"f{n}" for n in range(6)}
        domains = [place.domain for place in found]
        assert max(map(domains.count, domains)) <= 0.25 * count


def test_replies_are_read_whatever_stands_around_the_json():
    assert json_of('Sure.\n```json\n{"a": [1]}\n```\nBye {x}') == {"a": [1]}
    with pytest.raises(Unusable, match="cut off at its greatest length"):
        json_of('{"a": [1', cut=True)
    with pytest.raises(Unusable, match="no JSON object"):
        json_of("[1, 2]")
    core = Bank().reply("core", "")
    with pytest.raises(Unusable, match="no braces"):
        core_of({**core, "rubric": core["rubric"] + " {answer}"})
    with pytest.raises(Unusable, match="two facets have one name"):
        core_of({**core, "facets": [core["facets"][0]] * 3})


class Chat:
    """An OpenAI-compatible server in front of a writer."""

    def __init__(self, reply):
        self.reply = reply
        self.calls = 0

    async def __call__(self, scope, receive, send):
        if scope["type"] == "lifespan":
            await live(receive, send)
            return
        request = await asked(receive)
        self.calls += 1
        prompt = request["messages"][-1]["content"]
        step = next((s for s, mark in (("items", "one test item for each"), ("pairs", "pairs of system prompts"),
                                       ("questions", "short questions")) if mark in prompt), "core")  # fmt: skip
        text = json.dumps(self.reply(step, prompt)) + f" {SECRET}"
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
        await send({"type": "http.response.body", "body": json.dumps(completion(text)).encode()})


def test_a_draft_through_a_server_stops_at_max_calls_and_goes_on_without_paying_twice(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    server = Chat(Bank().reply)
    path = tmp_path / "breadth.yaml"
    with running(server) as address:
        command = ["traits", "new", NAME, "--with", "openai:m", "--base-url", f"{address}/v1", "--out", str(path),
                   "--description", "How far somebody looks around.", "--price", "1/2"]  # fmt: skip
        assert run([*command, "--max-calls", "5"]) == 2
        said = capsys.readouterr().err
        assert "estimate: 13 calls" in said
        assert "repairs at most 26 calls more" in said
        assert "--max-calls 5 reached" in said
        assert server.calls == 5
        assert len(yaml.safe_load(draft_path(path).read_text())["questions"]) == 40
        assert run(command) == 0
        assert server.calls == 13
    shown = capsys.readouterr()
    assert "status: drafted, unreviewed" in shown.out
    assert load_trait(str(path)).status == "drafted, unreviewed"
    assert not any(SECRET in file.read_text() for file in tmp_path.rglob("*") if file.is_file())
    assert SECRET not in shown.out + shown.err


def test_a_script_from_the_command_line_and_what_it_refuses(tmp_path, capsys):
    script = tmp_path / "script.json"
    script.write_text(json.dumps({"core": ["nothing of use"]}))
    out = ["--out", str(tmp_path / "t.yaml")]
    for arguments, said in [
        (["--with", f"scripted:{script}"], "no JSON object in the reply ('nothing of use')"),
        (["--with", "oracle:x"], "writes nothing; give openai:NAME"),
        (["--with", "local", "--base-url", "http://x"], "is the address of an API"),
        (["--items", "40"], "--items: belongs to a draft; add --with"),
    ]:
        assert run(["traits", "new", NAME, *arguments, *out]) == 2
        assert said in capsys.readouterr().err.splitlines()[-1]
    script.write_text('{"core": "x"}')
    with pytest.raises(UserError, match="maps each step"):
        open_writer(f"scripted:{script}")


def test_a_small_local_model_is_told_apart_from_a_capable_one_in_few_calls(tiny, tmp_path):
    loads = []
    local = LocalWriter({"model": "tiny"}, lambda: (loads.append(1), tiny)[1])
    with pytest.raises(UserError, match=r"core gave nothing \(a prompt of \d+ tokens.*exceed the model's 512"):
        draft_trait(local, DraftPlan(NAME), tmp_path / "t.yaml")
    assert loads == [1]
