from __future__ import annotations

from forkd.config import Limits
from forkd.doors.ftp.patience import Patience
from forkd.units import Seconds


def patience() -> Patience:
    return Patience(Limits(login_timeout=Seconds(60), idle_timeout=Seconds(900)), now=1000.0)


def left(it: Patience, now: float, *, stranger=False, port=False, amid=False) -> float:
    return it.left(now, stranger=stranger, port=port, amid=amid or port)


def test_a_stranger_has_one_time_for_all_he_does() -> None:
    it = patience()
    assert left(it, 1010.0, stranger=True) == 50
    it.heard()
    assert left(it, 1059.0, stranger=True) == 1
    assert left(it, 1061.0, stranger=True) == 0


def test_who_is_logged_in_has_a_time_from_each_answer_on() -> None:
    it = patience()
    assert left(it, 2000.0) == 900
    assert left(it, 2300.0) == 600
    it.heard()
    assert left(it, 2500.0) == 900


def test_a_port_is_kept_for_a_minute() -> None:
    it = patience()
    assert left(it, 2000.0, port=True) == 60
    assert left(it, 2060.0, port=True) == 0
    assert left(it, 2060.0) == 840


def test_who_is_silent_goes_at_once() -> None:
    it = patience()
    left(it, 2000.0)
    it.leave(2100.0)
    assert it.is_leaving
    assert left(it, 2100.0) == 0


def test_who_goes_on_may_until_his_next_transfer() -> None:
    it = patience()
    it.leave(2000.0)
    it.leave(2005.0)
    assert left(it, 2000.5) == 1
    it.heard()
    assert left(it, 2004.0) == 1
    it.heard()
    assert left(it, 2009.5) == 1
    assert not it.is_late(2009.5)
    it.heard()
    assert it.is_late(2010.0)
    assert left(it, 2011.0) == 1
    assert left(it, 2012.0) == 0


def test_who_never_pauses_has_an_end_too() -> None:
    it = patience()
    assert not it.is_over(1059.0, stranger=True)
    assert it.is_over(1060.0, stranger=True)
    assert not it.is_over(5000.0, stranger=False)
    it.leave(5000.0)
    assert not it.is_over(5019.0, stranger=False)
    assert it.is_over(5020.0, stranger=False)


def test_in_the_middle_of_something_one_may_pause() -> None:
    it = patience()
    it.leave(2000.0)
    assert left(it, 2000.0, port=True) == 10
    assert left(it, 2003.0, amid=True) == 7
    assert left(it, 2003.0) == 0
