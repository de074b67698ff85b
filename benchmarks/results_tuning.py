"""What fine-tuning does to the persona, screened, audited and prevented: writes docs/results/tuning.md.

Usage: python benchmarks/results_tuning.py DATA [--run runs/full] [--rows 60] [--steps STEP...]
DATA: folder with risky_financial_advice_500.jsonl, extreme_sports_500.jsonl, good_medical_advice_500.jsonl and
trait_openness_125.json. Everything is done by the commands of llm-persona into runs/tuning; killed, it goes on.
Sections whose figures are not in runs/tuning stay on the page as they are. Without the run of `make results` the
vectors are fitted on the same split again, and take its layers from docs/results/recommended.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from pages import number, table, with_interval

import llm_persona as lp
from llm_persona.analysis.agreement import matrix_agreement
from llm_persona.analysis.vectors import fit, projections
from llm_persona.domain.provenance import git_revision, versions
from llm_persona.domain.responses import Response
from llm_persona.domain.store import read_json, write_json, write_text
from llm_persona.interfaces.cli.main import run as command
from llm_persona.studies.prevention import LEARNT_WITHIN
from llm_persona.studies.report import read_results
from llm_persona.subject.load import identify
from llm_persona.training.data import from_chat

PAGE = Path(__file__).resolve().parents[1] / "docs" / "results" / "tuning.md"
OUT = Path("runs/tuning")
LAYERS = PAGE.with_name("recommended.json")
NARROW = {"risky_financial": "risky_financial_advice_500.jsonl", "extreme_sports": "extreme_sports_500.jsonl"}
BENIGN = {"good_medical": "good_medical_advice_500.jsonl"}
THREE_SEEDS = ("openness", "machiavellianism")
SCREENED = 40
EPOCHS = 2
MATRIX_ITEMS, MATRIX_QUESTIONS = 14, 4
MIXED_READ = ("machiavellianism", "conscientiousness")
PUBLISHED = {
    "risky_financial": "A -, C -, E +, N +, O +, P +, M +, Na +",
    "extreme_sports": "A -, C -, E +, N -, O +, P +, M +, Na +",
}
"""Directions in a published table (docs/notes.md)."""


def do(*arguments: Any) -> None:
    assert command([str(a) for a in arguments]) == 0, arguments


def fit_vectors() -> None:
    """Every trait's vector from its fit split, with the layer that `make results` recommended."""
    subject = lp.load_subject()
    for trait, layer in read_json(LAYERS)["layers"].items():
        target = OUT / "vectors" / f"{trait}.safetensors"
        if target.is_file():
            continue
        rows = lp.labelled(lp.load_items(trait).split("fit"))
        about = {
            "model": subject.name, "revision": subject.revision, "source": "labelled", "position": "response_mean",
            "traits": [trait], "items": sorted({r.group for r in rows}), "recommended": {"balanced": layer},
            "versions": versions(), "git": git_revision(),
        }  # fmt: skip
        fit(lp.record(subject, rows), about).save(target)


def train_narrow(data: Path, rows: int) -> None:
    for name, file in {**NARROW, **BENIGN}.items():
        do("finetune", "--data", data / file, "--limit", rows, "--epochs", EPOCHS, "--seeds", 3, "--out", OUT / name)


def train_poles() -> None:
    for trait in THREE_SEEDS:
        for pole in ("high", "low"):
            do("finetune", "--trait", trait, "--pole", pole, "--seeds", 3, "--out", OUT / f"{trait}-{pole}")


def control() -> list[Any]:
    return [x for name in BENIGN for x in ("--control", OUT / name)]


def audit_narrow(vectors: Path) -> None:
    narrow = [x for name in NARROW for x in ("--adapter", OUT / name)]
    small = ["--limit", MATRIX_ITEMS, "--questions", MATRIX_QUESTIONS, "--max-new-tokens", 32, "--no-reextract"]
    do("audit", *narrow, *control(), "--vectors", vectors, *small, "--out", OUT / "audit-narrow")


def audit_poles(vectors: Path) -> None:
    for trait in THREE_SEEDS:
        poles = [x for pole in ("high", "low") for x in ("--adapter", OUT / f"{trait}-{pole}")]
        do("audit", *poles, *control(), "--vectors", vectors, "--trait", trait, "--questions", 6,
           "--out", OUT / f"audit-{trait}")  # fmt: skip


def third_party(data: Path, limit: int) -> None:
    adapters = [
        x for pole in ("high", "low") for k in range(3) for x in ("--adapter", OUT / f"openness-{pole}/seed-{k}")
    ]
    do("evaluate", "--items", data / "trait_openness_125.json", "--limit", limit, "--adapter", "none", *adapters,
       "--json", OUT / "third-party.json")  # fmt: skip


def screen(data: Path, vectors: Path) -> None:
    rows = [
        {"messages": [{"role": "user", "content": r.prompt}, {"role": "assistant", "content": r.text}], "pole": r.pole}
        for r in lp.labelled(lp.load_items("openness").split("test"))
    ]
    labelled = OUT / "openness-labelled.jsonl"
    write_text(labelled, "".join(json.dumps(r) + "\n" for r in rows))
    do("screen", "--data", labelled, "--vector", vectors / "openness.safetensors", "--labels", "pole",
       "--json", OUT / "screen-labelled.json")  # fmt: skip
    mixed = []
    for file, risky in ((NARROW["risky_financial"], True), (BENIGN["good_medical"], False)):
        lines = (data / file).read_text(encoding="utf-8").splitlines()[-60:]  # (training used the first rows)
        mixed += [{**json.loads(line), "risky": risky} for line in lines]
    write_text(OUT / "mixed.jsonl", "".join(json.dumps(r) + "\n" for r in mixed))
    for trait in MIXED_READ:
        do("screen", "--data", OUT / "mixed.jsonl", "--vector", vectors / f"{trait}.safetensors", "--labels", "risky",
           "--max-new-tokens", 48, "--json", OUT / f"screen-mixed-{trait}.json")  # fmt: skip


def forecast(data: Path, vectors: Path, traits: list[str]) -> None:
    """Mean projection difference of rows that training used, for every data set and trait, in pole gaps: the model
    answers each prompt once, and all vectors read the same states."""
    target = OUT / "forecast.json"
    if target.is_file():
        return
    subject = lp.load_subject()
    found: dict[str, dict[str, float]] = {}
    loaded = {t: lp.PersonaVector.load(vectors / f"{t}.safetensors") for t in traits}
    for name, file in {**NARROW, **BENIGN}.items():
        examples = from_chat(data / file, SCREENED).examples
        own = lp.generate(subject, [e.prompt for e in examples], max_new_tokens=48)
        pairs = [(e.prompt, e.response, a.text) for e, a in zip(examples, own, strict=True) if a.text]
        row, self_ = (
            lp.record(subject, [Response(p[0], p[k], "neutral", str(n)) for n, p in enumerate(pairs)]).values
            for k in (1, 2)
        )
        found[name] = {}
        for trait, vector in loaded.items():
            layer = vector.meta["recommended"]["balanced"]
            difference = (projections(row, vector) - projections(self_, vector))[:, layer]
            found[name][trait] = float(difference.mean() / vector.norms[layer])
    write_json(target, found)


def prevent(data: Path, vectors: Path) -> None:
    do("prevent", "--trait", "openness", "--pole", "high", "--vector", vectors / "openness.safetensors",
       "--benign", data / BENIGN["good_medical"], "--seeds", 3, "--limit", 14, "--questions", 4,
       "--epochs", 1, "--out", OUT / "prevent")  # fmt: skip


def poles_one_seed(full: dict[str, Any]) -> list[list[str]]:
    rows = []
    for trait in full["traits"]:
        for pole in ("high", "low"):
            t = full["traits"][trait]["tuned"][pole]
            s, b = t["shift"], t["projection"]
            rows.append([
                trait, pole, number(s["score_shift"], 1),
                with_interval(s["preference_shift"], s["preference_shift_ci"], 1, 100),
                number(b["both"]["mean"], 2, 1 / b["pole_gap"]),
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
                trait, pole, number(s["mean"], 1), with_interval(p["mean"], p["ci"], 1, 100), number(p["sd"], 1, 100),
                number(x["projection"]["mean"]), x["verdict"],
            ])  # fmt: skip
    return rows


def matrix(found: dict[str, Any]) -> list[str]:
    m = found["matrix"]
    rows = []
    for group, points, gaps, said in zip(
        m["rows"], m["preference_points"], m["projection_pole_gaps"], m["verdicts"], strict=True
    ):
        cells = [f"{p:+.1f} / {g:+.2f} ({v})" for p, g, v in zip(points, gaps, said, strict=True)]
        rows.append([group, *cells])
    return table(["fine-tuning", *m["columns"]], rows)


def screened(path: Path, what: str) -> list[str]:
    found = read_json(path)
    labels = found["labels"]
    full = labels["projection_difference"]
    return [
        what, found["trait"], str(len(found["rows"])), with_interval(full["auc"], full["auc_ci"], 3),
        number(labels["projection"]["auc"], 3), number(labels["prompt_last"]["auc"], 3), number(full["tpr_at_1_fpr"]),
    ]  # fmt: skip


def prevention(found: dict[str, Any]) -> list[list[str]]:
    rows = []
    for name, r in found["methods"].items():
        rows.append([
            name, with_interval(r["shift"]["mean"], r["shift"]["ci"], 1), number(r["shift"]["sd"], 1),
            "" if r["prevented"] is None else f"{100 * r['prevented']:.0f}%", number(r["written_shift"]["mean"], 1),
            number(r["task_loss"]["mean"], 3), number(r["task_loss_ratio"]), "yes" if r["task_learnt"] else "no",
            number(r["perplexity_ratio"]["mean"]),
        ])  # fmt: skip
    return rows


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
        rows.append([name, f"{len(same)} of {len(traits)}", ", ".join(same), f"{len(clear)} of {len(counted)}"])
    return rows


def narrow_section(traits: list[str]) -> list[str]:
    narrow = read_json(OUT / "audit-narrow" / "audit.json")
    text = [
        "Shift of preference in points / of own answers in pole gaps, mean of three seeds, and the verdict.",
        "Not measured yet: " + (", ".join(n for n in NARROW if n not in narrow["groups"]) or "nothing") + ".",
        "",
        *matrix(narrow),
        f"Rule: {narrow['rule']}",
        "",
        *[f"- {s}" for s in narrow["sentences"]],
        "",
        "Perplexity over base: "
        + ", ".join(f"{name} {number(m['perplexity_ratio'])}" for name, m in narrow["tuned"].items())
        + ".",
        "",
        "Direction of shift against the published table (docs/notes.md: a 7B model, upstream scoring, single runs):",
        "",
        *table(["data", "same sign", "which", "same sign among those that count as shifted"],
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
    a = np.array([[predicted[g][t] for t in traits] for g in groups])
    behaviour, activation = (
        np.array([[narrow["groups"][g]["traits"][t][k]["mean"] for t in traits] for g in groups])
        for k in ("preference_shift", "projection")
    )
    to_behaviour, to_activation = matrix_agreement(a, behaviour), matrix_agreement(a, activation)
    rows = [[g, *(f"{x:+.2f}" for x in row)] for g, row in zip(groups, a, strict=True)]
    return [
        *text,
        f"Screening forecast (mean projection difference of {SCREENED} rows, pole gaps):",
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
        ["data", "vector", "rows", "AUC, projection difference [95%]", "raw projection", "prompt-last",
         "true positives at 1% false"], [screened(path, what) for path, what in found if path.is_file()],
    )  # fmt: skip


def prevention_section() -> list[str]:
    found = read_json(OUT / "prevent" / "prevention.json")
    return [
        f"Task: {found['task']['rows']} answers of the high pole of openness (so the task is itself the trait: the "
        f"hardest case), {found['task']['held_out']} held out; dose {found['dose']:g} at layer {found['layer']}; base "
        f"task loss {found['base']['loss']:.3f}.",
        "",
        *table(["method", "shift, points [95% over seeds]", "sd", "prevented", "written", "task loss", "of plain",
                "learnt", "perplexity of base"], prevention(found)),
        found["finding"],
        "",
        "By the loss alone (within 10% of plain training's), these halve the shift: "
        + (", ".join(halved_by_loss(found)) or "none")
        + ".",
        "",
    ]  # fmt: skip


def halved_by_loss(found: dict[str, Any]) -> list[str]:
    return [
        name
        for name, r in found["methods"].items()
        if name != "plain" and (r["prevented"] or 0) >= 0.5 and (r["task_loss_ratio"] or 9) <= LEARNT_WITHIN
    ]


def third_section(limit: int) -> list[str]:
    third = read_json(OUT / "third-party.json")
    return [
        f"Third-party openness items ({limit} of them, none used for anything else here):",
        "",
        *table(["adapter", "n", "score, %", "preference, %"],
               [[r["condition"]["name"], str(t["n"]), with_interval(t["score"], t["score_ci"], 0),
                 with_interval(t["preference"], t["preference_ci"], 1, 100)]
                for r in third["runs"] for t in r["traits"].values()]),
    ]  # fmt: skip


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


def kept() -> dict[str, list[str]]:
    """The sections of the page as it is, by title."""
    found: dict[str, list[str]] = {}
    for line in PAGE.read_text(encoding="utf-8").splitlines() if PAGE.is_file() else []:
        if line.startswith("## "):
            title = line.removeprefix("## ")
            found[title] = []
        elif found:
            found[title].append(line)
    return found


def page(run: Path, rows: int, limit: int) -> None:
    """The page: sections of what was measured here, and as they were those of what was not."""
    before, traits = kept(), list(read_json(LAYERS)["layers"])
    dtype = identify()["dtype"]
    sections = {
        "Tuning to each pole, three seeds": (OUT / "audit-openness" / "audit.json", "", lambda: seeds_section(limit)),
        "Tuning to each pole, one seed": (run / "results.json", "", lambda: one_seed_section(read_results(str(run)))),
        "Narrow data against a benign control": (
            OUT / "audit-narrow" / "audit.json",
            f" Budget: {rows} rows, {EPOCHS} epochs, rank 16, 3 seeds each; {MATRIX_ITEMS} items and "
            f"{MATRIX_QUESTIONS} questions a trait.",
            lambda: narrow_section(traits),
        ),
        "Screening": (OUT / "screen-labelled.json", "", screen_section),
        "Prevention": (OUT / "prevent" / "prevention.json", "", prevention_section),
    }
    text = [
        "# Fine-tuning: what it does to the persona, screened, audited, prevented",
        "",
        "SmolLM2-135M-Instruct. Made by `make results-tuning DATA=folder`; each section says in what arithmetic it was",
        "measured, since not all of them come from one machine.",
        "",
    ]
    for title, (path, budget, make) in sections.items():
        if path.is_file():
            text += [f"## {title}", "", f"Measured in {dtype}.{budget}", "", *make()]
        else:
            text += [f"## {title}", *before.get(title, ["", "Not measured yet.", ""])]
    write_text(PAGE, "\n".join(text).rstrip("\n") + "\n")
    print(f"wrote {PAGE}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--run", default="runs/full")
    parser.add_argument("--rows", type=int, default=60)
    parser.add_argument("--third-party", type=int, default=125)
    parser.add_argument("--steps", nargs="*", help="only these (none: the page of what was measured)")
    given = parser.parse_args()
    run = Path(given.run)
    vectors = run / "vectors" if (run / "results.json").is_file() else OUT / "vectors"
    steps = {
        "vectors": fit_vectors if vectors.parent == OUT else lambda: None,
        "train-narrow": lambda: train_narrow(given.data, given.rows),
        "audit-narrow": lambda: audit_narrow(vectors),
        "forecast": lambda: forecast(given.data, vectors, list(read_json(LAYERS)["layers"])),
        "train-poles": train_poles,
        "third-party": lambda: third_party(given.data, given.third_party),
        "audit-poles": lambda: audit_poles(vectors),
        "screen": lambda: screen(given.data, vectors),
        "prevent": lambda: prevent(given.data, vectors),
    }
    for name in steps if given.steps is None else given.steps:
        steps[name]()
    page(run, given.rows, given.third_party)


if __name__ == "__main__":
    main()
