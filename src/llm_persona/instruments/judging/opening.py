"""A judge by the name that the command line gives it."""

from __future__ import annotations

from importlib import metadata

from llm_persona.domain.errors import UserError
from llm_persona.instruments.judging.protocol import Judge
from llm_persona.subject.locate import DEFAULT_MODEL
from llm_persona.subject.remote.caller import Limits

ENTRY_POINT = "llm_persona.judges"
"""Packages add judges under this entry-point group: KIND is a callable that takes what follows `KIND:`."""
KINDS = "openai:NAME, anthropic:NAME, local, local:MODEL or scripted:FILE"


def open_judge(spec: str, base_url: str | None = None, limits: Limits | None = None, text_only: bool = False) -> Judge:
    """The judge that `--judge` names.

    Args:
        spec: `openai:NAME`, `anthropic:NAME`, `local` (the default subject), `local:MODEL`, `scripted:FILE`, or
            KIND:NAME of a judge that another package brings.
        text_only: read scores from the text although the endpoint may give log-probabilities.

    Raises:
        UserError: an unknown kind, or a name that its kind does not take.
    """
    kind, _, name = spec.partition(":")
    if base_url is not None and kind not in ("openai", "anthropic"):
        raise UserError(f"--base-url: is the address of an API, and --judge {spec} is none; write openai:NAME")
    if text_only and kind != "openai":
        raise UserError(
            f"--text: is for endpoints that give log-probabilities, and --judge {spec} is none; leave it out"
        )
    if kind == "openai":
        from llm_persona.instruments.judging.remote import openai_judge

        return openai_judge(name, base_url, limits, text_only)
    if kind == "anthropic":
        from llm_persona.instruments.judging.remote import anthropic_judge

        return anthropic_judge(name, base_url, limits)
    if kind == "local":
        from llm_persona.instruments.judging.local import local_judge

        return local_judge(name or DEFAULT_MODEL)
    if kind == "scripted" and name:
        from llm_persona.instruments.judging.scripted import scripted_judge

        return scripted_judge(name)
    for point in metadata.entry_points(group=ENTRY_POINT):
        if point.name == kind:
            found: Judge = point.load()(name)
            return found
    raise UserError(f"--judge {spec}: no such judge; write {KINDS}")
