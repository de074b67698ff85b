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
from tuning_sections import (
    BENIGN,
    EPOCHS,
    MATRIX_ITEMS,
    MATRIX_QUESTIONS,
    MIXED_READ,
    NARROW,
    OUT,
    THREE_SEEDS,
    narrow_section,
    one_seed_section,
    prevention_section,
    screen_section,
    seeds_section,
)

import llm_persona as lp
from llm_persona.analysis import screening
from llm_persona.analysis.vectors import fit, projections
from llm_persona.domain.provenance import git_revision, versions
from llm_persona.domain.responses import Response
from llm_persona.domain.store import read_json, write_json, write_text
from llm_persona.interfaces.cli.main import run as command
from llm_persona.studies.report import read_results
from llm_persona.subject.locate import identify
from llm_persona.training.data import from_chat

PAGE = Path(__file__).resolve().parents[1] / "docs" / "results" / "tuning.md"
LAYERS = PAGE.with_name("recommended.json")
SCREENED = 40


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
    """Mean projection difference of rows that training used, for every data set and trait, in pole gaps, each with its
    interval over prompts and its n.

    Not by `llm-persona screen`, which takes one vector: there the model would answer every prompt once a trait. Here it
    answers each once, and all vectors read the same states; the figures are those of `screen`.
    """
    target = OUT / "forecast.json"
    if target.is_file() and all(
        isinstance(x, dict) for by_trait in read_json(target).values() for x in by_trait.values()
    ):
        return  # (an earlier version kept the means alone, which leave no interval)
    subject = lp.load_subject()
    found: dict[str, dict[str, Any]] = {}
    loaded = {t: lp.PersonaVector.load(vectors / f"{t}.safetensors") for t in traits}
    for name, file in {**NARROW, **BENIGN}.items():
        examples = from_chat(data / file, SCREENED).examples
        own = lp.generate(subject, [e.prompt for e in examples], max_new_tokens=48)
        pairs = [(e.prompt, e.response, a.text) for e, a in zip(examples, own, strict=True) if a.text]
        row, self_ = (
            lp.record(subject, [Response(p[0], p[k], "neutral", str(n)) for n, p in enumerate(pairs)]).values
            for k in (1, 2)
        )
        _, prompts = np.unique([p[0] for p in pairs], return_inverse=True)
        found[name] = {}
        for trait, vector in loaded.items():
            layer = vector.meta["recommended"]["balanced"]
            difference = (projections(row, vector) - projections(self_, vector))[:, layer]
            found[name][trait] = screening.forecast(difference, prompts, float(vector.norms[layer]), trait)
    write_json(target, found)


def prevent(data: Path, vectors: Path) -> None:
    do("prevent", "--trait", "openness", "--pole", "high", "--vector", vectors / "openness.safetensors",
       "--benign", data / BENIGN["good_medical"], "--seeds", 3, "--limit", 14, "--questions", 4,
       "--epochs", 1, "--out", OUT / "prevent")  # fmt: skip


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
