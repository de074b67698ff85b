"""What a request may say. Fields that other servers know and we do not are ignored, as clients expect."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from llm_persona.domain.items import HALF_PAIR, NO_CHARACTER

LONGEST_TEXT = 200_000
"""Characters of one message."""


class Message(BaseModel):
    """One turn. Content may be a text or OpenAI's list of text parts."""

    model_config = ConfigDict(extra="ignore")

    role: Literal["system", "developer", "user", "assistant"]
    content: str = Field(max_length=LONGEST_TEXT)

    @field_validator("content", mode="before")
    @classmethod
    def _parts(cls, value: Any) -> Any:
        if isinstance(value, list):
            if not all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in value):
                raise ValueError("only text parts are understood")
            value = "".join(part["text"] for part in value)
        if isinstance(value, str) and HALF_PAIR.search(value):
            raise ValueError(NO_CHARACTER)
        return value


class Steering(BaseModel):
    """One vector of this request: by the name the server was started with, at its recommended layer by default."""

    model_config = ConfigDict(extra="forbid")

    vector: str
    layer: int | Literal["auto"] = "auto"
    dose: float | None = Field(default=None, allow_inf_nan=False, ge=-4, le=4)
    coefficient: float | None = Field(default=None, allow_inf_nan=False, ge=-1000, le=1000)

    @model_validator(mode="after")
    def _one_strength(self) -> Steering:
        if (self.dose is None) == (self.coefficient is None):
            raise ValueError("give a dose or a coefficient, one of the two")
        return self


class StreamOptions(BaseModel):
    """What a stream tells besides the text."""

    model_config = ConfigDict(extra="ignore")

    include_usage: bool = False
    """A last chunk with the numbers of tokens."""


class ChatBody(BaseModel):
    """The body of POST /v1/chat/completions. `persona` is ours: the vectors to steer this request by."""

    model_config = ConfigDict(extra="ignore")

    model: str = ""
    messages: list[Message] = Field(min_length=1, max_length=200)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    temperature: float = Field(default=1.0, ge=0, le=2, allow_inf_nan=False)
    top_p: float = Field(default=1.0, gt=0, le=1, allow_inf_nan=False)
    seed: int = 0
    n: Literal[1] = 1
    stop: list[str] = Field(default_factory=list, max_length=8)
    stream: bool = False
    stream_options: StreamOptions = Field(default_factory=StreamOptions)
    logprobs: bool = False
    top_logprobs: int = Field(default=0, ge=0, le=20)
    persona: list[Steering] = Field(default_factory=list, max_length=8)

    @field_validator("stop", mode="before")
    @classmethod
    def _stops(cls, value: Any) -> Any:
        found = [] if value is None else [value] if isinstance(value, str) else value
        if isinstance(found, list) and any(text == "" for text in found):
            raise ValueError("a stop text must not be empty")
        return found

    @field_validator("stream_options", mode="before")
    @classmethod
    def _no_options(cls, value: Any) -> Any:
        return {} if value is None else value

    @field_validator("temperature", "top_p", "seed", "top_logprobs", "logprobs", "stream", "n", mode="before")
    @classmethod
    def _nulls(cls, value: Any, info: Any) -> Any:
        """Clients send null for what they leave to the server."""
        return cls.model_fields[info.field_name].default if value is None else value

    @field_validator("seed")
    @classmethod
    def _seed(cls, value: int) -> int:
        return value & 0x7FFFFFFFFFFFFFFF

    @model_validator(mode="after")
    def _ends_with_a_user(self) -> ChatBody:
        if self.messages[-1].role != "user":
            raise ValueError("messages: the last one must be the user's")
        return self

    @property
    def new_tokens(self) -> int | None:
        """The number of new tokens asked for."""
        return self.max_completion_tokens or self.max_tokens
