"""A daemon that runs a copy of the package, so that a test can install another version of it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from rig import Daemon

import forkd

VERSION = "0.0.1"
"""What the copy says it is at first."""


class Installation:
    """The copy's folder, and what was changed in it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "lib"
        source = Path(forkd.__file__).parent
        shutil.copytree(source, self.path / "forkd")
        self._originals: dict[str, str] = {}
        self.set_version(VERSION)

    @property
    def env(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(self.path)}

    def set_version(self, version: str) -> None:
        self.replace(
            "__init__.py", f'__version__ = "{forkd.__version__}"', f'__version__ = "{version}"'
        )

    def replace(self, name: str, old: str, new: str) -> None:
        """Change the file from what it was at first."""
        path = self.path / "forkd" / name
        text = self._originals.setdefault(name, path.read_text())
        assert old in text
        self._write(path, text.replace(old, new))

    def append(self, name: str, text: str) -> None:
        path = self.path / "forkd" / name
        original = self._originals.setdefault(name, path.read_text())
        self._write(path, f"{original}\n{text}\n")

    def mend(self) -> None:
        """As it was at first."""
        for name, text in self._originals.items():
            self._write(self.path / "forkd" / name, text)
        self.set_version(VERSION)

    def _write(self, path: Path, text: str) -> None:
        path.write_text(text)
        # What was compiled is believed by the second, and by the size.
        for stale in (path.parent / "__pycache__").glob(f"{path.stem}.*"):
            stale.unlink()


class InstalledDaemon(Daemon):
    """A daemon of the copy."""

    def __init__(self, folder: Path, settings: dict[str, dict[str, str]] | None = None) -> None:
        super().__init__(folder, settings)
        self.installed = Installation(folder)

    def start(self, *wrapper: str | Path, **more: Any) -> Daemon:
        env = more.pop("env", {})
        return super().start(*wrapper, env={**self.installed.env, **env}, **more)
