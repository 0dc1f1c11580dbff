"""System calls that Python does not offer, behind one short vocabulary.  The only ctypes here.

Every function raises OSError with the kernel's errno.  Paths are bytes.  Numbers are those of
x86_64 and of every architecture with the generic table (openat2 437, landlock 444 to 446 and so
on are the same everywhere); renameat2 and sync_file_range go through libc, which knows theirs.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import signal
from collections.abc import Callable, Iterable
from typing import Any

_libc = ctypes.CDLL(None, use_errno=True)

_SYS_OPENAT2 = 437
_SYS_LANDLOCK_CREATE_RULESET = 444
_SYS_LANDLOCK_ADD_RULE = 445
_SYS_LANDLOCK_RESTRICT_SELF = 446

_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_BENEATH = 0x08

RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2

SYNC_FILE_RANGE_WRITE = 2
_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38


class _OpenHow(ctypes.Structure):
    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


class _RulesetAttr(ctypes.Structure):
    _fields_ = (("handled_access_fs", ctypes.c_uint64),)


class _PathBeneathAttr(ctypes.Structure):
    _pack_ = 1
    _fields_ = (("allowed_access", ctypes.c_uint64), ("parent_fd", ctypes.c_int32))


def _typed(name: str, *argtypes: Any) -> Callable[..., int]:
    function = getattr(_libc, name)
    function.argtypes = argtypes
    function.restype = ctypes.c_int
    return function  # type: ignore[no-any-return]


_int, _uint, _path = ctypes.c_int, ctypes.c_uint, ctypes.c_char_p
_renameat2 = _typed("renameat2", _int, _path, _int, _path, _uint)
_sync_file_range = _typed("sync_file_range", _int, ctypes.c_int64, ctypes.c_int64, _uint)
_prctl = _typed("prctl", _int, *[ctypes.c_ulong] * 4)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long

_RACES = 16
"""Tries to resolve a path while renames elsewhere make the kernel give up (EAGAIN)."""
_OUTSIDE = 4
"""EXDEV is also what a file gives that is renamed out of the folder while it is opened, as every
replaced one is: only what is outside every time is outside."""

_HOW_SIZE = ctypes.sizeof(_OpenHow)
_openat2 = _libc["syscall"]  # a function object of its own, with its types
_openat2.argtypes = (ctypes.c_long, _int, _path, ctypes.c_void_p, ctypes.c_size_t)
_openat2.restype = ctypes.c_long


@functools.lru_cache(64)
def _how(flags: int, mode: int) -> Any:
    """The structure that says how to open; the kernel only reads it."""
    resolve = _RESOLVE_BENEATH | _RESOLVE_NO_MAGICLINKS
    return ctypes.pointer(_OpenHow(flags | os.O_CLOEXEC, mode, resolve))


def _fail(path: bytes = b"") -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), os.fsdecode(path))


def open_beneath(dirfd: int, path: bytes, flags: int, mode: int = 0) -> int:
    """openat2(2) that cannot leave `dirfd`: no "..", absolute or magic link leads out of it.

    EXDEV when the path would lead out, ELOOP for a loop of links.
    """
    how = _how(flags, mode)
    outside = 0
    for _ in range(_RACES):
        fd: int = _openat2(_SYS_OPENAT2, dirfd, path, how, _HOW_SIZE)
        if fd >= 0:
            return fd
        error = ctypes.get_errno()
        outside += error == errno.EXDEV
        if error not in (errno.EAGAIN, errno.EINTR, errno.EXDEV) or outside == _OUTSIDE:
            break
    raise _fail(path)


def rename(src_dirfd: int, src: bytes, dst_dirfd: int, dst: bytes, flags: int = 0) -> None:
    """renameat2(2); `flags` is 0, RENAME_NOREPLACE or RENAME_EXCHANGE."""
    if _renameat2(src_dirfd, src, dst_dirfd, dst, flags) != 0:
        raise _fail(dst)


def start_writeback(fd: int) -> None:
    """Let the kernel begin to write a file's dirty pages, without waiting (sync_file_range(2))."""
    if _sync_file_range(fd, 0, 0, SYNC_FILE_RANGE_WRITE) != 0:
        raise _fail()


def no_new_privs() -> None:
    """From now on no exec gains rights (prctl(2) PR_SET_NO_NEW_PRIVS)."""
    if _prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise _fail()


def die_with_parent() -> None:
    """Get SIGKILL when the thread that forked this process ends (prctl(2) PR_SET_PDEATHSIG).

    Outlives an exec, but is not inherited by children.
    """
    if _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise _fail()


def load_thread_exit() -> None:
    """Have at hand what glibc loads when a thread first ends by pthread_exit(3), as argon2's do."""
    try:
        ctypes.CDLL("libgcc_s.so.1")
    except OSError:
        pass  # another libc needs none


# landlock(7): access rights on files, by the ABI version that introduced them
_FS_V1 = (1 << 13) - 1
_ABI_REFER = 2
_FS_REFER = 1 << 13  # ABI 2
_FS_TRUNCATE = 1 << 14  # ABI 3
_FS_IOCTL_DEV = 1 << 15  # ABI 5
_LANDLOCK_CREATE_RULESET_VERSION = 1
_LANDLOCK_RULE_PATH_BENEATH = 1


def landlock_abi() -> int:
    """The kernel's Landlock version, 0 where it has none."""
    version = _syscall(
        ctypes.c_long(_SYS_LANDLOCK_CREATE_RULESET),
        None,
        ctypes.c_size_t(0),
        ctypes.c_uint32(_LANDLOCK_CREATE_RULESET_VERSION),
    )
    return max(int(version), 0)


def landlock_restrict(folders: Iterable[str]) -> None:
    """Confine this thread, and those it starts, to these folders (full access below them).

    Needs `no_new_privs` first.  OSError where the kernel has no Landlock, or that of Linux before
    5.19, which forbids every rename from one folder to another.
    """
    abi = landlock_abi()
    if abi < _ABI_REFER:
        raise OSError(errno.EOPNOTSUPP, "this kernel has no Landlock, or one that is too old")
    rights = _FS_V1 | _FS_REFER
    for needed, right in ((3, _FS_TRUNCATE), (5, _FS_IOCTL_DEV)):
        if abi >= needed:
            rights |= right
    attr = _RulesetAttr(rights)
    ruleset = _syscall(
        ctypes.c_long(_SYS_LANDLOCK_CREATE_RULESET),
        ctypes.byref(attr),
        ctypes.c_size_t(ctypes.sizeof(attr)),
        ctypes.c_uint32(0),
    )
    if ruleset < 0:
        raise _fail()
    try:
        for folder in folders:
            _landlock_allow(int(ruleset), folder, rights)
        if _syscall(ctypes.c_long(_SYS_LANDLOCK_RESTRICT_SELF), _int(ruleset), _uint(0)) != 0:
            raise _fail()
    finally:
        os.close(ruleset)


def _landlock_allow(ruleset: int, folder: str, rights: int) -> None:
    fd = os.open(folder, os.O_PATH | os.O_CLOEXEC)
    try:
        rule = _PathBeneathAttr(rights, fd)
        result = _syscall(
            ctypes.c_long(_SYS_LANDLOCK_ADD_RULE),
            _int(ruleset),
            _int(_LANDLOCK_RULE_PATH_BENEATH),
            ctypes.byref(rule),
            _uint(0),
        )
        if result != 0:
            raise _fail(os.fsencode(folder))
    finally:
        os.close(fd)
