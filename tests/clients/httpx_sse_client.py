"""Receives a stream with httpx-sse, which leaves reconnecting to its user, without compression. Prints each message as one line of JSON."""

import json
import sys
import time

import httpx
from httpx_sse import connect_sse

position = None
with httpx.Client(timeout=60) as client:
    while True:
        headers = {"Accept-Encoding": "identity"}
        if position:
            headers["Last-Event-ID"] = position
        try:
            with connect_sse(client, "GET", sys.argv[1], headers=headers) as source:
                source.response.raise_for_status()
                for message in source.iter_sse():
                    print(json.dumps({"type": message.event, "id": message.id, "data": message.data}), flush=True)
                    position = message.id
        except httpx.TransportError:
            time.sleep(0.05)
