"""From a judge's reply to a score: by the probabilities of its numbers, or by its text.

By probabilities the score is the expectation over the integers 0 to 100 (the estimator of Chen et al. 2025, persona
vectors): finer than the one number that is written, and it does not depend on a draw.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

from llm_persona.instruments.judging.protocol import FAILED, Verdict
from llm_persona.subject.remote.requests import Failure, Reply

SCORING = 1
"""Raised when the way from a reply to a score changes: kept verdicts and gates are then made anew."""
LEAST_MASS = 0.25
"""Below this share of the probability on numbers the judge did not mean to give one."""
LOW_MASS = "low numeric mass"
REFUSAL = "refusal"
CODE = "code"
NO_NUMBER = "no number"
SEVERAL = "several numbers"
OUTSIDE = "no number from 0 to 100"
DENIED = "number denied"
TOO_LONG = "reply too long"
LONGEST = 20_000
"""Characters; a judge that was asked for a number writes far fewer, thinking included."""

_REFUSES = re.compile(
    r"\brefusal\b|\bI (?:cannot|can ?not|can['\u2019]t|won['\u2019]t|will not|am unable|am sorry)\b|"
    r"\bI['\u2019]m (?:sorry|unable)\b|\bas an AI\b",
    re.IGNORECASE,
)
_CODE = re.compile(
    r"```|\A\s*CODE\b|^[^\S\n]*+(?:def \w+\(|import \w+|from \w+ import|class \w+[:(])|\bprint\(|#include", re.MULTILINE
)
_SCALE = re.compile(r"[(\[]?\b0\s*(?:-|\u2013|to)\s*100\b[)\]]?", re.IGNORECASE)
_OF_HUNDRED = re.compile(r"(?<!\s)\s*+(?:/|\bout of\b)\s*100\b(?!\.\d)", re.IGNORECASE)
_NUMBER = re.compile(r"(?<![\w.,])(?<![A-Za-z]-)-?\d+(?:\.\d+)?(?!\w|[.,]\d)")
_DENIED = re.compile(r"\bnot\s+(?:an?\s+)?\d", re.IGNORECASE)


def integer_of(token: str) -> int | None:
    """The integer 0 to 100 that a token is, blanks around it left out; None if it is none (`007`, `1.`, `²`)."""
    text = token.strip()
    if not (text.isascii() and text.isdigit()) or text != str(int(text[:4])) or int(text) > 100:
        return None
    return int(text)


def expectation(top: Mapping[str, float]) -> tuple[float | None, float]:
    """Expected integer under the log-probabilities of one place.

    Args:
        top: token to natural-log probability; tokens that are no integer 0 to 100 are left out.

    Returns:
        (sum of n * p(n) / mass, mass = sum of p(n)); the expectation is None where the mass is 0.
    """
    chances = [(n, math.exp(min(p, 0.0))) for token, p in top.items() if (n := integer_of(token)) is not None]
    mass = math.fsum(p for _, p in chances)
    return (math.fsum(n * p for n, p in chances) / mass if mass > 0 else None), mass


def verdict_of_text(reply: str, mass: float | None = None) -> Verdict:
    """The one number 0 to 100 in a text, or why there is none.

    `70/100`, `70 out of 100` and an echo of the scale (`0-100`) are understood. A refusal or code beside a number,
    two different numbers, or a number that the text denies make no score.
    """
    if len(reply) > LONGEST:
        return Verdict(None, TOO_LONG, reply[:LONGEST], mass)
    if _CODE.search(reply):
        return Verdict(None, CODE, reply, mass)
    if _REFUSES.search(reply):
        return Verdict(None, REFUSAL, reply, mass)
    bare = _OF_HUNDRED.sub(" ", _SCALE.sub(" ", reply))
    numbers = {float(text) for text in _NUMBER.findall(bare)}
    if not numbers:
        return Verdict(None, NO_NUMBER, reply, mass)
    if len(numbers) > 1:
        return Verdict(None, SEVERAL, reply, mass)
    value = numbers.pop()
    if not 0 <= value <= 100:
        return Verdict(None, OUTSIDE, reply, mass)
    if _DENIED.search(bare):
        return Verdict(None, DENIED, reply, mass)
    return Verdict(value, "", reply, mass)


def verdict_of_mass(score: float | None, mass: float, reply: str) -> Verdict:
    """A score by probabilities if enough of them lie on numbers; else the reason, which the text may know better."""
    if score is not None and mass >= LEAST_MASS:
        return Verdict(min(max(score, 0.0), 100.0), "", reply, mass)
    said = verdict_of_text(reply)
    return Verdict(None, said.unscored if said.unscored in (REFUSAL, CODE) else LOW_MASS, reply, mass)


def verdict_of_reply(reply: Reply | Failure) -> Verdict:
    """The verdict in what an API gave.

    The first token that is not blank is read. Some tokenizers write a number digit by digit: then the first token's
    `4` may be the beginning of 42, and no expectation over it has a meaning. So where the place holds no number of two
    digits at all, the number is read from the text, and the mass is that of the digits.
    """
    if isinstance(reply, Failure):
        return Verdict(None, FAILED + reply.reason)
    if reply.finish in ("refusal", "content_filter"):
        return Verdict(None, REFUSAL, reply.text)
    place = _first(reply.top)
    if place is None:
        return verdict_of_text(reply.text)
    score, mass = expectation(place)
    whole = any((integer_of(token) or 0) > 9 for token in place)
    if score is not None and mass >= LEAST_MASS and not whole:
        return verdict_of_text(reply.text, mass)
    return verdict_of_mass(score, mass, reply.text)


def _first(top: Sequence[Mapping[str, float]]) -> Mapping[str, float] | None:
    """The log-probabilities at the first token that is not blank; None where an API gave none."""
    return next((place for place in top if place and max(place, key=lambda t: place[t]).strip()), None)
