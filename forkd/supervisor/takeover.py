"""Going on as the version that is installed now: the side of the version that comes.

Started like any other start, but with an estate (estate.py) in its environment, it reads no
command line: it is the running daemon from its first moment on.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping

from forkd.errors import StartError
from forkd.log import open_log
from forkd.supervisor import estate, rehearsal, start
from forkd.supervisor.estate import Estate, configured
from forkd.supervisor.fdstore import SocketStore
from forkd.supervisor.listeners import Listeners
from forkd.supervisor.notify import Notifier
from forkd.supervisor.pidfile import LockFile, PidFile
from forkd.supervisor.program import Program
from forkd.supervisor.start import Ground


def go_on(environ: MutableMapping[str, str]) -> str:
    """Serve, or only look whether that would be possible; the answer is that of start.serve.

    Raises StartError and ConfigError.
    """
    program = Program.of_this_process()
    left = estate.take(environ)
    if left is None:
        raise StartError(f"{estate.VARIABLE} does not tell what to take over")
    if left.trial:
        rehearsal.rehearse(left)
        return ""
    for fd in left.descriptors:
        os.set_inheritable(fd, False)
    return start.serve(_ground(left, program, environ), lambda: None)


def _ground(left: Estate, program: Program, environ: MutableMapping[str, str]) -> Ground:
    config = configured(left.settings)
    locks = tuple(LockFile(lock.path, lock.fd) for lock in left.locks)
    notifier = Notifier.from_environment(environ)
    listeners = Listeners.taken_over(left.listeners, SocketStore(notifier))
    return Ground(
        *(config, left.settings.mtime, left.settings.text, listeners),
        *(open_log(config.log, process="master"), locks),
        PidFile(locks[-1]) if left.detached else None,
        owner=None,
        notifier=notifier,
        program=program,
        estate=left,
    )
