"""Verdicts that are never paid for twice: each is a stage of its own in the cache folder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llm_persona.domain.store import digest
from llm_persona.instruments.judging.protocol import Judge, JudgeRequest, Verdict
from llm_persona.instruments.judging.scoring import SCORING
from llm_persona.studies.stages import Stages
from llm_persona.subject.smollm2 import cache_folder


def verdicts(
    judge: Judge, requests: Sequence[JudgeRequest], progress: Callable[[int], None] | None = None
) -> list[Verdict]:
    """One verdict a request, in their order. Equal requests are judged once.

    What is there already is taken over; the rest is judged in the judge's parts and kept part by part. A call that
    failed is not kept, so the next run asks for it again and for nothing else.
    """
    stages = Stages(cache_folder() / "verdicts" / digest(judge.identity)[:24])
    found: dict[JudgeRequest, Verdict] = {}
    missing = []
    for request in dict.fromkeys(requests):
        if stages.has(_name(request), _key(judge, request)):
            found[request] = Verdict.from_json(stages.value(_name(request), _key(judge, request), dict))
        else:
            missing.append(request)
    if progress is not None and len(missing) < len(requests):
        progress(len(requests) - len(missing))  # equal ones among them, which are asked once
    for start in range(0, len(missing), judge.part):
        part = missing[start : start + judge.part]
        for request, verdict in zip(part, judge.judge(part, progress), strict=True):
            found[request] = verdict
            if not verdict.failed:
                stages.value(_name(request), _key(judge, request), verdict.as_json)
    return [found[request] for request in requests]


def reasons(found: Sequence[Verdict]) -> dict[str, int]:
    """How many verdicts are unscored, by reason."""
    counted: dict[str, int] = {}
    for verdict in found:
        if verdict.score is None:
            counted[verdict.unscored] = counted.get(verdict.unscored, 0) + 1
    return counted


def _name(request: JudgeRequest) -> str:
    return f"{request.rubric} {request.trait}".strip()


def _key(judge: Judge, request: JudgeRequest) -> Any:
    return [SCORING, judge.identity, request.prompt, request.nonce]
