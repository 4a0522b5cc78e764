"""A seed decides whatever is random, and the private names of trio's by which it does are there."""

import random

import trio
from trio._core import _run

from trio_ws.testing.simulation.chance import seeded


def order_of(seed: int) -> tuple[list[int], float]:
    """In which order twenty tasks come to run, and a random number besides."""
    ran: list[int] = []

    async def run(number: int) -> None:
        await trio.lowlevel.checkpoint()
        ran.append(number)

    async def run_all() -> None:
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(run, number)

    with seeded(seed):
        trio.run(run_all)
        return ran, random.random()


def test_a_seed_decides_the_order_of_tasks_and_what_is_random() -> None:
    assert order_of(1) == order_of(1)
    orders = {tuple(order_of(seed)[0]) for seed in range(20)}
    assert len(orders) > 15, "neither forwards nor backwards"
    assert len({order_of(seed)[1] for seed in range(20)}) == 20


def state() -> tuple[object, ...]:
    return random.getstate(), vars(_run)["_r"].getstate(), vars(_run)["_ALLOW_DETERMINISTIC_SCHEDULING"]


def test_afterwards_all_is_as_before() -> None:
    before = state()
    order_of(1)
    assert state() == before
