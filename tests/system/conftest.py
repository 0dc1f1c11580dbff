"""Fixtures: the real daemon."""

from __future__ import annotations

import os
import random
import shutil
import ssl
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from rig import QUICK, Daemon, running
from torture import PROPERTY, Tell


@contextmanager
def _folder() -> Iterator[Path]:
    """A short path: unix sockets have 107 bytes."""
    path = Path(tempfile.mkdtemp(prefix="forkd-"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def folder() -> Iterator[Path]:
    with _folder() as path:
        yield path


@pytest.fixture(scope="module")
def shared() -> Iterator[Daemon]:
    """A daemon for a module whose tests have a user each."""
    with _folder() as path, running(path) as started:
        yield started


@pytest.fixture(scope="module")
def swift() -> Iterator[Daemon]:
    """A daemon for a module, with the user alice, whose log-ins cost nothing."""
    with _folder() as path, running(path, None, *QUICK) as started:
        yield started


@pytest.fixture
def user(shared: Daemon) -> str:
    """A fresh account on `shared`."""
    name = f"user{len(shared.users)}"
    shared.add_user(name)
    return name


@pytest.fixture
def daemon(folder: Path) -> Iterator[Daemon]:
    """A daemon with two workers and the user alice."""
    with running(folder) as started:
        yield started


@pytest.fixture
def daemon_with(folder: Path) -> Iterator[Callable[..., Daemon]]:
    """Start one with other settings: daemon_with(server={"workers": "4"})."""
    with ExitStack() as stack:

        def start(**settings: dict[str, str]) -> Daemon:
            return stack.enter_context(running(folder, settings))

        yield start


@pytest.fixture
def client_tls() -> ssl.SSLContext:
    """For a client that believes any certificate: the daemon's is its own."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


@pytest.fixture
def tell(record_property: Callable[[str, object], None]) -> Tell:
    """Figures for the table at the end of a run; floats with two decimals."""

    def told(**figures: object) -> None:
        for name, value in figures.items():
            shown = f"{value:.2f}" if isinstance(value, float) else str(value)
            record_property(PROPERTY, f"{name.replace('_', ' ')} {shown}")

    return told


@pytest.fixture
def dice(tell: Tell) -> random.Random:
    """Chance that can be had again: FORKD_SEED=N repeats the run that told this seed."""
    seed = int(os.environ.get("FORKD_SEED") or random.SystemRandom().randrange(10**6))
    print(f"FORKD_SEED={seed}")
    tell(seed=seed)
    return random.Random(seed)
