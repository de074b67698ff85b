"""The phases that put the subject into a state and measure it there: as it is, instructed, instructed and steered."""

from __future__ import annotations

from llm_persona.domain.condition import BASE, Condition, Steer
from llm_persona.domain.condition import instructed as instructed_conditions
from llm_persona.domain.traits import POLES
from llm_persona.studies.trait_study import TraitStudy


def baseline(study: TraitStudy) -> None:
    """The subject as it is."""
    study.measure("base", BASE)
    study.results["baseline"] = study.summary("base")


def instructed(study: TraitStudy) -> None:
    """Under the trait's two system prompts."""
    study.results["instructed"] = {}
    for pole, condition in zip(POLES, instructed_conditions(study.trait), strict=True):
        study.measure("instructed", condition)
        study.results["instructed"][pole] = {
            **study.summary(condition.name),
            "system": condition.system,
            **study.shift(condition.name),
        }


def combined(study: TraitStudy) -> None:
    """Instruction and vector together, at the dose of the sweep."""
    dose = study.config.sweep_dose
    study.results["combined"] = {}
    for pole, sign in zip(POLES, (1, -1), strict=True):
        steer = Steer(study.persona, study.layer, dose=sign * dose, name=study.name)
        condition = Condition(f"combined-{pole}", study.trait.instruction(pole), steers=(steer,))
        study.measure("combined", condition)
        study.results["combined"][pole] = {
            "dose": sign * dose,
            **study.summary(condition.name),
            **study.shift(condition.name),
        }
