"""Texts that were rendered already are not rendered again, and those that come next are rendered beside the model."""

from __future__ import annotations

import sys
import threading
from array import array
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Sequence
from contextlib import suppress
from typing import Any

LIMIT = 16 << 20
"""Bytes of texts and token ids kept for a tokenizer (some 8,000 rows of a trait's items); what was used longest ago
goes."""

Numbers = tuple[Sequence[int], ...]


class RenderedOnce:
    """Lists of numbers by key; two threads may ask, and one of them makes what is missing while the other waits."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._kept: OrderedDict[Hashable, tuple[array[int], ...]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.RLock()
        self._thread: threading.Thread | None = None
        self._stopped = False

    def __reduce__(self) -> Any:
        return RenderedOnce, (self._limit,)  # a copy of the tokenizer keeps texts of its own: a lock is not copied

    def get(self, key: tuple[Hashable, ...], make: Callable[[], Numbers]) -> list[list[int]]:
        """What `make` gave for the key; its errors are not kept."""
        with self._lock:
            found = self._kept.get(key)
            if found is None:
                found = tuple(array("i", numbers) for numbers in make())
                self._kept[key] = found
                self._bytes += _size(key, found)
                while self._bytes > self._limit:
                    self._bytes -= _size(*self._kept.popitem(last=False))
            else:
                self._kept.move_to_end(key)
            return [numbers.tolist() for numbers in found]

    def forget(self) -> None:
        """Keep nothing of what was rendered until now."""
        self.wait()
        with self._lock:
            self._kept.clear()
            self._bytes = 0

    def beside(self, render: Callable[[Any], Any], rows: Iterable[Any]) -> None:
        """Render rows in a thread of their own while the model computes, so that they are there when their turn comes.

        A row that cannot be rendered is left to whoever asks for it, who can say so. Where the rows before are not
        done yet, nothing is begun: rendering is what everything waits for, and rows would pile up.
        """
        if self._thread is not None and self._thread.is_alive():
            return

        def all_of_them() -> None:
            for row in rows:
                if self._stopped:
                    return
                with suppress(BaseException):  # a template raises what it likes, and a tokenizer panics
                    render(row)

        self._stopped = False
        self._thread = threading.Thread(target=all_of_them, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Leave what `beside` has not rendered yet, and wait for its thread."""
        self._stopped = True
        self.wait()

    def wait(self) -> None:
        """Until the rows given to `beside` are rendered."""
        if self._thread is not None:
            self._thread.join()


def _size(key: Any, numbers: tuple[array[int], ...]) -> int:
    return 500 + _text(key) + sum(4 * len(n) for n in numbers)


def _text(key: Any) -> int:
    """Bytes of the texts in a key, those of its inner tuples included."""
    return sys.getsizeof(key) if isinstance(key, str) else sum(map(_text, key)) if isinstance(key, tuple) else 0


def of_tokenizer(tokenizer: Any) -> RenderedOnce:
    """The tokenizer's own store."""
    found: RenderedOnce | None = getattr(tokenizer, "_persona_rendered", None)
    if found is None:
        found = tokenizer._persona_rendered = RenderedOnce()
    return found
