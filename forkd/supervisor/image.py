"""The program as it was when it started: whatever of it is imported later comes from memory.

A child imports its room after the fork.  Once another version is installed, that would be the new
room upon the old modules of its master: a crashed worker's successor would not start, or worse.
So the master keeps the code of all modules, unexecuted, for its children.  An upgrade is the one
moment at which another version gets in.
"""

from __future__ import annotations

import importlib.util
import marshal
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.abc import InspectLoader, MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from types import CodeType, ModuleType

import forkd

_NEVER_IMPORTED = ("forkd.client", "forkd.admin", "forkd.ctl", "forkd.demo")
"""Of no use to a child of the master."""


@dataclass(frozen=True, slots=True)
class _Kept:
    path: str
    code: bytes


class Image(MetaPathFinder, InspectLoader):
    """Finds and loads the modules it keeps; those that are loaded already are not among them."""

    def __init__(self, folder: str) -> None:
        """`folder` is the package's.  Keeps what can be read of it."""
        self._kept = dict(_modules(folder))

    def install(self) -> None:
        """From now on, imports in this process and its children are answered here first."""
        sys.meta_path.insert(0, self)

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,  # noqa: ARG002
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        kept = self._kept.get(fullname)
        if kept is None:
            return None
        inside = [os.path.dirname(kept.path)] if self.is_package(fullname) else None
        return importlib.util.spec_from_file_location(
            fullname, kept.path, loader=self, submodule_search_locations=inside
        )

    def is_package(self, fullname: str) -> bool:
        return os.path.basename(self._kept[fullname].path) == "__init__.py"

    def get_code(self, fullname: str) -> CodeType:
        code = marshal.loads(self._kept[fullname].code)  # noqa: S302 - our own, from memory
        assert isinstance(code, CodeType)
        return code

    def get_source(self, fullname: str) -> None:  # noqa: ARG002
        """What is on the disk may be another version's."""
        return


def keep_image() -> None:
    """Keep this program as it is on the disk now."""
    Image(os.path.dirname(os.path.abspath(forkd.__file__))).install()


def _modules(folder: str) -> Iterator[tuple[str, _Kept]]:
    for above, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name.isidentifier()]
        for name in names:
            path = os.path.join(above, name)
            module = _name(folder, path)
            if name.endswith(".py") and module not in sys.modules and _may_be_imported(module):
                try:
                    code = SourceFileLoader(module, path).get_code(module)
                except (OSError, ImportError, SyntaxError, ValueError):
                    continue  # whoever imports it will hear why
                if code is not None:
                    yield module, _Kept(path, marshal.dumps(code))


def _name(folder: str, path: str) -> str:
    parts = os.path.relpath(path, folder).removesuffix(".py").split(os.sep)
    inside = parts[:-1] if parts[-1] == "__init__" else parts
    return ".".join([os.path.basename(folder), *inside])


def _may_be_imported(module: str) -> bool:
    return not any(f"{module}.".startswith(f"{room}.") for room in _NEVER_IMPORTED)
