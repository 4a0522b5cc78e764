"""Which running server a command asks, and as whom: the options that all such commands share."""

import os
import ssl
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Annotated, NamedTuple

from cyclopts import Parameter

from trio_ws import client
from trio_ws.settings import TOKEN_VARIABLE, URL_VARIABLE, SettingsError

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
    ca: Annotated[str | None, Parameter(help="PEM file of the certificates to trust, for wss://.")] = None

    def place(self, url: str | None) -> Place:
        """Return the server to ask.

        Args:
            url: As it was given on the command line; None: it was not.
        """
        token = os.environ.get(TOKEN_VARIABLE) or None if self.token is None else self.token
        return Place((os.environ.get(URL_VARIABLE) or DEFAULT_URL) if url is None else url, token, self.ca)


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
