"""What is counted, and where counting ends."""

import pytest

from trio_ws.limits import Bucket, Census


def test_a_bucket_holds_a_burst_and_fills_at_its_rate() -> None:
    bucket = Bucket(per_second=10, burst=3)
    assert [bucket.take(0) for _ in range(4)] == [0, 0, 0, pytest.approx(0.1)]
    assert bucket.take(0.05) == pytest.approx(0.05)
    assert bucket.take(0.1) == 0
    assert bucket.take(0.1) == pytest.approx(0.1)
    assert [bool(bucket.take(1000)) for _ in range(4)] == [False, False, False, True], "and holds no more"


def test_a_bucket_is_charged_by_cost() -> None:
    bucket = Bucket(per_second=10, burst=20)
    assert [bucket.take(0, 15), bucket.take(0, 5), bucket.take(0, 0.5)] == [0, 0, pytest.approx(0.05)]
    assert bucket.take(0.05, 0.5) == 0


def test_what_costs_more_than_a_bucket_holds_is_had_from_a_full_one_and_paid_off_later() -> None:
    bucket = Bucket(per_second=10, burst=20)
    assert bucket.take(0, 50) == 0
    assert bucket.take(0) == pytest.approx(3.1)
    assert bucket.take(3.1) == 0
    assert bucket.take(3.1, 50) == pytest.approx(2)


def test_what_is_spent_later_is_missing_and_what_is_given_back_is_there_up_to_the_burst() -> None:
    bucket = Bucket(per_second=10, burst=2)
    assert bucket.take(0) == 0
    bucket.spend(3)
    assert bucket.take(0) == pytest.approx(0.3)
    bucket.spend(-100)
    assert [bool(bucket.take(0)) for _ in range(3)] == [False, False, True]


@pytest.mark.parametrize(("per_second", "burst"), [(None, None), (None, 1), (1, None)])
def test_a_bucket_without_a_limit_is_never_empty(per_second: float | None, burst: float | None) -> None:
    bucket = Bucket(per_second, burst)
    assert not any(bucket.take(0) for _ in range(1000))


def test_a_place_is_free_again_when_its_connection_has_gone() -> None:
    census = Census()
    census.limit(2, None, None)
    assert [census.enter("a", 0), census.enter(None, 0), census.enter("b", 0)] == [None, None, "connections"]
    census.leave(None)
    assert [census.enter("b", 0), census.enter("b", 0)] == [None, "connections"]


def test_one_address_may_not_take_all_places() -> None:
    census = Census()
    census.limit(None, 2, None)
    assert [census.enter("a", 0) for _ in range(3)] == [None, None, "connections_per_address"]
    assert census.enter("b", 0) is None
    assert census.enter(None, 0) is None
    census.leave("a")
    assert [census.enter("a", 0), census.enter("a", 0)] == [None, "connections_per_address"]


def test_they_may_come_so_fast_and_no_faster() -> None:
    census = Census()
    census.limit(None, None, 2)
    assert [census.enter(None, 0) for _ in range(3)] == [None, None, "connections_per_second"]
    assert [census.enter(None, 0.5) for _ in range(2)] == [None, "connections_per_second"]


def test_an_address_that_has_gone_is_forgotten() -> None:
    census = Census()
    for number in range(100):
        census.enter(str(number), 0)
        census.leave(str(number))
    assert not vars(census)["_by_address"]
