"""A background step runs again whatever it meets, and says so once, not each time."""

import pytest
import trio
from trio.testing import MockClock

from trio_ws import metrics
from trio_ws.background import BACKOFF_SECONDS, forever
from trio_ws.errors import Outage, Timeout, Unavailable


class Step:
    """Fails as it is told, each time that it runs; then it does well."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.times: list[float] = []

    async def __call__(self) -> float:
        self.times.append(trio.current_time())
        if self.errors:
            raise self.errors.pop(0)
        return 10.0


async def run(step: Step, seconds: float) -> None:
    with trio.move_on_after(seconds):
        await forever("step", step)


async def test_it_runs_after_each_pause_that_it_asks_for(autojump_clock: MockClock) -> None:
    step = Step()
    await run(step, 35)
    assert step.times == [0, 10, 20, 30]


@pytest.mark.logs_errors
@pytest.mark.parametrize(
    "error",
    [
        OSError(24, "Too many open files"),
        RuntimeError("can't start new thread"),
        ExceptionGroup("two", [KeyError("one"), Unavailable("another")]),
        Timeout("The database took too long"),
        Unavailable("The database is busy"),
        MemoryError(),
    ],
    ids=repr,
)
async def test_nothing_that_it_raises_ends_it(autojump_clock: MockClock, error: Exception) -> None:
    step = Step(error, error)
    await run(step, 25)
    assert len(step.times) == 5


async def test_the_pause_grows_up_to_a_bound_and_is_short_again_after_a_success(
    autojump_clock: MockClock,
) -> None:
    first, longest = BACKOFF_SECONDS
    step = Step(*[Unavailable("away")] * 8)
    await run(step, 100)
    pauses = [after - before for before, after in zip(step.times, step.times[1:], strict=False)]
    assert pauses[:5] == [first, 2 * first, 4 * first, longest, longest]
    step.errors = [Unavailable("away")]
    step.times.clear()
    await run(step, 5)
    assert step.times == [step.times[0], step.times[0] + first]


@pytest.mark.logs_errors
async def test_failures_are_counted_and_logged_ever_more_rarely(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    failures = metrics.BACKGROUND_FAILURES.labels("step")
    before = failures._value.get()  # noqa: SLF001 - prometheus-client has no other way
    errors = [Timeout("too long"), Unavailable("busy"), *[Timeout("too long")] * 3, KeyError("row")]
    await run(Step(*errors, Outage("away"), Outage("away")), 60)
    assert failures._value.get() == before + 8  # noqa: SLF001 - see above
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "step: failed (1 in a row); trying again: too long"),
        ("WARNING", "step: failed (2 in a row); trying again: busy"),
        ("WARNING", "step: failed (4 in a row); trying again: too long"),
        ("INFO", "step: works again, after 8 failures"),
    ]


async def test_it_can_be_cancelled(autojump_clock: MockClock) -> None:
    async def step() -> float:
        await trio.sleep_forever()
        return 0.0

    with trio.move_on_after(1) as scope:
        await forever("step", step)
    assert scope.cancelled_caught
