"""A stdout that can't be written any more, as after `| head`."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


def drop_stdout() -> None:
    """Have what is written there be lost: else Python complains at its exit, too."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def while_read() -> Iterator[None]:
    """End the command once nobody reads what it prints.

    Raises:
        KeyboardInterrupt: nobody does.
    """
    try:
        yield
    except BrokenPipeError:
        drop_stdout()
        raise KeyboardInterrupt from None
