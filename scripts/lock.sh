#!/usr/bin/env bash
# Resolve the dependencies again and write both lock files: hashes, no addresses.
# Needs uv, and for the CPU lock a folder or index with the CPU build of torch (TORCH_CPU=--find-links DIR).
set -euo pipefail
cd "$(dirname "$0")/.."
version=2.13.0
compile() {
  local pin=$1 out=$2
  shift 2
  local constraints
  constraints=$(mktemp)
  echo "torch==$pin" > "$constraints"
  uv pip compile --quiet --python-version 3.11 --python-platform x86_64-manylinux_2_28 --generate-hashes \
    --no-annotate --no-header --extra dev --extra peers --override scripts/overrides.txt --build-constraint /dev/null -c "$constraints" "$@" \
    pyproject.toml requirements-build.in -o "$out"
  grep -v -E '^(--|#)' "$out" > "$out.tmp" && mv "$out.tmp" "$out"
  rm -f "$constraints"
}
compile "$version" requirements.txt
# shellcheck disable=SC2086
compile "$version+cpu" requirements-cpu.txt ${TORCH_CPU:-}
