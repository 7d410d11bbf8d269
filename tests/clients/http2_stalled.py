"""Two streams on one connection: http2_stalled.py PORT AUTHORITY PATH. The window of the first is never opened again, the
second reads on. Prints, in one line of JSON each: when the second has got what there was ("read" with the bytes of both), and
when the first was reset ("reset"); then each message that the second gets ("data")."""

import json
import sys

import h2.events

from http2_connection import Connection

port, authority, path = sys.argv[1:]
connection = Connection(int(port), authority)
stalled, reading = connection.request(path), connection.request(path)
taken = {stalled: 0, reading: 0}
read = False


def tell(**what):
    print(json.dumps(what), flush=True)


while True:
    for event in connection.events(60):
        if event is None:
            tell(ended=True)
            sys.exit()
        if isinstance(event, h2.events.DataReceived):
            taken[event.stream_id] += len(event.data)
            # The connection's window is opened for both, the stream's for one.
            if event.flow_controlled_length:
                connection.h2.increment_flow_control_window(event.flow_controlled_length)
                if event.stream_id == reading:
                    connection.h2.increment_flow_control_window(event.flow_controlled_length, reading)
            connection.send()
            if event.stream_id == reading:
                text = event.data.decode(errors="replace")
                if read:
                    tell(data=text)
                elif "event: caught-up" in text:
                    read = True
                    tell(read=taken[reading], stalled=taken[stalled])
        elif isinstance(event, h2.events.StreamReset):
            tell(reset=event.stream_id == stalled)
