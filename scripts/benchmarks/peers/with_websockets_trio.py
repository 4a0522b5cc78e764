"""websockets, trio. It has no `broadcast()`: all others are sent to one after the other."""

import trio
from websockets.exceptions import ConnectionClosed
from websockets.trio.server import serve

connections = set()


async def handle(connection):
    """Serve one client."""
    connections.add(connection)
    try:
        async for message in connection:
            if not message.startswith("publish"):
                await connection.send(message)
                continue
            for other in connections - {connection}:
                await other.send(message)
    except ConnectionClosed:
        pass  # it, or another, went meanwhile: the measuring is over
    finally:
        connections.discard(connection)


async def main():
    """Serve until killed."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    print(f"ws://127.0.0.1:{listener.socket.getsockname()[1]}", flush=True)
    await serve(handle, listeners=[listener], compression=None)


trio.run(main)
