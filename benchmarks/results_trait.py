"""All traits under base and instructions, in likelihood and choice modes: writes docs/results/trait.md.

Usage: python benchmarks/results_trait.py [--model M] [--limit N]
The JSON of each evaluation is kept beside the page's source figures in runs/results-trait/.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from llm_persona.domain.store import read_json, write_text
from llm_persona.interfaces.cli.main import run

PAGE = Path(__file__).resolve().parents[1] / "docs" / "results" / "trait.md"
FOLDER = Path("runs/results-trait")
CONDITIONS = ("none", "high", "low")


def measured(mode: str, given: argparse.Namespace) -> dict:
    path = FOLDER / f"{mode}.json"
    conditions = [part for c in CONDITIONS for part in ("--instruct", c)]
    limit = ["--limit", str(given.limit)] if given.limit else []
    where = ["--model", given.model, "--json", str(path), "--figure", str(FOLDER / mode)]
    extra = ["--reliability"] if mode == "choice" else []
    assert run(["evaluate", "--trait", "all", "--mode", mode, *conditions, *limit, *where, *extra]) == 0
    return read_json(path)


def span(ci: list, digits: int = 0, factor: float = 1.0) -> str:
    return "none" if ci[0] is None else f"[{ci[0] * factor:.{digits}f}, {ci[1] * factor:.{digits}f}]"


def moved(d: dict) -> str:
    return f"{100 * d['preference_shift']:+.1f} {span(d['preference_shift_ci'], 1, 100)}, {d['p_holm']:.2g}"


def table(found: dict, letters: bool) -> list[str]:
    head = ["trait", "condition", "n", "unscored", "score, % [95%]", "preference, % [95%]"]
    head += (
        ["option mass", "same class in both orders"] if letters else ["less base: preference, points [95%], p (Holm)"]
    )
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    labels = [r["label"] for r in found["comparison"]["runs"]]
    for name in found["runs"][0]["traits"]:
        for label, run_ in zip(labels, found["runs"], strict=True):
            t = run_["traits"][name]
            flag = "" if t["headroom"] else " (no headroom)" if t["headroom"] is False else ""
            score = "none" if t["score"] is None else f"{t['score']:.0f} {span(t['score_ci'])}{flag}"
            preference = (
                "none" if t["preference"] is None else f"{100 * t['preference']:.1f} {span(t['preference_ci'], 1, 100)}"
            )
            row = [name, run_["condition"]["name"], str(t["n"]), str(t["n_unscored"]), score, preference]
            if letters:
                mass, same = t["option_mass"], t["order_consistency"]
                row += ["none" if mass is None else f"{mass:.2f}", "none" if same is None else f"{100 * same:.0f}%"]
            else:
                d = found["comparison"]["differences"].get(label, {}).get(name)
                row.append("" if d is None else moved(d))
            lines.append("| " + " | ".join(row) + " |")
    return lines


def changes(found: dict) -> list[str]:
    lines = ["| trait | between | classes that change, % [95%] | n |", "|---|---|---|---|"]
    for name, t in found["runs"][0]["traits"].items():
        for between, c in t["reliability"].items():
            value = "none" if c["changed"] is None else f"{c['changed']:.0f} {span(c['changed_ci'])}"
            lines.append(f"| {name} | {between} | {value} | {c['n']} |")
    return lines


def reach(likelihood: dict, choice: dict) -> list[str]:
    """What the figures say is beyond this model, derived from them."""
    base = choice["runs"][0]["traits"]
    same = [t["order_consistency"] for t in base.values() if t["order_consistency"] is not None]
    shifts = [
        (name, label, d)
        for label, traits in likelihood["comparison"]["differences"].items()
        for name, d in traits.items()
    ]
    right = [
        (name, d)
        for name, label, d in shifts
        if d["p_holm"] < 0.05 and (d["preference_shift"] > 0) == ("high" in label)
    ]
    wrong = [
        name for name, label, d in shifts if d["p_holm"] < 0.05 and (d["preference_shift"] > 0) != ("high" in label)
    ]
    largest = max((abs(d["preference_shift"]) for _, _, d in shifts), default=0.0)
    return [
        f"- Letters: an item keeps its class when the options are swapped in {100 * min(same):.0f} to "
        f"{100 * max(same):.0f}% of items by trait. "
        + ("Below half, letters say nothing about a trait." if max(same) < 0.5 else "Mind that when reading scores."),
        f"- Instructions: {len(right)} of {len(shifts)} shifts of preference are clear of zero in the right direction "
        f"({', '.join(sorted({n for n, _ in right})) or 'none'}), {len(wrong)} in the wrong one"
        f"{' (' + ', '.join(sorted(set(wrong))) + ')' if wrong else ''}; the largest is {100 * largest:.1f} points.",
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--limit", type=int)
    given = parser.parse_args()
    likelihood, choice = measured("likelihood", given), measured("choice", given)
    text = [
        f"# TRAIT on {given.model}",
        "",
        "Made by `make results-trait`; every number comes from the commands below, on the bank's test split",
        "(25 items a trait, held out from every vector and adapter). Score: percent of items whose preferred",
        "option is a high one, Wilson 95% intervals; preference: mean probability of high, bootstrap over items.",
        "",
        "```",
        "llm-persona evaluate --trait all --mode likelihood --instruct none --instruct high --instruct low",
        "llm-persona evaluate --trait all --mode choice --instruct none --instruct high --instruct low --reliability",
        "```",
        "",
        "## What is beyond this model",
        "",
        *reach(likelihood, choice),
        "",
        "## Likelihood mode",
        "",
        *table(likelihood, letters=False),
        "",
        "## Choice mode (letters)",
        "",
        *table(choice, letters=True),
        "",
        "## Reliability of the letters (base)",
        "",
        *changes(choice),
        "",
    ]
    write_text(PAGE, "\n".join(text))
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
