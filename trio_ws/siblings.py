"""The processes that serve as one: what is asked of one of them may be asked of all.

Each listens on a Unix socket of its own, in a folder that nobody else may enter. A connection is one
question, and its answer. A process that does not answer hangs: then its part is missing, and the
reply says so.
"""

import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import trio

logger = logging.getLogger(__name__)

ANSWER_SECONDS = 2.0  # far longer than an answer takes, and no longer than people wait
QUESTION_BYTES = 64 * 1024
ANSWER_BYTES = 16 * 1024 * 1024
PREFIX = "trio-ws-workers-"

Answer = Callable[[bytes], bytes]


@contextmanager
def meeting_place() -> Iterator[Path | None]:
    """Make a folder for the sockets of some processes, for as long as they live; None: there is no room."""
    try:
        made = tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True)
    except OSError:  # such as on a machine where nothing may be written
        yield None
        return
    with made as folder:
        yield Path(folder)


class Siblings:
    """This process and those that serve beside it.

    Args:
        folder: Where they listen; None: there are no others, or they can't be asked.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._answer: Answer = lambda _: b""
        self._own = None if folder is None else folder / f"{os.getpid()}.sock"

    async def ask(self, question: bytes) -> tuple[list[bytes], int]:
        """Return the answers of all processes, this one's first, and how many did not answer."""
        answers: list[bytes] = [self._answer(question)]
        others = [] if self._folder is None else sorted(set(self._folder.glob("*.sock")) - {self._own})
        missing = 0

        async def ask(other: Path) -> None:
            nonlocal missing
            try:
                with trio.fail_after(ANSWER_SECONDS):
                    answers.append(await _ask(other, question))
            except FileNotFoundError:  # it has just ended
                pass
            except ConnectionRefusedError:  # it has ended, and left this behind
                await trio.Path(other).unlink(missing_ok=True)
            except (OSError, trio.BrokenResourceError, trio.TooSlowError):
                missing += 1

        async with trio.open_nursery() as nursery:
            for other in others:
                nursery.start_soon(ask, other)
        return answers, missing

    async def serve(
        self, answer: Answer, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Answer what is asked, until cancelled; without a socket, only this process's own questions."""
        self._answer = answer
        with trio.socket.socket(trio.socket.AF_UNIX) as listening:
            try:
                if self._own is not None:
                    await _listen(listening, self._own)
            except OSError as error:  # the path is too long, the disk is full, the folder has been deleted
                logger.warning(
                    "no socket in %s (%s): the console shows this worker alone", self._folder, error
                )
                self._folder = self._own = None
            task_status.started()
            if self._own is None:
                return
            try:
                await trio.serve_listeners(partial(_serve_one, answer), [trio.SocketListener(listening)])
            finally:
                with suppress(OSError):
                    self._own.unlink()


async def _listen(listening: trio.socket.SocketType, own: Path) -> None:
    """Listen there. The name appears last: who is refused takes the process for ended, and deletes it.

    Raises:
        OSError: it cannot be done.
    """
    beginning = own.with_suffix(".new")
    beginning.unlink(missing_ok=True)
    await listening.bind(str(beginning))
    listening.listen()
    beginning.rename(own)  # also over that of a process that was killed, and had this number


async def _ask(other: Path, question: bytes) -> bytes:
    stream = await trio.open_unix_socket(other)
    async with stream:
        await stream.send_all(question)
        await stream.send_eof()
        return await _read(stream, ANSWER_BYTES)


async def _serve_one(answer: Answer, stream: trio.SocketStream) -> None:
    """Answer one question; who asks and goes is no trouble of ours, nor is a bug the end of the server."""
    with suppress(trio.BrokenResourceError), trio.move_on_after(ANSWER_SECONDS):
        async with stream:
            question = await _read(stream, QUESTION_BYTES)
            try:
                answered = answer(question)
            except Exception:
                logger.exception("a question of another process failed")
                return  # without an answer: it is counted there
            await stream.send_all(answered)


async def _read(stream: trio.SocketStream, most: int) -> bytes:
    """Read to the end.

    Raises:
        trio.BrokenResourceError: it does not end, or has no content.
    """
    found = b""
    while more := await stream.receive_some():
        found += more
        if len(found) > most:
            break
    if not 0 < len(found) <= most:
        raise trio.BrokenResourceError
    return found
