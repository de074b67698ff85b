"""All traits under base and instructions, in likelihood and choice modes: writes docs/results/trait.md.

Usage: python benchmarks/results_trait.py [--run runs/full] [--limit N]
The conditions are read from a finished run (`llm-persona run --preset full`); reliability is measured here.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from pages import number, span, table, with_interval

from llm_persona.analysis.stats import holm
from llm_persona.domain.store import read_json, write_text
from llm_persona.interfaces.cli.main import run as command
from llm_persona.studies.report import read_results

PAGE = Path(__file__).resolve().parents[1] / "docs" / "results" / "trait.md"
ASKED = Path("runs/results-trait/reliability.json")


def conditions(trait: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {"base": trait["baseline"], **{f"instructed {p}": trait["instructed"][p] for p in ("high", "low")}}


def likelihood_rows(traits: dict[str, Any], adjusted: dict[tuple[str, str], float]) -> list[list[str]]:
    rows = []
    for name, trait in traits.items():
        for label, c in conditions(trait).items():
            flag = "" if c["headroom"] else " (no headroom)" if c["headroom"] is False else ""
            s = c.get("shift")
            moved = ""
            if s:
                points = with_interval(s["preference_shift"], s["preference_shift_ci"], 1, 100)
                moved = f"{points}, p {adjusted[name, label]:.2g}"
            rows.append([
                name, label, str(c["n"]), str(c["n_unscored"]), with_interval(c["score"], c["score_ci"], 0) + flag,
                with_interval(c["preference"], c["preference_ci"], 1, 100), moved,
            ])  # fmt: skip
    return rows


def choice_rows(traits: dict[str, Any]) -> list[list[str]]:
    rows = []
    for name, trait in traits.items():
        for label, c in conditions(trait).items():
            x = c["choice"]
            rows.append([
                name, label, str(x["n"]), str(x["n_unscored"]), with_interval(x["score"], x["score_ci"], 0),
                with_interval(x["preference"], x["preference_ci"], 1, 100), number(x["option_mass"]),
                number(x["order_consistency"], 0, 100) + "%",
            ])  # fmt: skip
    return rows


def shifts(traits: dict[str, Any]) -> dict[tuple[str, str], float]:
    """p-values of the instructions' shifts, Holm-adjusted over all of them."""
    cells = {
        (name, label): c["shift"]["p_value"]
        for name, trait in traits.items()
        for label, c in conditions(trait).items()
        if "shift" in c
    }
    return dict(zip(cells, holm(list(cells.values())), strict=True))


def reach(traits: dict[str, Any], adjusted: dict[tuple[str, str], float]) -> list[str]:
    """What the figures say is beyond this model."""
    same = [t["baseline"]["choice"]["order_consistency"] for t in traits.values()]
    right, wrong, largest = [], [], 0.0
    for (name, label), p in adjusted.items():
        moved = conditions(traits[name])[label]["shift"]["preference_shift"]
        largest = max(largest, abs(moved))
        if p < 0.05:
            (right if (moved > 0) == label.endswith("high") else wrong).append(f"{name} {label.split()[1]}")
    letters = (
        f"- Letters: when the options are swapped an item keeps its class in {100 * min(same):.0f} to "
        f"{100 * max(same):.0f}% of items, by trait. "
    )
    letters += "A model that chose by content would keep all, one that chose at random half, one that always gives the "
    letters += "same letter none: " + (
        "so these letters say nothing of any trait." if max(same) < 0.5 else "read letter scores against that."
    )
    return [
        letters,
        f"- Instructions: {len(right)} of {len(adjusted)} shifts of preference are clear of zero in the right direction"
        f"{' (' + ', '.join(right) + ')' if right else ''}, {len(wrong)} in the wrong one"
        f"{' (' + ', '.join(wrong) + ')' if wrong else ''} (Holm over all); the largest is {100 * largest:.1f} points.",
    ]


def reliability(found: dict[str, Any]) -> list[list[str]]:
    rows = []
    for name, t in found["traits"].items():
        for between, c in t["reliability"].items():
            rows.append([name, between, with_interval(c["changed"], c["changed_ci"], 0), str(c["n"])])
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", default="runs/full")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--page-only", action="store_true", help="reliability as measured before")
    given = parser.parse_args()
    results = read_results(given.run)
    traits, model = results["traits"], results["model"]
    limit = ["--limit", str(given.limit)] if given.limit else []
    ask = ["evaluate", "--model", model, "--trait", "all", "--mode", "choice", "--reliability", "--json", str(ASKED)]
    if not given.page_only:
        assert command([*ask, *limit]) == 0
    adjusted = shifts(traits)
    head = ["trait", "condition", "n", "unscored", "score, % [95%]", "preference, % [95%]"]
    text = [
        f"# TRAIT on {model}",
        "",
        "Made by `make results` from `llm-persona run docs/results/study.yaml`; every number rests on the bank's test",
        "split, held out from every vector and adapter. Score: percent of items whose preferred option is a high one,",
        "Wilson 95% interval. Preference: mean probability of high, bootstrap over items. Single conditions can be",
        "asked for again: `llm-persona evaluate --trait all --mode likelihood --instruct none --instruct high`.",
        "",
        "## What is beyond this model",
        "",
        *reach(traits, adjusted),
        "",
        "## Likelihood mode",
        "",
        *table([*head, "less base: preference, points [95%], p (Holm)"], likelihood_rows(traits, adjusted)),
        "## Choice mode (letters)",
        "",
        *table([*head, "option mass", "same class in both orders"], choice_rows(traits)),
        "## Reliability of the letters, base",
        "",
        f"Share of items whose class changes, with `llm-persona {' '.join(ask[:1] + ask[3:8])}`.",
        "",
        *table(["trait", "between", "classes that change, % [95%]", "n"], reliability(read_json(ASKED))),
        "## Words alone",
        "",
        "Held-out AUC on the same test items of the vector at its recommended layer, of a bag-of-words classifier, of",
        "length alone, and of all three on another author's items where there are some.",
        "",
        *table(
            ["trait", "vector", "bag of words", "length", "another author: vector", "bag of words", "items"],
            words(traits),
        ),
    ]
    write_text(PAGE, "\n".join(text))
    print(f"wrote {PAGE}")


def words(traits: dict[str, Any]) -> list[list[str]]:
    rows = []
    for name, t in traits.items():
        v = t["vector"]
        c, layer = v["controls"], v["layers"][v["recommended"]["balanced"]]
        other = c["transfer"]
        rows.append([
            name, f"{layer['auc']:.3f} {span(layer['auc_ci'])}", number(c["lexical_auc"]), number(c["length_auc"]),
            f"{other['auc']:.3f} {span(other['auc_ci'])}" if other else "none",
            number(other["lexical_auc"]) if other else "none", str(other["n_groups"]) if other else "0",
        ])  # fmt: skip
    return rows


if __name__ == "__main__":
    main()
