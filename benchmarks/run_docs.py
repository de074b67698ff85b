"""Run every command and snippet of the documentation, and the examples: each page in a folder of its own.

Usage: python benchmarks/run_docs.py [PAGE.md or EXAMPLE.py ...] (default: all of them; about half an hour on two cores)
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from doc_blocks import NOT_RUN, blocks, page_folder, pages, run_block  # noqa: E402


def run_page(page: Path) -> list[str]:
    """What failed; after a failure the rest of the page is left out."""
    names: dict = {}
    with tempfile.TemporaryDirectory() as folder, page_folder(Path(folder)):
        for block in blocks(page):
            if block.how.startswith(NOT_RUN):
                print(f"-- {block.where}: not run: {block.how.removeprefix(NOT_RUN).strip()}", flush=True)
            if not block.runs:
                continue
            print(f"-- {block.where}", flush=True)
            begun = time.monotonic()
            try:
                run_block(block, names)
            except RuntimeError as error:
                return [str(error)]
            print(f"   {time.monotonic() - begun:.0f} s", flush=True)
    return []


def run_example(path: Path) -> list[str]:
    """An example as its reader would run it, on fewer items."""
    print(f"-- {path.relative_to(ROOT)}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run([sys.executable, str(path), "6"], cwd=folder, check=False)
    return [] if done.returncode == 0 else [f"{path.relative_to(ROOT)}: exit code {done.returncode}"]


def main() -> None:
    chosen = [Path(a).resolve() for a in sys.argv[1:]]
    failed = []
    for path in chosen or [*pages(), *sorted((ROOT / "docs" / "examples").glob("*.py"))]:
        failed += run_example(path) if path.suffix == ".py" else run_page(path)
    for line in failed:
        print(f"FAILED {line}", file=sys.stderr)
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
