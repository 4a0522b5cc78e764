"""trio-websocket as it comes: what ours is built on. All others are sent to one after the other."""

import trio
from trio_websocket import ConnectionClosed, WebSocketServer

connections = set()


async def handle(request):
    """Serve one client."""
    connection = await request.accept()
    connections.add(connection)
    try:
        while True:
            message = await connection.get_message()
            if not message.startswith("publish"):
                await connection.send_message(message)
                continue
            for other in connections - {connection}:
                await other.send_message(message)
    except ConnectionClosed:
        pass
    finally:
        connections.discard(connection)


async def main():
    """Serve until killed."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    print(f"ws://127.0.0.1:{listeners[0].socket.getsockname()[1]}", flush=True)
    await WebSocketServer(handle, listeners).run()


trio.run(main)
