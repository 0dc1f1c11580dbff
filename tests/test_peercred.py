from __future__ import annotations

import os
import socket

import pytest

from forkd.peercred import caller_of, is_trusted


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


def test_a_caller_has_all_his_groups() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to become another user")
    many = list(range(1000, 1400))  # more than getsockopt can tell: then the user database says it
    for groups, told in (([5, 6, 7], {5, 6, 7}), (many, set(os.getgrouplist("nobody", 9)))):
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind("")
            listener.listen()
            listener.settimeout(30)
            pid = os.fork()
            if pid == 0:
                try:
                    os.setgroups(groups)
                    os.setresgid(9, 9, 9)
                    os.setresuid(65534, 65534, 65534)
                    with socket.socket(socket.AF_UNIX) as client:
                        client.connect(listener.getsockname())
                        client.recv(1)
                finally:
                    os._exit(0)
            try:
                connection, _ = listener.accept()
                with connection:
                    caller = caller_of(connection)
                assert (caller.uid, caller.pid, caller.is_trusted) == (65534, pid, False)
                assert caller.groups == {9} | told
            finally:
                os.waitpid(pid, 0)
