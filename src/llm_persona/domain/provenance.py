"""What a result was made with: versions, machine, revision. Never a secret, never a host name."""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

LIBRARIES = ("torch", "transformers", "peft", "accelerate", "safetensors", "numpy", "scipy", "scikit-learn")


def versions() -> dict[str, str]:
    """Versions of ourselves, Python and the libraries that decide numbers."""
    found = {"llm-persona": own_version(), "python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "missing"
    return found


def own_version() -> str:
    """The installed version of llm-persona."""
    try:
        return metadata.version("llm-persona")
    except metadata.PackageNotFoundError:
        return "uninstalled"


def git_revision() -> str | None:
    """The revision of the checkout this code runs from, if it is one; `+changes` if it is not clean."""
    folder = Path(__file__).resolve().parent
    try:
        top = Path(_git(folder, "rev-parse", "--show-toplevel"))
        if not (top / "src" / "llm_persona").is_dir():
            return None  # installed inside somebody else's repository
        revision = _git(folder, "rev-parse", "HEAD")
        return revision + ("+changes" if _git(folder, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    # fixed arguments, no shell
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)  # nosec B603
    return done.stdout.strip()


def machine() -> dict[str, Any]:
    """Processor architecture, operating system and number of cores."""
    import os

    return {"system": platform.system(), "processor": platform.machine(), "cores": os.cpu_count()}
