"""Which accounts have series of their own."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from forkd.helpers.usages import OTHERS, Usage, fullest
from forkd.ledger.file import AccountCell


def cell(name: str, charged: int, limit: int | None, reserved: int = 0) -> AccountCell:
    return AccountCell(1, name, charged, limit, reserved)


def test_fullest_first_then_by_use() -> None:
    cells = [
        cell("unlimited-big", 10**9, None),
        cell("unlimited-small", 5, None),
        cell("half", 50, 100),
        cell("full", 1, 1),
        cell("nothing-allowed", 0, 0),
    ]
    order = [usage.user for usage in fullest(cells, 10)]
    assert order == ["full", "nothing-allowed", "half", "unlimited-big", "unlimited-small"]


def test_the_rest_is_summed() -> None:
    cells = [cell("a", 9, 10), cell("b", 2, 10, 1), cell("c", 1, 10, 1)]
    assert fullest(cells, 1) == [Usage("a", 9, 0, 10), Usage(OTHERS, 3, 2, 20)]
    assert fullest(cells, 0) == [Usage(OTHERS, 12, 2, 30)]
    assert fullest([], 0) == []


def test_the_rest_has_a_limit_only_if_all_have() -> None:
    cells = [cell("a", 9, 10), cell("b", 2, 10), cell("c", 1, None)]
    assert fullest(cells, 1)[-1] == Usage(OTHERS, 3, 0, None)


@given(
    st.lists(
        st.builds(
            AccountCell,
            st.just(1),
            st.sampled_from(["", "a", "b", "c", "d", OTHERS]),
            st.integers(0, 2**64 - 1),
            st.none() | st.integers(0, 2**62),
            st.integers(0, 2**62),
        )
    ),
    st.integers(0, 5),
)
def test_no_series_twice_and_no_byte_lost(cells: list[AccountCell], top: int) -> None:
    usages = fullest(cells, top)
    users = [usage.user for usage in usages]
    assert len(set(users)) == len(users) <= top + 1
    assert sum(usage.used for usage in usages) == sum(cell.charged for cell in cells)
    assert sum(usage.reserved for usage in usages) == sum(cell.reserved for cell in cells)
