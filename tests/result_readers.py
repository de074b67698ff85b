"""Readers of what commands wrote before: answers, evaluations, scripts of judges, adapters."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import mutations
from reader import Files, Reader, command, strict, within
from reader_inputs import ANSWERS, EVALUATED, LINES, SCRIPT

from llm_persona.domain.errors import UserError
from llm_persona.domain.store import write_json


def result_readers(written: Files) -> list[Reader]:
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
