"""One trait through the whole job: the phases of a study, each a list of conditions and instruments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from llm_persona.analysis.controls import other_auc
from llm_persona.analysis.dose import dose_response, usable_range
from llm_persona.analysis.paired import differences, means_by_group, paired_means, paired_shift, perplexity_ratio
from llm_persona.analysis.quality import assess
from llm_persona.analysis.stats import mean_estimate
from llm_persona.analysis.vectors import PersonaVector, cosines, fit, projections, random_like
from llm_persona.domain.condition import BASE, Condition, Steer, instructed, steered, tuned
from llm_persona.domain.config import StudyConfig
from llm_persona.domain.items import Items
from llm_persona.domain.measurement import Measurement
from llm_persona.domain.responses import Response
from llm_persona.domain.traits import POLES, Trait, load_trait
from llm_persona.instruments.judging.protocol import Judge, Verdict
from llm_persona.instruments.perplexity import Perplexity, neutral_texts, pooled_perplexity
from llm_persona.instruments.projection import Projection
from llm_persona.instruments.samples import Samples
from llm_persona.instruments.token_projection import TokenProjection
from llm_persona.instruments.trait_benchmark import TraitBenchmark
from llm_persona.studies.extraction import Extraction, extract
from llm_persona.studies.judged import judge_answers, judged_rows
from llm_persona.studies.lab import Instrument, Lab
from llm_persona.studies.shortfall import shortfall
from llm_persona.studies.sources import item_sets, labelled_rows
from llm_persona.studies.stored_answers import StoredAnswer, stored
from llm_persona.subject.packing import Row
from llm_persona.subject.reuse import KeptBlocks
from llm_persona.training.data import from_items
from llm_persona.training.finetune import finetune, holds_training, training_key
from llm_persona.training.recipe import PERSONA, Recipe

SAMPLES_SHOWN = 3
ROW = ("id", "high", "preference", "unscored")
"""What results keep of each item, so that runs can be compared item by item later."""


@dataclass
class TraitStudy:
    """The state of one trait's study; each phase adds to `results`."""

    lab: Lab
    config: StudyConfig
    trait: Trait
    results: dict[str, Any] = field(default_factory=dict)

    moved_by: dict[str, dict[float, list[float]]] = field(default_factory=dict)
    """How each other trait's vector moved this trait's preference: by name and dose, a number an item."""

    verdicts: list[dict[str, Verdict]] = field(default_factory=list)
    """Of each of `answers()`, by what was graded; none without a judge."""

    def __post_init__(self) -> None:
        bank = Items(self.trait.bank, f"bank:{self.trait.name}")
        limits = (self.config.fit_items, self.config.select_items, self.config.test_items)
        self.sets = item_sets(bank, self.trait, limits, self.config.second_items, self.config.transfer_items)
        self.test, self.fit_items = self.sets.test, self.sets.fit
        self.questions = self.trait.questions_of("test")[: self.config.questions]
        self.measured: dict[str, dict[str, Measurement]] = {}
        self.results["tuned"] = {}
        names = ("fit", "select", "test", "second", "transfer")
        self.results["items"] = {"source": bank.source, **{name: len(getattr(self.sets, name)) for name in names}}

    @property
    def name(self) -> str:
        """The trait's name."""
        return self.trait.name

    def instruments(self, kind: str) -> dict[str, Instrument]:
        """What is measured under a kind of condition."""
        found: dict[str, Instrument] = {"likelihood": TraitBenchmark(self.test)}
        if kind in self.config.choice_conditions:
            found |= {
                mode: TraitBenchmark(self.test[: self.config.letter_items], mode) for mode in self.config.letter_modes
            }
        found["neutral"] = Perplexity(neutral_texts()[: self.config.neutral_passages])
        if kind != "steered":  # those are generated together
            found["samples"] = self.samples
        return found

    @property
    def samples(self) -> Samples:
        """The open questions that every condition answers."""
        config = self.config
        return Samples(self.questions, config.max_new_tokens, config.samples, config.temperature, config.seed)

    def measure(self, kind: str, condition: Condition) -> dict[str, Measurement]:
        """Apply the instruments of `kind` under `condition` and keep the measurements."""
        found = self.lab.measure_all(f"{self.name} {condition.name}", condition, self.instruments(kind))
        self.measured[condition.name] = found
        return found

    # The phases, in the order of the study.

    def baseline(self) -> None:
        """The subject as it is."""
        self.results["baseline"] = self._summary(self.measure("base", BASE))

    def instructed(self) -> None:
        """Under the trait's two system prompts."""
        self.results["instructed"] = {
            pole: {**self._summary(self.measure("instructed", c)), "system": c.system, **self._shift(c.name)}
            for pole, c in zip(POLES, instructed(self.trait), strict=True)
        }

    def vector(self, folder: Path) -> None:
        """Record the contrast, fit, choose a layer, judge; write the vector file."""
        self.extraction: Extraction = extract(
            self.lab.subject,
            self.lab.identity,
            self.name,
            labelled_rows(self.sets),
            self.sets.choosing,
            layers=self.config.sweep_layers,
            dose=self.config.sweep_dose,
            stages=self.lab.stages,
            seed=self.config.seed,
        )
        self.persona: PersonaVector = self.extraction.vector
        self.layer = self.extraction.recommended.balanced
        self.persona.save(folder / f"{self.name}.safetensors")
        # Answers are read by a vector from other items than the one that steers: the select split's.
        self.reader = fit(self.extraction.acts["select"])
        test = self.extraction.acts["test"]
        self.gap = assess(test, self.reader, permutations=1).layers[self.layer].separation
        along = projections(test.values, self.reader)[:, self.layer]
        self.midpoint = float(np.mean([np.mean(along[[pole == p for p in test.poles]]) for pole in POLES]))
        agreement = float(cosines(self.persona, self.reader)[self.layer])
        self.results["vector"] = {
            **self.extraction.as_json(),
            "projections": self.extraction.projections(),
            "file": f"vectors/{self.name}.safetensors",
            "digest": self.persona.digest,
            "reader": {
                "items": "select", "cosine": agreement, "separation": self.gap, "midpoint": self.midpoint,
                "layer": self.layer,
            },
        }  # fmt: skip

    def read_by(self, others: dict[str, PersonaVector]) -> None:
        """How well the other traits' vectors tell this trait's test rows apart, at this trait's layer."""
        found = other_auc(self.extraction.acts["test"], self.persona, others, self.layer, self.config.seed)
        self.results["vector"]["controls"]["other_traits"] = found

    def steering(self, others: dict[str, Steer]) -> None:
        """Every dose at the recommended layer, and the controls beside it. `others`: each trait's vector and layer."""
        conditions = steered(self.persona, self.layer, tuple(self.config.doses), self.name)
        kept = KeptBlocks({self.layer, *(steer.layer for steer in others.values())})
        found = self.lab.sweep(self.name, kept, self.layer, conditions, self.instruments("steered"))
        written = self.lab.sweep_samples(self.name, conditions, self.samples)
        for condition, measured, samples in zip(conditions, found, written, strict=True):
            self.measured[condition.name] = {**measured, "samples": samples}
        self.results["steering"] = [self._steered(c) for c in conditions]
        self._controls(others, kept)

    def combined(self) -> None:
        """Instruction and vector together, at the dose of the sweep."""
        dose = self.config.sweep_dose
        self.results["combined"] = {}
        for pole, sign in zip(POLES, (1, -1), strict=True):
            steer = Steer(self.persona, self.layer, dose=sign * dose, name=self.name)
            condition = Condition(f"combined-{pole}", self.trait.instruction(pole), steers=(steer,))
            summary = self._summary(self.measure("combined", condition))
            self.results["combined"][pole] = {"dose": sign * dose, **summary, **self._shift(condition.name)}

    def _steered(self, condition: Condition) -> dict[str, Any]:
        dose = condition.steers[0].dose or 0.0
        return {
            "layer": self.layer,
            "coefficient": self.persona.coefficient_for(dose, self.layer),
            "dose": dose,
            **self._summary(self.measured[condition.name]),
            **self._shift(condition.name),
        }

    def _controls(self, others: dict[str, Steer], kept: KeptBlocks) -> None:
        """Random directions at the same layer and dose, and the other traits' vectors at their own layers."""
        dose, count = self.config.sweep_dose, self.config.random_directions
        random = [self._control(f"random-{n}", random_like(self.persona, n), self.layer, dose) for n in range(count)]
        moved = self._shifts(kept, self.layer, random)
        wrong = {}
        for name, steer in others.items():
            if name != self.name:
                pair = [self._control(name, steer.vector, steer.layer, d) for d in (-dose, dose)]
                measured = self._measured_at(kept, steer.layer, pair)
                base = self.measured["base"]["likelihood"].rows
                wrong[name] = [
                    {"dose": d, "layer": steer.layer, **paired_shift(rows, base)}
                    for d, rows in zip((-dose, dose), measured, strict=True)
                ]
                self.moved_by[name] = {
                    d: differences(rows, base) for d, rows in zip((-dose, dose), measured, strict=True)
                }
        scored = [s for s in moved if s["n"]]

        def movement(key: str) -> float | None:
            return float(np.mean([abs(s[key]) for s in scored])) if scored else None

        self.results["controls"] = {
            "layer": self.layer,
            "dose": dose,
            "n_random": len(scored),
            "random_score_movement": movement("score_shift"),
            "random_preference_movement": movement("preference_shift"),
            "random": scored,
            "other_traits": wrong,
        }

    @staticmethod
    def _control(name: str, vector: PersonaVector, layer: int, dose: float) -> Condition:
        return Condition(f"control {name} {dose:+g}", steers=(Steer(vector, layer, dose=dose, name=name),))

    def _shifts(self, kept: KeptBlocks, layer: int, conditions: list[Condition]) -> list[dict[str, Any]]:
        """Shift of this trait's preference under each condition that steers at `layer`."""
        base = self.measured["base"]["likelihood"].rows
        return [paired_shift(rows, base) for rows in self._measured_at(kept, layer, conditions)]

    def _measured_at(self, kept: KeptBlocks, layer: int, conditions: list[Condition]) -> list[list[dict[str, Any]]]:
        """The test items' rows under each condition that steers at `layer`."""
        benchmark: dict[str, Instrument] = {"likelihood": TraitBenchmark(self.test)}
        return [m["likelihood"].rows for m in self.lab.sweep(self.name, kept, layer, conditions, benchmark)]

    def written(self) -> None:
        """What was written: the base reads every condition's answers, by the reader vector and for perplexity."""
        names = [name for name, measured in self.measured.items() if "samples" in measured]
        rows = {name: self._answers(name) for name in names}
        together = [row for name in names for row in rows[name]]
        projection = self.lab.read(f"{self.name} read answers", Projection(together, self.reader, self.layer))
        surprise = self.lab.read(
            f"{self.name} perplexity of answers", Perplexity([Row(r.prompt, r.text) for r in together])
        )
        self.readings: dict[str, dict[str, float]] = {}  # by question
        self.read_back: dict[str, Measurement] = {}
        self.projected: dict[str, list[float | None]] = {}  # by answer that is not empty
        perplexities = {}
        start = 0
        for name in names:
            part = slice(start, start + len(rows[name]))
            self.projected[name] = [r["projection"] for r in projection.rows[part]]
            self.readings[name] = _means(rows[name], self.projected[name])
            self.read_back[name] = Measurement(projection.instrument, name, projection.rows[part])
            perplexities[name] = pooled_perplexity(surprise.rows[part])
            start = part.stop
        before = self.readings["base"]
        for place, name in self._places():
            after = self.readings[name]
            both = [g for g in before if g in after]
            shift = paired_means([after[g] for g in both], [before[g] for g in both])
            gaps = [x / self.gap if x is not None else None for x in (shift["mean"], *shift["ci"])]
            place["response_perplexity"] = perplexities[name]
            place["written"] = {
                "projection_shift": shift["mean"],
                "projection_shift_ci": shift["ci"],
                "shift_in_pole_gaps": gaps[0],
                "shift_in_pole_gaps_ci": gaps[1:],
                "p_value": shift["p_value"],
                "n": shift["n"],
                "n_empty": len(before) - len(both),
            }

    def tokens(self) -> None:
        """The answers that results show, token by token, as the base reads them with the reader vector.

        In pole gaps: 0 lies midway between the poles' means over the labelled test responses, +-.5 at these means.
        """
        if not self.gap:
            return
        samples = [s for place, _ in self._places() for s in place["samples"] if s["text"].strip()]
        rows = [Response(s["question"], s["text"], "neutral", s["question"]) for s in samples]
        if not rows:
            return
        found = self.lab.read(f"{self.name} read tokens", TokenProjection(rows, self.reader, self.layer)).rows
        for sample, row in zip(samples, found, strict=True):
            if row["tokens"]:
                sample["tokens"] = [
                    [text, round((along - self.midpoint) / self.gap, 3)] for text, along in row["tokens"]
                ]

    def _places(self) -> list[tuple[dict[str, Any], str]]:
        """Where in the results each condition's row is."""
        places = [(self.results["baseline"], "base")]
        places += [(self.results["instructed"][p], f"instructed-{p}") for p in POLES]
        places += [(row, f"combined-{p}") for p, row in self.results.get("combined", {}).items()]
        places += [(point, f"steered {point['dose']:+g}") for point in self.results["steering"]]
        places += [(row, f"tuned-{p}") for p, row in self.results["tuned"].items()]
        return places

    def dose_response(self) -> None:
        """Fit the response to the dose over the items scored under every dose."""
        points = [("base", 0.0)] + [(f"steered {d:+g}", d) for d in self.config.doses]
        tables = [{r["id"]: r.get("preference") for r in self.measured[n]["likelihood"].rows} for n, _ in points]
        ids = [i for i in tables[0] if all(t[i] is not None for t in tables)]
        preferences = np.array([[t[i] for i in ids] for t in tables])
        costs = [
            {"dose": p["dose"], "neutral_perplexity": p["perplexity"], "distinct_2": p["distinct_2"]}
            for p in self.results["steering"]
        ]
        base = self.results["baseline"]
        limits = {"neutral_perplexity": base["perplexity"], "distinct_2": base["distinct_2"] or 0.0}
        self.results["dose_response"] = {
            **dose_response([d for _, d in points], preferences, self.config.seed),
            "usable_range": usable_range(costs, limits),
        }

    def tuning(self, folder: Path) -> None:
        """Train an adapter to each pole on the fit items, and measure it like everything else."""
        for pole in POLES:
            out = folder / f"{self.name}-{pole}"
            data = from_items(self.fit_items[: self.config.tuning_prompts], pole)
            recipe = replace(PERSONA, epochs=self.config.epochs)
            key = training_key(self.lab.identity, data, recipe, self.config.seed)

            def train(out: Path = out, data: Any = data, recipe: Recipe = recipe, pole: str = pole) -> Any:
                note = f"Trained to the {pole} pole of {self.name}."
                done = finetune(self.lab.subject(), data, out, recipe, self.config.seed, note, overwrite=True)
                skipped = len(done.skipped)
                return {"examples": done.examples, "skipped": skipped, "steps": done.steps, "losses": done.losses}

            if not holds_training(out, key):
                self.lab.stages.forget(f"{self.name} tune {pole}", key)
            training = self.lab.stages.value(f"{self.name} tune {pole}", key, train)
            condition = tuned(str(out), f"tuned-{pole}")
            measured = self.measure("tuned", condition)
            self.results["tuned"][pole] = {
                "adapter": f"adapters/{self.name}-{pole}",
                "training": training,
                "seeds": 1,
                **self._summary(measured),
                **self._shift(condition.name),
            }

    def activation_shift(self, folder: Path) -> None:
        """Author: the base reads the tuned answers, less its own. Reader: the tuned reads the base's answers, less
        the base reading them. Both: the tuned reads its own. In projection units of the reader vector."""
        for pole, row in self.results["tuned"].items():
            name = f"tuned-{pole}"
            condition = tuned(str(folder / f"{self.name}-{pole}"), name)
            answers = {author: self._answers(author) for author in ("base", name)}
            together = [r for author in answers.values() for r in author]
            reading = self.lab.measure(
                f"{self.name} read by {name}", condition, Projection(together, self.reader, self.layer)
            )
            found = [r["projection"] for r in reading.rows]
            split = len(answers["base"])
            by_base = _means(together[:split], found[:split])
            by_tuned = _means(together[split:], found[split:])
            start, author = self.readings["base"], self.readings[name]
            both = [g for g in start if g in author and g in by_base and g in by_tuned]

            def shift(values: dict[str, float], both: list[str] = both, start: dict[str, float] = start) -> Any:
                return paired_means([values[g] for g in both], [start[g] for g in both])

            row["projection"] = {
                "layer": self.layer,
                "pole_gap": self.gap,
                "author": shift(author),
                "reader": shift(by_base),
                "both": shift(by_tuned),
            }

    def shortfall(self) -> None:
        """What was longer than the subject's context, under every condition and in the vector's rows."""
        self.results["beyond_context"] = shortfall(
            {label_of(name): {**found, "reading": self.read_back[name]} for name, found in self.measured.items()},
            self.extraction.left_out,
        )

    def answers(self) -> list[StoredAnswer]:
        """Every answer of every condition, in the order of the study, with its projection (after `written`)."""
        found = []
        for _, name in self._places():
            projected = iter(self.projected[name])
            for row in self.measured[name]["samples"].rows:
                read = next(projected) if row["text"] else None
                found.append(stored(self.name, label_of(name), row, self.config.temperature, read))
        return found

    def judged(self, judge: Judge) -> None:
        """What a judge says of every condition's answers, each beside the base's answers to the same questions."""
        answers = self.answers()
        self.verdicts = judge_answers(self.lab.stages, judge, self.trait, answers)
        found = judged_rows(self.trait.name, answers, self.verdicts)
        for place, name in self._places():
            place["judged"] = found[label_of(name)]

    def _answers(self, name: str) -> list[Response]:
        """The non-empty answers written under a condition, to be read without any instruction."""
        rows = self.measured[name]["samples"].rows
        return [Response(r["question"], r["text"], "neutral", r["id"]) for r in rows if r["text"]]

    def _shift(self, name: str) -> dict[str, Any]:
        own, base = self.measured[name], self.measured["base"]
        shift = paired_shift(own["likelihood"].rows, base["likelihood"].rows)
        cost = perplexity_ratio(own["neutral"].rows, base["neutral"].rows)
        return {"shift": shift, "cost": cost["ratio"], "cost_ci": cost["ci"], "cost_passages": cost["n"]}

    @staticmethod
    def _summary(measured: dict[str, Measurement]) -> dict[str, Any]:
        likelihood, samples = measured["likelihood"].summary, measured["samples"]
        shown = [r for r in samples.rows if not r.get("sample")][:SAMPLES_SHOWN]  # one a question
        return {
            **{
                k: likelihood[k]
                for k in ("n", "n_unscored", "score", "score_ci", "preference", "preference_ci", "headroom")
            },
            **{what: measured[what].summary for what in ("choice", "upstream") if what in measured},
            "perplexity": measured["neutral"].summary["perplexity"],
            "distinct_2": samples.summary["distinct_2"],
            "mean_tokens": samples.summary["mean_tokens"],
            "mean_tokens_ci": _length_interval(samples.rows),
            "samples": [{"question": r["question"], "text": r["text"]} for r in shown],
            "rows": [{k: r[k] for k in ROW if k in r} for r in measured["likelihood"].rows],
        }


def _means(rows: Sequence[Response], projected: Sequence[float | None]) -> dict[str, float]:
    """Mean projection by question, of the answers that could be read."""
    read = [(row.group, value) for row, value in zip(rows, projected, strict=True) if value is not None]
    return means_by_group([group for group, _ in read], [value for _, value in read])


def _length_interval(rows: Sequence[dict[str, Any]]) -> list[float | None]:
    """Interval of the mean number of tokens an answer, over questions."""
    written = [row for row in rows if "unscored" not in row]
    lengths = means_by_group([r["id"] for r in written], [r["tokens"] for r in written])
    return mean_estimate(np.array(list(lengths.values()))).ci


def label_of(name: str) -> str:
    """A condition's name as results and stored answers say it: `tuned high`, `steered -0.2`."""
    return name if name.startswith("steered") else name.replace("-", " ")


def open_trait(lab: Lab, config: StudyConfig, name: str) -> TraitStudy:
    """The study of one installed trait or trait file."""
    return TraitStudy(lab, config, load_trait(name))
