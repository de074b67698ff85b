"""Vectors and steering on every trait, and what the figures say of the original claims: writes docs/results/vectors.md.

Usage: python benchmarks/results_vectors.py [--run runs/full] [--transfer runs/full/transfer.json]
`--transfer` is what benchmarks/transfer.py measured on third-party items, where it was run.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from claims import at_layer, claims, spans, written_at_ends
from pages import number, span, table, with_interval

from llm_persona.domain.store import read_json, write_json, write_text
from llm_persona.studies.report import read_results

PAGE = Path(__file__).resolve().parents[1] / "docs" / "results" / "vectors.md"


def quality(traits: dict[str, Any]) -> list[list[str]]:
    rows = []
    for name, t in traits.items():
        q = at_layer(t)
        rows.append([
            name, str(q["layer"]), f"{q['auc']:.3f} {span(q['auc_ci'])}", f"{q['p_family']:.3f}",
            f"{q['separation']:.1f} {span(q['separation_ci'], 1)}", q["band"],
        ])  # fmt: skip
    return rows


def controls(traits: dict[str, Any]) -> list[list[str]]:
    rows = []
    for name, t in traits.items():
        c = t["vector"]["controls"]
        other = c["transfer"]
        rows.append([
            name, number(c["shuffled_auc"]), span(c["random_auc"]), spans(c, "lexical_auc"), spans(c, "length_auc"),
            spans(c, "sentiment_auc"), f"{spans(other, 'auc')} ({other['n_groups']})" if other else "none",
            spans(other, "lexical_auc") if other else "none",
        ])  # fmt: skip
    return rows


def read_by_others(traits: dict[str, Any]) -> list[list[str]]:
    """Rows of a trait by each trait's vector: AUC with its interval."""
    rows = []
    for name, t in traits.items():
        read = t["vector"]["controls"]["other_traits"]
        cells = [spans(at_layer(t), "auc") if v == name else spans(read[v], "auc") if v in read else "" for v in traits]
        rows.append([name, *cells])
    return rows


def bands(traits: dict[str, Any]) -> list[list[str]]:
    rows = []
    for name, t in traits.items():
        cells = [
            f"{spans(b, 'auc')} / "
            + ("not swept" if b["effect"] is None else with_interval(b["effect"], b.get("effect_ci"), 1, 100))
            for b in t["vector"]["bands"].values()
        ]
        both = t["vector"]["read_against_steer"]
        rows.append([name, *cells, with_interval(both["spearman"], both["spearman_ci"]), str(both["n"])])
    return rows


def geometry(found: dict[str, Any]) -> list[str]:
    """Cosines at one layer with the clusters, loadings, and the mean absolute cosine at every layer."""
    if not found:
        return []
    names = found["traits"]
    by_layer = [f"{layer}: {number(value)}" for layer, value in enumerate(found["by_layer"])]
    return [
        f"Layer {found['layer']}; random directions stay within {found['null_95']:.3f} in 95% of cases. Clusters:",
        "traits that lie closer, on average, than random directions do.",
        "",
        *table(["", *names, "cluster"],
               [[a, *(number(c) for c in row), str(found["clusters"][a])]
                for a, row in zip(names, found["cosines"], strict=True)]),
        "Principal components of the directions (not centred: the first is what they share), loadings by trait:",
        "",
        *table(["component", *names, "share of variance"],
               [[str(n + 1), *(number(x) for x in row), number(found["components"][n])]
                for n, row in enumerate(found["loadings"][:4])]),
        f"Mean absolute cosine of different traits by layer: {', '.join(by_layer)}.",
        "",
    ]  # fmt: skip


def steering(traits: dict[str, Any]) -> list[list[str]]:
    rows = []
    for name, t in traits.items():
        d, c = t["dose_response"], t["controls"]
        ends = {p["dose"]: p for p in t["steering"]}
        low, high = d["usable_range"]
        written = [w for _, w in written_at_ends(t)]
        reached = [number(ends[e]["score"], 0) if e in ends else number(t["baseline"]["score"], 0) for e in (low, high)]
        rows.append([
            name, f"{t['baseline']['score']:.0f}", f"{low:+g} to {high:+g}", " to ".join(reached),
            with_interval(d["slope"], d["slope_ci"], 1, 0.1), with_interval(d["departure"], d["departure_ci"]),
            spans(d, "monotone"), spans(d, "wrong_way"), number(100 * (c["random_preference_movement"] or 0), 1),
            " and ".join(with_interval(w["shift_in_pole_gaps"], w["shift_in_pole_gaps_ci"]) for w in written),
        ])  # fmt: skip
    return rows


def compared(traits: dict[str, Any]) -> list[list[str]]:
    rows = []
    for name, t in traits.items():
        for pole, found in t["comparison"].items():
            for r in found:
                equal, less = r["steering_at_equal_cost"], r["steering_less_this"]
                rows.append([
                    name, pole, r["condition"], with_interval(r["effect"], r["effect_ci"], 1), spans(r, "cost"),
                    spans(r, "composite"), spans(less, "difference", 1) if less else "",
                    f"{spans(equal, 'effect', 1)} at dose {equal['dose']:+.2f}" if equal else "",
                    spans(equal, "difference", 1) if equal else "",
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
        rows.append([*row, with_interval(s["ratio"][steered], s["ratio_ci"][steered])])
    return table(["steered", *s["traits"], "others / own"], rows)


def arithmetic(results: dict[str, Any]) -> list[str]:
    a = results["arithmetic"]
    pairs = []
    for p in a["pairs"]:
        for measured, m in p["measured"].items():
            pairs.append([
                " + ".join(p["traits"]), measured, *(spans(m, k, 1) for k in ("a", "b", "both", "excess")), str(m["n"]),
            ])  # fmt: skip
    shared = [
        [name, number(x["cosine_with_shared"]), *(spans(x[v], k, 1) for v in ("whole", "without")
                                                  for k in ("own", "others")), spans(x, "ratio_difference")]
        for name, x in a["shared"].items()
    ]  # fmt: skip
    return [
        f"Layer {a['layer']}, each vector at dose {a['dose'] / 2:g}; excess = effect of both less the sum of the",
        "effects, points of preference, paired by item; 95% intervals over items.",
        "",
        *table(["vectors", "measured", "first", "second", "both", "excess", "n"], pairs),
        f"Without the first principal direction of all the vectors, same norm, dose {a['dose']:g}; last column:",
        "without less whole, on the same items: below 0 is more specific.",
        "",
        *table(
            [
                "steered",
                "cosine with it",
                "own, whole",
                "others, whole",
                "own, without",
                "others, without",
                "change of others / own",
            ],
            shared,
        ),
    ]


def third_party(transfer: dict[str, Any]) -> list[str]:
    read = transfer["reading"]
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
        f"{with_interval(transfer['auc'], transfer['auc_ci'], 3)}, family-wise p {transfer['p_family']:.3f}, bag of "
        f"words {with_interval(transfer['lexical_auc'], transfer['lexical_auc_ci'], 3)}. "
        f"{len(transfer['random'])} random directions at dose .2 move the score by {transfer['random_movement']:.2f} "
        "points (mean absolute). `make transfer ITEMS=TRAIT.json`.",
        f"Within questions the AUC is {number(transfer['auc_within'], 3)}; at the layer recommended for reading, "
        f"{read['layer']}, it is {with_interval(read['auc'], read['auc_ci'], 3)}, within questions "
        f"{number(read['auc_within'], 3)}. A vector fitted on these items themselves "
        f"(cross-fitted by question) reaches {number(transfer['ceiling'], 3)}, within questions "
        f"{number(transfer['ceiling_within'], 3)}.",
        "Not blind: the layer rule was last changed when figures of these items at other layers were known, and the",
        "figure at the layer for reading and the doses of .3 were added after they had been seen on these items",
        "(docs/notes.md).",
        "",
        *table(["condition", "score, %", "shift of score [95%]", "shift of preference, points [95%]"], rows),
    ]


def page(results: dict[str, Any], transfer: dict[str, Any] | None = None) -> str:
    """The page as Markdown; it ends in the table of the claims."""
    traits = results["traits"]
    text = [
        f"# Vectors and steering on {results['model']}",
        "",
        "Made by `make results` from `llm-persona run docs/results/study.yaml --out runs/full`. Vectors: fit split of",
        "our items; layers chosen on the select split and another author's; every figure here on held-out items.",
        "One seed: what tuning shows here is indicative.",
        "",
        *(third_party(transfer) if transfer else []),
        "## How well each trait is read, at its recommended layer",
        "",
        *table(["trait", "layer", "AUC [95%]", "p, family", "separation [95%]", "band"], quality(traits)),
        "What else could read it, at the same layer on the same rows, and the vector on another author's items (AUC,",
        "95% intervals over questions; of random directions the range of 95%):",
        "",
        *table(["trait", "shuffled", "random", "bag of words", "length", "sentiment", "another author (items)",
                "its bag of words"], controls(traits)),
        "Rows of a trait, read by each trait's vector at the rows' own recommended layer (above .5: the same way):",
        "",
        *table(["rows of", *traits], read_by_others(traits)),
        "## Layers: read against steered",
        "",
        "By third of the depth, mean AUC / mean effect (points of preference between dose +.2 and -.2), with 95%",
        "intervals, and the rank correlation of AUC and effect over the swept layers.",
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
        "both, 0 where text collapses; steering less this: effect of steering alone at the usable end less this one's,",
        "and at equal cost (the dose interpolated), on the same items.",
        "",
        *table(["trait", "pole", "condition", "effect [95%]", "cost", "composite", "steering less this",
                "steering at equal cost", "less this"], compared(traits)),
        "## Who moves whom",
        "",
        f"Shift of preference, points [95%], dose {results['specificity']['dose']:+g} at the steered trait's layer.",
        "",
        *specificity(results),
        "## Vector arithmetic",
        "",
        *arithmetic(results),
        "## Geometry",
        "",
        *geometry(results["geometry"]),
        "## The original claims",
        "",
        "A claim about every trait is confirmed where each trait's interval shows it, refuted where some trait's",
        "interval shows the contrary, and open otherwise.",
        "",
        *table(["claim (rule)", "verdict", "figure"], claims(results, transfer)),
    ]  # fmt: skip
    return "\n".join(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", default="runs/full")
    parser.add_argument("--transfer")
    given = parser.parse_args()
    transfer = read_json(Path(given.transfer)) if given.transfer else None
    results = read_results(given.run)
    write_text(PAGE, page(results, transfer))
    layers = {name: t["vector"]["recommended"]["balanced"] for name, t in results["traits"].items()}
    write_json(PAGE.with_name("recommended.json"), {"model": results["model"], "layers": layers})
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
