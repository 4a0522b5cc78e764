"""What comes before all else: the three standard files, and what process 1 of a container has to do besides.

Where one of the standard files was closed, the next file or socket that is opened would take its place, and
what is written to it would go there.

The kernel gives process 1 all processes that lost their parent, such as PostgreSQL's when that was killed,
and keeps from it each signal that it has no handler for, even its own.
"""

import os
import signal
import sys

FORWARDED = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}


def open_standard_files() -> None:
    """Have descriptors 0 to 2 be open, and Python's files on them: what is closed leads nowhere instead."""
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # noqa: FBT003 - the standard library's
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, closefd=False, encoding="utf-8"))  # noqa: SIM115 - it stays open


def leave_process_1() -> None:
    """Go on in a child, where we are process 1, which passes signals on to it and ends with its status."""
    if os.getpid() != 1:
        return
    heeded = {signal.SIGCHLD, *FORWARDED}
    signal.pthread_sigmask(signal.SIG_BLOCK, heeded)
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)  # else Ctrl-C would reach it twice
        signal.pthread_sigmask(signal.SIG_UNBLOCK, heeded)
        return
    while True:
        number = signal.sigwait(heeded)
        if number in FORWARDED:
            os.kill(child, number)
        elif (status := _bury(child)) is not None:
            sys.exit(status if status >= 0 else 128 - status)  # as a shell says it


def _bury(child: int) -> int | None:
    """Reap the processes that have ended, and return the child's exit status, if it is among them."""
    while (ended := os.waitpid(-1, os.WNOHANG))[0]:
        if ended[0] == child:
            return os.waitstatus_to_exitcode(ended[1])
    return None
