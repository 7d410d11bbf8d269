"""Receives a stream over HTTP/2 with httpx, and reconnects: httpx_http2_client.py URL AUTHORITY. Prints each message as one line of JSON."""

import json
import ssl
import sys
import time

import httpx
from httpx_sse import connect_sse

url, authority = sys.argv[1:]
position = None
trust = ssl.create_default_context(cafile=authority)
with httpx.Client(timeout=60, http1=False, http2=True, verify=trust) as client:
    while True:
        headers = {"Last-Event-ID": position} if position else {}
        try:
            with connect_sse(client, "GET", url, headers=headers) as source:
                source.response.raise_for_status()
                assert source.response.http_version == "HTTP/2", source.response.http_version
                for message in source.iter_sse():
                    print(json.dumps({"type": message.event, "id": message.id, "data": message.data}), flush=True)
                    position = message.id
        except httpx.TransportError:
            time.sleep(0.05)
        except httpx.HTTPStatusError as error:
            # The server stops: it says so until its connection ends.
            if error.response.status_code != 503:
                raise
            time.sleep(1)
