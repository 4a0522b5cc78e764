"""What lies between the socket and trio-websocket."""
