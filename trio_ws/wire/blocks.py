"""What an event stream is made of: blocks of lines, as HTML's section 9.2.6 reads them. No I/O."""

_NEWLINES = bytes.maketrans(b"\r\n", b"  ")

HEARTBEAT = b":\n\n"  # a comment, which is no event


def encode_block(
    event: str, data: bytes, *, position: str | None = None, retry: float | None = None
) -> bytes:
    """Return a block.

    Args:
        event: Its name.
        data: JSON; between its values, a line's end is a space, and in them it is none.
        position: Its id, with which a client resumes; None: the one before it stays in force.
        retry: In how many seconds a client is to come back; None: as was said before.
    """
    lines = [b"event: " + event.encode(), b"data: " + data.translate(_NEWLINES)]
    if position is not None:
        lines.insert(0, b"id: " + position.encode())
    if retry is not None:
        lines.insert(0, b"retry: %d" % round(retry * 1000))
    return b"\n".join([*lines, b"", b""])
