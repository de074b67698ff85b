"""Which rows a subject can read, found beside the model's work on the first of them."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace

from llm_persona.domain.errors import TooLong, UserError
from llm_persona.subject.load import Subject
from llm_persona.subject.packing import Row, render_rows


class CheckedRows:
    """Renders every row, in order, in a thread of its own; whoever reads rows waits only for those that come next.

    The tokens are kept by the tokenizer (`rendered_once`), so that they are there when the rows are read. A row that
    cannot be rendered is found as soon as the thread comes to it, seconds after the work began and not when its turn
    comes: the reader asks `raise_fault` after each batch. Leaving the context stops the thread.
    """

    def __init__(self, subject: Subject, rows: Sequence[Row], numbers: Sequence[int]) -> None:
        """`numbers`: what the caller calls the rows, for messages."""
        # (read once: the thread must not see another condition's system turn)
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
                fits = self._is_readable(number, row)
            except BaseException as error:  # a template raises what it likes, and a tokenizer panics: the reader's
                with self._news:
                    self._fault = error
                    self._news.notify_all()
                return
            with self._news:
                self._fits.append(fits)
                self._news.notify_all()

    def _is_readable(self, number: int, row: Row) -> bool:
        system = row.system if row.system is not None else self._system
        try:
            render_rows(self._subject, [replace(row, system=system)])
        except TooLong:
            return False
        except UserError as error:
            raise UserError(str(error).replace("row 0", f"row {number}", 1)) from error
        return True
