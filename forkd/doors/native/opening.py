"""The first bytes of a native session: plain or TLS, as the client likes."""

from __future__ import annotations

import socket
import ssl

from forkd.doors.native.wire import Wire
from forkd.serving.session import Activity
from forkd.serving.transport import open_transport


class Opening:
    """Gives the wire its transport.  Without `tls` whatever comes is plain."""

    def __init__(
        self, sock: socket.socket, tls: ssl.SSLContext | None, wire: Wire, activity: Activity
    ) -> None:
        self._sock = sock
        self._tls = tls
        self._wire = wire
        self._activity = activity
        self._chosen = False
        self.done = False

    def step(self) -> bool:
        """Go on; True once requests can be read.  Raises ConnectionError."""
        wire = self._wire
        if not self._chosen:
            transport = open_transport(self._sock, self._tls)
            if transport is None:
                return False
            wire.transport = transport
            self._chosen = True
        self.done = wire.transport.handshake()
        self._activity.tls = wire.transport.label
        return self.done
