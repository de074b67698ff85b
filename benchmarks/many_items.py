"""Peak memory of `evaluate` at 8,000 items over that at 800: items of the bank, each made distinct, on a tiny model.

Usage: python benchmarks/many_items.py [--items 8000]
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))


def write_items(path: Path, count: int) -> None:
    import llm_persona as lp

    bank = list(lp.load_items("openness"))
    rows = []
    for number in range(count):
        item = bank[number % len(bank)]
        rows.append({"idx": number, "personality": "Openness", "situation": f"Case {number}. {item.situation}",
                     "query": item.query, **item.responses})  # fmt: skip
    path.write_text(json.dumps(rows), encoding="utf-8")


def peak(model: Path, items: Path) -> float:
    """MiB at most, in a process of its own."""
    code = (
        "import sys, resource; from llm_persona.interfaces.cli.main import run; c = run(sys.argv[1:]); "
        "print('PEAK', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss); raise SystemExit(c)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "evaluate", "--model", str(model), "--dtype", "float32", "--items", str(items)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    found = re.search(r"PEAK (\d+)", done.stdout)
    assert found is not None
    return int(found[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=8000)
    given = parser.parse_args()
    from conftest import save_tiny_model

    with tempfile.TemporaryDirectory() as folder:
        model = save_tiny_model(Path(folder) / "model")
        peaks = {}
        for count in (given.items // 10, given.items):
            path = Path(folder) / f"{count}.json"
            write_items(path, count)
            peaks[count] = peak(model, path)
            print(f"{count} items: peak {peaks[count]:.0f} MiB", flush=True)
    few, many = peaks.values()
    print(f"ratio {many / few:.3f} (own peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB)")


if __name__ == "__main__":
    main()
