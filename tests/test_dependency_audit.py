"""The dependency audit: it fails for what is known to be vulnerable, and says when it could not be done."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "scripts" / "audit_dependencies.sh"
if shutil.which("bash") is None or shutil.which("timeout") is None:
    pytest.skip("the script needs bash and timeout", allow_module_level=True)

CLEAN = {"name": "a", "version": "1", "vulns": []}
BAD = {"name": "b", "version": "2", "vulns": [{"id": "PYSEC-0", "fix_versions": ["2.1"]}]}
UNKNOWN = {"name": "c", "version": "3", "skip_reason": "not found"}
PRETENDER = """
import sys, time
from pathlib import Path
given = dict(zip(sys.argv[1:], sys.argv[2:]))
Path(__file__).with_name("pins").write_text(Path(given["--requirement"]).read_text())
{then}
"""


@pytest.fixture
def audit(tmp_path):
    """Run the script with a pip-audit that finds what it is told to find."""
    (tmp_path / "pip_audit").mkdir()
    (tmp_path / "pip_audit" / "__init__.py").touch()
    (tmp_path / "lock.txt").write_text("a==1 \\\n    --hash=sha256:00\ntorch==2.13.0+cpu \\\n    --hash=sha256:01\n")

    def run(found, **environment):
        then = found if isinstance(found, str) else f"Path(given['--output']).write_text({json.dumps(found)!r})"
        (tmp_path / "pip_audit" / "__main__.py").write_text(PRETENDER.format(then=then))
        return subprocess.run(
            ["bash", str(SCRIPT), str(tmp_path / "lock.txt")], capture_output=True, text=True, timeout=600,
            env={**os.environ, "PYTHON": sys.executable, "PYTHONPATH": str(tmp_path), **environment},
        )  # fmt: skip

    return run


def test_pins_are_looked_up_without_hashes_and_local_builds(audit, tmp_path):
    done = audit({"dependencies": [CLEAN, UNKNOWN]})
    assert done.returncode == 0
    assert "1 of 2 dependencies looked up, 0 vulnerabilities" in done.stdout
    assert (tmp_path / "pip_audit" / "pins").read_text() == "a==1\ntorch==2.13.0\n"


def test_a_vulnerable_dependency_fails_and_is_named_with_its_remedy(audit):
    done = audit({"dependencies": [CLEAN, BAD]})
    assert done.returncode == 1
    assert "b 2: PYSEC-0 (fixed in: 2.1)" in done.stderr


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({"dependencies": [UNKNOWN]}, "knows none of the packages"),
        ("print('ConnectionError: no route', file=sys.stderr); sys.exit(1)", "cannot be reached (ConnectionError"),
        ("time.sleep(600)", "did not answer in time"),
    ],
)
def test_what_cannot_be_looked_up_is_said_and_fails_only_where_it_is_required(audit, found, said):
    patience = "1" if "sleep" in str(found) else "300"  # who never answers has not answered within a second either
    done = audit(found, AUDIT_SECONDS=patience)
    assert (done.returncode, done.stdout) == (0, "")
    assert "audit: not done" in done.stderr
    assert said in done.stderr
    assert audit(found, AUDIT_SECONDS=patience, AUDIT="require").returncode == 1
