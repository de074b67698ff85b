"""Readers of traits, chat data, vectors, activations, study settings, templates, rubrics and a judge's text."""

from __future__ import annotations

from typing import Any

import mutations
import numpy as np
from reader import Files, Reader, within
from reader_inputs import CHAT, ITEM, REPLIES, STUDY, TEMPLATE, activations_seed, small_trait, vector_seed

from llm_persona.domain.errors import UserError


def file_readers(written: Files) -> list[Reader]:
    from llm_persona.analysis.activations import Activations
    from llm_persona.analysis.vectors import PersonaVector, cosines, fit
    from llm_persona.domain.config import read_config
    from llm_persona.domain.items import parse_item
    from llm_persona.domain.rubrics import criteria, load_rubric, parse_rubric
    from llm_persona.domain.templates import load_template
    from llm_persona.domain.traits import LEVELS, POLES, load_trait
    from llm_persona.instruments.judging.scoring import verdict_of_text
    from llm_persona.interfaces.cli.vector_settings import named_layers
    from llm_persona.studies.screen import ScreenPlan, survey
    from llm_persona.training.data import from_chat

    def trait(data: bytes) -> Any:
        found = load_trait(written("trait.yaml", data))
        texts = [found.instruction(pole, level) for pole in POLES for level in LEVELS]
        return [found.digest, texts, criteria(found), found.model_dump(), [i.id for i in found.bank]]

    def chat(data: bytes) -> Any:
        path = written("chat.jsonl", data)
        found, plan = from_chat(path), ScreenPlan(labels="label")
        assert all(e.prompt and e.response for e in found.examples)
        surveyed = survey(path, plan)
        return [found.digest, found.skipped, surveyed.usable, surveyed.skipped]

    def vector(data: bytes) -> Any:
        path = written("v.safetensors", data)
        found = PersonaVector.load(path)
        assert found.directions.dtype == np.float32 and np.isfinite(found.directions).all()
        doses = [found.dose_per_unit(k) for k in range(found.n_layers)]
        layers = named_layers("auto", found, str(path)) if found.meta.get("recommended") else []
        assert all(0 <= k < found.n_layers for k in layers)
        return [found.meta, found.digest, found.norms, doses, cosines(found, found), layers]

    def activations(data: bytes) -> Any:
        path = written("acts.safetensors", data)
        found = Activations.load(path)
        try:
            return [fit(found).digest, found.group_index]
        except UserError as error:
            raise UserError(f"{path}: {error}") from error

    def template(data: bytes) -> Any:
        found = load_template(str(written("template.txt", data)))
        assert len(set(found.labels)) == 4
        item = parse_item(ITEM, "here", "0")
        return found.fill(item.situation, item.query, ["{query}", "b", "c", "d"])

    def rubric(data: bytes) -> Any:
        found = parse_rubric("coherence-v9", data.decode("utf-8", "replace"))
        about = load_trait("openness") if found.needs_trait else None
        return [found.fill("Q", "A <question> {answer}", about, first) for first in (False, True)]

    def grade(data: bytes) -> Any:
        found = verdict_of_text(data.decode("utf-8", "surrogateescape"))
        within(found.score, 0, 100)
        assert (found.score is None) == bool(found.unscored)
        return found.as_json()

    trait_seed = small_trait()
    rubric_seed = load_rubric("coherence").text.encode()
    return [
        Reader("trait .yaml", (trait_seed,), mutations.yaml_bytes, trait, "trait.yaml"),
        Reader("chat .jsonl", (CHAT,), mutations.lines_bytes, chat, "chat.jsonl"),
        Reader("vector", (vector_seed(),), mutations.safetensors_bytes, vector, "v.safetensors"),
        Reader("activations", (activations_seed(),), mutations.safetensors_bytes, activations, "acts.safetensors"),
        Reader("study .yaml", (STUDY,), mutations.yaml_bytes,
               lambda data: read_config(written("study.yaml", data)).model_dump(), "study.yaml"),
        Reader("template", (TEMPLATE,), None, template, "template.txt"),
        Reader("rubric", (rubric_seed, load_rubric("trait").text.encode()), None, rubric, "coherence-v9"),
        Reader("judge's text", REPLIES, None, grade),
    ]  # fmt: skip
