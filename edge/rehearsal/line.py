"""A way to the broker that can be cut and held: a TCP forwarder on this machine.

It passes bytes on as they come and knows no protocol. Held, it is like a dead radio link: neither
end is told, and nothing arrives. Cut, every connection ends, and each new one is hung up on.
"""

import contextlib
import socket
import threading
from typing import Final

_CONNECT_S: Final = 10.0
_CHUNK: Final = 65536


class Line:
    """Forwards what connects to `address` to `host`:`port`, until `close`."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._open = threading.Condition()
        self._is_held = self._is_cut = self._is_closed = False
        self._joined: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        name, number = self._listener.getsockname()[:2]
        self.address: tuple[str, int] = (str(name), int(number))
        self._thread = threading.Thread(target=self._accept, name="line", daemon=True)
        self._thread.start()

    def cut(self) -> None:
        """Ends every connection, and lets none through until `mend`."""
        with self._open:
            self._is_cut = True
            self._open.notify_all()
        self._end_all()

    def hold(self) -> None:
        """From now on nothing goes either way, until `mend`."""
        with self._open:
            self._is_held = True

    def mend(self) -> None:
        """All goes on: what was held is passed on, in order."""
        with self._open:
            self._is_held = self._is_cut = False
            self._open.notify_all()

    def close(self) -> None:
        """Ends it for good."""
        with self._open:
            self._is_closed = True
            self._open.notify_all()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes accept(); closing alone does not
        self._listener.close()
        self._thread.join()
        self._end_all()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._join, args=(near,), name="line", daemon=True).start()

    def _join(self, near: socket.socket) -> None:
        try:
            if not self._may_pass():
                raise ConnectionError
            far = socket.create_connection(self._target, timeout=_CONNECT_S)
        except OSError:
            near.close()
            return
        far.settimeout(None)
        ends = (near, far)
        with self._open:
            self._joined |= {*ends}
        for end in ends:
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        back = threading.Thread(target=self._pass, args=(far, near), name="line", daemon=True)
        back.start()
        self._pass(near, far)
        back.join()
        with self._open:
            self._joined -= {*ends}
        for end in ends:
            end.close()

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while self._may_pass():
                chunk = source.recv(_CHUNK)
                if not self._may_pass() or not chunk:
                    break
                sink.sendall(chunk)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _may_pass(self) -> bool:
        """Waits while the line is held; false where it is cut."""
        with self._open:
            self._open.wait_for(lambda: not self._is_held or self._is_cut or self._is_closed)
            return not (self._is_cut or self._is_closed)

    def _end_all(self) -> None:
        with self._open:
            joined = list(self._joined)
        for end in joined:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
