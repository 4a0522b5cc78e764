"""One seed for all that is random in a run: trio's scheduler, and the `random` of the server and its clients.

The only place that knows private names of trio's: `tests/testing/test_chance.py` fails where they move.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from trio._core import _run

_scheduler: Any = _run


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Have a seed decide whatever is random, in this process, until the block ends.

    trio shuffles the tasks that could run next, by a `Random` of its own, so that nobody counts on their
    order. Before that they are put into the order in which they were made, since trio keeps them in sets, by
    their addresses in memory, and these are no seed's to give.
    """
    before = random.getstate(), _scheduler._r.getstate(), _scheduler._ALLOW_DETERMINISTIC_SCHEDULING  # noqa: SLF001
    random.seed(seed)
    _scheduler._r.seed(seed)  # noqa: SLF001
    _scheduler._ALLOW_DETERMINISTIC_SCHEDULING = True  # noqa: SLF001
    try:
        yield
    finally:
        random.setstate(before[0])
        _scheduler._r.setstate(before[1])  # noqa: SLF001
        _scheduler._ALLOW_DETERMINISTIC_SCHEDULING = before[2]  # noqa: SLF001
