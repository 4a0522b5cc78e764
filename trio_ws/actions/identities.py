"""Who is there: the client, by its token, and the server, by its answer."""

from trio_ws.actions.services import Services
from trio_ws.actions.session import Session
from trio_ws.messages import Authenticate, Authenticated, Ping, Pong, Success


async def authenticate(action: Authenticate, _: Services, session: Session) -> Success:
    """Become who the token says."""
    identity = await session.authenticate(action.token)
    data = Authenticated(
        account_id=identity.account_id, scopes=identity.scopes, expires_at=identity.expires_at
    )
    return Success(message="Authenticated", data=data)


def ping(_: Ping, services: Services, __: Session) -> Pong:
    """Say that the server is there."""
    return Pong(timestamp=int(services.now()))
