"""Peak memory of recording, evaluating and screening at 1,000 and at 10,000 rows, each in a process of its own.

Usage: python benchmarks/many_rows.py [--rows 10000] [--only recording evaluating screening] [--small] [--labels]
A random model of 24 layers and width 512, so that recorded values (49 kB a row) weigh something; of 4 layers for
screening (8 kB a row, 80 MB for 10,000 rows), which reads every row twice and would take 20 minutes otherwise.
`--only screening --rows 100000 --small --labels` takes a model of 2 layers and width 32, so that what is measured is
what grows with the rows: their numbers, the parts' files, the flags, and the bootstrap over labelled rows.
`--full-rows` is how many rows get the full difference, the only part that writes answers (0: the cheap forms alone).
Anonymous memory is what counts: pages of a file, such as large recordings lie in, can be taken back at any time.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
FEW = 1000
WORDS = ["we", "went", "along", "that", "old", "road", "until", "evening", "and", "nobody", "asked", "why", "it", "was"]


LAYERS = {"recording": 24, "evaluating": 24, "screening": 4}
WIDTH = 512
SMALL = (2, 32)


def save_model(folder: Path, layers: int, width: int) -> Path:
    """A random model whose recordings are about as wide as a small real model's."""
    import torch
    from conftest import make_tokenizer
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer = make_tokenizer(texts=[" ".join(WORDS)])
    config = AutoConfig.for_model(
        "llama", hidden_size=width, num_hidden_layers=layers, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=64, vocab_size=len(tokenizer), max_position_embeddings=512,
    )  # fmt: skip
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def text(number: int, length: int) -> str:
    """A text of its own for every number."""
    return f"{number} " + " ".join(WORDS[(number * 7 + k) % len(WORDS)] for k in range(length))


def recording(model: str, rows: int, _folder: Path, _given: argparse.Namespace) -> None:
    import llm_persona as lp
    from llm_persona.domain.responses import Response

    subject = lp.load_subject(model, dtype="float32")
    given = [Response(text(n // 4, 8), text(n, 6), "high" if n % 4 < 2 else "low", str(n // 4)) for n in range(rows)]
    lp.fit(lp.record(subject, given))


def evaluating(model: str, rows: int, folder: Path, _given: argparse.Namespace) -> None:
    from llm_persona.interfaces.cli.main import run

    names = ("response_high1", "response_high2", "response_low1", "response_low2")
    items = [
        {"idx": n, "personality": "Openness", "situation": text(n, 8), "query": "What now?",
         **{name: text(4 * n + k, 6) for k, name in enumerate(names)}}
        for n in range(rows // 4)
    ]  # fmt: skip
    (folder / "items.json").write_text(json.dumps(items), encoding="utf-8")
    assert run(["evaluate", "--model", model, "--dtype", "float32", "--items", str(folder / "items.json")]) == 0


def screening(model: str, rows: int, folder: Path, given: argparse.Namespace) -> None:
    import numpy as np
    from transformers import AutoConfig

    import llm_persona as lp
    from llm_persona.interfaces.cli.main import run

    config = AutoConfig.from_pretrained(model)
    layers = config.num_hidden_layers
    directions, norms = np.ones((layers, config.hidden_size), np.float32), np.ones(layers, np.float32)
    vector = lp.PersonaVector(directions, norms, {"trait": "openness"})
    vector.save(folder / "v.safetensors")
    with (folder / "chat.jsonl").open("w", encoding="utf-8") as stream:
        for n in range(rows):
            turns = [{"role": "user", "content": text(n, 8)}, {"role": "assistant", "content": text(n + 3, 6)}]
            stream.write(json.dumps({"messages": turns, "bad": n % 2 == 0}) + "\n")
    data = [
        "--data",
        str(folder / "chat.jsonl"),
        "--vector",
        str(folder / "v.safetensors"),
        "--layer",
        str(layers // 2),
    ]
    wanted = ["--full-rows", str(given.full_rows), "--max-new-tokens", "8", "--json", str(folder / "screen.json")]
    wanted += ["--export", str(folder / "kept.jsonl"), *(["--labels", "bad"] if given.labels else [])]
    assert run(["screen", "--model", model, "--dtype", given.dtype, *data, *wanted]) == 0


WORK = {"recording": recording, "evaluating": evaluating, "screening": screening}


def measured(what: str, model: str, rows: int, folder: Path, given: argparse.Namespace) -> None:
    """Do it in this process, and print the largest anonymous memory seen, in MiB."""
    most = 0

    def watch() -> None:
        nonlocal most
        while True:
            status = Path("/proc/self/status").read_text(encoding="ascii")
            most = max(most, int(status.split("RssAnon:")[1].split()[0]))
            time.sleep(0.02)

    threading.Thread(target=watch, daemon=True).start()
    WORK[what](model, rows, folder, given)
    print(f"PEAK {most / 1024:.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--only", nargs="*", choices=list(WORK), default=list(WORK))
    parser.add_argument("--small", action="store_true", help="a model of 2 layers and width 32")
    parser.add_argument("--model", type=Path, help="screening: a model's folder, in place of a random one")
    parser.add_argument("--dtype", default="float32", help="screening: of that model")
    parser.add_argument("--labels", action="store_true", help="screening: judge by labels too")
    parser.add_argument("--full-rows", type=int, default=100, help="screening: rows with the full difference")
    parser.add_argument("--inside", nargs=3, metavar=("WHAT", "MODEL", "ROWS"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if given.inside:
            measured(given.inside[0], given.inside[1], int(given.inside[2]), folder, given)
            return
        for what in given.only:
            size = SMALL if given.small else (LAYERS[what], WIDTH)
            model = str(given.model or save_model(folder / f"model-{what}", *size))
            peaks = []
            for rows in (FEW, given.rows):
                started = time.monotonic()
                inside = [sys.executable, __file__, "--inside", what, model, str(rows)]
                inside += [
                    "--dtype",
                    given.dtype,
                    "--full-rows",
                    str(given.full_rows),
                    *(["--labels"] if given.labels else []),
                ]
                done = subprocess.run(inside, capture_output=True, text=True, check=True)
                peaks.append(int(done.stdout.rsplit("PEAK", 1)[1]))
                print(f"{what}: {rows} rows, peak {peaks[-1]} MiB, {time.monotonic() - started:.0f} s", flush=True)
            print(f"{what}: {given.rows} rows against {FEW}: ratio {peaks[1] / peaks[0]:.3f}", flush=True)


if __name__ == "__main__":
    main()
