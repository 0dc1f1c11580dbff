from __future__ import annotations

import os

import pytest

from forkd.config import Config, Server
from forkd.controlmessages import (
    LOOKING,
    ControlRequest,
    KickSession,
    LiftBan,
    ListAccounts,
    ListBans,
    Reload,
    Sessions,
    Status,
    Stop,
    VerifyQuota,
)
from forkd.peercred import Caller
from forkd.supervisor.rights import Operators, operators, refusal

OPS = Operators("ops", 4242)
ROOT, OURSELVES = Caller(1, 0, frozenset([0])), Caller(1, os.geteuid(), frozenset([0]))
OPERATOR, STRANGER = Caller(1, 54321, frozenset([5, 4242])), Caller(1, 54321, frozenset([5]))
LOOKS = [Status(), Sessions(), ListAccounts(), ListBans()]
CHANGES = [Reload(), Stop(), KickSession("1"), VerifyQuota(fix=True), LiftBan("192.0.2.1")]


@pytest.mark.parametrize("caller", [ROOT, OURSELVES])
@pytest.mark.parametrize("group", [OPS, None])
def test_root_and_the_service_user_may_all(caller: Caller, group: Operators | None) -> None:
    for request in (None, *LOOKS, *CHANGES):
        assert refusal(caller, request, group) == ""


def test_operators_may_look() -> None:
    assert {type(request) for request in LOOKS} == set(LOOKING)
    for request in (None, *LOOKS):
        assert refusal(OPERATOR, request, OPS) == ""
    for change in CHANGES:
        assert "may look" in refusal(OPERATOR, change, OPS)


@pytest.mark.parametrize("request_", [None, Status(), Reload()])
def test_everybody_else_may_nothing(request_: ControlRequest | None) -> None:
    assert "only root" in refusal(STRANGER, request_, OPS)
    assert "only root" in refusal(OPERATOR, request_, None)


def test_the_group_is_that_of_the_configuration() -> None:
    assert operators(Config()) is None
    assert operators(Config(server=Server(operators="no-such-group"))) is None
    assert operators(Config(server=Server(operators="root"))) == Operators("root", 0)
