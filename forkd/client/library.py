"""Everything that `forkd.client` offers: the package loads it with the first name asked for."""

from forkd.client.answers import Ended, Login, Removed, Stored, Welcome
from forkd.client.api import Client
from forkd.client.errors import (
    AuthError,
    ChangedError,
    ClientError,
    LocalError,
    LostError,
    ProtocolError,
    QuotaError,
    RemoteError,
    TrustError,
    UrlError,
    VerifyError,
)
from forkd.client.events import Event, Finished, Listener, Moved, Note, Planned, Started
from forkd.client.many import Summary
from forkd.client.retry import RetryPolicy
from forkd.client.session import Settings
from forkd.client.tree import File, Plan
from forkd.client.trust import Authorities, Fingerprint, KnownHosts, Trust
from forkd.client.upload import PutOptions
from forkd.client.url import Url, parse_url

__all__ = [
    "AuthError",
    "Authorities",
    "ChangedError",
    "Client",
    "ClientError",
    "Ended",
    "Event",
    "File",
    "Fingerprint",
    "Finished",
    "KnownHosts",
    "Listener",
    "LocalError",
    "Login",
    "LostError",
    "Moved",
    "Note",
    "Plan",
    "Planned",
    "ProtocolError",
    "PutOptions",
    "QuotaError",
    "RemoteError",
    "Removed",
    "RetryPolicy",
    "Settings",
    "Started",
    "Stored",
    "Summary",
    "Trust",
    "TrustError",
    "Url",
    "UrlError",
    "VerifyError",
    "Welcome",
    "parse_url",
]
