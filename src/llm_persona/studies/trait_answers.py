"""What is kept of a trait's answers: each with its projection, what a judge says, what was too long to read."""

from __future__ import annotations

from llm_persona.instruments.judging.protocol import Judge
from llm_persona.studies.judged import judge_answers, judged_rows
from llm_persona.studies.shortfall import shortfall
from llm_persona.studies.stored_answers import StoredAnswer, stored
from llm_persona.studies.trait_study import TraitStudy


def answers(study: TraitStudy) -> list[StoredAnswer]:
    """Every answer of every condition, in the order of the study, with its projection (after the phase `written`)."""
    found = []
    for _, name in study.places():
        projected = iter(study.projected[name])
        for row in study.measured[name]["samples"].rows:
            read = next(projected) if row["text"] else None
            found.append(stored(study.name, label_of(name), row, study.config.temperature, read))
    return found


def judged(study: TraitStudy, judge: Judge) -> None:
    """What a judge says of every condition's answers, each beside the base's answers to the same questions."""
    given = answers(study)
    study.verdicts = judge_answers(study.lab.stages, judge, study.trait, given)
    found = judged_rows(study.trait.name, given, study.verdicts)
    for place, name in study.places():
        place["judged"] = found[label_of(name)]


def beyond_context(study: TraitStudy) -> None:
    """What was longer than the subject's context, under every condition and in the vector's rows."""
    study.results["beyond_context"] = shortfall(
        {label_of(name): {**found, "reading": study.read_back[name]} for name, found in study.measured.items()},
        study.extraction.left_out,
    )


def label_of(name: str) -> str:
    """A condition's name as results and stored answers say it: `tuned high`, `steered -0.2`."""
    return name if name.startswith("steered") else name.replace("-", " ")
