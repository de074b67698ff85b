"""How many processes train together, and which of them speaks and writes."""

from __future__ import annotations

import os


def launched() -> int:
    """Processes of this training: 1 unless something like `accelerate launch` started several."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main_process() -> bool:
    """Whether this is the first of them."""
    return os.environ.get("RANK", "0") == "0"
