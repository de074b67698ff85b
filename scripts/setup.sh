#!/usr/bin/env bash
# Make .venv with the pinned dependencies and this checkout. Called by make; safe to call again.
# TORCH=cpu or TORCH=default chooses the torch build; auto takes the CPU build where there is no NVIDIA
# driver and pip is configured with an index or folder that has it.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
torch=${TORCH:-auto}
if [ ! -x .venv/bin/python ]; then
  if ! "$python" -m venv .venv 2>/dev/null; then
    rm -rf .venv
    echo "setup: this Python has no venv; on Debian: apt-get install python3-venv" >&2
    exit 2
  fi
fi
pip=".venv/bin/python -m pip --disable-pip-version-check"
lock=requirements.txt
cpu_pin=$(grep -o '^torch==[^ ]*' requirements-cpu.txt)
if [ "$torch" = cpu ]; then
  lock=requirements-cpu.txt
elif [ "$torch" = auto ] && ! command -v nvidia-smi >/dev/null 2>&1; then
  probe=$(mktemp -d)
  if $pip install --quiet --dry-run --no-deps --only-binary=:all: --ignore-installed "$cpu_pin" >"$probe/log" 2>&1; then
    lock=requirements-cpu.txt
  fi
  rm -rf "$probe"
fi
echo "setup: installing from $lock (once)"
# The lock is whole: --no-deps takes it as it is (one test dependency understates what it runs with).
$pip install --quiet --no-deps --require-hashes -r "$lock"
$pip install --quiet --no-deps --no-build-isolation -e .
cat requirements.txt requirements-cpu.txt pyproject.toml | sha256sum > .venv/setup-stamp
