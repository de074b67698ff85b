"""The threat model names what holds each promise; what it names is there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MODEL = (ROOT / "docs" / "threat-model.md").read_text(encoding="utf-8")
TESTS = "\n".join(p.read_text(encoding="utf-8") for p in (ROOT / "tests").glob("test_*.py"))
PROMISES = [line.strip("| ").split(" | ") for line in MODEL.splitlines() if line.startswith("| ")][1:]


def test_every_promise_has_what_holds_it():
    assert len(PROMISES) >= 12
    for promise, held in PROMISES:
        named = re.findall(r"`(test_\w+|tests/\w+\.py|scripts/\w+\.sh|benchmarks/\w+\.py)`", held)
        assert named, promise


def test_every_test_and_file_that_is_named_is_there():
    for name in re.findall(r"`(test_\w+)`", MODEL):
        assert f"def {name}(" in TESTS, name
    for path in re.findall(r"`((?:tests|scripts|benchmarks)/[\w.]+)`", MODEL):
        assert (ROOT / path).is_file(), path
