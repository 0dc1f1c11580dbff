from __future__ import annotations

import os
import socket

import pytest

from forkd.peercred import is_trusted


def test_our_own_user_is_trusted() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert is_trusted(ours)


def test_another_user_is_not() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to become another user")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind("")  # an abstract name, which any user may connect to
        listener.listen()
        listener.settimeout(30)
        pid = os.fork()
        if pid == 0:
            try:
                os.setuid(65534)
                with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
                    client.connect(listener.getsockname())
                    client.recv(1)
            finally:
                os._exit(0)
        try:
            connection, _ = listener.accept()
            with connection:
                assert not is_trusted(connection)
        finally:
            listener.close()
            os.waitpid(pid, 0)
