"""gevent-websocket's gunicorn worker (see `workers`)."""
