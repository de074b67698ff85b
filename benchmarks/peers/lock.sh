#!/usr/bin/env bash
# Resolve the peers' environments again: NAME.txt from NAME.in, hashes and no addresses. Needs uv, and a folder or index
# with the CPU build of torch (TORCH_CPU="--find-links DIR"). torch and what it brings come from our own lock; left out
# are two packages that exist as source only, which what we time does not import.
set -euo pipefail
cd "$(dirname "$0")/locks"
for source in *.in; do
  out=${source%.in}.txt
  pins=$(mktemp)
  echo "torch==2.13.0+cpu" > "$pins"
  # shellcheck disable=SC2086
  uv pip compile --quiet --python-version 3.11 --python-platform x86_64-manylinux_2_28 --generate-hashes \
    --no-annotate --no-header --no-emit-package torch --no-emit-package torchvision --no-emit-package torchaudio \
    --no-emit-package py2store --no-emit-package transformers-stream-generator \
    --override ../overrides.txt -c "$pins" ${TORCH_CPU:-} "$source" -o "$out"
  grep -v -E '^(--|#)' "$out" > "$out.tmp" && mv "$out.tmp" "$out"
  rm -f "$pins"
done
