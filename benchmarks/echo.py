"""The bare limit: a server that gives each body back, on the same connections and event loop as ours.

`python benchmarks/echo.py PORT` listens on the loopback address.
"""

from __future__ import annotations

import asyncio
import socket
import sys

import uvloop

from trilane.apps.server.connections import Connections
from trilane.apps.server.http import send
from trilane.apps.server.request import Request


async def echo(request: Request) -> None:
    """Answers with the request's own body."""
    send(request, 200, await request.body())


async def main(port: int) -> None:
    """Echoes until it is ended."""
    listener = socket.create_server(("127.0.0.1", port), backlog=1024)
    Connections(echo, listener, loop=asyncio.get_running_loop()).open()
    await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1])))
