"""What all FTP sessions of a worker share."""

from __future__ import annotations

import ssl
from dataclasses import dataclass

from forkd.config import Config, Ftp
from forkd.ftp.state import Policy
from forkd.serving.tlscontext import Certificate

_CONTROL_TICKETS = 8
"""Session tickets on a control connection: some clients spend each once (RFC 8446 C.4)."""


@dataclass(frozen=True, slots=True)
class FtpSettings:
    """`shared` is the context of sessions whose data connections need not be bound to them."""

    config: Ftp
    policy: Policy
    certificate: Certificate | None
    shared: ssl.SSLContext | None

    @classmethod
    def of(cls, config: Config, shared: ssl.SSLContext | None) -> FtpSettings:
        """For this process; before it is confined.  Raises StartError."""
        policy = Policy(config.ftp.tls, config.ftp.greeting)
        used = bool(config.listen.ftp or config.listen.ftps) and config.tls.mode != "off"
        bound = used and config.ftp.data_session != "off"
        return cls(config.ftp, policy, Certificate(config) if bound else None, shared)

    def context(self) -> ssl.SSLContext:
        """For one control connection and its data connections.

        A context takes up no TLS session but its own, so what resumes one is of the same client;
        making it costs about a millisecond.
        """
        if self.certificate is None:
            assert self.shared is not None
            return self.shared
        context = self.certificate.context()
        context.num_tickets = _CONTROL_TICKETS
        return context
