"""websockets, asyncio; its `broadcast()` for all others."""

import asyncio

from websockets.asyncio.server import broadcast, serve
from websockets.exceptions import ConnectionClosed

connections = set()


async def handle(connection):
    """Serve one client."""
    connections.add(connection)
    try:
        async for message in connection:
            if message.startswith("publish"):
                broadcast(connections - {connection}, message)
            else:
                await connection.send(message)
    except ConnectionClosed:
        pass  # it went without a word
    finally:
        connections.discard(connection)


async def main():
    """Serve until killed."""
    async with serve(handle, "127.0.0.1", 0, compression=None) as server:
        print(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
        await server.serve_forever()


asyncio.run(main())
