"""A TCP proxy on loopback that can stall one direction, cut every connection, or refuse new ones.

It forwards bytes as they come and knows no protocol. A stalled direction is like a dead radio link:
what was sent waits here and in the kernel's buffers, and neither side is told.
"""

import contextlib
import socket
import threading
from types import TracebackType
from typing import Literal, Self

Direction = Literal["to_client", "to_server"]


class TcpProxy:
    """Listens on 127.0.0.1:`port` and joins each connection to 127.0.0.1:`upstream_port`.

    A client whose upstream cannot be reached is hung up on, as by a dead server.
    """

    def __init__(self, upstream_port: int) -> None:
        self.upstream_port = upstream_port
        self._changed = threading.Condition()
        self._held: set[Direction] = set()
        self._waiting: dict[Direction, int] = {"to_client": 0, "to_server": 0}
        self._forwarded: dict[Direction, int] = {"to_client": 0, "to_server": 0}
        self._refusing = False
        self._closed = False
        self._pairs: set[_Pair] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._acceptor = threading.Thread(target=self._accept, name="proxy", daemon=True)
        self._acceptor.start()

    @property
    def connections(self) -> int:
        """How many clients are joined now."""
        with self._changed:
            return len(self._pairs)

    def forwarded(self, direction: Direction) -> int:
        """Bytes handed on so far, over all connections."""
        with self._changed:
            return self._forwarded[direction]

    def hold(self, direction: Direction) -> None:
        """From now on nothing goes that way, not even the end of a connection."""
        with self._changed:
            self._held.add(direction)

    def wait_held(self, direction: Direction, timeout_s: float = 10) -> bool:
        """Whether, within `timeout_s`, some bytes wait behind a hold of that direction."""
        with self._changed:
            return self._changed.wait_for(lambda: self._waiting[direction] > 0, timeout_s)

    def release(self, direction: Direction) -> None:
        """Lets the held bytes go, in order, and all that follows."""
        with self._changed:
            self._held.discard(direction)
            self._changed.notify_all()

    def cut(self) -> None:
        """Ends every connection now; held bytes are lost. New ones are accepted."""
        with self._changed:
            pairs = list(self._pairs)
        for pair in pairs:
            self._end(pair)

    def refuse(self, refusing: bool) -> None:
        """While true, each new client is hung up on at once; present ones stay."""
        with self._changed:
            self._refusing = refusing

    def close(self) -> None:
        """Stops listening and ends every connection."""
        with self._changed:
            self._closed = True
        # Closing alone does not wake a thread that waits in accept().
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._acceptor.join()
        self.cut()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with self._changed:
                refusing = self._refusing or self._closed
            if refusing:
                client.close()
                continue
            try:
                server = socket.create_connection(("127.0.0.1", self.upstream_port), timeout=5)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            pair = _Pair(client, server)
            with self._changed:
                self._pairs.add(pair)
            self._pump(pair, client, server, "to_server")
            self._pump(pair, server, client, "to_client")

    def _pump(
        self, pair: "_Pair", source: socket.socket, sink: socket.socket, direction: Direction
    ) -> None:
        def run() -> None:
            with contextlib.suppress(OSError):
                while True:
                    chunk = source.recv(65536)
                    if not self._pass(pair, direction, len(chunk)):
                        break
                    if not chunk:
                        break
                    sink.sendall(chunk)
                    with self._changed:
                        self._forwarded[direction] += len(chunk)
            self._end(pair)

        threading.Thread(target=run, name=f"proxy {direction}", daemon=True).start()

    def _pass(self, pair: "_Pair", direction: Direction, size: int) -> bool:
        """Waits while the direction is held; false if the connection was cut meanwhile."""
        with self._changed:
            if direction in self._held:
                self._waiting[direction] += size
                self._changed.notify_all()
                self._changed.wait_for(
                    lambda: direction not in self._held or pair not in self._pairs
                )
                self._waiting[direction] -= size
            return pair in self._pairs

    def _end(self, pair: "_Pair") -> None:
        with self._changed:
            if pair not in self._pairs:
                return
            self._pairs.discard(pair)
            self._changed.notify_all()
        pair.end()


class _Pair:
    """Both ends of one joined connection."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self._ends = (client, server)

    def end(self) -> None:
        for end in self._ends:
            # The shutdown wakes the thread that waits in recv(); the close alone would not.
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
