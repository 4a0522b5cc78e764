"""aiohttp, with its parser in C. It has no broadcast: all others are sent to one after the other."""

import asyncio

from aiohttp import web

connections = set()


async def handle(request):
    """Serve one client."""
    connection = web.WebSocketResponse(compress=False)
    await connection.prepare(request)
    connections.add(connection)
    try:
        async for message in connection:
            if not message.data.startswith("publish"):
                await connection.send_str(message.data)
                continue
            for other in connections - {connection}:
                await other.send_str(message.data)
    finally:
        connections.discard(connection)
    return connection


async def main():
    """Serve until killed."""
    application = web.Application()
    application.router.add_get("/", handle)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(f"ws://127.0.0.1:{runner.addresses[0][1]}", flush=True)
    await asyncio.Event().wait()


asyncio.run(main())
