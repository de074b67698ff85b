"""Judges behind an API. Calls, tries, time, cache and record are the caller's that subjects behind an API use too."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from llm_persona.domain.errors import UserError
from llm_persona.instruments.judging.anthropic_api import AnthropicEndpoint
from llm_persona.instruments.judging.protocol import JudgeRequest, Verdict
from llm_persona.instruments.judging.scoring import verdict_of_reply
from llm_persona.subject.remote.api_subject import TOP, replies_folder
from llm_persona.subject.remote.caller import Caller, Estimate, Limits
from llm_persona.subject.remote.keys import find_key, hidden
from llm_persona.subject.remote.openai_api import KEY, OpenAIEndpoint
from llm_persona.subject.remote.requests import ChatRequest, Reply

REPLY_TOKENS = 12
"""New tokens of a reply where the number is asked for at once; `REFUSAL` and a word or two more fit."""
THINKING_TOKENS = 1024
"""Where a model may think before it answers, which counts as output."""


class RemoteJudge:
    """A judge behind one endpoint. `top` log-probabilities a token are asked for; 0 reads the score from the text."""

    part = 4096
    """Every reply is kept as it comes, so large parts lose nothing."""

    def __init__(self, caller: Caller, top: int = TOP, reply_tokens: int = REPLY_TOKENS) -> None:
        self.caller = caller
        self.top = top
        self.reply_tokens = reply_tokens

    @property
    def identity(self) -> dict[str, Any]:
        """Endpoint, model, and how the score is read; the provider may change the model behind the name."""
        return {**self.caller.endpoint.identity, "top_logprobs": self.top}

    def chat_request(self, request: JudgeRequest) -> ChatRequest:
        """What is sent for one request."""
        messages = (("user", request.prompt),)
        return ChatRequest(messages, self.reply_tokens, top_logprobs=self.top, seed=request.nonce)

    def estimate(self, requests: Sequence[JudgeRequest], rates: tuple[float, float] | None = None) -> Estimate:
        """What judging would cost, before anything is asked."""
        return self.caller.estimate([self.chat_request(r) for r in requests], rates)

    def judge(self, requests: Sequence[JudgeRequest], progress: Callable[[int], None] | None = None) -> list[Verdict]:
        """One verdict a request; a call that failed for good is unscored with its reason.

        Raises:
            UserError: the endpoint cannot be reached or refuses such requests.
        """
        try:
            replies = self.caller.ask_all([self.chat_request(r) for r in requests], progress)
        except UserError as error:
            if self.top and "request was not accepted" in str(error):
                raise UserError(f"{error}; if it knows no log-probabilities, add --text") from error
            raise
        return [verdict_of_reply(reply) for reply in replies]


class _Discreet(OpenAIEndpoint):
    """A server that repeats the key in its reply must not bring it into a file."""

    async def ask(self, request: ChatRequest) -> Reply:
        """One chat completion, the key hidden in its texts."""
        reply, key = await super().ask(request), find_key(KEY)
        top = tuple({hidden(token, key): p for token, p in place.items()} for place in reply.top)
        return replace(reply, text=hidden(reply.text, key), top=top)


def openai_judge(
    model: str, base_url: str | None = None, limits: Limits | None = None, text_only: bool = False
) -> RemoteJudge:
    """A judge at OpenAI or any OpenAI-compatible address; replies are kept in the cache folder.

    Raises:
        UserError: no model is named, or the address is none.
    """
    return RemoteJudge(Caller(_Discreet(model, base_url), replies_folder(), limits), 0 if text_only else TOP)


def anthropic_judge(model: str, base_url: str | None = None, limits: Limits | None = None) -> RemoteJudge:
    """A judge at Anthropic, which gives no log-probabilities: the score is the number that is written.

    Raises:
        UserError: no model is named, or the address is none.
    """
    return RemoteJudge(Caller(AnthropicEndpoint(model, base_url), replies_folder(), limits), 0, THINKING_TOKENS)
