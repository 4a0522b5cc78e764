"""Which running server a command asks, and as whom: the options that all such commands share."""

import os
import ssl
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

from cyclopts import Parameter

from trio_ws import client
from trio_ws.cli import contexts
from trio_ws.settings import CONTEXT_VARIABLE, TOKEN_VARIABLE, URL_VARIABLE, SettingsError

DEFAULT_URL = "ws://localhost:8080"


class Place(NamedTuple):
    """A server, and who we are there.

    Attributes:
        url: Its URL.
        token: Who we are; None: nobody.
        ca: PEM file of the certificates to trust; None: those that the system trusts.
    """

    url: str
    token: str | None = None
    ca: str | None = None

    def connect(self, *, is_patient: bool = False) -> AbstractAsyncContextManager[client.Client]:
        """Return a client of it, as `client.connect` does."""
        return client.connect(self.url, token=self.token, ca=self.ca, is_patient=is_patient)

    def tls(self) -> ssl.SSLContext:
        """Return how its certificate is checked.

        Raises:
            SettingsError: `ca` can't be read.
        """
        try:
            return ssl.create_default_context(cafile=self.ca)
        except OSError as error:
            raise SettingsError(f"{self.ca} can't be read: {error}") from None


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Credentials:
    """Who we are, for a command that is given its URLs in a way of its own."""

    token: Annotated[
        str | None,
        Parameter(help=f"Token to send; also {TOKEN_VARIABLE}, which other users of the machine can't see."),
    ] = None
    ca: Annotated[Path | None, Parameter(help="PEM file of the certificates to trust, for wss://.")] = None
    context: Annotated[
        str | None,
        Parameter(
            help=f"Saved server to ask, see `trio-ws context`; also {CONTEXT_VARIABLE}.",
            completer=contexts.names,
        ),
    ] = None

    def place(self, url: str | None) -> Place:
        """Return the server to ask.

        What the command line says beats the environment, which beats the context that is in use. That one
        counts only where nothing else says which server: its token is for no other.

        Args:
            url: As it was given on the command line; None: it was not.

        Raises:
            SettingsError: there is no such context, or the file of contexts can't be read.
        """
        environment = (os.environ.get(name) or None for name in (URL_VARIABLE, TOKEN_VARIABLE))
        given = [
            _Given(url, self.token, None if self.ca is None else str(self.ca)),
            self._named(),
            _Given(*environment),
        ]
        if all(one.url is None for one in given):
            given += [_in_use(), _Given(DEFAULT_URL)]
        url, token, ca = (
            next((value for value in values if value is not None), None)
            for values in zip(*given, strict=True)
        )
        assert url is not None  # noqa: S101 - there is a default
        return Place(url, token, ca)

    def _named(self) -> "_Given":
        """Return the context that the command line names."""
        if self.context is None:
            return _Given()
        return _Given.of(contexts.load().get(self.context, "--context"))


class _Given(NamedTuple):
    """A part of what there is to know of a place, by one who says something of it."""

    url: str | None = None
    token: str | None = None
    ca: str | None = None

    @classmethod
    def of(cls, context: contexts.Context) -> "_Given":
        return cls(context.url, context.token, context.ca)


def _in_use() -> _Given:
    """Return the context that commands use by default."""
    found = contexts.load()
    return _Given() if found.in_use is None else _Given.of(found.get(found.in_use, CONTEXT_VARIABLE))


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Target(Credentials):
    """What each command takes that asks one running server."""

    url: Annotated[
        str | None, Parameter(help=f"URL of the server; also {URL_VARIABLE}. Default: {DEFAULT_URL}.")
    ] = None

    @property
    def server(self) -> Place:
        """The server to ask."""
        return self.place(self.url)


NO_CREDENTIALS = Credentials()
NO_TARGET = Target()
