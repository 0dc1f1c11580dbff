"""How this program was started, so that the installed version can be started the same way."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

MANAGERS = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
"""What a service manager says in the environment and a start takes out of it."""


@dataclass(frozen=True, slots=True)
class Program:
    """An interpreter and its arguments, and what the service manager said."""

    command: tuple[str, ...]
    manager: Mapping[str, str]

    @classmethod
    def of_this_process(cls) -> Program:
        """To be asked before anything is taken out of the environment or the folder is changed.

        The first argument that names a file is the script: its path must hold in any folder.
        """
        arguments = list(sys.orig_argv[1:])
        for index, argument in enumerate(arguments):
            if os.path.exists(argument):
                arguments[index] = os.path.abspath(argument)
                break
        manager = {name: os.environ[name] for name in MANAGERS if name in os.environ}
        return cls((sys.executable, *arguments), manager)

    def execute(self, **more: str) -> NoReturn:
        """Become the installed version, with `more` in its environment.  Raises OSError."""
        for stream in (0, 1, 2):
            os.set_inheritable(stream, True)  # detaching leaves them closed on exec
        os.execve(self.command[0], self.command, {**os.environ, **self.manager, **more})  # noqa: S606
