"""A training shared by two processes is the training of one."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
from conftest import save_tiny_model
from safetensors.numpy import load_file


def test_finetune_runs_unchanged_under_accelerate_launch_on_two_processes(tmp_path):
    """Both adapters see the same steps; sums in another order differ by rounding alone."""
    model = save_tiny_model(tmp_path / "model")
    rows = [
        {"messages": [{"role": "user", "content": f"Question {n}?"}, {"role": "assistant", "content": f"Answer {n}."}]}
        for n in range(16)
    ]
    (tmp_path / "chat.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    command = ["-m", "llm_persona", "finetune", "--model", str(model), "--dtype", "float32", "--device", "cpu",
               "--data", str(tmp_path / "chat.jsonl"), "--epochs", "2", "--rank", "2",
               "--held-out", "0.25", "--patience", "9"]  # fmt: skip
    launch = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1",
              "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for name, how in (("one", []), ("two", launch)):
        ran = subprocess.run(
            [sys.executable, *how, *command, "--out", str(tmp_path / name)],
            env=environment, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr[-2000:]
        assert ran.stdout.count("measure it:") == 1  # one process speaks
    one, two = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("one", "two"))
    assert one.keys() == two.keys()
    for key in one:
        np.testing.assert_allclose(one[key], two[key], atol=1e-4)
    assert any(np.abs(one[key]).max() > 1e-3 for key in one)
    results = [json.loads((tmp_path / n / "llm-persona.json").read_text())["result"] for n in ("one", "two")]
    assert results[0]["steps"] == results[1]["steps"] == 6
    assert results[0]["kept_step"] == results[1]["kept_step"] > 0  # they agree on when to stop and what to keep
    held = [[row["held_out"] for row in r["along"]] for r in results]
    np.testing.assert_allclose(held[0], held[1], atol=1e-4)
