"""The report of a run, as a page, as Markdown and beside another run: what it says, and that model text stays text."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import sys
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from reporters import Counting

from llm_persona.domain.config import read_config
from llm_persona.domain.traits import POLES
from llm_persona.interfaces.cli.main import run
from llm_persona.studies import figures
from llm_persona.studies.findings import headline
from llm_persona.studies.report import write_report
from llm_persona.studies.study import expected_stages, run_study

STUDY = Path(__file__).resolve().parents[1] / "benchmarks" / "tiny_study.yaml"
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)> | *bold* [link](http://x) `code` $x$"


@pytest.fixture(scope="module")
def counted(tiny_folders, tmp_path_factory):
    """A finished run of two traits on a tiny model, and what its reporter counted."""
    config = read_config(STUDY, model=tiny_folders[0], traits=["openness", "narcissism"], arithmetic=True)
    folder, reporter = tmp_path_factory.mktemp("report") / "run", Counting(expected_stages(config))
    run_study(config, folder, reporter)
    return folder, reporter


@pytest.fixture(scope="module")
def finished(counted):
    return counted[0]


@pytest.fixture(scope="module")
def page(finished):
    return (finished / "report.html").read_text(encoding="utf-8")


def changed(folder, target, change):
    """A copy of the run whose results are changed."""
    shutil.copytree(folder, target)
    results = json.loads((target / "results.json").read_text())
    change(results)
    (target / "results.json").write_text(json.dumps(results))
    return target


class Elements(HTMLParser):
    """Every start tag with its attributes."""

    def __init__(self, text):
        super().__init__()
        self.found = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def test_a_study_has_each_trait_s_rows_read_by_the_others_and_every_control_has_its_interval(finished, page):
    results = json.loads((finished / "results.json").read_text())
    for name, trait in results["traits"].items():
        vector, controls = trait["vector"], trait["vector"]["controls"]
        (other,) = controls["other_traits"]
        assert {name, other} == set(results["traits"])
        read = controls["other_traits"][other]
        assert read["auc_ci"][0] <= read["auc"] <= read["auc_ci"][1]
        assert read["cosine"] == pytest.approx(cosine_at(results, name, other, controls["layer"]), abs=1e-4)
        assert all(f"{kind}_auc_ci" in controls for kind in ("lexical", "length", "sentiment"))
        assert len(vector["projections"]) == vector["n_high"] + vector["n_low"]
        along = {pole: [r["projection"] for r in vector["projections"] if r["pole"] == pole] for pole in POLES}
        gap = sum(along["high"]) / len(along["high"]) - sum(along["low"]) / len(along["low"])
        assert gap == pytest.approx(vector["layers"][controls["layer"]]["separation"])
        assert all(band["auc_ci"][0] <= band["auc"] <= band["auc_ci"][1] for band in vector["bands"].values())
    for text in (
        "Read by other traits",
        "By third of the depth",
        "component 1",
        "The cosines at every layer",
        "Cluster",
    ):
        assert text in page
    assert "the first principal direction" not in page  # (of two traits nothing is taken out)


def cosine_at(results, a, b, layer):
    names = results["geometry"]["traits"]
    return results["geometry"]["cosines_by_layer"][layer][names.index(a)][names.index(b)]


def test_the_results_page_ends_in_the_claims_each_with_one_of_three_verdicts(finished):
    sys.path.insert(0, str(STUDY.parent))
    from claims import CONFIRMED, OPEN, REFUTED
    from results_vectors import page as results_page

    lines = results_page(json.loads((finished / "results.json").read_text())).rstrip("\n").split("\n")
    start = lines.index("## The original claims")
    assert not any(line.startswith("## ") for line in lines[start + 1 :])
    rows = [line.split(" | ") for line in lines[start:] if line.startswith("| ")][2:]
    assert len(rows) == 13
    assert {row[1] for row in rows} <= {CONFIRMED, REFUTED, OPEN}
    assert lines[-1].startswith("| Auditability")


def test_the_count_of_stages_ends_at_its_total_and_never_passes_it(counted):
    _, reporter = counted
    assert reporter.worst <= 0
    assert reporter.done == reporter.total


def test_the_answer_is_three_sentences_with_the_run_s_own_numbers(finished, page):
    results = json.loads((finished / "results.json").read_text())
    assert len(results["answer"]) == 3
    assert results["answer"] == headline(results)
    assert f"{results['traits']['openness']['baseline']['score']:.0f}%" in results["answer"][0]
    first = page[: page.index("<nav")]
    assert all(sentence.split("[")[0] in first for sentence in results["answer"])
    assert 'id="profile"' in first


def test_of_many_traits_the_answer_names_the_ends(finished):
    results = json.loads((finished / "results.json").read_text())
    one = results["traits"]["openness"]
    for n, name in enumerate(("first", "second", "third")):
        copy = json.loads(json.dumps(one))
        copy["baseline"]["score"] = 10.0 * n
        results["traits"][name] = copy
    del results["traits"]["openness"], results["traits"]["narcissism"]
    assert "first" in headline(results)[0] and "third" in headline(results)[0]
    assert "second" not in headline(results)[0]


def test_nothing_scored_is_said_and_not_hidden(finished):
    results = json.loads((finished / "results.json").read_text())
    for trait in results["traits"].values():
        trait["baseline"]["score"] = None
    assert headline(results) == ["No item could be scored, so nothing can be said of this model."]


def test_the_page_needs_nothing_but_itself_and_may_run_only_our_script(page):
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", page)
    assert page.count("<script") == 1
    script = page[page.index("<script>") + 8 : page.index("</script>")]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page
    assert "default-src 'none'" in page


def test_the_page_can_be_read_without_eyes(page):
    found = Elements(page).found
    ids = [a["id"] for _, a in found if "id" in a]
    assert len(ids) == len(set(ids))
    assert all(a.get("aria-label") for tag, a in found if tag == "svg")
    assert all(a.get("scope") for tag, a in found if tag == "th")
    heads = [int(tag[1]) for tag, _ in found if re.fullmatch(r"h[1-6]", tag)]
    assert heads.count(1) == 1
    assert all(b - a <= 1 for a, b in pairwise(heads)), heads
    links = {a["href"][1:] for tag, a in found if tag == "a"}
    assert links <= set(ids)
    assert ("html", {"lang": "en"}) in found


def test_drawings_take_the_page_s_ink_and_their_points_speak(page):
    drawing = page[page.index("<svg", page.index('id="profile"')) :]
    drawing = drawing[: drawing.index("</svg>")]
    assert "currentColor" in drawing
    assert "#000000" not in drawing
    assert "<title>Openness to experience, base: " in drawing
    assert "<style" not in drawing


def test_a_drawing_refers_only_to_what_it_holds_and_keeps_its_colours():
    from llm_persona.studies.figures import HIGH, Drawing, prepare_matplotlib
    from llm_persona.studies.inline_svg import inline_svg

    figure, axis = prepare_matplotlib().subplots()
    axis.barh([0, 1], [1, 2], color=HIGH, hatch="//")
    text = inline_svg(Drawing(figure, "bars"), "one")
    ids = set(re.findall(r' id="([^"]+)"', text))
    assert set(re.findall(r"url\(#([^)]+)\)", text)) | set(re.findall(r'href="#([^"]+)"', text)) == ids
    assert all(i.startswith("one-") for i in ids)
    assert f'fill="{HIGH}"' in text or f"fill: {HIGH}" in text


def test_each_figure_is_a_file_too(finished):
    names = {p.stem for p in (finished / "figures").glob("*.svg")}
    assert names == {p.stem for p in (finished / "figures").glob("*.png")}
    assert {"profile", "specificity", "geometry", "openness-layers", "openness-dose", "openness-conditions",
            "openness-tuned"} <= names  # fmt: skip


def test_the_tokens_of_a_sample_are_its_text(finished, page):
    results = json.loads((finished / "results.json").read_text())
    for sample in results["traits"]["openness"]["baseline"]["samples"]:
        assert "".join(text for text, _ in sample["tokens"]) == sample["text"].strip()
        assert all(np.isfinite(along) for _, along in sample["tokens"])
    assert re.search(r'<span class="t [hl]?\d?" data-p="[+-]\d', page)


def test_tokens_read_alone_average_to_the_projection_of_the_response(tiny):
    from llm_persona import fit, labelled, load_items, record
    from llm_persona.analysis.vectors import projections
    from llm_persona.instruments.token_projection import TokenProjection

    rows = labelled(load_items("openness")[:2])
    acts = record(tiny, rows)
    vector = fit(acts)
    whole = projections(acts.values, vector)[:, 2]
    read = TokenProjection(rows, vector, 2).measure(tiny).rows
    assert [np.mean([p for _, p in row["tokens"]]) for row in read] == pytest.approx(whole, rel=1e-4, abs=1e-5)
    assert ["".join(text for text, _ in row["tokens"]) for row in read] == [r.text.strip() for r in rows]


def test_text_beyond_ascii_is_cut_without_loss(tiny):
    from llm_persona.domain.responses import Response
    from llm_persona.instruments.token_projection import TokenProjection

    vector = one_vector(tiny)
    text = "Grüße, 你好 \N{ROCKET}! <b>x</b>\nzwei"
    row = TokenProjection([Response("Hi?", text, "neutral", "1")], vector, 1).measure(tiny).rows[0]
    assert "".join(part for part, _ in row["tokens"]) == text


def one_vector(subject):
    from llm_persona.analysis.vectors import PersonaVector

    shape = (subject.n_layers, subject.hidden_size)
    return PersonaVector(np.ones(shape, np.float32), np.ones(shape[0], np.float32))


@pytest.fixture(scope="module")
def spoilt(finished, tmp_path_factory):
    """The same run with markup in every text of the model, and its page."""
    folder = changed(finished, tmp_path_factory.mktemp("spoilt") / "bad", spoil)
    write_report(folder)
    return folder


def test_an_older_run_without_tokens_or_answer_still_has_its_page(finished, tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "save_figure", lambda figure, stem: figure.clear())  # (the page is what is looked at)

    def older(results):
        results.pop("answer")
        for trait in results["traits"].values():
            trait["baseline"]["samples"][0]["text"] = "plain words"
            for sample in trait["baseline"]["samples"]:
                sample.pop("tokens", None)
        for recommendation in results["recommendations"].values():
            recommendation.pop("python")

    page = write_report(changed(finished, tmp_path / "old", older)).read_text()
    assert "<blockquote>plain words</blockquote>" in page


def spoil(results):
    results["model"] = results["subject"]["model"] = HOSTILE
    for trait in results["traits"].values():
        places = [trait["baseline"], *trait["instructed"].values(), *trait["steering"], *trait["tuned"].values()]
        for sample in (s for place in places for s in place["samples"]):
            sample["text"] = HOSTILE
            sample["tokens"] = [[HOSTILE[:9], 0.8], [HOSTILE[9:], -2.0]]


def test_markup_that_the_model_wrote_shows_as_text_on_the_page(spoilt):
    page = (spoilt / "report.html").read_text()
    assert page.count("<script") == 1
    assert "<img" not in page
    assert "&lt;img src=x onerror=alert(2)&gt;" in page


def test_markup_that_the_model_wrote_shows_as_text_in_markdown(spoilt, capsys):
    for form in ("md", "model-card"):
        assert run(["report", str(spoilt), "--format", form]) == 0
        text = capsys.readouterr().out
        outside = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
        assert "<script" not in outside
        assert "<img" not in outside
        assert "](http" not in outside
        assert r"\*bold\*" in text
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in text.splitlines() if line.startswith("| ")}
        assert widths <= {4, 3, 8}  # no cell was split by what the model wrote


def test_a_model_card_says_what_was_measured_with_intervals_n_and_limits(finished, tmp_path):
    out = tmp_path / "card.md"
    assert run(["report", str(finished), "--format", "model-card", "--out", str(out)]) == 0
    text = out.read_text()
    assert text.startswith("## Personality traits")
    assert "### Limits" in text
    assert re.search(r"\d+% \[\d+, \d+\], n = 5", text)
    assert "one seed" in text


def test_html_goes_into_the_run_folder_only(finished, tmp_path, capsys):
    assert run(["report", str(finished), "--out", str(tmp_path / "x.html")]) == 2
    assert "--out belongs to" in capsys.readouterr().err


def test_two_runs_side_by_side_are_one_page_with_paired_differences(finished, spoilt, tmp_path):
    out = tmp_path / "both.html"
    assert run(["report", "compare", str(finished), str(spoilt), "--page", str(out)]) == 0
    page = out.read_text()
    assert "Against run: base" in page
    assert "Paired differences" in page
    assert "bad: tuned high" in page
    assert page.count("<script") == 1
    assert "<img" not in page
    ids = [a["id"] for _, a in Elements(page).found if "id" in a]
    assert len(ids) == len(set(ids))


def test_quiet_and_json_alone(finished, capsys):
    assert run(["run", str(finished / "study.yaml"), "--out", str(finished), "--quiet", "--json", "-"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["traits"].keys() == {"openness", "narcissism"}
    assert shown.err.splitlines() == [f"report: {finished / 'report.html'}"]
