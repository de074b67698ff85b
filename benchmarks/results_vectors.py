"""Vectors and steering on every trait, and what the figures say of the original claims: writes docs/results/vectors.md.

Usage: python benchmarks/results_vectors.py [--run runs/full] [--transfer runs/full/transfer.json]
`--transfer` is what benchmarks/transfer.py measured on third-party items, where it was run.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from pages import number, span, table, with_interval

from llm_persona.analysis.agreement import matrix_agreement
from llm_persona.domain.store import read_json, write_text
from llm_persona.studies.report import read_results

PAGE = Path(__file__).resolve().parents[1] / "docs" / "results" / "vectors.md"


def at_layer(trait: dict[str, Any]) -> dict[str, Any]:
    return trait["vector"]["layers"][trait["vector"]["recommended"]["balanced"]]


def quality(traits: dict[str, Any]) -> list[list[str]]:
    rows = []
    for name, t in traits.items():
        q, c = at_layer(t), t["vector"]["controls"]
        other = c["transfer"]
        rows.append([
            name, str(q["layer"]), f"{q['auc']:.3f} {span(q['auc_ci'])}", f"{q['p_family']:.3f}",
            f"{q['separation']:.1f} {span(q['separation_ci'], 1)}", q["band"],
            number(c["shuffled_auc"]), span(c["random_auc"]), number(c["lexical_auc"]), number(c["length_auc"]),
            f"{other['auc']:.3f} {span(other['auc_ci'])} ({other['n_groups']})" if other else "none",
            number(other["lexical_auc"]) if other else "none",
        ])  # fmt: skip
    return rows


def bands(traits: dict[str, Any]) -> list[list[str]]:
    rows = []
    for name, t in traits.items():
        found = t["vector"]["bands"]
        cells = [
            f"{number(b['auc'])} / " + ("not swept" if b["effect"] is None else f"{100 * b['effect']:.1f}")
            for b in found.values()
        ]
        both = t["vector"]["read_against_steer"]
        rows.append([name, *cells, with_interval(both["spearman"], both["spearman_ci"]), str(both["n"])])
    return rows


def steering(traits: dict[str, Any]) -> list[list[str]]:
    rows = []
    for name, t in traits.items():
        d, c = t["dose_response"], t["controls"]
        ends = {p["dose"]: p for p in t["steering"]}
        low, high = d["usable_range"]
        written = [ends[e]["written"]["shift_in_pole_gaps"] for e in (low, high) if e in ends]
        reached = [number(ends[e]["score"], 0) if e in ends else number(t["baseline"]["score"], 0) for e in (low, high)]
        rows.append([
            name, f"{t['baseline']['score']:.0f}", f"{low:+g} to {high:+g}", " to ".join(reached),
            with_interval(d["slope"], d["slope_ci"], 1, 0.1), with_interval(d["departure"], d["departure_ci"]),
            number(d["monotone"]), number(d["wrong_way"]), number(100 * (c["random_preference_movement"] or 0), 1),
            " and ".join(number(w) for w in written),
        ])  # fmt: skip
    return rows


def compared(traits: dict[str, Any]) -> list[list[str]]:
    rows = []
    for name, t in traits.items():
        for pole, found in t["comparison"].items():
            for r in found:
                equal = r["steering_at_equal_cost"]
                rows.append([
                    name, pole, r["condition"], with_interval(r["effect"], r["effect_ci"], 1), number(r["cost"]),
                    number(r["composite"]),
                    f"{equal['effect']:.1f} at dose {equal['dose']:+.2f}" if equal else "",
                ])  # fmt: skip
    return rows


def specificity(results: dict[str, Any]) -> list[str]:
    s = results["specificity"]
    key = f"{s['dose']:+g}"
    rows = []
    for steered, cells in s["matrix"].items():
        row = [steered]
        for measured in s["traits"]:
            x = cells.get(measured, {}).get(key)
            row.append(with_interval(x["preference"], x["preference_ci"], 1) if x else "")
        rows.append([*row, number(s["ratio"][steered])])
    return table(["steered", *s["traits"], "others / own"], rows)


def arithmetic(results: dict[str, Any]) -> list[str]:
    a = results["arithmetic"]
    pairs = []
    for p in a["pairs"]:
        for measured, m in p["measured"].items():
            pairs.append([
                " + ".join(p["traits"]), measured, number(m["a"], 1), number(m["b"], 1), number(m["both"], 1),
                with_interval(m["excess"], m["excess_ci"], 1), str(m["n"]),
            ])  # fmt: skip
    shared = [
        [name, number(x["cosine_with_shared"]), number(x["whole"]["own"], 1), number(x["whole"]["others"], 1),
         number(x["without"]["own"], 1), number(x["without"]["others"], 1)]
        for name, x in a["shared"].items()
    ]  # fmt: skip
    return [
        f"Layer {a['layer']}, each vector at dose {a['dose'] / 2:g}; excess = effect of both less the sum of the",
        "effects, points of preference, paired by item.",
        "",
        *table(["vectors", "measured", "first", "second", "both", "excess [95%]", "n"], pairs),
        f"Without the first principal direction of all the vectors, same norm, dose {a['dose']:g}:",
        "",
        *table(["steered", "cosine with it", "own, whole", "others, whole", "own, without", "others, without"], shared),
    ]


def agreement(traits: dict[str, Any], part: str) -> dict[str, Any]:
    """Activation shift against behavioural shift over tuned adapters x their own trait."""
    tuned = [[t["tuned"][p] for p in ("high", "low")] for t in traits.values()]
    gaps = [t["tuned"]["high"]["projection"]["pole_gap"] for t in traits.values()]
    a = np.array([[x["projection"][part]["mean"] / gap for x in row] for row, gap in zip(tuned, gaps, strict=True)])
    b = np.array([[x["shift"]["preference_shift"] for x in row] for row in tuned], dtype=float)
    return matrix_agreement(a, b)


def claims(results: dict[str, Any], transfer: dict[str, Any] | None) -> list[list[str]]:
    """Each original claim with its rule, verdict and figure."""
    traits = results["traits"]
    n = len(traits)
    excellent = [k for k, t in traits.items() if at_layer(t)["band"] == "excellent"]
    others = {k: t["vector"]["controls"]["transfer"] for k, t in traits.items() if t["vector"]["controls"]["transfer"]}
    carried = [k for k, o in others.items() if o["auc_ci"][0] > 0.8]
    beyond = [k for k, o in others.items() if o["lexical_auc"] is not None and o["auc_ci"][0] > o["lexical_auc"]]
    best = {k: t["vector"]["recommended"]["quality"] for k, t in traits.items()}
    effect = {k: t["vector"]["recommended"]["effect"] for k, t in traits.items()}
    rank = [t["vector"]["read_against_steer"]["spearman"] for t in traits.values()]
    rank = [r for r in rank if r is not None]
    slopes = [k for k, t in traits.items() if t["dose_response"]["slope_ci"][0] > 0]
    ratio = {
        k: 100 * 100 * t["controls"]["random_preference_movement"] / max(1e-9, abs(t["dose_response"]["slope"] * 0.2))
        for k, t in traits.items()
        if t["controls"]["random_preference_movement"] is not None
    }
    straight = [
        k for k, t in traits.items()
        if t["dose_response"]["departure_ci"][1] is not None and t["dose_response"]["departure_ci"][1] < 0.1
    ]  # fmt: skip
    departures = [t["dose_response"]["departure"] for t in traits.values()]
    excess = [m for p in results["arithmetic"]["pairs"] for m in p["measured"].values()]
    additive = [m for m in excess if m["excess_ci"][0] is not None and m["excess_ci"][0] <= 0 <= m["excess_ci"][1]]
    spread = results["specificity"]["ratio"]
    specific = [k for k, r in spread.items() if r is not None and r < 0.5]
    both = agreement(traits, "both")
    author = agreement(traits, "author")
    sizes = [abs(m["excess"]) for m in excess]
    whole = results["arithmetic"]["shared"]
    cleaner = [
        k for k, x in whole.items()
        if x["without"]["ratio"] is not None and x["whole"]["ratio"] is not None
        and x["without"]["ratio"] < x["whole"]["ratio"]
    ]  # fmt: skip

    def said(count: int, of: int) -> str:
        return "confirmed" if count == of else "refuted" if count == 0 else f"holds for {count} of {of}"

    rows = [
        ["Linear separability: a trait is read off one direction (AUC interval above .8, own held-out items)",
         said(len(excellent), n), f"AUC {min(at_layer(t)['auc'] for t in traits.values()):.3f} to "
         f"{max(at_layer(t)['auc'] for t in traits.values()):.3f}"],
        ["... and on another author's items (interval above .8)", said(len(carried), len(others)),
         ", ".join(f"{k} {o['auc']:.2f} {span(o['auc_ci'])}" for k, o in others.items())],
        ["... beyond words (its interval above the bag of words' AUC on another author's items)",
         said(len(beyond), len(others)), ", ".join(beyond) or "none"],
        ["Layer profile: best read in the middle, layers differ", "see the bands",
         "best-read layers " + ", ".join(f"{k} {v}" for k, v in best.items())],
        ["A layer that is read well steers well (interval of the rank correlation over swept layers above 0)",
         said(sum(t["vector"]["read_against_steer"]["spearman_ci"][0] > 0 for t in traits.values()
                  if t["vector"]["read_against_steer"]["spearman"] is not None), len(rank)),
         f"rank correlation over layers, mean of {len(rank)} traits {np.mean(rank):+.2f} (range {min(rank):+.2f} to "
         f"{max(rank):+.2f}); layers of largest effect: " + ", ".join(f"{k} {v}" for k, v in effect.items())],
        ["Controllability: preference follows the dose (slope's interval above 0)", said(len(slopes), n),
         "random directions move it " + ", ".join(f"{k} {v:.0f}%" for k, v in ratio.items())
         + " of what the vector does at dose .2"],
        ["Linearity in the strength (departure's interval below .1)", said(len(straight), n),
         f"departure {min(departures):.3f} to {max(departures):.3f}"],
        ["Geometry: the effect of two vectors is the sum of the effects (interval of the excess holds 0)",
         said(len(additive), len(excess)), f"absolute excess {min(sizes):.1f} to {max(sizes):.1f} points"],
        ["Geometry: removing what all vectors share makes them more specific", said(len(cleaner), len(whole)),
         ", ".join(cleaner) or "none"],
        ["Specificity: others move less than half as far as the steered trait", said(len(specific), len(spread)),
         ", ".join(f"{k} {number(r)}" for k, r in spread.items())],
        ["Auditability: activations tell what tuning did to behaviour (interval of the rank correlation above 0)",
         "open" if both["spearman_ci"][0] is None else "confirmed" if both["spearman_ci"][0] > 0 else "open",
         f"{both['n']} adapters, own traits: {with_interval(both['spearman'], both['spearman_ci'])}; base reading "
         f"the tuned answers alone {with_interval(author['spearman'], author['spearman_ci'])}; one seed each"],
    ]  # fmt: skip
    if transfer:
        rows.insert(3, ["Third-party openness items, vector of our items alone (AUC at least .95 was aimed at)",
                        "reached" if transfer["auc"] >= 0.95 else "not reached",
                        f"layer {transfer['layer']}: {transfer['auc']:.3f} {span(transfer['auc_ci'])}, bag of words "
                        f"{transfer['lexical_auc']:.3f}, n {transfer['n']}"])  # fmt: skip
    return rows


def third_party(transfer: dict[str, Any]) -> list[str]:
    rows = [["base", f"{transfer['base']['score']:.1f}", "", ""]]
    rows += [
        [f"steered {float(dose):+g}", f"{s['score']:.1f}", with_interval(s["score_shift"], s["score_shift_ci"], 1),
         with_interval(s["preference_shift"], s["preference_shift_ci"], 1, 100)]
        for dose, s in sorted(transfer["steered"].items(), key=lambda kv: float(kv[0]))
    ]  # fmt: skip
    rows += [
        [f"tuned {p}", f"{s['score']:.1f}", with_interval(s["score_shift"], s["score_shift_ci"], 1),
         with_interval(s["preference_shift"], s["preference_shift_ci"], 1, 100)]
        for p, s in transfer["tuned"].items()
    ]  # fmt: skip
    return [
        "## Third-party openness items (nothing was fitted or trained on them)",
        "",
        f"{transfer['n']} items, vector and adapters from our items alone, layer {transfer['layer']}: AUC "
        f"{transfer['auc']:.3f} {span(transfer['auc_ci'], 3)}, bag of words {transfer['lexical_auc']:.3f}. "
        f"{len(transfer['random'])} random directions at dose .2 move the score by {transfer['random_movement']:.2f} "
        "points (mean absolute). `make transfer ITEMS=TRAIT.json`.",
        f"Within questions the AUC is {number(transfer['auc_within'], 3)}. A vector fitted on these items themselves "
        f"(cross-fitted by question) reaches {number(transfer['ceiling'], 3)}, within questions "
        f"{number(transfer['ceiling_within'], 3)}: no difference of means can do much better at this layer.",
        "The layer rule was last changed when figures of two layers on these items were known (docs/notes.md).",
        "",
        *table(["condition", "score, %", "shift of score [95%]", "shift of preference, points [95%]"], rows),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", default="runs/full")
    parser.add_argument("--transfer")
    given = parser.parse_args()
    results = read_results(given.run)
    traits = results["traits"]
    transfer = read_json(Path(given.transfer)) if given.transfer else None
    text = [
        f"# Vectors and steering on {results['model']}",
        "",
        "Made by `make results` from `llm-persona run docs/results/study.yaml --out runs/full`. Vectors: fit split of",
        "our items; layers chosen on the select split and another author's; every figure here on held-out items.",
        "One seed: what tuning shows here is indicative.",
        "",
        "## The original claims",
        "",
        *table(["claim (rule)", "on this model", "figure"], claims(results, transfer)),
        *(third_party(transfer) if transfer else []),
        "## How well each trait is read, at its recommended layer",
        "",
        *table(["trait", "layer", "AUC [95%]", "p, family", "separation [95%]", "band", "shuffled", "random, 95%",
                "bag of words", "length", "another author [95%] (items)", "its bag of words"], quality(traits)),
        "## Layers: read against steered",
        "",
        "By third of the depth, mean AUC / mean effect (points of preference between dose +.2 and -.2), and the rank",
        "correlation of AUC and effect over the swept layers.",
        "",
        *table(["trait", "early", "middle", "late", "rank correlation [95%]", "layers"], bands(traits)),
        "## Dose and response",
        "",
        "Slope in points of preference per .1 dose; departure: share of the response that a line misses; wrong way:",
        "share of items that move against the dose; random: mean absolute movement of five random directions at .2,",
        "points of preference; written: shift of the answers' projection at the usable ends, pole gaps.",
        "",
        *table(["trait", "base score", "usable doses", "score there", "slope [95%]", "departure [95%]", "monotone",
                "wrong way", "random", "written"], steering(traits)),
        "## Steering, instruction, tuning: effect and cost",
        "",
        "Effect: points of preference toward the pole; cost: neutral perplexity over base; composite: harmonic mean of",
        "both, 0 where text collapses; last column: what steering alone does at that cost.",
        "",
        *table(["trait", "pole", "condition", "effect [95%]", "cost", "composite", "steering at equal cost"],
               compared(traits)),
        "## Who moves whom",
        "",
        f"Shift of preference, points [95%], dose {results['specificity']['dose']:+g} at the steered trait's layer.",
        "",
        *specificity(results),
        "## Vector arithmetic",
        "",
        *arithmetic(results),
        "## Cosines",
        "",
        f"Layer {results['geometry']['layer']}; random directions stay within {results['geometry']['null_95']:.3f}.",
        "",
        *table(["", *results["geometry"]["traits"]],
               [[a, *(number(c) for c in row)] for a, row in
                zip(results["geometry"]["traits"], results["geometry"]["cosines"], strict=True)]),
    ]  # fmt: skip
    write_text(PAGE, "\n".join(text))
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
