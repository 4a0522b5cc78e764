"""Background steps: what runs again and again beside the clients, and never ends, whatever it meets.

Expiry, retention, webhooks, tokens, the log's tail and LISTEN are each a step. A bad row, a missing file
descriptor or a timeout costs such a step a pause. It is counted and logged here, and nowhere else.
"""

import logging
from collections.abc import Awaitable, Callable

import trio

from trio_ws import metrics
from trio_ws.errors import ActionError, Outage

logger = logging.getLogger(__name__)

# First and longest pause after failures in a row. Clients are served within 2 s once PostgreSQL is back.
BACKOFF_SECONDS = (0.125, 1.0)


async def forever(name: str, step: Callable[[], Awaitable[float]]) -> None:
    """Run a step again and again, until cancelled.

    Args:
        name: What the step does, for logs and metrics.
        step: Returns how many seconds to wait before it runs again.
    """
    failures = 0
    while True:
        try:
            pause = await step()
        except Exception as error:  # noqa: BLE001 - whatever it is, the next try may do better
            failures += 1
            _report(name, error, failures)
            first, longest = BACKOFF_SECONDS
            pause = min(first * 2 ** min(failures - 1, 16), longest)
        else:
            if failures:
                logger.info("%s: works again, after %d failures", name, failures)
            failures = 0
        await trio.sleep(pause)


def _report(name: str, error: Exception, failures: int) -> None:
    """Count a failure, and log the first, the second, the fourth, the eighth … in a row."""
    metrics.BACKGROUND_FAILURES.labels(name).inc()
    is_bug = not isinstance(error, ActionError)
    if is_bug:
        metrics.BUGS.inc()
    if failures & (failures - 1):
        return
    if is_bug:
        logger.error("%s: failed (%d in a row); trying again", name, failures, exc_info=error)
    elif not isinstance(error, Outage):  # of that the gateway has said why
        logger.warning("%s: failed (%d in a row); trying again: %s", name, failures, error)
