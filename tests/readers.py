"""Every reader of input that others wrote, as one table: what it takes, and all that is done with it before a model is.

A reader either gives plain data or raises `UserError`; `outcome` checks both.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import mutations
import numpy as np

from llm_persona.domain.errors import UserError
from llm_persona.domain.store import canonical, write_json

ITEM = {
    "idx": 1, "personality": "Openness", "split": "test", "situation": "It rains.", "query": "What now?",
    "response_high1": "Go out.", "response_high2": "Dance in it.", "response_low1": "Stay in.",
    "response_low2": "Read.",
    "paraphrased_situation": "Rain falls.", "paraphrased_query": "What will you do?",
    "likelihood": {"A": 0.4, "B": 0.3, "C": 0.2, "D": 0.1}, "likelihood_rev": {"A": 0.1, "B": 0.4, "C": 0.3, "D": 0.2},
}  # fmt: skip
ITEMS = [{**ITEM, "idx": n, "query": f"What now, {n}?"} for n in range(3)]
CHAT = [
    {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": f"Question {n}?"},
                  {"role": "assistant", "content": f"Answer {n}."}, {"role": "user", "content": "And?"},
                  {"role": "assistant", "content": "That is all."}], "label": n % 2}
    for n in range(3)
]  # fmt: skip
STUDY = {"preset": "smoke", "model": "smollm2-135m", "seed": 3, "traits": ["openness"], "fit_items": 6,
         "doses": [-0.2, 0.2], "sweep_dose": 0.1, "letter_modes": ["choice"], "tune": False,
         "device": "cpu"}  # fmt: skip
ANSWERS = {"model": "m", "condition": {"name": "openness@3 dose +0.2"},
           "answers": [{"prompt": f"Q{n}", "text": f"steered {n}", "base": f"plain {n}", "trait": "openness"}
                       for n in range(3)]}  # fmt: skip
LINES = [{"question": f"Q{n}", "answer": f"A{n}", "condition": "c", "trait": "openness"} for n in range(3)]
REQUEST = {"model": "tiny-llama", "messages": [{"role": "system", "content": "Be brief."},
           {"role": "user", "content": "What now?"}], "max_tokens": 2, "temperature": 0.7, "top_p": 0.9, "seed": 5,
           "n": 1, "stop": ["\n"], "logprobs": True, "top_logprobs": 2,
           "persona": [{"vector": "v", "dose": 0.2, "layer": 1}]}  # fmt: skip
REPLY = {"id": "x", "object": "chat.completion", "created": 0, "model": "m",
         "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "42"},
                      "logprobs": {"content": [{"token": "42", "logprob": -0.1, "bytes": None, "top_logprobs": [
                          {"token": "42", "logprob": -0.1, "bytes": None},
                          {"token": "7", "logprob": -3.0, "bytes": None}]}]}}],
         "usage": {"prompt_tokens": 7, "completion_tokens": 1, "total_tokens": 8}}  # fmt: skip
MESSAGE = {"id": "x", "type": "message", "role": "assistant", "model": "m", "stop_reason": "end_turn",
           "stop_sequence": None, "content": [{"type": "text", "text": "42"}],
           "usage": {"input_tokens": 7, "output_tokens": 1}}  # fmt: skip
CACHED = {"text": "42", "finish": "stop", "top": [{"42": -0.1, "7": -3.0}], "prompt_tokens": 7, "completion_tokens": 1}
SCRIPT = {
    "trait": {"answers": {"A": 70}, "contains": {"odd": "REFUSAL"}, "otherwise": 50},
    "coherence": {"otherwise": 9},
}
ROW = {"id": "a", "logprobs": {}, "preference": 0.6, "high": True}
EVALUATED = {"model": "m", "mode": "likelihood", "condition": {"name": "base", "system": None},
             "traits": {"openness": {"n": 3, "n_unscored": 1, "unscored": {"tie": 1}, "score": 50.0,
                                     "score_ci": [10.0, 90.0], "preference": 0.5, "preference_ci": [0.2, 0.8],
                                     "option_mass": None, "order_consistency": None, "headroom": True,
                                     "rows": [ROW, {**ROW, "id": "b", "high": False, "preference": 0.3},
                                              {"id": "c", "unscored": "tie"}]}}}  # fmt: skip
REPLIES = (
    b"70", b"I'd say 70/100.", b"Score: 42 out of 100", b"REFUSAL", b"```python\nprint(3)\n```", b"between 30 and 40",
    b"not 70", b"0-100: 5", b"I am sorry, I cannot do that.", "\u0664\u0662".encode(),
)  # fmt: skip
TEMPLATE = b"labels: A B C D\n{situation} {query}\nA {option1}\nB {option2}\nC {option3}\nD {option4}\nAnswer:"
HEADERS = ["127.0.0.1:8000", "http://127.0.0.1:8000", "Bearer token-of-the-test", "17"]


@dataclass(frozen=True)
class Reader:
    """`seeds`: valid inputs as data (made bytes by `form`) or as bytes. `read` takes bytes; what it raises as
    `UserError` names the file it was given."""

    name: str
    seeds: tuple[Any, ...]
    form: Callable[[Any], bytes] | None
    read: Callable[[bytes], Any]
    names_file: str = ""

    def case(self, draw: Any) -> bytes:
        """One input: a seed damaged in its structure, in its bytes, or in both; now and then as it is."""
        seed = draw.choice(self.seeds)
        how = draw.randrange(10)
        if self.form is not None:
            seed = self.form(mutations.restructured(seed, draw) if 1 <= how <= 6 else seed)
            return mutations.damaged(seed, draw) if how >= 6 else seed
        return mutations.damaged(seed, draw) if how else seed


def outcome(reader: Reader, data: bytes) -> str:
    """Read, and say what became of it: "accepted" (the data is strict JSON) or the message of the refusal (one line
    that names the file). Anything else raises."""
    try:
        found = reader.read(data)
    except UserError as error:
        said = str(error)
        assert said.strip() and "\n" not in said and len(said) < 2000, f"no helpful line: {said[:200]!r}"
        assert reader.names_file in said, f"does not name {reader.names_file}: {said[:200]!r}"
        return said
    json.dumps(canonical(found), allow_nan=False)
    return "accepted"


def strict(path: Path) -> Any:
    """JSON without NaN."""
    return json.loads(path.read_bytes(), parse_constant=lambda name: (_ for _ in ()).throw(AssertionError(name)))


def within(value: float | None, low: float, high: float) -> None:
    """A number of that range, or none."""
    assert value is None or low <= value <= high, value


def command(*arguments: str) -> None:
    """A command that ends well, or with exit code 2 and one line."""
    from llm_persona.interfaces.cli.main import run

    said, shown = io.StringIO(), io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(shown):
        code = run(list(arguments))
    text = said.getvalue()
    assert code in (0, 2), f"exit {code}: {text[-400:]}"
    if code == 2:
        assert text.count("\n") == 1, text
        raise UserError(text.strip())


def make_readers(folder: Path) -> list[Reader]:
    """The table; files are written into `folder`."""
    written = _Files(folder)
    return [*_item_readers(written), *_file_readers(written), *_result_readers(written), *_api_readers(written),
            *_server_readers()]  # fmt: skip


class _Files:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, name: str, data: bytes) -> Path:
        path = self.folder / name
        path.write_bytes(data)
        return path


def _item_readers(written: _Files) -> list[Reader]:
    from llm_persona.domain.item_sources import load_items
    from llm_persona.domain.responses import labelled

    def items(name: str) -> Callable[[bytes], Any]:
        def read(data: bytes) -> Any:
            found = load_items(path=written(name, data))
            assert all(i.split in ("fit", "select", "test") for i in found)
            write_json(written.folder / "out.json", [list(found), found.ids, found.digest, labelled(found)])
            return strict(written.folder / "out.json")

        return read

    def rescored(data: bytes) -> Any:
        path, out = written("recorded.json", data), written.folder / "out.json"
        for more in ([], ["--api-records"]):
            command("evaluate", "--rescore", str(path), "--mode", "upstream", "--json", str(out), *more)
            for trait in strict(out)["traits"].values():
                within(trait["score"], 0, 100)
                within(trait["option_mass"], 0, 4 * np.e)
        return strict(out)

    def folder_of(data: bytes) -> Any:
        place = written.folder / "items"
        place.mkdir(exist_ok=True)
        (place / "a.json").write_bytes(mutations.json_bytes(ITEMS))
        (place / "b.jsonl").write_bytes(data)
        return [i.id for i in load_items(path=place)]

    other = [{**row, "idx": f"b{n}"} for n, row in enumerate(ITEMS)]
    found = [
        Reader("items .json", (ITEMS,), mutations.json_bytes, items("items.json"), "items.json"),
        Reader("items .jsonl", (ITEMS,), mutations.lines_bytes, items("items.jsonl"), "items.jsonl"),
        Reader("items folder", (other,), mutations.lines_bytes, folder_of, "items"),
        Reader("rescore records", (ITEMS,), mutations.json_bytes, rescored, "recorded.json"),
    ]
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        return found
    parquet = Reader("items .parquet", (ITEMS,), parquet_bytes, items("items.parquet"), "items.parquet")
    return [*found, parquet]


def parquet_bytes(rows: Any) -> bytes:
    """Parquet of what pyarrow can hold of the rows, column by column."""
    import pyarrow
    import pyarrow.parquet

    rows = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    columns = {}
    for name in dict.fromkeys(str(key) for row in rows for key in row):
        values = [row.get(name) for row in rows]
        try:
            columns[name.encode("utf-8", "replace").decode()] = pyarrow.array(values)
        except (pyarrow.ArrowException, OverflowError, UnicodeEncodeError, TypeError, ValueError):
            columns[name.encode("utf-8", "replace").decode()] = pyarrow.array([str(v)[:50].isascii() for v in values])
    sink = io.BytesIO()
    try:
        pyarrow.parquet.write_table(pyarrow.table(columns), sink)
    except (pyarrow.ArrowException, ValueError):
        return b"PAR1"
    return sink.getvalue()


def _file_readers(written: _Files) -> list[Reader]:
    from llm_persona.analysis.activations import Activations
    from llm_persona.analysis.vectors import PersonaVector, cosines, fit
    from llm_persona.domain.config import read_config
    from llm_persona.domain.items import parse_item
    from llm_persona.domain.rubrics import criteria, load_rubric, parse_rubric
    from llm_persona.domain.templates import load_template
    from llm_persona.domain.traits import LEVELS, POLES, load_trait
    from llm_persona.instruments.judging.scoring import verdict_of_text
    from llm_persona.interfaces.cli.vector_settings import named_layers
    from llm_persona.studies.screen import ScreenPlan, survey
    from llm_persona.training.data import from_chat

    def trait(data: bytes) -> Any:
        found = load_trait(written("trait.yaml", data))
        texts = [found.instruction(pole, level) for pole in POLES for level in LEVELS]
        return [found.digest, texts, criteria(found), found.model_dump(), [i.id for i in found.bank]]

    def chat(data: bytes) -> Any:
        path = written("chat.jsonl", data)
        found, plan = from_chat(path), ScreenPlan(labels="label")
        assert all(e.prompt and e.response for e in found.examples)
        surveyed = survey(path, plan)
        return [found.digest, found.skipped, surveyed.usable, surveyed.skipped]

    def vector(data: bytes) -> Any:
        path = written("v.safetensors", data)
        found = PersonaVector.load(path)
        assert found.directions.dtype == np.float32 and np.isfinite(found.directions).all()
        doses = [found.dose_per_unit(k) for k in range(found.n_layers)]
        layers = named_layers("auto", found, str(path)) if found.meta.get("recommended") else []
        assert all(0 <= k < found.n_layers for k in layers)
        return [found.meta, found.digest, found.norms, doses, cosines(found, found), layers]

    def activations(data: bytes) -> Any:
        path = written("acts.safetensors", data)
        found = Activations.load(path)
        try:
            return [fit(found).digest, found.group_index]
        except UserError as error:
            raise UserError(f"{path}: {error}") from error

    def template(data: bytes) -> Any:
        found = load_template(str(written("template.txt", data)))
        assert len(set(found.labels)) == 4
        item = parse_item(ITEM, "here", "0")
        return found.fill(item.situation, item.query, ["{query}", "b", "c", "d"])

    def rubric(data: bytes) -> Any:
        found = parse_rubric("coherence-v9", data.decode("utf-8", "replace"))
        about = load_trait("openness") if found.needs_trait else None
        return [found.fill("Q", "A <question> {answer}", about, first) for first in (False, True)]

    def grade(data: bytes) -> Any:
        found = verdict_of_text(data.decode("utf-8", "surrogateescape"))
        within(found.score, 0, 100)
        assert (found.score is None) == bool(found.unscored)
        return found.as_json()

    trait_seed = _small_trait()
    rubric_seed = load_rubric("coherence").text.encode()
    return [
        Reader("trait .yaml", (trait_seed,), mutations.yaml_bytes, trait, "trait.yaml"),
        Reader("chat .jsonl", (CHAT,), mutations.lines_bytes, chat, "chat.jsonl"),
        Reader("vector", (vector_seed(),), mutations.safetensors_bytes, vector, "v.safetensors"),
        Reader("activations", (activations_seed(),), mutations.safetensors_bytes, activations, "acts.safetensors"),
        Reader("study .yaml", (STUDY,), mutations.yaml_bytes,
               lambda data: read_config(written("study.yaml", data)).model_dump(), "study.yaml"),
        Reader("template", (TEMPLATE,), None, template, "template.txt"),
        Reader("rubric", (rubric_seed, load_rubric("trait").text.encode()), None, rubric, "coherence-v9"),
        Reader("judge's text", REPLIES, None, grade),
    ]  # fmt: skip


@cache
def _small_trait() -> Any:
    from llm_persona.domain.traits import load_trait

    found = json.loads(load_trait("openness").model_dump_json())
    for name, count in (("items", 4), ("questions", 3), ("facets", 2), ("instruction_pairs", 3)):
        found[name] = found[name][:count]
    return found


def _tensors(tensors: dict[str, np.ndarray], meta: dict[str, Any]) -> list[Any]:
    from safetensors.numpy import save

    data = save(tensors)
    size = int.from_bytes(data[:8], "little")
    return [{**json.loads(data[8 : 8 + size]), "__metadata__": meta}, data[8 + size :].hex()]


def vector_seed() -> list[Any]:
    """[header with its metadata as data, payload in hexadecimal] of a vector file."""
    from llm_persona.domain.formats import format_of

    meta = {"trait": "openness", "model": "m", "items": ["a", "b"], "recommended": {"balanced": 1, "coefficient": 0.5}}
    tensors = {"directions": np.ones((3, 4), np.float32), "reference_norms": np.full(3, 2, np.float32)}
    return _tensors(tensors, {"format": format_of("vector"), "meta": meta})


def activations_seed() -> list[Any]:
    """The same of an activations file."""
    values = np.arange(24, dtype=np.float32).reshape(4, 2, 3)
    meta = {"format": "llm-persona.activations.1", "poles": ["high", "low"] * 2, "groups": ["a", "a", "b", "b"]}
    return _tensors({"values": values}, meta)


def _result_readers(written: _Files) -> list[Reader]:
    from llm_persona.domain.rubrics import load_rubric
    from llm_persona.domain.traits import load_trait
    from llm_persona.instruments.judging.protocol import grading
    from llm_persona.instruments.judging.scripted import scripted_judge
    from llm_persona.interfaces.cli.condition_arguments import ConditionArguments
    from llm_persona.studies.judging import plan_scores
    from llm_persona.studies.stored_answers import read_answers
    from llm_persona.subject.adapt import check_adapter

    def answers(name: str) -> Callable[[bytes], Any]:
        def read(data: bytes) -> Any:
            path = written(name, data)
            found = read_answers(path)
            with contextlib.suppress(UserError):  # of an answer's own trait that is none
                plan_scores(found, [load_trait("openness")]).requests()
            write_json(written.folder / "out.json", found)
            return strict(written.folder / "out.json")

        return read

    def compared(data: bytes) -> Any:
        path, out = written("evaluated.json", data), written.folder / "out.json"
        other = written("base.json", mutations.json_bytes(EVALUATED))
        command("report", "compare", str(path), str(other), "--json", str(out))
        return strict(out)

    def script(data: bytes) -> Any:
        found = scripted_judge(written("script.json", data))
        asked = [grading(load_rubric("coherence"), "Q", text) for text in ("A", "odd", "else")]
        verdicts = found.judge(asked)
        for verdict in verdicts:
            within(verdict.score, 0, 100)
        return [v.as_json() for v in verdicts]

    def adapter(data: bytes) -> Any:
        place = written.folder / "adapter"
        place.mkdir(exist_ok=True)
        (place / "adapter_config.json").write_bytes(data)
        (place / "adapter_model.safetensors").write_bytes(b"")
        return str(check_adapter(place))

    def recipe(data: bytes) -> Any:
        place = written.folder / "adapter"
        place.mkdir(exist_ok=True)
        (place / "llm-persona.json").write_bytes(data)
        chosen = ConditionArguments(None, "pair", None, str(place), (), (), (), (), "all", "add", None, None)
        return chosen.made_from()

    lora = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"], "bias": "none",
            "modules_to_save": None, "task_type": "CAUSAL_LM"}  # fmt: skip
    return [
        Reader("answers .json", (ANSWERS,), mutations.json_bytes, answers("answers.json"), "answers.json"),
        Reader("answers .jsonl", (LINES,), mutations.lines_bytes, answers("answers.jsonl"), "answers.jsonl"),
        Reader("report compare", (EVALUATED, {"runs": [EVALUATED, EVALUATED]}), mutations.json_bytes, compared,
               "evaluated.json"),
        Reader("judge's script", (SCRIPT, SCRIPT["trait"]), mutations.json_bytes, script, "script.json"),
        Reader("adapter's config", (lora,), mutations.json_bytes, adapter, "adapter"),
        Reader("adapter's recipe", ({"data": {"items": ["a", "b"]}},), mutations.json_bytes, recipe,
               "llm-persona.json"),
    ]  # fmt: skip


def _api_readers(written: _Files) -> list[Reader]:
    try:
        import anthropic
        import httpx2
        import openai
    except ImportError:
        return []
    from llm_persona.instruments.judging.anthropic_api import AnthropicEndpoint
    from llm_persona.instruments.judging.scoring import verdict_of_reply
    from llm_persona.subject.remote.api_subject import _shares
    from llm_persona.subject.remote.caller import Caller
    from llm_persona.subject.remote.openai_api import OpenAIEndpoint
    from llm_persona.subject.remote.requests import ChatRequest, Passing, Refused, Reply

    request = ChatRequest((("user", "Q"),), 3, top_logprobs=5)

    def transport(data: bytes, status: int) -> Any:
        headers = {"content-type": "application/json", "retry-after": data[:12].decode("latin-1").replace("\n", "")}
        return httpx2.AsyncClient(transport=httpx2.MockTransport(
            lambda _: httpx2.Response(status, content=data, headers=headers)))  # fmt: skip

    class OpenAI(OpenAIEndpoint):
        answer = (b"", 200)

        def _open(self, sdk: Any, key: Any) -> Any:
            client = transport(*self.answer)
            return openai.AsyncOpenAI(api_key="k", base_url=self.base_url, max_retries=0, http_client=client)

    class Anthropic(AnthropicEndpoint):
        answer = (b"", 200)

        def _open(self, sdk: Any, key: Any) -> Any:
            client = transport(*self.answer)
            return anthropic.AsyncAnthropic(api_key="k", base_url=self.base_url, max_retries=0, http_client=client)

    def asked(kind: Any, status: int = 200) -> Callable[[bytes], Any]:
        def read(data: bytes) -> Any:
            endpoint = kind("m", "http://localhost:1/v1")
            endpoint.answer = (data, status)
            try:
                found = asyncio.run(endpoint.ask(request))
            except (Passing, Refused) as error:
                assert getattr(error, "wait", None) is None or error.wait == error.wait
                raise UserError(f"no reply: {' '.join(str(error).split())}") from error
            return used(found)

        return read

    def used(found: Reply) -> Any:
        verdict = verdict_of_reply(found)
        within(verdict.score, 0, 100)
        within(verdict.mass, 0, 1.06)
        shares = _shares(found, ["42", "7"], upstream=False)
        assert all(s != s or 0 <= s <= 1.06 for s in shares), shares
        write_json(written.folder / "out.json", [found, verdict.as_json()])
        again = Reply.from_json(strict(written.folder / "out.json")[0])
        assert again.completion_tokens == found.completion_tokens >= 0
        return verdict.as_json()

    def cached(data: bytes) -> Any:
        caller = Caller(OpenAI("m", "http://localhost:1/v1"), written.folder / "replies")
        place = caller._place(request)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
        found = caller._cached(request)
        if found is None:
            raise UserError("damaged: asked for again")
        return used(found)

    return [
        Reader("OpenAI's reply", (REPLY,), mutations.json_bytes, asked(OpenAI), "no reply"),
        Reader("OpenAI's error", ({"error": {"message": "no", "type": "x", "code": "y"}},), mutations.json_bytes,
               asked(OpenAI, 429), "no reply"),
        Reader("Anthropic's reply", (MESSAGE,), mutations.json_bytes, asked(Anthropic), "no reply"),
        Reader("kept reply", (CACHED,), mutations.json_bytes, cached, "damaged"),
    ]  # fmt: skip


@cache
def _server() -> Any:
    import httpx2
    from conftest import make_subject

    from llm_persona.analysis.vectors import PersonaVector
    from llm_persona.interfaces.serve.app import ServeLimits, make_app

    subject = make_subject()
    rng = np.random.default_rng(0)
    directions = rng.standard_normal((subject.n_layers, subject.hidden_size)).astype(np.float32)
    vector = PersonaVector(directions, np.full(subject.n_layers, 5.0, np.float32), {"recommended": {"balanced": 1}})
    app = make_app(subject, {"v": vector}, limits=ServeLimits(new_tokens=4, body_bytes=1 << 20, seconds=60))
    return httpx2.ASGITransport(app, raise_app_exceptions=True)


def _server_readers() -> list[Reader]:
    try:
        import fastapi  # noqa: F401
        import httpx2
    except ImportError:
        return []
    from llm_persona.interfaces.serve.guard import LOOPBACK, Guard

    def body(data: bytes) -> Any:
        transport = _server()

        async def post() -> Any:
            async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
                return await client.post(
                    "/v1/chat/completions", content=data, headers={"content-type": "application/json"}
                )

        found = asyncio.run(post())
        return answered(found.status_code, found.content, found.headers.get("content-type", ""))

    def answered(status: int, content: bytes, kind: str) -> Any:
        if status == 200 and kind.startswith("text/event-stream"):
            events = [line for line in content.decode().split("\n") if line.startswith("data: {")]
            return [json.loads(e[6:], parse_constant=_refuse) for e in events]
        said = json.loads(content, parse_constant=_refuse)
        if status == 200:
            for step in (said["choices"][0]["logprobs"] or {}).get("content", []):
                assert step["logprob"] <= 1e-3
            return said
        assert 400 <= status < 500, (status, content[:300])
        raise UserError(f"{status}: {said['error']['message']}")

    def guarded(data: bytes) -> Any:
        parts = [*data.split(b"\n")[:4], b"", b"", b"", b""]
        names = (b"host", b"origin", b"authorization", b"content-length")
        sent: list[Any] = []

        async def inside(scope: Any, receive: Any, send: Any) -> None:
            sent.append({"type": "http.response.start", "status": 200})

        async def receive() -> Any:
            return {"type": "http.request", "body": b"{}", "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "path": "/v1/models", "headers": list(zip(names, parts, strict=False))}
        asyncio.run(Guard(inside, "token-of-the-test", 100, LOOPBACK)(scope, receive, send))
        if sent[0]["status"] != 200:
            raise UserError(f"refused with {sent[0]['status']}")
        assert parts[2].decode("latin-1").strip().endswith("token-of-the-test")
        return "passed"

    headers = "\n".join(HEADERS).encode()
    return [
        Reader("server's request", (REQUEST, {**REQUEST, "stream": True}), mutations.json_bytes, body, "4"),
        Reader("server's headers", (headers,), None, guarded, "refused"),
    ]


def _refuse(name: str) -> Any:
    raise AssertionError(f"{name} in JSON")
