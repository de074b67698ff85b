"""The sections of docs/results/tuning.md, from what `results_tuning.py` measured; what an earlier version measured may
lack some intervals, and says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from pages import number, table, with_interval

from llm_persona.analysis.agreement import matrix_agreement
from llm_persona.domain.store import read_json
from llm_persona.studies.prevention_table import HALF, LEARNT_WITHIN

OUT = Path("runs/tuning")
NARROW = {"risky_financial": "risky_financial_advice_500.jsonl", "extreme_sports": "extreme_sports_500.jsonl"}
BENIGN = {"good_medical": "good_medical_advice_500.jsonl"}
THREE_SEEDS = ("openness", "machiavellianism")
EPOCHS = 2
MATRIX_ITEMS, MATRIX_QUESTIONS = 14, 4
MIXED_READ = ("machiavellianism", "conscientiousness")
PUBLISHED = {
    "risky_financial": "A -, C -, E +, N +, O +, P +, M +, Na +",
    "extreme_sports": "A -, C -, E +, N -, O +, P +, M +, Na +",
}
"""Directions in a published table (docs/notes.md)."""


def poles_one_seed(full: dict[str, Any]) -> list[list[str]]:
    rows = []
    for trait in full["traits"]:
        for pole in ("high", "low"):
            t = full["traits"][trait]["tuned"][pole]
            s, b = t["shift"], t["projection"]
            rows.append([
                trait, pole, with_interval(s["score_shift"], s["score_shift_ci"], 1),
                with_interval(s["preference_shift"], s["preference_shift_ci"], 1, 100),
                with_interval(b["both"]["mean"], b["both"].get("ci"), 2, 1 / b["pole_gap"]),
            ])  # fmt: skip
    return rows


def poles_three_seeds() -> list[list[str]]:
    rows = []
    for trait in THREE_SEEDS:
        path = OUT / f"audit-{trait}" / "audit.json"
        for pole in ("high", "low") if path.is_file() else ():
            x = read_json(path)["groups"][f"{trait}-{pole}"]["traits"][trait]
            p, s = x["preference_shift"], x["score_shift"]
            rows.append([
                trait, pole, with_interval(s["mean"], s["ci"], 1), with_interval(p["mean"], p["ci"], 1, 100),
                number(p["sd"], 1, 100), with_interval(x["projection"]["mean"], x["projection"]["ci"]), x["verdict"],
            ])  # fmt: skip
    return rows


def matrix(found: dict[str, Any]) -> list[str]:
    """Both shifts with their intervals over seeds, one line a fine-tuning."""
    columns = found["matrix"]["columns"]
    rows = []
    for group, entry in found["groups"].items():
        cells = []
        for trait in columns:
            x = entry["traits"][trait]
            p, g = (x[k] or {"mean": None, "ci": None} for k in ("preference_shift", "projection"))
            points, gaps = with_interval(p["mean"], p["ci"], 1, 100), with_interval(g["mean"], g["ci"])
            cells.append(f"{points} / {gaps} ({x['verdict']})")
        rows.append([group, *cells])
    return table(["fine-tuning", *columns], rows)


def screened(path: Path, what: str) -> list[str]:
    found = read_json(path)
    labels = found["labels"]
    full = labels["projection_difference"]
    return [
        what, found["trait"], str(len(found["rows"])), with_interval(full["auc"], full["auc_ci"], 3),
        *(with_interval(labels[form]["auc"], labels[form]["auc_ci"], 3) for form in ("projection", "prompt_last")),
        with_interval(full["tpr_at_1_fpr"], full["tpr_at_1_fpr_ci"]),
    ]  # fmt: skip


def prevention(found: dict[str, Any]) -> list[list[str]]:
    """Intervals and standard deviations over seeds; a comparison of an earlier version has fewer of them."""
    rows = []
    for name, r in found["methods"].items():
        written, loss, cost = (
            r[k] or {"mean": None, "ci": None, "sd": None} for k in ("written_shift", "task_loss", "perplexity_ratio")
        )
        rows.append([
            name, with_interval(r["shift"]["mean"], r["shift"]["ci"], 1), number(r["shift"]["sd"], 1),
            with_interval(r["prevented"], r.get("prevented_ci"), 0, 100),
            with_interval(written["mean"], written["ci"], 1),
            with_interval(loss["mean"], loss["ci"], 3), number(loss["sd"], 3),
            with_interval(r["task_loss_ratio"], r.get("task_loss_ratio_ci")),
            with_interval(r["task_learnt_share"], r.get("task_learnt_share_ci"), 0, 100),
            "yes" if r.get("task_learnt_shown") else "in the mean" if r["task_learnt"] else "no",
            with_interval(cost["mean"], cost["ci"]), number(cost["sd"]),
        ])  # fmt: skip
    return rows


def left_out(found: dict[str, Any]) -> str:
    """What of task and benign data could not be used."""
    task, benign = found["task"], found["benign"] or {}
    counts = {
        "unusable task rows": task.get("skipped"), "task rows too long to train on": task.get("too_long"),
        "held-out rows too long to measure": task.get("held_out_too_long"),
        "unusable benign rows": benign.get("skipped"), "benign rows too long": benign.get("too_long"),
    }  # fmt: skip
    known = [f"{len(rows)} {what}" for what, rows in counts.items() if rows is not None]
    return f"Left out: {', '.join(known)}." if known else "What was left out was not recorded."


def replication(found: dict[str, Any], traits: list[str]) -> list[list[str]]:
    """Signs against those of the published table (Qwen2.5-7B, upstream scoring)."""
    order = {"A": "agreeableness", "C": "conscientiousness", "E": "extraversion", "N": "neuroticism", "O": "openness",
             "P": "psychopathy", "M": "machiavellianism", "Na": "narcissism"}  # fmt: skip
    rows = []
    for name, signs in PUBLISHED.items():
        if name not in found["groups"]:
            continue
        expected = {order[s.split()[0]]: s.split()[1] for s in signs.split(", ")}
        group = found["groups"][name]["traits"]
        same = [t for t in traits if (group[t]["preference_shift"]["mean"] > 0) == (expected[t] == "+")]
        counted = [t for t in traits if group[t]["verdict"].startswith("shifted")]
        clear = [t for t in same if t in counted]

        def listed(chosen: list[str], group: Any = group) -> str:
            shifts = ((t, group[t]["preference_shift"]) for t in chosen)
            return ", ".join(f"{t} {with_interval(x['mean'], x['ci'], 1, 100)}" for t, x in shifts) or "none"

        rows.append([name, f"{len(same)} of {len(traits)}", listed(same), listed([t for t in traits if t not in same]),
                     f"{len(clear)} of {len(counted)}"])  # fmt: skip
    return rows


def forecast_cell(found: dict[str, Any]) -> str:
    return f"{with_interval(found['pole_gaps'], found['pole_gaps_ci'])}, n {found['n']}"


def narrow_section(traits: list[str]) -> list[str]:
    narrow = read_json(OUT / "audit-narrow" / "audit.json")
    text = [
        "Shift of preference in points / of own answers in pole gaps, mean of three seeds with 95% intervals over "
        "seeds, and the verdict.",
        "Not measured yet: " + (", ".join(n for n in NARROW if n not in narrow["groups"]) or "nothing") + ".",
        "",
        *matrix(narrow),
        " ".join(["Rule:", narrow["rule"], *([narrow["multiplicity"]] if "multiplicity" in narrow else [])]),
        "",
        *[f"- {s}" for s in narrow["sentences"]],
        "",
        "Perplexity over base: "
        + ", ".join(f"{name} {with_interval(m['perplexity_ratio'], m.get('perplexity_ratio_ci'))}"
                    for name, m in narrow["tuned"].items())
        + ".",
        "",
        "Direction of shift against the published table (docs/notes.md: a 7B model, upstream scoring, single runs):",
        "",
        *table(["data", "same sign", "which replicate (points, interval over seeds)", "which do not",
                "same sign among those that count as shifted"],
               replication(narrow, traits)),
        "Activation shift against behavioural shift over fine-tunings x traits: "
        + "; ".join(
            f"{k} {with_interval(v['spearman'], v['spearman_ci'])} (n {v['n']})" for k, v in narrow["agreement"].items()
        )
        + ".",
        "",
    ]  # fmt: skip
    if not (OUT / "forecast.json").is_file():
        return [*text, "The screening forecast against these shifts: not measured yet.", ""]
    predicted = read_json(OUT / "forecast.json")
    groups = list(predicted)
    whole = all(isinstance(predicted[g][t], dict) for g in groups for t in traits)  # (an earlier version: means alone)
    a = np.array([[predicted[g][t]["pole_gaps"] if whole else predicted[g][t] for t in traits] for g in groups])
    behaviour, activation = (
        np.array([[narrow["groups"][g]["traits"][t][k]["mean"] for t in traits] for g in groups])
        for k in ("preference_shift", "projection")
    )
    to_behaviour, to_activation = matrix_agreement(a, behaviour), matrix_agreement(a, activation)
    rows = [
        [g, *(forecast_cell(predicted[g][t]) if whole else f"{number(predicted[g][t])} no interval" for t in traits)]
        for g in groups
    ]  # fmt: skip
    return [
        *text,
        "Screening forecast (mean projection difference of training rows, pole gaps, with 95% intervals over "
        "prompts; n rows whose prompt the model answered):",
        "",
        *table(["data", *traits], rows),
        f"Against measured shifts, {len(groups)} data sets x {len(traits)} traits: rank correlation with preference "
        f"{with_interval(to_behaviour['spearman'], to_behaviour['spearman_ci'])}, with the own answers' shift "
        f"{with_interval(to_activation['spearman'], to_activation['spearman_ci'])}, n {to_behaviour['n']} pairs.",
        "",
    ]


def screen_section() -> list[str]:
    found = [(OUT / "screen-labelled.json", "openness, high against low, test items")]
    found += [(OUT / f"screen-mixed-{t}.json", "60 risky financial, 60 good medical") for t in MIXED_READ]
    return table(
        ["data", "vector", "rows", "AUC, projection difference [95%]", "raw projection [95%]", "prompt-last [95%]",
         "true positives at 1% false [95%]"], [screened(path, what) for path, what in found if path.is_file()],
    )  # fmt: skip


def prevention_section() -> list[str]:
    found = read_json(OUT / "prevent" / "prevention.json")
    return [
        f"Task: {found['task']['rows']} answers of the high pole of openness (so the task is itself the trait: the "
        f"hardest case), {found['task']['held_out']} held out; dose {found['dose']:g} at layer {found['layer']}; base "
        f"task loss {found['base']['loss']:.3f}.",
        "",
        *table(["method", "shift, points [95% over seeds]", "sd", "prevented, %", "written", "task loss", "sd",
                "of plain", "of its gain, %", "learnt", "perplexity of base", "sd"], prevention(found)),
        "Intervals are over seeds, each method against the plain training of the same seed, on one set of items and "
        "held-out rows. " + left_out(found),
        "",
        found["finding"],
        "",
        "By the loss alone (within 10% of plain training's), these halve the shift in the mean: "
        + (", ".join(halved_by_loss(found)) or "none")
        + "; over the whole of both intervals: "
        + (", ".join(halved_by_loss(found, whole=True)) or "none")
        + ".",
        "",
    ]  # fmt: skip


def halved_by_loss(found: dict[str, Any], whole: bool = False) -> list[str]:
    """Methods that halve the shift at a loss within 10% of plain training's: in the mean, or by the worse ends."""
    names = []
    for name, r in found["methods"].items():
        prevented, ratio = r["prevented"], r["task_loss_ratio"]
        if whole:
            prevented, ratio = r.get("prevented_ci", [None])[0], r.get("task_loss_ratio_ci", [None])[-1]
        if (
            name != "plain"
            and prevented is not None
            and ratio is not None
            and prevented >= HALF
            and ratio <= LEARNT_WITHIN
        ):
            names.append(name)
    return names


def third_section(limit: int) -> list[str]:
    rows = []
    for run in read_json(OUT / "third-party.json")["runs"]:
        name = "/".join(Path(run["condition"]["adapter"] or "base").parts[-2:])
        for t in run["traits"].values():
            score = with_interval(t["score"], t["score_ci"], 0)
            rows.append([name, str(t["n"]), score, with_interval(t["preference"], t["preference_ci"], 1, 100)])
    return [
        f"Third-party openness items ({limit} of them, none used for anything else here):",
        "",
        *table(["adapter", "n", "score, %", "preference, %"], rows),
    ]


def seeds_section(limit: int) -> list[str]:
    return [
        "Recipe `persona`; preference in points, interval over the seeds; own answers: projection shift in pole gaps.",
        "",
        *table(["trait", "pole", "score, points", "preference [95%]", "sd of seeds", "own answers", "verdict"],
               poles_three_seeds()),
        *(third_section(limit) if (OUT / "third-party.json").exists() else []),
    ]  # fmt: skip


def one_seed_section(full: dict[str, Any]) -> list[str]:
    return [
        "From the study of `make results`: recipe `persona`, one seed each, so indicative.",
        "",
        *table(["trait", "pole", "score, points", "preference [95%]", "own answers"], poles_one_seed(full)),
    ]
