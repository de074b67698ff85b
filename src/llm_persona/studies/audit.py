"""What a fine-tuning did to the persona: every trait, base against tuned, with a rule for what counts as a shift."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from llm_persona.analysis.activations import Activations
from llm_persona.analysis.paired import paired_shift
from llm_persona.analysis.quality import assess
from llm_persona.analysis.shift import author_and_reader
from llm_persona.analysis.stats import mean_estimate
from llm_persona.analysis.vectors import PersonaVector, cosines, fit
from llm_persona.domain.condition import BASE, tuned
from llm_persona.domain.errors import TooLong, UserError
from llm_persona.domain.formats import sealed
from llm_persona.domain.items import Items
from llm_persona.domain.left_out import LeftOut
from llm_persona.domain.measurement import Measurement
from llm_persona.domain.responses import Response, labelled
from llm_persona.domain.store import digest, file_digest, write_json
from llm_persona.domain.traits import Question, Trait, load_trait
from llm_persona.instruments.perplexity import Perplexity, neutral_texts
from llm_persona.instruments.samples import Samples
from llm_persona.instruments.trait_benchmark import TraitBenchmark
from llm_persona.studies.audit_summary import summarise_audit
from llm_persona.studies.folder import sweep, working_in
from llm_persona.studies.lab import Lab
from llm_persona.studies.pieces import Executor
from llm_persona.studies.same_machines import check_workers
from llm_persona.studies.shortfall import shortfall
from llm_persona.studies.stages import Reporter, Stages
from llm_persona.studies.state import State
from llm_persona.subject.adapt import check_adapter
from llm_persona.subject.load import Subject
from llm_persona.subject.record import record


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


@dataclass
class _TraitWork:
    """One trait's material and, by model, what was found."""

    trait: Trait
    test: Items
    fit_rows: list[Response]
    vector: PersonaVector
    layer: int
    layer_from: str
    questions: list[Question]
    before: PersonaVector
    """Extracted from the base on the very rows on which it is extracted again: what the later one is compared with."""
    fit_left_out: list[dict[str, Any]] = field(default_factory=list)
    """Fit rows that are longer than the base's context."""
    found: dict[str, dict[str, Any]] = field(default_factory=dict)


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
            _measure(state, "base", name, w, plan)
        answers["base"], quality["base"] = _answers(state, samples, owners), _cost(state)
    for model in models:
        condition = tuned(model.adapter, model.name) if model.adapter is not None else BASE
        with State(labs[model.name], condition) as state:
            for name, w in work.items():
                _measure(state, model.name, name, w, plan)
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
        {name: _trait_result(name, w, names, answers) for name, w in work.items()},
        quality,
        _provenance(models, lab, plan),
    )


def expected_stages(plan: AuditPlan, models: Sequence[TunedModel]) -> int:
    """How many stages an audit has, for the progress display."""
    traits = len(plan.traits)
    before = traits * ((plan.vectors is None) + (plan.vectors is None or plan.reextract))
    return before + (len(models) + 1) * (2 + 3 * traits) + len(models) * traits


def _before(lab: Lab, plan: AuditPlan) -> dict[str, _TraitWork]:
    """Each trait's items, vector and layer."""
    work = {}
    for given in plan.traits:
        trait = load_trait(given)
        bank = Items(trait.bank, f"bank:{trait.name}")
        rows = labelled(bank.split("fit")[: plan.fit_items])
        vector, layer, source = _vector(lab, trait, rows, bank, plan)
        if not vector.norms[layer] > 0:
            raise UserError(f"trait {trait.name}: its vector is zero at layer {layer}; extract it again")
        before, left = vector, list[LeftOut]()
        if plan.reextract:
            with State(lab, BASE) as state:
                acts = state.activations(f"{trait.name} fit rows", rows)
            before, left = fit(acts), list(acts.left_out)
        questions = list(trait.questions_of("test")[: plan.questions])
        test = bank.split("test")[: plan.items]
        work[trait.name] = _TraitWork(
            trait, test, rows, vector, layer, source, questions, before, [entry.as_json() for entry in left]
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
            return vector, int(layer), "recommended by the vector's file"
    with State(lab, BASE) as state:
        if plan.vectors is None:
            vector = fit(state.activations(f"{trait.name} fit rows", rows), {"trait": trait.name, **lab.identity})
        select = state.activations(f"{trait.name} select rows", labelled(bank.split("select")[: plan.items]))
    return vector, assess(select, vector, permutations=1).best, "best read on the select split"


def _measure(state: State, model: str, name: str, w: _TraitWork, plan: AuditPlan) -> None:
    """What is measured of one model and trait, alike for base and tuned."""
    benchmark = state.measure(f"{name} likelihood", TraitBenchmark(w.test))
    found: dict[str, Any] = {"rows": benchmark.rows, "summary": benchmark.summary, "benchmark": benchmark}
    test = labelled(w.test)

    def fitted(rows: Sequence[Response], subject: Subject) -> Activations:
        try:
            return record(subject, rows)
        except TooLong as error:
            raise TooLong(f"trait {name}, {model}: {error}") from error

    def read(subject: Subject) -> Any:
        w.vector.check(subject.n_layers, subject.hidden_size)
        acts = fitted(test, subject)
        kept = assess(acts, w.vector, permutations=1).layers[w.layer]
        values: dict[str, Any] = {
            "mean_projection": (acts.values.astype(np.float64).mean(axis=0) * _units(w.vector)).sum(axis=1).tolist(),
            "by_row": _by_row(acts, acts.values[:, w.layer].astype(np.float64) @ w.vector.unit(w.layer), len(test)),
            "left_out": [entry.as_json() for entry in acts.left_out],
            "auc_base_vector": kept.auc,
            "separation_base_vector": kept.separation,
        }
        if plan.reextract:
            again = w.before if model == "base" else fit(fitted(w.fit_rows, subject))
            own = assess(acts, again, permutations=1).layers[w.layer]
            values |= {
                "cosines": cosines(w.before, again).tolist(),
                "norm_ratio": float(again.norms[w.layer] / w.before.norms[w.layer]),
                "auc": own.auc,
                "auc_ci": list(own.auc_ci),
                "separation": own.separation,
                "separation_ci": list(own.separation_ci),
            }
        return values

    key = ["read", test, w.vector.digest, w.layer, [w.fit_rows, w.before.digest] if plan.reextract else None]
    found["fixed"] = state.value(f"{name} reads fixed texts", key, read)
    found["groups"] = [r.group for r in test]
    w.found[model] = found


def _by_row(acts: Activations, values: np.ndarray, rows: int) -> list[float | None]:
    """One value a row that was given, None for those left out."""
    found: list[float | None] = [None] * rows
    for number, value in zip(acts.kept(range(rows)), values.tolist(), strict=True):
        found[number] = value
    return found


def _units(vector: PersonaVector) -> np.ndarray:
    return np.stack([vector.unit(layer) for layer in range(vector.n_layers)])


def _answers(state: State, samples: Samples, owners: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """By trait, the answers to its questions (all traits' are generated together)."""
    rows = state.measure("answers", samples).rows
    found: dict[str, list[dict[str, Any]]] = {}
    for owner, row in zip(owners, rows, strict=True):
        found.setdefault(owner, []).append(row)
    return found


def _cost(state: State) -> dict[str, Any]:
    return {"perplexity": state.measure("neutral perplexity", Perplexity(neutral_texts())).summary["perplexity"]}


def _rows(answers: Sequence[Mapping[str, Any]]) -> list[Response]:
    return [Response(r["question"], r["text"], "neutral", r["id"]) for r in answers if r["text"]]


def _by_question(rows: Sequence[Response], values: np.ndarray) -> dict[str, list[float]]:
    return {r.group: [float(x) for x in v] for r, v in zip(rows, values, strict=True) if np.isfinite(v).all()}


def _trait_result(name: str, w: _TraitWork, names: Sequence[str], answers: Mapping[str, Any]) -> dict[str, Any]:
    """One trait's figures for every tuned model."""
    base = w.found["base"]
    gap = float(w.vector.norms[w.layer])
    result: dict[str, Any] = {
        "layer": w.layer,
        "layer_from": w.layer_from,
        "pole_gap": gap,
        "separation_before": base["fixed"]["separation_base_vector"],
        "n_items": len(w.test),
        "n_questions": len(w.questions),
        "baseline": base["summary"],
        "beyond_context": _shortfall(name, w, answers),
        "auc_before": base["fixed"]["auc_base_vector"],
        "tuned": {},
    }
    for model in names:
        own = w.found[model]
        fixed = own["fixed"]
        at = w.layer
        parts = [
            {q: v[at] for q, v in reads.items()}
            for reads in (base["reads base"], base[f"reads {model}"], own["reads base"], own[f"reads {model}"])
        ]
        shift = paired_shift(own["rows"], base["rows"])
        projection = {"layer": at, "pole_gap": gap, **author_and_reader(*parts)}
        by_item: dict[str, list[float]] = {}
        for group, after, before in zip(own["groups"], fixed["by_row"], base["fixed"]["by_row"], strict=True):
            if after is not None and before is not None:
                by_item.setdefault(group, []).append(after - before)
        read = mean_estimate(np.array([np.mean(v) for v in by_item.values()]))
        projection |= {
            "fixed_texts": read.value if by_item else None,
            "fixed_texts_ci": read.ci,
            "n_fixed_texts": read.n,
        }
        asked = [q for q in base["reads base"] if q in own[f"reads {model}"]]
        same_texts = [r["row"] for r in _left(fixed)] == [r["row"] for r in _left(base["fixed"])]
        profile = np.mean([np.subtract(own[f"reads {model}"][q], base["reads base"][q]) for q in asked], axis=0)
        result["tuned"][model] = {
            **shift,
            "summary": own["summary"],
            "projection": projection,
            "vector_cosine": fixed["cosines"][at] if "cosines" in fixed else None,
            "vector": {
                "cosine_by_layer": fixed.get("cosines"),
                "norm_ratio": fixed.get("norm_ratio"),
                "auc_before": base["fixed"].get("auc"),
                "auc_after": fixed.get("auc"),
                "auc_after_ci": fixed.get("auc_ci"),
                "auc_of_the_base_vector_after": fixed["auc_base_vector"],
                "separation_before": base["fixed"].get("separation"),
                "separation_after": fixed.get("separation"),
                "separation_after_ci": fixed.get("separation_ci"),
            },
            "layer_profile": {
                "own_answers": profile.tolist() if asked else None,
                "fixed_texts": np.subtract(fixed["mean_projection"], base["fixed"]["mean_projection"]).tolist()
                if same_texts
                else None,
            },
            "samples": [
                {"question": a["question"], "base": a["text"], "tuned": b["text"]}
                for a, b in list(zip(answers["base"][name], answers[model][name], strict=True))[:3]
            ],
        }
    return result


def _shortfall(name: str, w: _TraitWork, answers: Mapping[str, Any]) -> dict[str, Any]:
    """What of one trait was longer than a model's context."""
    measured = {
        model: {"likelihood": own["benchmark"], "samples": Measurement("samples", model, answers[model][name])}
        for model, own in w.found.items()
    }
    left = {"fit": w.fit_left_out, "test": _left(w.found["base"]["fixed"])}
    left |= {f"test, {model}": rows for model, own in w.found.items() if (rows := _left(own["fixed"])) != left["test"]}
    return shortfall(measured, left)


def _left(fixed: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The test rows that a model left out (none, where an earlier version measured)."""
    return list(fixed.get("left_out", ()))


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
