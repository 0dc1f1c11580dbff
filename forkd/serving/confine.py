"""What a worker gives up before it meets the first stranger.

  no_new_privs   no exec gains rights
  Landlock       no file outside the storage, state and runtime folders can be opened any more

Descriptors that are open already (log, listeners) stay usable.  Imports must be done by now.
"""

from __future__ import annotations

from forkd import syscalls
from forkd.config import Config
from forkd.log import Log
from forkd.storage import sidecar


def confine(config: Config, log: Log) -> bool:
    """Confine this process; False, and a line in the log, where the kernel has no Landlock."""
    sidecar.boot_id()  # kept from here on: /proc is out of reach
    syscalls.load_thread_exit()
    folders = (config.storage.path, config.server.state_dir, config.server.runtime_dir)
    syscalls.no_new_privs()
    try:
        syscalls.landlock_restrict(folders)
    except OSError as error:
        log.warning("not-confined", reason=f"landlock: {error.strerror or error}")
        return False
    return True
