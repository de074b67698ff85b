"""Damage valid inputs of every reader, in structure and in bytes, and see that each case is read or refused.

Usage: python benchmarks/fuzz_readers.py [--cases 2000] [--seed 0] [--reader NAME]... [--messages] [--again FILE]

Every case must end within a time limit, either accepted (what is made of it is strict JSON and its numbers lie in their
range) or refused by one line that names the file. The first that does not ends the run with exit code 1 and is kept
in `fuzz-failure/`: `--reader NAME --again fuzz-failure/case` runs it again.
"""

from __future__ import annotations

import argparse
import collections
import faulthandler
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1] / "tests"
KEPT = Path("fuzz-failure")
SECONDS = 20
"""Of processor time for one case; the readers need milliseconds, so that what grows with the square of a text's length
shows, and a busy machine does not."""
MEMORY = 12 << 30
REPORTS = 20
"""One in so many cases draws a whole report, which takes a second."""
RESULTS = "results.json"


class Hang(BaseException):
    """The case took too long."""


def _stop(*_: object) -> None:
    raise Hang(f"more than {SECONDS} s of processor time")


def results_reader(folder: Path):  # type: ignore[no-untyped-def]
    """`report RUN` and what reads results.json besides, on the results of a study of a tiny random model."""
    import json

    import mutations
    from conftest import save_tiny_model
    from reader import Reader, command, strict

    from llm_persona.studies.report import write_report

    study = Path(__file__).with_name("tiny_study.yaml")
    model = save_tiny_model(folder / "tiny-model")
    command("run", str(study), "--model", str(model), "--out", str(folder / "run"))
    seed = json.loads((folder / "run" / "results.json").read_text(encoding="utf-8"))
    place = folder / "results"
    place.mkdir()

    def read(data: bytes) -> object:
        (place / "results.json").write_bytes(data)
        write_report(place)
        command("report", "compare", str(place), str(place), "--json", str(folder / "out.json"))
        return strict(folder / "out.json")

    return Reader(RESULTS, (seed,), mutations.json_bytes, read, "results")


def one(reader, data: bytes) -> str:  # type: ignore[no-untyped-def]
    """The outcome of a case, within the time limit."""
    from reader import outcome

    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    faulthandler.dump_traceback_later(15 * SECONDS, exit=True)  # where it only waits, or C code does not come back
    try:
        return outcome(reader, data)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        faulthandler.cancel_dump_traceback_later()


def main() -> int:
    """Run the cases and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=2000, help="cases in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--reader", action="append", default=[], help="only these (repeatable)")
    parser.add_argument("--messages", action="store_true", help="also print every kind of refusal once")
    parser.add_argument("--go-on", action="store_true", help="list all kinds of failure instead of ending at the first")
    parser.add_argument("--again", type=Path, help="run one kept case again")
    given = parser.parse_args()
    sys.path.insert(0, str(TESTS))
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    signal.signal(signal.SIGPROF, _stop)
    with tempfile.TemporaryDirectory() as text:
        os.environ["LLM_PERSONA_CACHE"] = str(Path(text) / "cache")
        return _fuzz(given, Path(text))


def _fuzz(given: argparse.Namespace, folder: Path) -> int:
    from readers import make_readers

    table: dict[str, object] = {reader.name: reader for reader in make_readers(folder)}
    chosen = given.reader or [*table, RESULTS]
    if not {*chosen} <= {*table, RESULTS}:
        print(f"no such reader; there are: {', '.join([*table, RESULTS])}")
        return 2
    if given.again is not None:
        print(one(table.get(chosen[0]) or results_reader(folder), given.again.read_bytes()))
        return 0
    share = max(1, given.cases // len(chosen))
    rows, said, failed = [], collections.Counter(), collections.Counter()
    print(f"{'reader':20s} {'cases':>7s} {'refused':>8s} {'accepted':>9s} {'seconds':>8s}", flush=True)
    for name in chosen:
        reader = table.get(name) or results_reader(folder)
        draw = random.Random(f"{given.seed} {reader.name}")
        count = max(5, share // REPORTS) if name == RESULTS and not given.reader else share
        began, accepted = time.monotonic(), 0
        for number in range(count):
            data = reader.case(draw)
            KEPT.mkdir(exist_ok=True)
            (KEPT / "case").write_bytes(data)  # before it is read: a crash leaves it there
            try:
                found = one(reader, data)
            except BaseException as error:
                if isinstance(error, KeyboardInterrupt):
                    raise
                if given.go_on:
                    failed[reader.name, _kind(error)] += 1
                    continue
                traceback.print_exc()
                print(f"FAILED: {reader.name!r}, case {number} of seed {given.seed}: {type(error).__name__}; again:")
                print(f"  python {sys.argv[0]} --reader {reader.name!r} --again {KEPT / 'case'}")
                return 1
            accepted += found == "accepted"
            said[reader.name, re.sub(r"\d+|'[^']*'|\([^)]*\)", "#", found)[:150]] += 1
        rows.append((reader.name, count, count - accepted, accepted, time.monotonic() - began))
        _show(rows[-1])
    _show(("all", *(sum(r[k] for r in rows) for k in range(1, 5))))
    shutil.rmtree(KEPT, ignore_errors=True)
    for (name, kind), count in failed.most_common():
        print(f"FAILED {count:4d} times: {name}: {kind}")
    if given.messages:
        for (name, message), count in sorted(said.items()):
            print(f"{count:6d}  {name}: {message}")
    return 1 if failed else 0


def _show(row) -> None:  # type: ignore[no-untyped-def]
    print(f"{row[0]:20s} {row[1]:7d} {row[2]:8d} {row[3]:9d} {row[4]:8.1f}", flush=True)


def _kind(error: BaseException) -> str:
    """Where in our code an error arose, and what it is."""
    frames = [
        f for f in traceback.extract_tb(error.__traceback__) if "llm_persona" in f.filename or "tests" in f.filename
    ]
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno} {type(error).__name__} {str(error)[:100]!r}"


if __name__ == "__main__":
    sys.exit(main())
