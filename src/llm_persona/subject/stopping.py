"""A forward that ends where nothing above is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from llm_persona.subject.load import Subject


class _Enough(Exception):
    """Ends a forward from within; never leaves `stopping_after`."""


@contextmanager
def stopping_after(subject: Subject, layer: int) -> Iterator[None]:
    """The forward inside ends after block `layer`: blocks above, final norm and output layer are not computed.

    Enter it after the hooks that read have been registered: hooks run in that order. A steering that is on further up
    is still reached, as it counts the tokens it touches.
    """
    last = max([layer, *subject.steering_layers])

    def stop(_module: Any, _inputs: Any, _output: Any) -> None:
        raise _Enough

    handle = subject.blocks[last].register_forward_hook(stop)
    try:
        yield
    except _Enough:
        pass
    finally:
        handle.remove()
