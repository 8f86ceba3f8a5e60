"""gevent-websocket's protocols above messages."""
