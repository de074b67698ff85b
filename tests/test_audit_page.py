"""An audit as it is shown: the command, the sentences, the page, and the page of an older file."""

from __future__ import annotations

import json
import re

import pytest
from markupsafe import escape
from schemas import check_schema

from llm_persona.domain.formats import sealed
from llm_persona.interfaces.cli.main import run
from llm_persona.studies.audit_page import write_audit_page
from llm_persona.studies.audit_summary import _sentences


def test_the_command_audits_a_folder_of_seeds_and_writes_page_and_json(tuned_tiny, capsys):
    out = tuned_tiny / "cli"
    code = run(
        ["audit", "--model", str(tuned_tiny / "model"), "--dtype", "float32", "--adapter", str(tuned_tiny / "high"),
         "--control", str(tuned_tiny / "benign"), "--tuned", f"whole={tuned_tiny / 'model'}", "--trait", "openness",
         "--limit", "4", "--questions", "2", "--max-new-tokens", "4", "--out", str(out), "--json", str(out / "a.json")]
    )  # fmt: skip
    assert code == 0
    result = json.loads((out / "a.json").read_text())
    check_schema("audit", result)
    assert set(result["tuned"]) == {"high/seed-0", "high/seed-1", "whole", "benign"}
    assert result["traits"]["openness"]["tuned"]["whole"]["preference_shift"] == 0
    page = (out / "audit.html").read_text()
    assert str(escape(result["rule"])) in page
    assert not re.search(r'(src|href)="(?!#|data:)', page)
    assert "rule:" in capsys.readouterr().out


def test_the_matrix_and_the_sentences_carry_intervals_and_say_what_they_are_over(audited):
    m = audited["matrix"]
    assert m["intervals_over"] == ["seeds", "items"]
    one = audited["traits"]["openness"]["tuned"]["benign"]
    assert m["preference_points_ci"][1][0] == pytest.approx([100 * x for x in one["preference_shift_ci"]])
    gap = audited["traits"]["openness"]["pole_gap"]
    assert m["projection_pole_gaps_ci"][1][0] == pytest.approx([x / gap for x in one["projection"]["both_ci"]])
    assert m["preference_points_ci"][0][0] == [None, None]  # two seeds
    entry = {"verdict": "shifted down", "preference_shift": {"mean": -0.1, "n_seeds": 3},
             "interval": {"preference": [-0.12, -0.08], "over": "seeds"}}  # fmt: skip
    lines = _sentences({"g": {"models": ["a", "b", "c"], "control": False, "traits": {"openness": entry}}})
    assert lines == ["g (3 seeds): openness down by 10.0 points (8.0 to 12.0 over seeds)."]


def test_the_page_shows_the_answers_side_by_side_and_the_intervals(audited, tuned_tiny):
    page = write_audit_page(tuned_tiny / "out").read_text(encoding="utf-8")
    for trait in audited["traits"].values():
        for model, found in trait["tuned"].items():
            for s in found["samples"]:
                pair = (
                    f'<p><strong>{escape(s["question"])}</strong></p>\n<div class="pair"><div><p class="soft">base</p>'
                    f'<blockquote>{escape(s["base"])}</blockquote></div><div><p class="soft">{model}</p>'
                    f"<blockquote>{escape(s['tuned'])}</blockquote></div></div>"
                )
                assert pair in page
            low, high = found["vector_cosine_ci"]
            assert f"{found['vector_cosine']:.3f} ({low:.3f} to {high:.3f})" in page
    for m in audited["tuned"].values():
        low, high = m["perplexity_ratio_ci"]
        assert f"{m['perplexity_ratio']:.2f} ({low:.2f} to {high:.2f})" in page
    assert str(escape(audited["multiplicity"])) in page


def test_an_audit_of_an_earlier_version_still_has_a_page(audited, tuned_tiny, tmp_path):
    """Fields were added: a page of a file without them has no interval there, and no error."""
    old = json.loads(json.dumps(audited))
    added = ("multiplicity", "vector_cosine_ci", "interval", "preference_points_ci", "projection_pole_gaps_ci",
             "perplexity_ratio_ci", "own_answers_ci", "fixed_texts_ci", "both_p_holm", "score_p_holm", "auc_before_ci",
             "separation_before_ci", "auc_change", "auc_change_ci", "separation_change", "separation_change_ci",
             "auc_of_the_base_vector_after_ci", "auc_of_the_base_vector_change",
             "auc_of_the_base_vector_change_ci")  # fmt: skip

    def without(value, inside=""):
        if isinstance(value, dict):
            kept = {
                k: v for k, v in value.items() if k not in added or (inside == "projection" and k.startswith("fixed"))
            }
            return {k: without(v, k) for k, v in kept.items()}
        return [without(v, inside) for v in value] if isinstance(value, list) else value

    (tmp_path / "audit.json").write_text(json.dumps(sealed("audit", without(old))), encoding="utf-8")
    assert "Fine-tuning by trait" in write_audit_page(tmp_path).read_text(encoding="utf-8")
