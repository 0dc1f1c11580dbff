from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from forkd.supervisor.image import Image


@pytest.fixture
def package(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "kept_by_a_test"
    (folder / "room").mkdir(parents=True)
    (folder / "__init__.py").write_text("version = 1\n")
    (folder / "room" / "__init__.py").write_text("from kept_by_a_test.room.inner import name\n")
    (folder / "room" / "inner.py").write_text("name = 'as it was'\n")
    (folder / "broken.py").write_text("def :\n")
    sys.path.insert(0, str(tmp_path))
    finders = list(sys.meta_path)
    yield folder
    sys.meta_path[:] = finders
    sys.path.remove(str(tmp_path))
    for module in [m for m in sys.modules if m.partition(".")[0] == folder.name]:
        del sys.modules[module]


def test_what_is_imported_later_is_as_it_was(package: Path) -> None:
    Image(str(package)).install()
    for file in package.rglob("*.py"):
        file.write_text("raise RuntimeError('another version')\n")
    room = importlib.import_module("kept_by_a_test.room")
    assert room.name == "as it was"
    assert room.__file__ == str(package / "room" / "__init__.py")
    assert list(room.__path__) == [str(package / "room")]


def test_what_is_loaded_is_not_loaded_again(package: Path) -> None:
    before = importlib.import_module("kept_by_a_test")
    Image(str(package)).install()
    importlib.import_module("kept_by_a_test.room")
    assert sys.modules["kept_by_a_test"] is before


def test_what_cannot_be_kept_is_left_to_the_disk(package: Path) -> None:
    Image(str(package)).install()
    with pytest.raises(SyntaxError):
        importlib.import_module("kept_by_a_test.broken")
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("kept_by_a_test.nothing")
