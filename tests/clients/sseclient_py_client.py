"""Receives a stream with sseclient-py over httpx, and reconnects. Prints each message as one line of JSON."""

import json
import sys
import time

import httpx
import sseclient

position = None
with httpx.Client(timeout=60) as client:
    while True:
        headers = {"Accept": "text/event-stream"}
        if position:
            headers["Last-Event-ID"] = position
        try:
            with client.stream("GET", sys.argv[1], headers=headers) as response:
                response.raise_for_status()
                for message in sseclient.SSEClient(response.iter_bytes()).events():
                    print(json.dumps({"type": message.event, "id": message.id, "data": message.data}), flush=True)
                    position = message.id
        except httpx.TransportError:
            time.sleep(0.05)
