"""Where memory ends: batches are halved and give the same numbers; large recordings lie in a file."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import llm_persona as lp
from llm_persona.domain.errors import UserError
from llm_persona.domain.responses import Response
from llm_persona.subject import memory
from llm_persona.subject.memory import halving, is_out_of_memory, room
from llm_persona.subject.packing import Row
from llm_persona.subject.score import response_logprobs

TEXTS = ["I would go and look for myself.", "No.", "Let us stay at home, as always; it is safe there.", "Perhaps."]
ROWS = [
    Response(f"What now, number {n}?", text, "high" if n % 2 else "low", str(n)) for n, text in enumerate(TEXTS * 3)
]


class Small:
    """Lets the decoder's forward fail as the CPU allocator does wherever a batch has more than `rows` sequences."""

    def __init__(self, subject, rows: int) -> None:
        self.subject, self.rows, self.seen = subject, rows, []

    def __enter__(self):
        def before(_module, _args, kwargs):
            count = kwargs["input_ids"].shape[0]
            self.seen.append(count)
            if count > self.rows:
                raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: 9 GB")

        self.handle = self.subject.decoder.register_forward_pre_hook(before, with_kwargs=True)
        return self

    def __exit__(self, *_):
        self.handle.remove()


def test_recording_goes_on_with_smaller_batches_when_memory_is_full(tiny):
    whole = lp.record(tiny, ROWS).values
    with Small(tiny, 2) as small, pytest.warns(RuntimeWarning, match="out of memory with .* sequences"):
        halved = lp.record(tiny, ROWS).values
    assert max(small.seen) > 2 >= min(small.seen)
    np.testing.assert_allclose(halved, whole, atol=1e-5)


def test_scoring_and_writing_go_on_with_smaller_batches_when_memory_is_full(tiny):
    rows = [Row(r.prompt, r.text) for r in ROWS]
    prompts = [r.prompt for r in ROWS]
    scores, answers = response_logprobs(tiny, rows), lp.generate(tiny, prompts, max_new_tokens=6)
    with Small(tiny, 3), pytest.warns(RuntimeWarning, match="going on with"):
        for one, other in zip(response_logprobs(tiny, rows), scores, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)
        assert [a.text for a in lp.generate(tiny, prompts, max_new_tokens=6)] == [a.text for a in answers]


def test_a_single_row_that_does_not_fit_is_an_error_that_says_what_to_do(tiny):
    with Small(tiny, 0), pytest.warns(RuntimeWarning), pytest.raises(UserError, match=r"single one.*--dtype bfloat16"):
        lp.record(tiny, ROWS)


def test_other_failures_are_not_taken_for_a_full_memory():
    def broken(_batch):
        raise RuntimeError("shape mismatch")

    with pytest.raises(RuntimeError, match="shape mismatch"):
        halving(broken, [1, 2])
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory")) and is_out_of_memory(MemoryError())


def test_every_element_is_worked_on_once_and_in_order():
    done = []

    def work(batch):
        if len(batch) > 2:
            raise MemoryError
        done.extend(batch)

    with pytest.warns(RuntimeWarning):
        halving(work, list(range(11)))
    assert done == list(range(11))


def test_large_recordings_lie_in_a_file_and_say_the_same(tiny, monkeypatch):
    ordinary = lp.record(tiny, ROWS)
    monkeypatch.setattr(memory, "IN_MEMORY", 100)
    stored = lp.record(tiny, ROWS)
    assert isinstance(stored.values, np.memmap)
    assert (np.asarray(stored.values) == ordinary.values).all()
    assert (lp.fit(stored).directions == lp.fit(ordinary).directions).all()


def test_rows_rendered_in_parts_are_those_rendered_at_once(tiny, monkeypatch):
    from llm_persona.subject import record as recording

    whole = lp.record(tiny, ROWS).values
    monkeypatch.setattr(recording, "FIRST", 2)
    monkeypatch.setattr(recording, "RENDERED", 3)
    np.testing.assert_allclose(lp.record(tiny, ROWS).values, whole, atol=1e-5)


def test_a_disk_without_room_is_named(monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(memory.os, "posix_fallocate", full)
    with pytest.raises(UserError, match=r"no room for 1.0 GB of activations .No space left on device."):
        room((2**28, 1, 1))
