"""A subject behind an API: it can be asked and it can write; its inside cannot be seen."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from llm_persona.domain.condition import Condition
from llm_persona.domain.errors import UserError
from llm_persona.subject.generate import Answer, check_request, generate
from llm_persona.subject.labels import label_probabilities
from llm_persona.subject.packing import Row
from llm_persona.subject.remote.caller import Caller, Estimate, Limits
from llm_persona.subject.remote.openai_api import OpenAIEndpoint
from llm_persona.subject.remote.requests import ChatRequest, Failure, Reply
from llm_persona.subject.score import response_logprobs
from llm_persona.subject.smollm2 import cache_folder

PREFIX = "openai:"
TOP = 20
"""Log-probabilities asked for per token: the most that OpenAI and vLLM give."""


class ApiSubject:
    """A model behind an OpenAI-compatible endpoint; the evaluation instruments take it like any subject."""

    def __init__(self, name: str, caller: Caller) -> None:
        self.name = name
        self.caller = caller
        self.system: str | None = None

    @property
    def identity(self) -> dict[str, Any]:
        """What decides its answers; the provider may change the model behind the name without notice."""
        return {"model": self.name, "revision": "", **self.caller.endpoint.identity}

    @contextmanager
    def under(self, condition: Condition) -> Iterator[ApiSubject]:
        """Put it under a system turn, and back.

        Raises:
            UserError: the condition steers or tunes, which an API does not let us do.
        """
        if condition.adapter is not None or condition.steers:
            raise UserError(f"{self.name}: vectors and adapters need a model that runs here; give a folder or Hub id")
        before = self.system
        if condition.system is not None:
            self.system = condition.system
        try:
            yield self
        finally:
            self.system = before

    @contextmanager
    def without_system(self) -> Iterator[ApiSubject]:
        """For prompts that carry the instruction themselves."""
        before, self.system = self.system, None
        try:
            yield self
        finally:
            self.system = before

    def request(self, prompt: str, system: str | None = None, **settings: Any) -> ChatRequest:
        """The request of one user turn in the state the subject is in."""
        system = system if system is not None else self.system
        turns = (("system", system),) if system is not None else ()
        return ChatRequest((*turns, ("user", prompt)), **settings)

    def estimate(
        self, prompts: Sequence[str], max_new_tokens: int, rates: tuple[float, float] | None = None
    ) -> Estimate:
        """What asking would cost, before anything is asked; one new token is a question for labels."""
        top = TOP if max_new_tokens == 1 else 0
        requests = [self.request(p, max_tokens=max_new_tokens, top_logprobs=top) for p in prompts]
        return self.caller.estimate(requests, rates)


def connect(model: str, base_url: str | None = None, limits: Limits | None = None) -> ApiSubject:
    """The subject `openai:NAME`, at `base_url` or OpenAI's own address; replies are kept in the cache folder.

    Raises:
        UserError: no model is named, or the address is none.
    """
    endpoint = OpenAIEndpoint(model.removeprefix(PREFIX), base_url)
    return ApiSubject(model, Caller(endpoint, replies_folder(), limits))


def replies_folder() -> Path:
    """Where replies of APIs are kept, by the digest of endpoint and request."""
    return cache_folder() / "replies"


@label_probabilities.register
def _(subject: ApiSubject, prompts: Sequence[str], labels: Sequence[str], upstream: bool = False) -> np.ndarray:
    if upstream and subject.system is not None:  # the published code puts the persona into the user turn
        prompts = [f"{subject.system}\n\n{prompt}" for prompt in prompts]
        with subject.without_system():
            requests = [subject.request(p, max_tokens=1, top_logprobs=TOP) for p in prompts]
    else:
        requests = [subject.request(p, max_tokens=1, top_logprobs=TOP) for p in prompts]
    replies = subject.caller.ask_all(requests)
    if all(isinstance(r, Failure) or not r.top for r in replies):
        reasons = {r.reason for r in replies if isinstance(r, Failure)}
        said = f" ({'; '.join(sorted(reasons))})" if reasons else ""
        raise UserError(f"{subject.name}: gives no log-probabilities{said}; use --mode generate")
    return np.array([_shares(reply, labels, upstream) for reply in replies])


def _shares(reply: Reply | Failure, labels: Sequence[str], upstream: bool) -> list[float]:
    """Probability of each label among a reply's likeliest first tokens; NaN where there is no reply. Upstream
    counts bare labels only and takes the exponential twice, as the published code does for models behind an API."""
    if isinstance(reply, Failure) or not reply.top:
        return [float("nan")] * len(labels)
    first = reply.top[0]
    if upstream:
        return [math.exp(math.exp(first[label])) if label in first else 0.0 for label in labels]
    return [sum(math.exp(p) for token, p in first.items() if token.strip() == label) for label in labels]


@generate.register
def _(
    subject: ApiSubject,
    prompts: Sequence[str],
    max_new_tokens: int = 128,
    system: str | None = None,
    temperature: float = 0.0,
    seed: int = 0,
    use_cache: bool = True,
    progress: Callable[[int], None] | None = None,
) -> list[Answer]:
    check_request(prompts, max_new_tokens, temperature)
    settings = {"max_tokens": max_new_tokens, "temperature": temperature, "seed": seed}
    seen: dict[str, int] = {}
    requests = []
    for prompt in prompts:  # the same prompt twice is two draws
        seen[prompt] = seen.get(prompt, -1) + 1
        draw = seen[prompt] if temperature else 0
        requests.append(subject.request(prompt, system, draw=draw, **settings))
    replies = subject.caller.ask_all(requests, progress)
    return [
        Answer(prompt, "", 0, False, reply.reason)
        if isinstance(reply, Failure)
        else Answer(prompt, reply.text.strip(), reply.completion_tokens, reply.finish == "stop")
        for prompt, reply in zip(prompts, replies, strict=True)
    ]


@response_logprobs.register
def _(subject: ApiSubject, rows: Sequence[Row], progress: Callable[[int], None] | None = None) -> list[np.ndarray]:
    raise UserError(
        f"{subject.name}: a chat API does not score given responses, so --mode likelihood cannot be had; "
        "use --mode choice, or generate where it gives no log-probabilities"
    )
