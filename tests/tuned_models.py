"""Tuned models to audit (a pytest plugin of conftest): two seeds and a control of a tiny model, and their audit."""

from __future__ import annotations

import pytest
from conftest import save_tiny_model

import llm_persona as lp
from llm_persona.domain.items import Items
from llm_persona.domain.traits import load_trait
from llm_persona.studies.audit import AuditPlan, TunedModel, audit
from llm_persona.training.data import from_items
from llm_persona.training.finetune import finetune
from llm_persona.training.recipe import PERSONA, Recipe, adjusted


@pytest.fixture(scope="session")
def tuned_tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("audit")
    model = save_tiny_model(folder / "model")
    subject = lp.load_subject(str(model), dtype="float32")
    items = Items(load_trait("openness").bank, "bank").split("fit")[:6]
    recipe = adjusted(PERSONA, epochs=6, learning_rate=1e-2)
    for seed in range(2):
        finetune(subject, from_items(items, "high"), folder / "high" / f"seed-{seed}", recipe, seed)
    finetune(subject, from_items(items[:1], "low"), folder / "benign", Recipe(rank=1, epochs=1, learning_rate=1e-6))
    return folder


PLAN = AuditPlan(("openness", "machiavellianism"), items=6, fit_items=6, questions=3, max_new_tokens=6)


def models(folder):
    return [
        TunedModel("high/seed-0", "high", adapter=str(folder / "high" / "seed-0")),
        TunedModel("high/seed-1", "high", adapter=str(folder / "high" / "seed-1")),
        TunedModel("benign", "benign", adapter=str(folder / "benign"), control=True),
    ]


@pytest.fixture(scope="session")
def audited(tuned_tiny):
    return audit(str(tuned_tiny / "model"), models(tuned_tiny), PLAN, tuned_tiny / "out", "float32")
