"""From items to a vector with its evidence: record, fit, judge, control, recommend."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from llm_persona.analysis.activations import Activations
from llm_persona.analysis.auc_intervals import auc_with_interval, layer_draws
from llm_persona.analysis.controls import confounds, lexical_scores, other_auc, random_auc, shuffled_auc
from llm_persona.analysis.layers import layer_bands, read_against_steer
from llm_persona.analysis.quality import Quality, assess
from llm_persona.analysis.vectors import PersonaVector, fit
from llm_persona.domain.errors import TooLong, UserError
from llm_persona.domain.items import Items
from llm_persona.domain.provenance import git_revision, versions
from llm_persona.studies.recommend import Recommendation, choose, run_sweep
from llm_persona.studies.sources import Rows
from llm_persona.studies.stages import Stages
from llm_persona.subject.load import Subject
from llm_persona.subject.locate import family_of
from llm_persona.subject.record import Position, record


@dataclass(frozen=True)
class Extraction:
    """A vector and everything that was measured about it."""

    vector: PersonaVector
    quality: Quality
    recommended: Recommendation
    controls: dict[str, Any]
    acts: dict[str, Activations]
    bands: dict[str, Any]
    read_against_steer: dict[str, Any]
    elicited: dict[str, Any] | None = None
    judged: dict[str, Any] | None = None

    def as_json(self) -> dict[str, Any]:
        """The contract's JSON of `vectors extract`."""
        meta = self.vector.meta
        return {
            "trait": meta.get("trait"),
            "model": meta.get("model"),
            "source": meta.get("source"),
            "position": meta.get("position"),
            "n_high": self.quality.n_high,
            "n_low": self.quality.n_low,
            "n_groups": self.quality.n_groups,
            "n_fit_groups": len(set(self.acts["fit"].groups)),
            "layers": self.quality.as_json(),
            "recommended": self.recommended.as_json(),
            "bands": self.bands,
            "read_against_steer": self.read_against_steer,
            "controls": self.controls,
            "elicited": self.elicited,
            "judged": self.judged,
            "left_out": self.left_out,
        }

    @property
    def left_out(self) -> dict[str, list[dict[str, Any]]]:
        """By split, the rows that were not recorded since their question is longer than the subject's context."""
        return {name: [e.as_json() for e in acts.left_out] for name, acts in self.acts.items() if acts.left_out}

    def projections(self, layers: Sequence[int] | None = None) -> list[dict[str, Any]]:
        """Each test row's projection (units of the activations' norm), in the rows' order.

        Returns:
            `group`, `pole`, `projection` (at the balanced layer) and, with `layers`, `by_layer`: at each of them.
        """
        acts, balanced = self.acts["test"], self.recommended.balanced
        found: list[dict[str, Any]] = []
        for group, pole, values in zip(acts.groups, acts.poles, self.quality.scores, strict=True):
            row = {"group": str(group), "pole": pole, "projection": float(values[balanced])}
            if layers is not None:
                row["by_layer"] = [round(float(values[layer]), 5) for layer in layers]
            found.append(row)
        return found


def extract(
    subject: Callable[[], Subject],
    identity: dict[str, str],
    trait: str,
    rows: Rows,
    sweep_items: Items,
    source: str = "labelled",
    position: Position = "response_mean",
    layers: int = 5,
    dose: float = 0.2,
    stages: Stages | None = None,
    seed: int = 0,
    others: Mapping[str, PersonaVector] | None = None,
) -> Extraction:
    """Fit on fit, choose on select, claim on test.

    `subject` is called only if something is not yet known to `stages`. The sweep steers on `sweep_items` (items for
    choosing), whatever the source of the contrast is. `rows.transfer`, responses to another author's items, are read
    as a control; so are the `others`, vectors of other traits.

    Questions of which a row is longer than the subject's context are left out, and listed in the result.

    Raises:
        UserError: a split without rows of both poles, or of which nothing is left.
    """
    stages = stages or Stages()
    parts = {"fit": rows.fit, "select": rows.select, "test": rows.test}
    for name, part in parts.items():
        if {r.pole for r in part} != {"high", "low"}:
            raise UserError(f"{trait}: split {name!r} has no rows of both poles; add items to it or use the bank")
    key = {"subject": identity, "position": position, "source": source}
    if rows.transfer:
        parts["transfer"] = rows.transfer

    def recorded(name: str) -> Activations:
        try:
            return record(subject(), parts[name], position)
        except TooLong as error:
            raise TooLong(f"{trait}, split {name!r}: {error}") from error

    acts = {
        name: stages.activations(f"{trait} record {name}", [key, part], partial(recorded, name))
        for name, part in parts.items()
    }
    left = {entry.group for name in ("fit", "select") for entry in acts[name].left_out}
    vector = fit(
        acts["fit"],
        {
            "trait": trait,
            **identity,
            "family": family_of(identity["model"]) or subject().model.config.model_type,
            "source": source,
            "position": position,
            "authors": sorted({r.author for r in rows.fit}),
            "reader": "base, no instruction" if not any(r.system for r in rows.fit) else "base, under the instruction",
            "items": sorted({*rows.made_from, *sweep_items.ids} - left),
            "seed": seed,
            "versions": versions(),
            "git": git_revision(),
            **({"elicited": rows.elicited} if rows.elicited else {}),
            **({"judged": rows.judged} if rows.judged else {}),
            **({"adapters": rows.adapters} if rows.adapters else {}),
        },
    )
    chosen_on = assess(acts["select"], vector, seed=seed)
    sweep_key = [key, rows.fit, sweep_items.digest]
    sweep = run_sweep(subject, vector, sweep_items, layers, dose, chosen_on.best, _named(stages, trait), sweep_key)
    recommended = choose(vector, chosen_on, sweep, dose)
    kept = {k: v for k, v in recommended.as_json().items() if k != "sweep"}
    kept["evidence"] = _evidence(recommended, chosen_on)
    vector = replace(vector, meta={**vector.meta, "recommended": kept})
    quality = assess(acts["test"], vector, seed=seed)
    layer = recommended.balanced
    texts = {name: acts[name].kept([r.text for r in part]) for name, part in parts.items()}
    controls: dict[str, Any] = {
        "layer": layer,
        "shuffled_auc": shuffled_auc(acts["fit"], acts["test"], layer, seed=seed),
        "random_auc": random_auc(acts["test"], layer, seed=seed),
        **confounds(texts["fit"], acts["fit"], texts["test"], acts["test"], seed),
        "transfer": _transfer(acts, vector, texts, layer, seed) if rows.transfer else None,
        "other_traits": other_auc(acts["test"], vector, others or {}, layer, seed),
    }
    aucs = [q.auc for q in chosen_on.layers]
    draws = layer_draws(quality.scores, acts["test"].high, acts["test"].group_index, seed)
    return Extraction(
        vector,
        quality,
        recommended,
        controls,
        acts,
        layer_bands([q.auc for q in quality.layers], sweep, draws, quality.n_groups),
        read_against_steer(aucs, sweep, seed),
        rows.elicited,
        rows.judged,
    )


def _evidence(recommended: Recommendation, chosen_on: Quality) -> dict[str, Any]:
    """What the balanced layer was chosen by, on the items that choose: its AUC, and what steering there did."""
    row = chosen_on.layers[recommended.balanced]
    point = next((p for p in recommended.sweep if p["layer"] == row.layer), {})
    measured = {k: point.get(k) for k in ("dose", "effect", "effect_ci", "cost", "n")}
    return {"auc": row.auc, "auc_ci": list(row.auc_ci), "p_family": row.p_family, **measured}


def _transfer(
    acts: dict[str, Activations], vector: PersonaVector, texts: dict[str, list[str]], layer: int, seed: int
) -> dict[str, Any]:
    """The vector on another author's items, with the same words-only classifier beside it."""
    other = acts["transfer"]
    found = assess(other, vector, seed=seed)
    row = found.layers[layer]
    scores = lexical_scores(texts["fit"], acts["fit"].high, texts["transfer"])
    words, words_ci = auc_with_interval(scores, other.high, other.groups, seed)
    return {
        "auc": row.auc,
        "auc_ci": row.auc_ci,
        "p_family": row.p_family,
        "lexical_auc": words,
        "lexical_auc_ci": words_ci,
        "n_groups": found.n_groups,
        "by_layer": [q.auc for q in found.layers],
    }


def _named(stages: Stages, trait: str) -> Stages:
    """The same store under names that begin with the trait."""
    inner = stages

    class Named(Stages):
        def value(self, name: str, key: Any, make: Callable[[], Any]) -> Any:
            return inner.value(f"{trait} {name}", key, make)

    return Named(inner.folder, inner.reporter)
