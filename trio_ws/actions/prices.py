"""Reading prices."""

from trio_ws.actions.services import Services
from trio_ws.actions.session import Session
from trio_ws.database import queries
from trio_ws.messages import ListPrices, Success


async def list_prices(_: ListPrices, services: Services, __: Session) -> Success:
    """Read all prices."""
    return Success(data=await services.database.run(queries.list_prices))
