"""picows, which is Cython, on asyncio's own loop."""

import asyncio

from picows import WSListener, WSMsgType, ws_create_server

transports = set()


class Client(WSListener):
    """One client."""

    def on_ws_connected(self, transport):
        """Note that it is there."""
        transports.add(transport)

    def on_ws_disconnected(self, transport):
        """Note that it is not."""
        transports.discard(transport)

    def on_ws_frame(self, transport, frame):
        """Answer, or tell all others."""
        if frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()
        elif frame.msg_type == WSMsgType.TEXT:
            message = frame.get_payload_as_bytes()
            if not message.startswith(b"publish"):
                transport.send(WSMsgType.TEXT, message)
                return
            for other in transports - {transport}:
                other.send(WSMsgType.TEXT, message)


async def main():
    """Serve until killed."""
    server = await ws_create_server(lambda _request: Client(), "127.0.0.1", 0)
    print(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


asyncio.run(main())
