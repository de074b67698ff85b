"""What a fine-tuning did to the persona: every trait, base against tuned, with a rule for what counts as a shift."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llm_persona.analysis.quality import assess
from llm_persona.analysis.vector_change import pole_sums
from llm_persona.analysis.vectors import PersonaVector, fit
from llm_persona.domain.condition import BASE, tuned
from llm_persona.domain.errors import UserError
from llm_persona.domain.formats import sealed
from llm_persona.domain.items import Items
from llm_persona.domain.left_out import LeftOut
from llm_persona.domain.responses import Response, labelled
from llm_persona.domain.store import digest, file_digest, write_json
from llm_persona.domain.traits import Trait, load_trait
from llm_persona.instruments.perplexity import Perplexity, neutral_texts
from llm_persona.instruments.samples import Samples
from llm_persona.studies.audit_figures import trait_result
from llm_persona.studies.audit_reading import TraitWork, measure_trait
from llm_persona.studies.audit_summary import summarise_audit
from llm_persona.studies.folder import sweep, working_in
from llm_persona.studies.lab import Lab
from llm_persona.studies.pieces import Executor
from llm_persona.studies.same_machines import check_workers
from llm_persona.studies.stages import Reporter, Stages
from llm_persona.studies.state import State
from llm_persona.subject.adapt import check_adapter


@dataclass(frozen=True)
class TunedModel:
    """One tuned model: an adapter of the base, or a model of its own. `group`: the seeds of one fine-tuning share it;
    `control` marks the benign one."""

    name: str
    group: str
    adapter: str | None = None
    model: str | None = None
    control: bool = False


@dataclass(frozen=True)
class AuditPlan:
    """What is measured. Limits are on items per split, so that a small machine can audit many models."""

    traits: tuple[str, ...]
    vectors: str | None = None
    """Folder of vector files TRAIT.safetensors; without one, vectors are fitted on the bank's fit items."""
    items: int | None = None
    fit_items: int | None = None
    questions: int = 12
    max_new_tokens: int = 48
    reextract: bool = True
    seed: int = 0


def audit(
    base: str,
    models: Sequence[TunedModel],
    plan: AuditPlan,
    out: str | Path,
    dtype: str = "auto",
    device: str = "auto",
    reporter: Reporter | None = None,
    executor: Executor | None = None,
    said: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Measure every tuned model against the base; writes `audit.json` into `out`. Killed, the same call goes on.

    Args:
        executor: makes each tuned model's stages ahead, on other processes or machines; the numbers are the same.
            `said` is told of each model that is done.

    Returns:
        The contract's JSON of `audit`: by trait and tuned model the paired shifts, author and reader, the vector
        before and after, the layer profile, answers side by side, and the verdict by the printed rule.

    Raises:
        UserError: no tuned model, a name that occurs twice, a folder that is no adapter, or a vector that does not fit.
    """
    names = [m.name for m in models]
    if not models:
        raise UserError("audit: no tuned model; give --adapter DIR or --tuned MODEL")
    twice = next((n for n in names if names.count(n) > 1), None)
    if twice:
        raise UserError(f"audit: two tuned models are called {twice!r}; name them with NAME=PATH")
    if "base" in names:
        raise UserError("audit: a tuned model is called 'base', as the untuned one is; name it with NAME=PATH")
    for model in models:
        if model.adapter is not None:
            check_adapter(model.adapter)
    folder = Path(out)
    with working_in(folder, "auditing"):
        if executor is not None:
            _make_ahead(base, models, plan, folder, (dtype, device), executor, said or (lambda text: None))
        result = sealed("audit", _audit(base, models, plan, folder, (dtype, device), reporter))
        write_json(folder / "audit.json", result)
    return result


@dataclass(frozen=True)
class AuditPiece:
    """One tuned model beside the base: what an audit of it alone measures, and an audit of several has in common."""

    base: str
    model: TunedModel
    plan: AuditPlan
    folder: Path
    how: tuple[str, str]

    @property
    def name(self) -> str:
        """For messages."""
        return f"auditing {self.model.name}"

    def make(self) -> None:
        """Make its stages, where they are not there yet.

        Raises:
            UserError: as `audit`; or the worker does not see the folder.
        """
        if not (self.folder / "stages").is_dir():
            raise UserError(f"--out {self.folder}: a worker does not see this folder; put it on shared storage")
        _audit(self.base, [self.model], self.plan, self.folder, self.how, None)


def _make_ahead(
    base: str,
    models: Sequence[TunedModel],
    plan: AuditPlan,
    folder: Path,
    how: tuple[str, str],
    executor: Executor,
    said: Callable[[str], None],
) -> None:
    """The first tuned model's piece makes the base's stages as well; all others may then be made at once."""
    whole = [base, *(m.model for m in models if m.model is not None)]
    check_workers(executor, [(name, *how) for name in whole])
    pieces = [AuditPiece(base, model, plan, folder.absolute(), how) for model in models]
    for wave in (pieces[:1], pieces[1:]):
        executor.run(wave, lambda piece, _: said(f"{piece.name}: done"))
    sweep(folder)


def _audit(
    base: str,
    models: Sequence[TunedModel],
    plan: AuditPlan,
    folder: Path,
    how: tuple[str, str],
    reporter: Reporter | None,
) -> dict[str, Any]:
    names, (dtype, device) = [m.name for m in models], how
    stages = Stages(folder / "stages", reporter)
    lab = Lab(base, dtype, device, stages)
    labs = {m.name: lab if m.model is None else Lab(m.model, dtype, device, stages) for m in models}
    work = _before(lab, plan)
    samples = Samples([q for w in work.values() for q in w.questions], plan.max_new_tokens)
    owners = [name for name, w in work.items() for _ in w.questions]
    answers: dict[str, dict[str, list[dict[str, Any]]]] = {}
    quality: dict[str, dict[str, Any]] = {}
    with State(lab, BASE) as state:
        for name, w in work.items():
            measure_trait(state, "base", name, w, plan.reextract)
        answers["base"], quality["base"] = _answers(state, samples, owners), _cost(state)
    for model in models:
        condition = tuned(model.adapter, model.name) if model.adapter is not None else BASE
        with State(labs[model.name], condition) as state:
            for name, w in work.items():
                measure_trait(state, model.name, name, w, plan.reextract)
            answers[model.name], quality[model.name] = _answers(state, samples, owners), _cost(state)
            for name, w in work.items():
                for author in ("base", model.name):
                    rows = _rows(answers[author][name])
                    w.found[model.name][f"reads {author}"] = _by_question(
                        rows, state.projections(f"{name} reads {author}", rows, w.vector)
                    )
    with State(lab, BASE) as state:
        for author in answers:
            for name, w in work.items():
                rows = _rows(answers[author][name])
                w.found["base"][f"reads {author}"] = _by_question(
                    rows, state.projections(f"{name} reads {author}", rows, w.vector)
                )
    return summarise_audit(
        base,
        models,
        {name: trait_result(name, w, names, answers) for name, w in work.items()},
        quality,
        _provenance(models, lab, plan),
    )


def expected_stages(plan: AuditPlan, models: Sequence[TunedModel]) -> int:
    """How many stages an audit has at most, for the progress display (a vector may name its layer: `spare`)."""
    traits, states = len(plan.traits), len(models) + 1
    before = (plan.vectors is None) + 1 + plan.reextract  # fitting, choosing the layer, fitting to compare with
    measured = 3 * traits + 2  # choices and fixed texts of each trait; answers and perplexity
    read = (2 * len(models) + states) * traits  # a tuned model reads the base's answers and its own, the base all
    return traits * before + states * measured + read


def _before(lab: Lab, plan: AuditPlan) -> dict[str, TraitWork]:
    """Each trait's items, vector and layer."""
    work = {}
    for given in plan.traits:
        trait = load_trait(given)
        bank = Items(trait.bank, f"bank:{trait.name}")
        rows = labelled(bank.split("fit")[: plan.fit_items])
        vector, layer, source = _vector(lab, trait, rows, bank, plan)
        if not vector.norms[layer] > 0:
            raise UserError(f"trait {trait.name}: its vector is zero at layer {layer}; extract it again")
        before, left, sums = vector, list[LeftOut](), None
        if plan.reextract:
            with State(lab, BASE) as state:
                acts = state.activations(f"{trait.name} fit rows", rows)
            before, left, sums = fit(acts), list(acts.left_out), pole_sums(acts, layer)
        questions = list(trait.questions_of("test")[: plan.questions])
        test = bank.split("test")[: plan.items]
        work[trait.name] = TraitWork(
            trait, test, rows, vector, layer, source, questions, before, [entry.as_json() for entry in left], sums
        )
    return work


def _vector(
    lab: Lab, trait: Trait, rows: list[Response], bank: Items, plan: AuditPlan
) -> tuple[PersonaVector, int, str]:
    """The trait's vector and the layer it is read at, which no test item chose."""
    if plan.vectors is not None:
        vector = PersonaVector.load(Path(plan.vectors) / f"{trait.name}.safetensors")
        layer = (vector.meta.get("recommended") or {}).get("balanced")
        if layer is not None:
            lab.stages.reporter.spare(1)
            return vector, int(layer), "recommended by the vector's file"
    with State(lab, BASE) as state:
        if plan.vectors is None:
            vector = fit(state.activations(f"{trait.name} fit rows", rows), {"trait": trait.name, **lab.identity})
        select = state.activations(f"{trait.name} select rows", labelled(bank.split("select")[: plan.items]))
    return vector, assess(select, vector, permutations=1).best, "best read on the select split"


def _answers(state: State, samples: Samples, owners: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """By trait, the answers to its questions (all traits' are generated together)."""
    rows = state.measure("answers", samples).rows
    found: dict[str, list[dict[str, Any]]] = {}
    for owner, row in zip(owners, rows, strict=True):
        found.setdefault(owner, []).append(row)
    return found


def _cost(state: State) -> dict[str, Any]:
    found = state.measure("neutral perplexity", Perplexity(neutral_texts()))
    return {"perplexity": found.summary["perplexity"], "rows": found.rows}


def _rows(answers: Sequence[Mapping[str, Any]]) -> list[Response]:
    return [Response(r["question"], r["text"], "neutral", r["id"]) for r in answers if r["text"]]


def _by_question(rows: Sequence[Response], values: np.ndarray) -> dict[str, list[float]]:
    return {r.group: [float(x) for x in v] for r, v in zip(rows, values, strict=True) if np.isfinite(v).all()}


def _provenance(models: Sequence[TunedModel], lab: Lab, plan: AuditPlan) -> dict[str, Any]:
    from dataclasses import asdict

    from llm_persona.domain.provenance import git_revision, versions

    adapters = {
        m.name: file_digest(Path(m.adapter) / "adapter_model.safetensors") for m in models if m.adapter is not None
    }
    return {
        "subject": lab.identity,
        "plan": asdict(plan),
        "adapters": adapters,
        "digest": digest([lab.identity, asdict(plan), adapters]),
        "versions": versions(),
        "revision": git_revision(),
    }
