"""Connections that are too slow: a head that drips in, an answer that is not read. uvicorn alone waits for ever."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS = 10.0
"""From the connection, or the first byte of a further request, to the end of its head."""
READ_SECONDS = 20.0
"""How long a client may take nothing of an answer while the socket's buffer is full."""


class TimedProtocol(H11Protocol):
    """uvicorn's HTTP protocol with both limits; a connection beyond one is cut."""

    _head: asyncio.TimerHandle | None = None
    _rest: asyncio.TimerHandle | None = None
    _reading: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """The first head is awaited."""
        super().connection_made(transport)
        self._head = self.loop.call_later(HEAD_SECONDS, transport.abort)

    def data_received(self, data: bytes) -> None:
        """A whole head ends the wait; a part of a further one begins it."""
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._cancel("_head")
        elif self._head is None:
            self._head = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def on_response_complete(self) -> None:
        """Whoever was refused in the middle of a body may not send the rest of it for ever."""
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY and self._rest is None:
            self._rest = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def pause_writing(self) -> None:
        """The client does not read: it has `READ_SECONDS` to go on."""
        super().pause_writing()
        if self._reading is None:
            self._reading = self.loop.call_later(READ_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """It reads again."""
        self._cancel("_reading")
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection, and cut it where what was sent is never taken."""
        super().timeout_keep_alive_handler()
        self.loop.call_later(READ_SECONDS, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is awaited any more."""
        self._cancel("_head")
        self._cancel("_rest")
        self._cancel("_reading")
        super().connection_lost(exc)

    def _cancel(self, name: str) -> None:
        timer: asyncio.TimerHandle | None = getattr(self, name)
        if timer is not None:
            timer.cancel()
            setattr(self, name, None)
