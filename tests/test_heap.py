"""What a batch frees on a CPU serves the next one, unless the user has decided otherwise."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from types import SimpleNamespace

import pytest

from llm_persona.subject.heap import KEEP, MMAP_THRESHOLD, TRIM_THRESHOLD, keep_freed_memory

FAULTS = """
import ctypes, resource, sys
import torch
ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # no huge pages: they would be counted as one
if sys.argv[1] == "kept":
    from llm_persona.subject.heap import KEEP, MMAP_THRESHOLD, keep_freed_memory
    assert keep_freed_memory()
    if not ctypes.CDLL(None).mallopt(MMAP_THRESHOLD, KEEP[0]):
        print("refused")
        sys.exit()
def pages():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(24):
    torch.ones(12 << 20)
before = pages()
for _ in range(8):
    torch.ones(12 << 20)
print(pages() - before)
"""


def faults(kept: str) -> int:
    chosen = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_") and k != "GLIBC_TUNABLES"}
    done = subprocess.run([sys.executable, "-c", FAULTS, kept], env=chosen, capture_output=True, text=True, check=True)
    if done.stdout.strip() == "refused":
        pytest.skip("this version of glibc keeps arrays of up to 32 MiB alone")
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library keeps memory by rules of its own")
def test_arrays_as_large_as_those_that_were_freed_take_no_new_pages():
    pages = 8 * (48 << 20) // os.sysconf("SC_PAGE_SIZE")
    assert faults("as it is") > pages / 2
    assert faults("kept") < pages / 20


@pytest.fixture
def told(monkeypatch):
    """What a C library that takes every setting is told; the environment has none of the user's."""
    calls = []
    library = SimpleNamespace(mallopt=lambda *given: calls.append(given) or 1)
    monkeypatch.setattr("llm_persona.subject.heap.ctypes.CDLL", lambda _name: library)
    for name in [n for n in os.environ if n.startswith("MALLOC_") or n == "GLIBC_TUNABLES"]:
        monkeypatch.delenv(name)
    return calls


def test_both_thresholds_are_set(told):
    assert keep_freed_memory()
    assert told == [(MMAP_THRESHOLD, KEEP[0]), (TRIM_THRESHOLD, KEEP[0])]


@pytest.mark.parametrize("name", ["MALLOC_TRIM_THRESHOLD_", "MALLOC_ARENA_MAX", "GLIBC_TUNABLES"])
def test_settings_of_the_users_own_win(name, told, monkeypatch):
    monkeypatch.setenv(name, "1")
    assert keep_freed_memory() is False
    assert told == []


@pytest.mark.parametrize("error", [AttributeError, OSError, TypeError])
def test_a_c_library_without_such_a_setting_is_left_alone(error, told, monkeypatch):
    class Other:
        def __init__(self, _name):
            raise error

    monkeypatch.setattr("llm_persona.subject.heap.ctypes.CDLL", Other)
    assert keep_freed_memory() is False
    assert told == []
