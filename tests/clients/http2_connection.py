"""A connection of HTTP/2 over TLS, for clients that misbehave; the frames are made with the package h2 and its hyperframe."""

import select
import socket
import ssl
import time

import h2.config
import h2.connection
import h2.events
import h2.settings


class Connection:
    def __init__(self, port, authority):
        context = ssl.create_default_context(cafile=authority)
        context.set_alpn_protocols(["h2"])
        self.socket = context.wrap_socket(socket.create_connection(("127.0.0.1", port)), server_hostname="localhost")
        assert self.socket.selected_alpn_protocol() == "h2", self.socket.selected_alpn_protocol()
        # What is wrong is on purpose: nothing of it is refused on this side.
        config = h2.config.H2Configuration(
            client_side=True, header_encoding="utf-8", validate_outbound_headers=False, normalize_outbound_headers=False
        )
        self.h2 = h2.connection.H2Connection(config=config)
        self.h2.initiate_connection()
        self.authority = f"localhost:{port}"
        self.send()

    def send(self, data=b""):
        self.socket.sendall(self.h2.data_to_send() + data)

    def headers(self, path, method="GET", more=()):
        names = [(":method", method), (":scheme", "https"), (":authority", self.authority), (":path", path)]
        return names + list(more)

    def request(self, path, method="GET", more=(), end=True):
        stream = self.h2.get_next_available_stream_id()
        self.h2.send_headers(stream, self.headers(path, method, more), end_stream=end)
        self.send()
        return stream

    def events(self, seconds):
        """What comes within so long; None when the connection has ended."""
        deadline = time.monotonic() + seconds
        while True:
            # What TLS has decrypted already is not seen by select.
            if not self.socket.pending() and not select.select([self.socket], [], [], max(0, deadline - time.monotonic()))[0]:
                return
            try:
                data = self.socket.recv(65536)
            except (ConnectionError, ssl.SSLError):
                data = b""
            if not data:
                yield None
                return
            yield from self.h2.receive_data(data)
            self.send()
