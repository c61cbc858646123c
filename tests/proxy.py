"""A way to a server that can be slow, dead, or cut in the middle of an answer, whenever a test wants it to be."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

__all__ = ["Proxy", "proxy"]


class Proxy:
    """Passes on what clients say to `port` of the loopback, and what is answered."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._flowing = threading.Event()
        self._flowing.set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: set[socket.socket] = set()
        self._answers = 0
        self.held = 0  # answers that wait to be released
        self.cut_every = 0  # of so many answers one ends in its middle, and its connection with it
        self.cuts = 0
        self.delay = 0.0  # seconds by which each answer is late
        threading.Thread(target=self._accept, daemon=True).start()

    def hold(self) -> None:
        """From now on no answer arrives."""
        self._flowing.clear()

    def release(self) -> None:
        """What was held arrives, and what follows."""
        self._flowing.set()

    def close(self) -> None:
        self._flowing.set()
        for one in (self._listener, *list(self._open)):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
                self._open |= {client, server}
                threading.Thread(target=self._pass, args=(client, server), daemon=True).start()
                threading.Thread(target=self._answer, args=(server, client), daemon=True).start()

    def _pass(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while chunk := client.recv(65_536):
                server.sendall(chunk)
            server.shutdown(socket.SHUT_WR)

    def _answer(self, server: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while chunk := server.recv(65_536):
                self.held += 1
                self._flowing.wait()
                self.held -= 1
                if self.delay:
                    time.sleep(self.delay)
                self._answers += 1
                if self.cut_every and self._answers % self.cut_every == 0:
                    self.cuts += 1
                    client.sendall(chunk[: len(chunk) // 2])
                    break
                client.sendall(chunk)
        for one in (client, server):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def proxy(port: int) -> Iterator[Proxy]:
    """A proxy for the length of a block."""
    found = Proxy(port)
    try:
        yield found
    finally:
        found.close()
