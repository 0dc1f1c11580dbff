"""The client library of forkd: `Client`, its options, its events and its errors.

What it offers stands in `library`, which is loaded with the first name that is asked for (PEP 562):
`forkc` lives in this package too, and starts without what its command does not need.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from forkd.client.library import *  # noqa: F403

_FUNCTIONS = {"parse_url"}


def __getattr__(name: str) -> object:
    if not name[:1].isupper() and name not in _FUNCTIONS:  # a module, which the import looks for
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from forkd.client import library

    return getattr(library, name)
