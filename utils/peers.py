"""Ends all processes of a run once one of them has died, at once and with a sentence.

JAX would let the others wait in their next exchange of data for a minute or more, and end them with
a stack of C++ functions. Here every process holds a connection to the primary one. The operating
system closes it when its process dies, whatever the reason. A host that loses its power or its
network closes nothing; JAX notices that after 100 seconds.
"""

import atexit
import contextlib
import logging
import os
import socket
import threading
from collections.abc import Callable

_TIMEOUT = 60.0  # seconds for all processes to connect
_BYE = b"."
_log = logging.getLogger(__name__)

Broadcast = Callable[[list[int]], list[int]]


def watch_peers(index: int, count: int, broadcast: Broadcast) -> None:
    """Connects the processes of a run, all of which must call it.

    Args:
      index: number of this process; that of the primary one is 0.
      count: number of processes.
      broadcast: returns, in every process, the numbers that the primary one has called it with.
    """
    try:
        found = _accept(count, broadcast) if index == 0 else _connect(index, broadcast)
    except OSError as e:
        _log.warning("the death of a process will be noticed late, because of: %s", e)
        return
    for other, connection in found.items():
        connection.settimeout(None)
        threading.Thread(target=_wait, args=(other, count, connection), daemon=True).start()
    atexit.register(_say_bye, list(found.values()))


def _accept(count: int, broadcast: Broadcast) -> dict[int, socket.socket]:
    """Of the primary process: a connection to each of the others, by their numbers."""
    found: dict[int, socket.socket] = {}
    with socket.create_server(("", 0)) as server:
        try:
            host = socket.gethostbyname(socket.gethostname())
        except OSError:
            broadcast([0] * 5)  # the others wait for it, and will find nobody there
            raise
        broadcast([*map(int, host.split(".")), server.getsockname()[1]])
        server.settimeout(_TIMEOUT)
        while len(found) < count - 1:
            connection, _ = server.accept()
            connection.settimeout(_TIMEOUT)
            found[int.from_bytes(connection.recv(4))] = connection
    return found


def _connect(index: int, broadcast: Broadcast) -> dict[int, socket.socket]:
    """Of another process: its connection to the primary one."""
    *host, port = broadcast([0] * 5)
    connection = socket.create_connection((".".join(map(str, host)), port), _TIMEOUT)
    connection.sendall(index.to_bytes(4))
    return {0: connection}


def _wait(other: int, count: int, connection: socket.socket) -> None:
    """Ends this process when the other end of the connection is closed without a farewell."""
    try:
        said = connection.recv(1)
    except OSError:
        said = b""
    if said != _BYE:
        line = (
            f"\nerror: process {other} of {count} has ended before its work was done; see what it "
            "said, and start all processes again: the same command continues\n"
        )
        os.write(2, line.encode())
        os._exit(1)


def _say_bye(connections: list[socket.socket]) -> None:
    for connection in connections:
        with contextlib.suppress(OSError):  # it has ended already
            connection.sendall(_BYE)
