"""Ends TLS before a server: tls_proxy.py CERTIFICATE KEY PORT. Prints the port that it listens on."""

import asyncio
import ssl
import sys

certificate, key, target = sys.argv[1:]


async def pump(reader, writer):
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


async def connected(reader, writer):
    other_reader, other_writer = await asyncio.open_connection("127.0.0.1", int(target))
    await asyncio.gather(pump(reader, other_writer), pump(other_reader, writer))


async def main():
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=context)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


asyncio.run(main())
