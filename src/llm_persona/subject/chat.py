"""Render conversations with the subject's own template, and find the response's own tokens in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llm_persona.domain.errors import TooLong, UserError, one_line
from llm_persona.subject.load import Subject
from llm_persona.subject.rendered_once import of_tokenizer

PLAIN = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ m['content'] }}\n\n"
    "{% else %}{{ m['role'] | capitalize }}: {{ m['content'] }}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}Assistant: {% endif %}"
)
"""For tokenizers without a chat template (base models)."""
MARK = "\ue000\ue0f1\ue000"
"""Characters of private use, which no text holds: what is rendered in a message's stead to find its place."""


@dataclass(frozen=True)
class Rendered:
    """Token ids up to the end of a response, and the half-open range of the response's own tokens.

    `closing` is what follows: the tokens up to and including the end of the turn (trained, never measured). `places`
    are the characters of the response at which its tokens begin.
    """

    ids: list[int]
    start: int
    end: int
    closing: tuple[int, ...] = ()
    places: tuple[int, ...] = ()


def messages_for(
    subject: Subject, prompt: str, system: str | None = None, earlier: Sequence[tuple[str, str]] = ()
) -> list[dict[str, str]]:
    """The turns before the answer: `earlier` ones (role, text), and the prompt. A system turn is merged into the first
    user turn where the template has none."""
    return _turns(subject, prompt, system if system is not None else subject.system, earlier)


def _turns(
    subject: Subject, prompt: str, system: str | None, earlier: Sequence[tuple[str, str]] = ()
) -> list[dict[str, str]]:
    turns = [{"role": role, "content": text} for role, text in (*earlier, ("user", prompt))]
    if system is None:
        return turns
    if _takes_system(subject):
        return [{"role": "system", "content": system}, *turns]
    return [{**turns[0], "content": f"{system}\n\n{turns[0]['content']}"}, *turns[1:]]


def makeshifts(subject: Subject) -> list[str]:
    """What is done in place of what the tokenizer lacks, a sentence each (none for a chat model)."""
    found = []
    if not subject.tokenizer.chat_template:
        found.append('the tokenizer has no chat template: turns are written as "User: ..." and "Assistant: ..."')
    if not end_tokens(subject):
        found.append(
            "the tokenizer has no end token: every answer goes on to --max-new-tokens, and fine-tuning learns no end"
        )
    return found


def _template(subject: Subject) -> str | None:
    return None if subject.tokenizer.chat_template else PLAIN


def _render(subject: Subject, messages: list[dict[str, str]], generation_prompt: bool) -> str:
    extra: dict[str, Any] = {}
    template = _template(subject)
    if template is not None:
        extra["chat_template"] = template
    text = subject.tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=generation_prompt, **extra
    )
    return str(text)


def _takes_system(subject: Subject) -> bool:
    cached = getattr(subject.tokenizer, "_persona_takes_system", None)
    if cached is None:
        marker = "b7a6 system marker"
        turns = [{"role": "system", "content": marker}, {"role": "user", "content": "x"}]
        try:
            cached = marker in _render(subject, turns, True)
        except Exception:  # a template refuses by raising whatever jinja raises
            cached = False
        subject.tokenizer._persona_takes_system = cached
    return bool(cached)


def render_prompt(subject: Subject, prompt: str, system: str | None = None) -> list[int]:
    """Token ids up to where the answer begins."""

    asked = system if system is not None else subject.system  # read once: another thread may leave its condition

    def make() -> tuple[list[int]]:
        text = _render(subject, _turns(subject, prompt, asked), True)
        return (list(subject.tokenizer(text, add_special_tokens=False)["input_ids"]),)

    return of_tokenizer(subject.tokenizer).get((_state(subject), asked, prompt), make)[0]


def _state(subject: Subject) -> tuple[int, int, frozenset[int]]:
    """What decides a rendering besides the turns: the template (or templates by name), the tokens there are, and
    those that end a turn."""
    template = subject.tokenizer.chat_template
    return (
        hash(template if isinstance(template, str) else repr(template)),
        len(subject.tokenizer),
        frozenset(end_tokens(subject)),
    )


def render_upstream(subject: Subject, prompt: str) -> list[int]:
    """Token ids as the published TRAIT code renders them (Lee et al. 2024): without a persona, with the generation
    prompt; under a persona instruction, that instruction inside the user turn and no generation prompt, so that the
    label is asked for where the user's turn has just ended."""
    bare = subject.system is None
    content = prompt if bare else f"{subject.system}\n\n{prompt}"
    text = _render(subject, [{"role": "user", "content": content}], bare)
    return list(subject.tokenizer(text, add_special_tokens=False)["input_ids"])


def render_response(
    subject: Subject, prompt: str, response: str, system: str | None = None, earlier: Sequence[tuple[str, str]] = ()
) -> Rendered:
    """Token ids of prompt and response, and the response span, end-of-turn excluded.

    The span comes from character offsets of the whole rendered text: tokens of the response are never
    guessed from the length of the response tokenised by itself, which differs at the seams.

    Raises:
        UserError: an empty response, or a template that drops or rewrites it. TooLong: beyond the model's length.
    """
    response = response.strip()
    if not response:
        raise UserError("a response is empty; every response needs text")
    asked = system if system is not None else subject.system
    key = (_state(subject), asked, prompt, response, tuple(earlier))
    ids, (start, end), closing, places = of_tokenizer(subject.tokenizer).get(
        key, lambda: _response(subject, _turns(subject, prompt, asked, earlier), response)
    )
    if end > subject.max_length:
        raise TooLong(f"a conversation of {end} tokens exceeds the model's {subject.max_length}; shorten it")
    return Rendered(ids, start, end, tuple(closing), tuple(places))


def _response(subject: Subject, turns: list[dict[str, str]], response: str) -> tuple[Sequence[int], ...]:
    """The ids, the span, the closing and the places of `Rendered`."""
    opening = _render(subject, turns, True)
    full = _render(subject, [*turns, {"role": "assistant", "content": response}], False)
    if full.startswith(opening) and full[len(opening) :].startswith(response):
        first = len(opening)
    else:
        first = full.rfind(response)
    if first < 0:
        raise UserError("the chat template does not contain the response as given; its span cannot be found")
    last = first + len(response)
    encoded = subject.tokenizer(full, add_special_tokens=False, return_offsets_mapping=True)
    ids, offsets = list(encoded["input_ids"]), encoded["offset_mapping"]
    inside = [i for i, (a, b) in enumerate(offsets) if b > first and a < last and b > a]
    start, end = inside[0], inside[-1] + 1
    places = [max(0, offsets[i][0] - first) for i in range(start, end)]
    return ids[:end], (start, end), _closing(subject, ids[end:]), places


def _closing(subject: Subject, rest: list[int]) -> tuple[int, ...]:
    ends = end_tokens(subject)
    stop = next((n for n, token in enumerate(rest) if token in ends), None)
    return tuple(rest[: stop + 1]) if stop is not None else ()


def end_tokens(subject: Subject) -> set[int]:
    """Ids that end a turn: the tokenizer's, and those of the model's generation settings."""
    found: set[int] = set()
    for value in (subject.tokenizer.eos_token_id, subject.generation_end):
        if isinstance(value, int):
            found.add(value)
        elif value is not None:
            found.update(int(v) for v in value)
    return found


def render_chat(subject: Subject, turns: Sequence[tuple[str, str]], system: str | None = None) -> list[int]:
    """Token ids of a conversation of (role, text), up to where the next answer begins.

    `system` is the system turn where the conversation brings none. Where the template has no system role, the
    system turn is merged into the first user turn.

    Raises:
        UserError: the template does not take these turns in this order.
    """
    text = _render_turns(subject, _messages(subject, turns, system), True)
    return list(subject.tokenizer(text, add_special_tokens=False)["input_ids"])


def _messages(subject: Subject, turns: Sequence[tuple[str, str]], system: str | None) -> list[dict[str, str]]:
    messages = [{"role": role, "content": text} for role, text in turns]
    if system is not None and messages[0]["role"] != "system":
        messages.insert(0, {"role": "system", "content": system})
    if messages[0]["role"] == "system" and len(messages) > 1 and not _takes_system(subject):
        first = messages.pop(0)
        messages[0] = {**messages[0], "content": f"{first['content']}\n\n{messages[0]['content']}"}
    return messages


def _render_turns(subject: Subject, messages: list[dict[str, str]], generation_prompt: bool) -> str:
    try:
        return _render(subject, messages, generation_prompt)
    except Exception as error:  # a template refuses by raising whatever jinja raises
        raise UserError(f"messages: the model's template does not take them ({one_line(str(error), 120)})") from error


@dataclass(frozen=True)
class Layout:
    """A whole conversation's token ids, and for each the number of the message whose text it carries (None: the
    template's own, such as turn marks or a default system turn). `roles`: the messages' roles, as rendered."""

    ids: list[int]
    turns: list[int | None]
    roles: list[str]


def lay_out(
    subject: Subject, turns: Sequence[tuple[str, str]], system: str | None = None, answer_next: bool = False
) -> Layout:
    """Render a conversation of (role, text) as `render_chat` does, to its end or (`answer_next`) to where the next
    answer begins, and say which tokens carry which message.

    A message's place is where a mark appears that is rendered in its stead, so that neither short texts nor repeated
    ones are mistaken; a token belongs to it if their characters overlap.

    Raises:
        UserError: the template does not take these turns, or drops or rewrites one.
    """
    messages = _messages(subject, turns, system)
    text = _render_turns(subject, messages, answer_next)
    encoded = subject.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids, offsets = list(encoded["input_ids"]), encoded["offset_mapping"]
    belongs: list[int | None] = [None] * len(ids)
    for number in range(len(messages)):
        first, last = _place(subject, messages, number, text, answer_next)
        for n, (a, b) in enumerate(offsets):
            if b > first and a < last and b > a:
                belongs[n] = number
    return Layout(ids, belongs, [message["role"] for message in messages])


def _place(
    subject: Subject, messages: list[dict[str, str]], number: int, text: str, answer_next: bool
) -> tuple[int, int]:
    """Where in the rendered text a message's own text is: half-open range of characters."""
    marked = _render_turns(
        subject, [{**m, "content": MARK} if n == number else m for n, m in enumerate(messages)], answer_next
    )
    before, found, after = marked.partition(MARK)
    for content in (messages[number]["content"], messages[number]["content"].strip()):
        if found and text == f"{before}{content}{after}":
            return len(before), len(before) + len(content)
    raise UserError(f"messages[{number}]: the chat template does not contain it as given; its tokens cannot be found")
