"""Where each token of a text lies along a persona vector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

from llm_persona.analysis.vectors import PersonaVector
from llm_persona.domain.measurement import Measurement
from llm_persona.domain.responses import Response
from llm_persona.subject.chat import render_response
from llm_persona.subject.load import Subject
from llm_persona.subject.packing import BEYOND, Row, readable
from llm_persona.subject.token_reading import read_tokens


@dataclass(frozen=True)
class TokenProjection:
    """Projection of every token of each response on the unit direction at one layer, <h, v / norm(v)>."""

    responses: Sequence[Response]
    vector: PersonaVector
    layer: int

    @property
    def key(self) -> Any:
        """What decides the measurement besides the subject's state."""
        return ["token projection", list(self.responses), self.vector.digest, self.layer]

    def measure(self, subject: Subject, condition: str = "base") -> Measurement:
        """One row a response: `group` and `tokens`, [text, projection] each; the texts joined are the response. One
        beyond the subject's context is unscored and has none."""
        fits = readable(subject, [Row(r.prompt, r.text, r.system) for r in self.responses])
        rows: list[dict[str, Any]] = [
            {"group": r.group, "tokens": read(subject, r, self.vector, self.layer)}
            if fit
            else {"group": r.group, "tokens": [], "unscored": BEYOND}
            for r, fit in zip(self.responses, fits, strict=True)
        ]
        return Measurement("token-projection", condition, rows, {"n": sum(fits), "layer": self.layer})


def read(subject: Subject, response: Response, vector: PersonaVector, layer: int) -> list[tuple[str, float]]:
    """The response's tokens with their projections, as read by the subject in the state it is in.

    A token's text ends where the next one's begins, so that the texts joined are the response without white space at
    its ends; of the tokens that share one character, the last has it and the others have "".
    """
    text = response.text.strip()
    rendered = render_response(subject, response.prompt, text, response.system)
    found = read_tokens(subject, rendered.ids, rendered.start, [vector], [layer])[1:, 0, 0]
    return list(zip(pieces(text, rendered.places), found.tolist(), strict=True))


def pieces(text: str, places: Sequence[int]) -> list[str]:
    """`text` cut where its tokens begin; joined the pieces are `text`."""
    cuts = [0, *accumulate(places[1:], max), len(text)]
    return [text[a:b] for a, b in pairwise(cuts)]
