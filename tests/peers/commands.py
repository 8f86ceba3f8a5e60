"""What every peer understands: a JSON object to a line, answered by one.

    {"do": "connect", "url": ..., "protocols": [...]}    of a client; {"do": "accept"} of a server, which has told its
                                                         port in its first line: {"port": ...}
    {"do": "send", "messages": [...]}                    each whole
    {"do": "fragments", "pieces": [...]}                 one message, a frame to each piece
    {"do": "recv"}                                       answered by a message, or by {"closed": [code, reason]}
    {"do": "ping", "payload": ...}                       answered once its Pong has come
    {"do": "close", "code": ..., "reason": ...}          answered by {"closed": [code, reason]}: what came back
    {"do": "raw", "base64": ...}                         bytes, straight to the socket
    {"do": "drop"}                                       the socket closed, without a word

A message is {"text": ...} or {"base64": ...}.  Whatever goes wrong is answered by {"failed": ...}.
"""

import asyncio
import base64
import json
import sys


def load(message):
    return message["text"] if "text" in message else base64.b64decode(message["base64"])


def dump(message):
    return {"text": message} if isinstance(message, str) else {"base64": base64.b64encode(message).decode()}


def say(answer):
    print(json.dumps(answer), flush=True)


def obey(peer):
    """Do what is asked for on standard input, by the methods of `peer`, until its end."""
    for line in sys.stdin:
        command = json.loads(line)
        try:
            answer = getattr(peer, command.pop("do"))(**command)
        except Exception as error:
            answer = {"failed": repr(error)}
        say(answer or {})


async def obey_async(peer):
    """Do the same with coroutines."""
    while line := await asyncio.to_thread(sys.stdin.readline):
        command = json.loads(line)
        try:
            answer = await getattr(peer, command.pop("do"))(**command)
        except Exception as error:
            answer = {"failed": repr(error)}
        say(answer or {})
