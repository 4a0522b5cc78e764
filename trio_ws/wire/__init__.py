"""What lies between the socket and the connection: bytes, the opening handshake, frames."""
