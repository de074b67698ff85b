"""Which rows a subject can read, found beside the model's work on the first of them."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace

from llm_persona.subject.load import Subject
from llm_persona.subject.packing import Row, row_fits


class CheckedRows:
    """Renders every row, in order, in a thread of its own; whoever reads rows waits only for those that come next.

    The tokens are kept by the tokenizer (`rendered_once`): of as many rows as it has room for they are there when the
    rows are read. A row that cannot be rendered is found when the thread comes to it, and not when its turn comes: the
    reader asks `raise_fault` after each batch. Leaving the context stops the thread.
    """

    def __init__(self, subject: Subject, rows: Sequence[Row], numbers: Sequence[int]) -> None:
        """`numbers`: what the caller calls the rows, for messages."""
        self._subject, self._rows, self._system = subject, rows, subject.system
        self._numbers = numbers
        self._fits: list[bool] = []
        self._fault: BaseException | None = None
        self._stopped = False
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._check, daemon=True)

    def __enter__(self) -> CheckedRows:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stopped = True
        self._thread.join()

    def up_to(self, stop: int) -> list[bool]:
        """Whether each row fits the subject's context, for at least the first `stop` ones and as many as are known.

        Raises:
            UserError: a row, of whatever number, that cannot be rendered; or whatever its template raised.
        """
        with self._news:
            self._news.wait_for(lambda: len(self._fits) >= stop or self._fault is not None)
        self.raise_fault()
        return list(self._fits)

    def raise_fault(self) -> None:
        """Raise what the thread has met, if it has met anything yet."""
        if self._fault is not None:
            raise self._fault

    def _check(self) -> None:
        for number, row in zip(self._numbers, self._rows, strict=True):
            if self._stopped:
                return
            try:
                fits = row_fits(self._subject, self._fixed(row), number)
            except BaseException as error:  # a template raises what it likes, and a tokenizer panics: the reader's
                with self._news:
                    self._fault = error
                    self._news.notify_all()
                return
            with self._news:
                self._fits.append(fits)
                self._news.notify_all()

    def _fixed(self, row: Row) -> Row:
        """The row under the system turn that was on at first: this thread must not see another condition's."""
        return row if row.system is not None else replace(row, system=self._system)
