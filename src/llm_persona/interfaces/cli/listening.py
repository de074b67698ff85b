"""The socket that a server of ours listens on."""

from __future__ import annotations

import socket

from llm_persona.domain.errors import UserError


def listen(host: str, port: int) -> socket.socket:
    """Take the socket before a model is loaded: a port that cannot be had is known at once.

    Raises:
        UserError: the address or port cannot be had.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError as error:
        raise UserError(f"--port {port}: cannot listen on {host} ({error.strerror}); choose another") from error
    return listener
