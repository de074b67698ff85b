"""A run's results as Markdown: for a README, and as the section of a model card. What the model wrote is escaped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llm_persona.domain.markdown import LONGEST, escaped, table
from llm_persona.domain.terminal_text import one_line
from llm_persona.studies.findings import headline, number
from llm_persona.studies.report import read_results


def _table(columns: list[str], rows: list[list[str]]) -> str:
    return "\n".join(table(columns, rows)).rstrip()


def _share(row: dict[str, Any]) -> str:
    if row["score"] is None:
        return "not scored"
    low, high = row["score_ci"]
    return f"{row['score']:.0f}% [{low:.0f}, {high:.0f}], n = {row['n'] - row.get('n_unscored', 0)}"


def _points(shift: dict[str, Any]) -> str:
    """Shift of preference in points with its interval."""
    if shift["preference_shift"] is None:
        return "not scored"
    ends = [None if c is None else 100 * c for c in shift["preference_shift_ci"]]
    found = "no interval" if None in ends else f"{number(ends[0], 1)}, {number(ends[1], 1)}"
    return f"{number(100 * shift['preference_shift'], 1)} [{found}], n = {shift['n']}"


def _measures(results: dict[str, Any]) -> str:
    rows = []
    for name, trait in results["traits"].items():
        layer = trait["vector"]["layers"][results["recommendations"][name]["balanced"]]
        low, high = trait["dose_response"]["usable_range"]
        slope, ends = trait["dose_response"]["slope"], trait["dose_response"]["slope_ci"]
        moves = "not measured" if slope is None else number(slope / 10, 1)
        if slope is not None and None not in ends:
            moves += f" [{number(ends[0] / 10, 1)}, {number(ends[1] / 10, 1)}]"
        auc, ci = layer["auc"], layer["auc_ci"]
        read = number(auc) if None in ci else f"{number(auc)} [{number(ci[0])}, {number(ci[1])}]"
        words = _words(trait["vector"]["controls"])
        rows.append([escaped(trait["title"]), _share(trait["baseline"]), str(layer["layer"]),
                     f"{read}, n = {trait['vector']['n_groups']}", words, moves, f"{low:+g} to {high:+g}"])  # fmt: skip
    return _table(
        ["trait", "high answers", "layer", "AUC there", "bag of words", "points per .1 dose", "usable doses"], rows
    )


def _words(controls: dict[str, Any]) -> str:
    """AUC of a bag of words with its interval (older runs have none)."""
    ends = controls.get("lexical_auc_ci") or [None, None]
    value = number(controls["lexical_auc"])
    return value if None in ends else f"{value} [{number(ends[0])}, {number(ends[1])}]"


def _changes(results: dict[str, Any]) -> str:
    rows = []
    for trait in results["traits"].values():
        title = escaped(trait["title"])
        usable = trait["dose_response"]["usable_range"]
        rows += [[title, f"system prompt, {p}", _points(trait["instructed"][p]["shift"])] for p in ("high", "low")]
        rows += [[title, f"steered at dose {s['dose']:+g}", _points(s["shift"])] for s in trait["steering"]
                 if s["dose"] in usable]  # fmt: skip
        rows += [
            [title, f"tuned {p} (one seed: indicative)", _points(row["shift"])] for p, row in trait["tuned"].items()
        ]
        random = trait["controls"]["random_preference_movement"]
        if random is not None:
            null = f"{100 * random:.1f} on average, n = {trait['controls']['n_random']}"
            rows.append([title, f"random directions at dose {trait['controls']['dose']:g}, absolute", null])
    return _table(["trait", "condition", "preference moved, points"], rows)


def markdown(results: dict[str, Any]) -> str:
    """The report in short, for a README: the answer, the figures that matter, one sample a pole, how to do it again."""
    model = escaped(results["model"])
    parts = [f"## The persona of {model}", *(results.get("answer") or headline(results)),
             "Brackets are 95% intervals; everything is held out.", _measures(results), _changes(results)]  # fmt: skip
    for name, trait in results["traits"].items():
        found = [f"- {f['text']} *({f['evidence']})*" for f in results["findings"] if f["trait"] == name]
        lines = [f"### {escaped(trait['title'])}", "\n".join(found), _samples(trait)]
        lines.append(f"```\n{one_line(results['recommendations'][name]['command'], LONGEST)}\n```")
        parts += [line for line in lines if line]
    return "\n\n".join([*parts, _made(results)]) + "\n"


def _samples(trait: dict[str, Any]) -> str:
    """The first question under base and at the ends of the usable range."""
    if not trait["baseline"]["samples"]:
        return ""
    low, high = trait["dose_response"]["usable_range"]
    shown = [(f"steered {s['dose']:+g}", s) for s in trait["steering"] if s["dose"] in (low, high)]
    rows = [[label, escaped(row["samples"][0]["text"])] for label, row in [("base", trait["baseline"]), *shown]]
    return _table(["condition", escaped(trait["baseline"]["samples"][0]["question"])], rows)


def _made(results: dict[str, Any]) -> str:
    subject = results["subject"]
    return (
        f"Made by llm-persona: preset {results['preset']}, seed {results['seed']}, {escaped(subject['model'])} "
        f"revision {escaped(str(subject['revision'] or 'unknown'))}, {subject['dtype']}."
    )


def model_card(results: dict[str, Any]) -> str:
    """A section for a model card: what was measured and how, figures with intervals and n, what they do not show."""
    items = "; ".join(f"{n}: {t['items']['test']} items" for n, t in results["traits"].items())
    first = next(iter(results["traits"].values()))
    words = [name for name, trait in results["traits"].items() if _words_do(trait)]
    limits = [
        "A score is the share of items whose most likely response is a high one. It compares conditions of one model; "
        "it is no norm and does not say what the model would do.",
        "Neither pole of a trait is the better one.",
        f"Items are written in English by few authors; intervals come from as many items as stated ({escaped(items)}).",
    ]
    if words:
        limits.append(f"For {' and '.join(words)} a bag of words separates the texts about as well as the vector.")
    if first["tuned"]:
        limits.append("Fine-tuned adapters rest on one seed each: indicative.")
    unscored = {n: t["baseline"]["n_unscored"] for n, t in results["traits"].items() if t["baseline"]["n_unscored"]}
    if unscored:
        limits.append("Unscored items: " + ", ".join(f"{n} {count}" for n, count in unscored.items()) + ".")
    limits += [
        f"{escaped(name)}: {escaped(sentence)}"
        for name, trait in results["traits"].items()
        for sentence in trait.get("beyond_context", {}).get("sentences", ())
    ]
    return (
        "\n\n".join(
            [
                "## Personality traits",
                "Measured with llm-persona on held-out items in the layout of TRAIT (Lee et al. 2024), likelihood "
                "mode, by persona vectors (difference of means, Chen et al. 2025) and by activation steering. "
                + _made(results),
                "### Results",
                *(results.get("answer") or headline(results)),
                _measures(results),
                _changes(results),
                "Brackets are 95% intervals (scores: Wilson; AUC and shifts: bootstrap over questions and items, "
                "paired). A dose is the added vector's share of the layer's activation norm; doses are usable while "
                "neutral perplexity is at most 1.6 times that of the unsteered model.",
                "### Limits",
                "\n".join(f"- {line}" for line in limits),
            ]
        )
        + "\n"
    )


def _words_do(trait: dict[str, Any]) -> bool:
    """Whether a bag of words separates the texts about as well as the vector at the recommended layer."""
    lexical = trait["vector"]["controls"]["lexical_auc"]
    least = trait["vector"]["layers"][trait["vector"]["recommended"]["balanced"]]["auc_ci"][0]
    return lexical is not None and least is not None and bool(lexical >= least)


FORMATS = {"md": markdown, "model-card": model_card}


def report_text(folder: str | Path, form: str) -> str:
    """A finished run as Markdown: `md` for a README, `model-card` for a model card.

    Raises:
        UserError: no finished run there, or one of another format.
    """
    return FORMATS[form](read_results(folder))
