"""What a command may be given: listed in its help, and suggested where a word is none of it."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import TypeVar

T = TypeVar("T")


def suggest(word: str, known: Iterable[str], plural: str) -> str:
    """Return which of the known words was meant; where none looks like it, all of them."""
    known = list(known)
    close = get_close_matches(word, known, n=1)
    return f"; did you mean {close[0]}?" if close else f"; {plural}: {', '.join(known) or 'none'}"


def with_list(title: str, items: Mapping[str, str]) -> Callable[[T], T]:
    """Have a command's help list what it may be given, with a line for each."""
    width = max(map(len, items))
    lines = [f"{title}:", "```", *(f"{name:{width}}  {about}" for name, about in items.items()), "```"]

    def add(command: T) -> T:
        command.__doc__ = "\n".join([inspect.cleandoc(command.__doc__ or ""), "", *lines])
        return command

    return add
