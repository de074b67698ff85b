"""Vectors and adapters made from our items alone, measured on third-party TRAIT items, which decide nothing.

Usage: python benchmarks/transfer.py TRAIT.json [--run runs/quick] [--trait openness] [--limit N] [--json OUT]
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

import numpy as np

import llm_persona as lp
from llm_persona.analysis.auc_intervals import auc_with_interval
from llm_persona.analysis.controls import lexical_scores
from llm_persona.analysis.paired import paired_shift
from llm_persona.analysis.vectors import cosines, random_like
from llm_persona.domain.store import write_json
from llm_persona.studies.report import read_results
from llm_persona.subject.reuse import reusing_below

DOSE = 0.2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("items")
    parser.add_argument("--run", default="runs/quick")
    parser.add_argument("--trait", default="openness")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--randoms", type=int, default=10)
    parser.add_argument("--json")
    given = parser.parse_args()
    run = Path(given.run)
    results = read_results(run)
    subject = lp.load_subject(results["model"])
    items = lp.load_items(path=given.items)[: given.limit]
    vector = lp.PersonaVector.load(run / "vectors" / f"{given.trait}.safetensors")
    layer = results["recommendations"][given.trait]["balanced"]

    own = lp.load_items(given.trait).split("fit")
    acts = lp.record(subject, lp.labelled(items))
    every = lp.assess(acts, vector).layers
    quality = every[layer]
    # what a difference of means can reach here at best: fitted on these very items, cross-fitted by question
    ceiling = lp.assess(acts, permutations=1).layers
    texts = [r.text for r in lp.labelled(items)]
    scores = lexical_scores(
        [r.text for r in lp.labelled(own)], np.array([r.pole == "high" for r in lp.labelled(own)]), texts
    )
    words, words_ci = auc_with_interval(scores, acts.high, acts.groups)
    cosine = cosines(vector, lp.fit(acts))[layer]
    print(
        f"{len(items)} items, layer {layer}: AUC {quality.auc:.3f} {quality.auc_ci}, p {quality.p_family:.3g}, ", end=""
    )
    print(f"bag of words fitted on ours {words:.3f} {words_ci}, cosine with their own vector {cosine:.2f}")
    print(
        f"within questions {quality.auc_within:.3f}; fitted on these items themselves, cross-fitted: "
        f"{ceiling[layer].auc:.3f}, within {ceiling[layer].auc_within:.3f}"
    )

    read = results["traits"][given.trait]["vector"]["recommended"]["quality"]
    print(f"the layer recommended for reading, {read}: AUC {every[read].auc:.3f} {every[read].auc_ci}")
    base = lp.evaluate(subject, items)
    for q, c in zip(every, ceiling, strict=True):
        print(f"layer {q.layer}: AUC {q.auc:.3f} (within questions {q.auc_within:.3f}), ceiling {c.auc:.3f}")
    print(f"base {base.summary['score']:.1f}")
    found = {"n": len(items), "layer": layer, "auc": quality.auc, "auc_ci": quality.auc_ci,
             "p_value": quality.p_value, "p_family": quality.p_family,
             "lexical_auc": words, "lexical_auc_ci": words_ci, "auc_within": quality.auc_within,
             "ceiling": ceiling[layer].auc, "ceiling_within": ceiling[layer].auc_within,
             "reading": asdict(every[read]), "reading_ceiling": ceiling[read].auc,
             "base": base.summary, "steered": {}, "random": [], "tuned": {}}  # fmt: skip

    rows = {0.0: base.rows}

    def shift(measurement: lp.Measurement) -> dict:
        return {"score": measurement.summary["score"], **paired_shift(measurement.rows, base.rows)}

    with reusing_below(subject, layer):
        usable = [d for d in results["recommendations"][given.trait]["usable_range"] if d]
        found["usable_range"] = usable
        for dose in dict.fromkeys((DOSE, -DOSE, *usable)):
            with lp.steering(subject, vector, layer=layer, dose=dose):
                measured = lp.evaluate(subject, items)
            rows[dose], found["steered"][str(dose)] = measured.rows, shift(measured)
            print(f"dose {dose:+g}: {found['steered'][str(dose)]}", flush=True)
        for seed in range(given.randoms):
            with lp.steering(subject, random_like(vector, seed), layer=layer, dose=DOSE):
                found["random"].append(shift(lp.evaluate(subject, items))["score_shift"])
    low, high = results["recommendations"][given.trait]["usable_range"]
    found["ends"] = {"doses": [low, high], **paired_shift(rows[high], rows[low])}
    print(f"usable ends: {found['ends']}", flush=True)
    found["random_movement"] = float(np.mean(np.abs(found["random"]))) if found["random"] else None
    print(f"random directions: mean absolute movement {found['random_movement']} of {found['random']}", flush=True)
    for pole in ("high", "low"):
        with subject.under(lp.tuned(str(run / "adapters" / f"{given.trait}-{pole}"))):
            found["tuned"][pole] = shift(lp.evaluate(subject, items))
        print(f"tuned {pole}: {found['tuned'][pole]}", flush=True)
    if given.json:
        write_json(Path(given.json), found)


if __name__ == "__main__":
    main()
