"""The digest that a file of tensors keeps of its own contents."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

import numpy as np


def tensor_digest(tensors: Mapping[str, np.ndarray], texts: Mapping[str, str]) -> str:
    """SHA-256 (hex) of tensors (names, formats, shapes, bytes) and of the texts stored beside them."""
    found = hashlib.sha256()
    for name in sorted(tensors):
        values = np.ascontiguousarray(tensors[name])
        found.update(json.dumps([name, values.dtype.str, list(values.shape)]).encode())
        found.update(values.reshape(-1).view(np.uint8).data)
    found.update(json.dumps(sorted(texts.items())).encode())
    return found.hexdigest()
