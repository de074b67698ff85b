"""Many clients on a real server process, good and bad at once: are answers right, and is nothing left behind?

Usage: python benchmarks/serve_load.py [--model tiny|smollm2-135m] [--requests 200] [--clients 16] [--json FILE]

Greedy answers, float32. Each request carries one of several steerings; its answer must equal that of the same request
asked alone. Then memory, threads and open files of the process are compared with those before the load.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import load_clients as clients
from load_clients import Outcome, Server

ROOT = Path(__file__).resolve().parents[1]
TOKEN = "load-harness-token-0123456789"
QUESTIONS = ("How should I spend the weekend?", "What do you do when plans change?", "Who are you?")
DOSES = (None, 0.5, -0.5, 2.0, -2.0)
GROWTH_MIB = 24.0
"""Resident memory may differ by so much after a load: the allocator keeps pages."""


def make_model(folder: Path) -> Path:
    sys.path.insert(0, str(ROOT / "tests"))
    from conftest import save_tiny_model

    return save_tiny_model(folder)


def make_vectors(folder: Path, model: str) -> list[Path]:
    """Two random directions for that model, with the norms of its activations."""
    import numpy as np

    import llm_persona as lp

    subject = lp.load_subject(model, dtype="float32")
    read = lp.record(subject, lp.labelled(lp.load_items("openness")[:1])).values
    norms = np.linalg.norm(read, axis=2).mean(axis=0).astype(np.float32)
    paths = []
    for number, name in enumerate("ab"):
        directions = np.random.default_rng(number).standard_normal(read.shape[1:]).astype(np.float32)
        paths.append(folder / f"{name}.safetensors")
        meta = {"trait": name, "recommended": {"balanced": subject.n_layers // 2}}
        lp.PersonaVector(directions, norms, meta).save(paths[-1])
    return paths


@contextmanager
def serving(model: str, vectors: list[Path], log: Path, *options: str) -> Iterator[tuple[subprocess.Popen, Server]]:
    """The command `llm-persona serve` in a process of its own; ended by Ctrl-C."""
    command = [sys.executable, "-m", "llm_persona", "serve", "--model", model, "--dtype", "float32", "--port", "0"]
    command += [part for path in vectors for part in ("--vector", str(path))]
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [*command, "--timeout", "120", *options], stderr=sink, stdout=sink,
            env={**os.environ, "LLM_PERSONA_TOKEN": TOKEN},
            # (where this runs in the background, shells let it ignore Ctrl-C, and so would the server)
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
    try:
        while "/v1" not in (said := log.read_text(encoding="utf-8", errors="replace")):
            if process.poll() is not None:
                raise SystemExit(f"the server did not start: {said}")
            time.sleep(0.05)
        port = int(said.split("http://127.0.0.1:")[1].split("/")[0])
        server = Server("127.0.0.1", port, TOKEN)
        while not answers(server):
            if process.poll() is not None:
                raise SystemExit(f"the server ended: {log.read_text(encoding='utf-8', errors='replace')}")
            time.sleep(0.05)
        yield process, server
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def answers(server: Server) -> bool:
    """Whether the server takes connections yet (its address is printed a little before) and refuses a bad request."""
    try:
        return clients.exchange(server, b"{}")[0] == 400
    except OSError:
        return False


def state(process: subprocess.Popen) -> dict[str, float]:
    """Memory (MiB), threads and open files, as the kernel counts them."""
    place = Path(f"/proc/{process.pid}")
    lines = dict(line.split(":", 1) for line in (place / "status").read_text().splitlines() if ":" in line)
    return {
        "rss_mib": int(lines["VmRSS"].split()[0]) / 1024,
        "threads": int(lines["Threads"]),
        "files": len(list((place / "fd").iterdir())),
    }


def settled(process: subprocess.Popen, files: float, seconds: float = 30.0) -> dict[str, float]:
    """The state once connections are closed, or after so long."""
    ending = time.monotonic() + seconds
    while (found := state(process))["files"] > files and time.monotonic() < ending:
        time.sleep(0.2)
    return found


def variants(tokens: int) -> list[dict[str, Any]]:
    """Every question under every steering."""
    found = []
    for question in QUESTIONS:
        for number, dose in enumerate(DOSES):
            persona = [{"vector": "ab"[number % 2], "dose": dose}] if dose is not None else []
            turn = {"role": "user", "content": question}
            found.append({"messages": [turn], "max_tokens": tokens, "temperature": 0, "persona": persona})
    return found


def one(server: Server, asked: list[dict[str, Any]], alone: list[str], draw: random.Random) -> Outcome:
    """One client's request, of a kind that is drawn."""
    number = draw.randrange(len(asked))
    request, wanted = asked[number], alone[number]
    kind = draw.choices(
        ["whole", "stream", "drip", "sip", "leave", "malformed", "over"], [40, 20, 6, 6, 12, 8, 8]
    )[0]  # fmt: skip
    if kind == "leave":
        return clients.leave(server, request, draw)
    if kind == "malformed":
        return clients.malformed(server, draw)
    if kind == "over":
        return clients.over_limits(server, request, draw)
    return getattr(clients, kind)(server, request, wanted)


def load(server: Server, asked: list[dict[str, Any]], alone: list[str], requests: int, at_once: int, seed: int) -> Any:
    """All requests, so many at once; the outcomes and the seconds they took."""
    begun = time.monotonic()
    with ThreadPoolExecutor(at_once) as pool:
        found = list(pool.map(lambda n: one(server, asked, alone, random.Random(f"{seed} {n}")), range(requests)))
    return found, time.monotonic() - begun


def verdict(found: list[Outcome], before: Any, after: Any, again: list[str], alone: list[str]) -> list[str]:
    """What is wrong; nothing, if all is well."""
    wrong = [f"{o.kind}: {o.status}, not {o.expected} ({o.detail})" for o in found if not o.as_expected]
    wrong += [f"{o.kind}: {o.text!r}, alone {o.wanted!r}" for o in found if o.text is not None and o.text != o.wanted]
    if again != alone:
        wrong.append("after the load the same questions get other answers than before it")
    if len(set(alone)) < len(alone) // 2:
        wrong.append("the steerings hardly change the answers: this load would not notice a leak")
    wrong += [
        f"{k}: {before[k]:.0f} before, {after[k]:.0f} after" for k in ("threads", "files") if after[k] > before[k]
    ]
    if after["rss_mib"] - before["rss_mib"] > GROWTH_MIB:
        wrong.append(f"memory: {before['rss_mib']:.0f} MiB before, {after['rss_mib']:.0f} MiB after")
    return wrong


def figures(found: list[Outcome], seconds: float, before: Any, after: Any, wrong: list[str]) -> dict[str, Any]:
    times = sorted(o.seconds for o in found if o.text is not None)
    firsts = sorted(o.first for o in found if o.first is not None and o.status == 200)
    ordinary = sorted(o.seconds for o in found if o.kind == "ordinary" and o.text is not None)

    def spread(values: list[float]) -> dict[str, float] | None:
        if not values:
            return None
        return {"n": len(values), "median": statistics.median(values), "p95": values[int(0.95 * (len(values) - 1))]}

    latency = {"all answers": spread(times), "ordinary": spread(ordinary), "first piece of a stream": spread(firsts)}
    return {
        "requests": len(found),
        "seconds": seconds,
        "answered": len(times),
        "latency_s": latency,
        "statuses": dict(sorted(Counter(str(o.status) for o in found).items())),
        "kinds": dict(sorted(Counter(o.kind for o in found).items())),
        "before": before,
        "after": after,
        "wrong": wrong,
    }  # fmt: skip


def run(model: str, requests: int, at_once: int, tokens: int, seed: int = 0, warm_up: int = 64) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as text:
        work = Path(text)
        if model == "tiny":
            model = str(make_model(work / "tiny"))
        with serving(model, make_vectors(work, model), work / "log") as (process, server):
            asked = variants(tokens)
            at_rest = settled(process, 0, seconds=1)["files"]
            alone = [str(clients.whole(server, a).text) for a in asked]
            load(server, asked, alone, warm_up, at_once, seed + 1)
            before = settled(process, at_rest)
            found, seconds = load(server, asked, alone, requests, at_once, seed)
            again = [str(clients.whole(server, a).text) for a in asked]
            after = settled(process, at_rest)
            wrong = verdict(found, before, after, again, alone)
        said = (work / "log").read_text(encoding="utf-8", errors="replace")
        wrong += [f"the log holds {what}" for what in ("Traceback", TOKEN) if what in said]
        if process.returncode != 130:
            wrong.append(f"Ctrl-C ended it with exit code {process.returncode}")
    return figures(found, seconds, before, after, wrong)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=12)
    parser.add_argument("--warm-up", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    found = run(given.model, given.requests, given.clients, given.tokens, given.seed, given.warm_up)
    print(json.dumps(found, indent=1))
    if given.json is not None:
        given.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if found["wrong"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
