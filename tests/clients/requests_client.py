"""Receives lines of NDJSON with requests, which asks for gzip by itself, and reconnects. Prints each event."""

import json
import sys
import time

import requests

position = None
while True:
    try:
        parameters = {"after": position} if position else {}
        with requests.get(sys.argv[1], params=parameters, stream=True, timeout=60) as response:
            response.raise_for_status()
            for line in response.iter_lines():
                if line:
                    print(line.decode(), flush=True)
                    position = json.loads(line)["id"]
    except requests.RequestException:
        pass
    time.sleep(0.05)
