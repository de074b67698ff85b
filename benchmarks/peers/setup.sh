#!/usr/bin/env bash
# One environment a peer, from its lock, in PEERS (default: the user's cache). Safe to call again.
# torch comes from our own lock: its CPU build where pip is configured to find it, as in scripts/setup.sh.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=${PEERS:-${XDG_CACHE_HOME:-$HOME/.cache}/llm-persona-peers}
python=${PYTHON:-python3}
lock=$here/../../requirements.txt
cpu_pin=$(grep -o '^torch==[^ ]*' "$here/../../requirements-cpu.txt")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if "$python" -m pip install --quiet --dry-run --no-deps --only-binary=:all: --ignore-installed "$cpu_pin" >"$work/log" 2>&1; then
  lock=$here/../../requirements-cpu.txt
fi
awk '/^[^ ]/ {keep = /^(torch|triton|nvidia-[a-z0-9-]*|cuda-[a-z0-9-]*)==/} keep' "$lock" > "$work/torch.txt"
for pinned in "$here"/locks/*.txt; do
  name=$(basename "$pinned" .txt)
  stamp=$(cat "$pinned" "$work/torch.txt" | sha256sum | cut -d' ' -f1)
  [ "$(cat "$root/$name/stamp" 2>/dev/null)" = "$stamp" ] && continue
  echo "peers: making $root/$name"
  rm -rf "${root:?}/$name"
  "$python" -m venv "$root/$name"
  pip="$root/$name/bin/python -m pip --disable-pip-version-check install --quiet --no-compile --no-deps --only-binary=:all: --require-hashes"
  $pip -r "$work/torch.txt"
  $pip -r "$pinned"
  echo "$stamp" > "$root/$name/stamp"
done
