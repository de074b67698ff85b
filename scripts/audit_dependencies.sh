#!/usr/bin/env bash
# Look every pinned dependency up in a vulnerability database (pip-audit). Exit 1: something known to be vulnerable is
# pinned. Where the database cannot be reached, or does not know the packages, that is said and nothing fails;
# AUDIT=require makes it fail (for a machine that has a network).
# Call: scripts/audit_dependencies.sh [LOCK]...
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-.venv/bin/python}
locks=("$@")
[ ${#locks[@]} -gt 0 ] || locks=(requirements.txt)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
not_done() {
  echo "audit: not done: $1" >&2
  [ "${AUDIT:-}" != require ] || exit 1
  exit 0
}
"$python" -c "import pip_audit" 2>/dev/null || not_done "pip-audit is not installed (extra dev)"
status=0
for lock in "${locks[@]}"; do
  # (a lock may pin a local build, torch==X+cpu: the database knows X)
  sed -E 's/^([A-Za-z0-9._-]+==[^ +]+)\+[^ ]+/\1/' "$lock" | grep -E '^[A-Za-z0-9]' | sed -E 's/ *\\$//' > "$work/pins.txt"
  code=0
  timeout "${AUDIT_SECONDS:-120}" "$python" -m pip_audit --requirement "$work/pins.txt" --no-deps --disable-pip \
    --timeout 10 --progress-spinner off --format json --output "$work/found.json" > "$work/log" 2>&1 || code=$?
  [ "$code" -ne 124 ] || not_done "the vulnerability database did not answer in time"
  [ -s "$work/found.json" ] || not_done "the vulnerability database cannot be reached ($(tail -n 1 "$work/log" | cut -c 1-160))"
  code=0
  "$python" - "$work/found.json" "$lock" <<'PYTHON' || code=$?
import json
import sys

found = json.load(open(sys.argv[1], encoding="utf-8"))["dependencies"]
known = [d for d in found if "skip_reason" not in d]
bad = [(d, v) for d in known for v in d["vulns"]]
for d, v in bad:
    fixed = ", ".join(v["fix_versions"]) or "none yet"
    print(f"audit: {d['name']} {d['version']}: {v['id']} (fixed in: {fixed})", file=sys.stderr)
if not known:
    sys.exit(3)
print(f"audit: {sys.argv[2]}: {len(known)} of {len(found)} dependencies looked up, {len(bad)} vulnerabilities")
sys.exit(1 if bad else 0)
PYTHON
  [ "$code" -ne 3 ] || not_done "the vulnerability database knows none of the packages here (an index without its data?)"
  [ "$code" -eq 0 ] || status=1
done
exit "$status"
