"""Saved servers: a name for a URL, a token and a CA file, so that commands need not be given them each time.

They are in one TOML file of the user's, which holds tokens: nobody else may read it, and it is replaced in
one piece. `target.py` says when a command uses which.
"""

import fcntl
import getpass
import json
import os
import re
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import msgspec
from cyclopts import Parameter
from msgspec import Meta

from trio_ws.cli.options import AsJson
from trio_ws.cli.words import suggest
from trio_ws.client.opening import Address
from trio_ws.settings import CONTEXT_VARIABLE, SettingsError

NAME = r"[A-Za-z0-9_-]{1,64}\Z"  # a bare key of TOML, and nothing that a shell would take apart
HIDDEN = "***"
FROM_STDIN = "-"


class Context(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A server, and who we are there.

    Attributes:
        url: Its `ws://` or `wss://` URL.
        token: Who we are; None: nobody.
        ca: PEM file of the certificates to trust; None: those that the system trusts.
    """

    url: str
    token: str | None = None
    ca: str | None = None


class Contexts(msgspec.Struct, forbid_unknown_fields=True):
    """The whole file.

    Attributes:
        current: The name of the one that commands use by default; None: none.
        contexts: All of them, by their names.
    """

    current: str | None = None
    contexts: dict[Annotated[str, Meta(pattern=f"^{NAME}")], Context] = {}

    def get(self, name: str, origin: str) -> Context:
        """Return one.

        Args:
            name: Its name.
            origin: Where that name stands, for the error.

        Raises:
            SettingsError: there is none of that name.
        """
        if name not in self.contexts:
            known = suggest(name, self.contexts, "contexts")
            raise SettingsError(f"{origin}: there is no context {name!r}{known}")
        return self.contexts[name]

    @property
    def in_use(self) -> str | None:
        """The name of the one that commands use by default."""
        return os.environ.get(CONTEXT_VARIABLE) or self.current


def names(_: object = None) -> list[str]:
    """Return their names, for a shell that completes one."""
    return list(load().contexts)


def file() -> Path | None:
    """Return where they are, as the XDG base directory specification says; None: there is no telling."""
    try:
        home = Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser()
    except RuntimeError:  # neither HOME nor an entry of ours in the list of users: a container's
        return None
    return home / "trio-ws" / "contexts.toml"


def load() -> Contexts:
    """Return what there is; without a file, none.

    Raises:
        SettingsError: the file can't be read, or is none of ours.
    """
    path = file()
    if path is None:
        return Contexts()
    try:
        found = msgspec.convert(tomllib.loads(path.read_text("utf-8")), Contexts)
    except FileNotFoundError:
        return Contexts()
    except OSError as error:
        raise SettingsError(f"can't read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not TOML: {error}") from None
    except msgspec.ValidationError as error:
        raise SettingsError(f"{path}: {error}") from None
    if found.current is not None:
        found.get(found.current, f"`current` in {path}")
    return found


@contextmanager
def changing() -> Iterator[Contexts]:
    """Yield what there is, and store what becomes of it; two commands at a time wait for each other.

    Raises:
        SettingsError: as for `load`, or the file can't be written.
    """
    path = file()
    if path is None:
        raise SettingsError("no home folder is known, so set XDG_CONFIG_HOME")
    path = path.resolve()  # a link stays one: some keep such files elsewhere
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            contexts = load()
            yield contexts
            _replace(path, _as_toml(contexts))
        finally:
            os.close(folder)
    except OSError as error:
        raise SettingsError(f"can't write {path}: {error.strerror}") from None


def _replace(path: Path, text: str) -> None:
    """Have a file hold a text: the old one or the new one is there at any moment, and only we may read it."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # with mode 0600
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as new:
            new.write(text)
            new.flush()
            os.fsync(new.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


New = Annotated[str, Parameter(name="NAME", help="Its name.")]
Name = Annotated[str, Parameter(name="NAME", help="Its name.", completer=names)]


def _as_toml(contexts: Contexts) -> str:
    lines = [] if contexts.current is None else [f"current = {_quoted(contexts.current)}"]
    for name, context in contexts.contexts.items():
        lines += ["", f"[contexts.{name}]"]
        fields = msgspec.structs.asdict(context).items()
        lines += [f"{field} = {_quoted(value)}" for field, value in fields if value is not None]
    return "\n".join([*lines, ""]).lstrip("\n")


def _quoted(text: str) -> str:
    """Return a basic string of TOML: JSON's escapes are among its own, but it wants DEL escaped, too."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def add(
    name: New,
    /,
    *,
    url: Annotated[str, Parameter(help="ws:// or wss:// URL of the server.")],
    token: Annotated[
        str | None,
        Parameter(
            allow_leading_hyphen=True,
            help="Token to send; -: read it from stdin, so that no history holds it.",
        ),
    ] = None,
    ca: Annotated[Path | None, Parameter(help="PEM file of the certificates to trust, for wss://.")] = None,
    replace: Annotated[bool, Parameter(negative=(), help="Replace the one of that name.")] = False,
) -> None:
    """Save a server under a name."""
    if not re.match(NAME, name):
        raise SettingsError(f"{name!r} is no name of a context: up to 64 of A-Z, a-z, 0-9, _ and -")
    if token == FROM_STDIN:
        token = _read_token()
    context = Context(url, token, None if ca is None else str(ca.absolute()))
    try:
        Address.of(context.url, context.token, ca=context.ca)
    except ValueError as error:
        raise SettingsError(str(error)) from None
    with changing() as contexts:
        if name in contexts.contexts and not replace:
            raise SettingsError(f"there is a context {name!r} already: remove it first, or add --replace")
        contexts.contexts[name] = context
    print(f"saved {name}; `trio-ws context use {name}` makes it the current one")


def _read_token() -> str:
    token = getpass.getpass("token: ") if sys.stdin.isatty() else sys.stdin.readline()
    if not token.strip():
        raise SettingsError("--token -: stdin holds no token")
    return token.strip()


def list_contexts(*, as_json: AsJson = False) -> None:
    """Print a line for each saved server; * marks the one in use. Tokens are not shown."""
    contexts = load()
    for name, context in contexts.contexts.items():
        print(_as_json(contexts, name, context) if as_json else _line(contexts, name, context))


def show(
    name: Annotated[
        str | None, Parameter(name="NAME", help="Which. Default: the one in use.", completer=names)
    ] = None,
    /,
    *,
    as_json: AsJson = False,
) -> None:
    """Print a saved server, without its token."""
    contexts = load()
    origin = "context show" if name else CONTEXT_VARIABLE
    chosen = name or contexts.in_use
    if chosen is None:
        raise SettingsError("no context is in use: name one, or see `trio-ws context list`")
    context = contexts.get(chosen, origin)
    if as_json:
        print(_as_json(contexts, chosen, context))
        return
    print(f"name: {chosen}")
    for field, value in _shown(context).items():
        print(f"{field}: {value}")


def use(name: Name, /) -> None:
    """Make a saved server the default of all commands."""
    with changing() as contexts:
        contexts.get(name, "context use")
        contexts.current = name
    print(f"using {name}")


def remove(name: Name, /) -> None:
    """Forget a saved server, and its token."""
    with changing() as contexts:
        contexts.get(name, "context remove")
        del contexts.contexts[name]
        if contexts.current == name:
            contexts.current = None
    print(f"removed {name}")


def _shown(context: Context) -> Mapping[str, str]:
    fields = {**msgspec.structs.asdict(context), "token": context.token and HIDDEN}
    return {field: value for field, value in fields.items() if value is not None}


def _line(contexts: Contexts, name: str, context: Context) -> str:
    mark = "*" if name == contexts.in_use else " "
    url, *others = _shown(context).items()
    return "  ".join([f"{mark} {name}", url[1], *(f"{field} {value}" for field, value in others)])


def _as_json(contexts: Contexts, name: str, context: Context) -> str:
    fields: dict[str, Any] = {"name": name, **msgspec.structs.asdict(context)}
    has_token = fields.pop("token") is not None
    return json.dumps({**fields, "has_token": has_token, "is_in_use": name == contexts.in_use})
