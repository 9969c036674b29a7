"""TCP proxy that simulates a slow, silent or broken network between a client and a server on this machine."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress


class NetworkProxy:
    """Forwards connections on `port` to ``target`` on the loopback address. Use it as a context manager.

    Args:
        target: Port of the server.
        port: Port to listen on. 0 for any free one.
    """

    def __init__(self, target: int, port: int = 0) -> None:
        self._target = target
        self.port = port
        self.delay = 0.0
        """Seconds that data are delayed, in either direction."""
        self._forwarding = asyncio.Event()
        self._writers: set[asyncio.StreamWriter] = set()
        self._refusing = False
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="proxy")

    def __enter__(self) -> NetworkProxy:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def drop_packets(self) -> None:
        """Stop forwarding data, without closing any connection."""
        self._loop.call_soon_threadsafe(self._forwarding.clear)

    def reset_connections(self) -> None:
        """Reset every connection, and reject new ones."""
        self._refusing = True
        self._loop.call_soon_threadsafe(self._reset)

    def restore(self) -> None:
        """Forward data and accept connections again."""
        self._refusing = False
        self._loop.call_soon_threadsafe(self._forwarding.set)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._forwarding.set()
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", self.port))
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        server.close()
        self._reset()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        with suppress(OSError):
            if self._refusing:
                raise ConnectionRefusedError
            from_target, to_target = await asyncio.open_connection("127.0.0.1", self._target)
            self._writers.add(to_target)
            await asyncio.gather(self._pump(reader, to_target), self._pump(from_target, writer))
            self._writers.discard(to_target)
            to_target.close()
        self._writers.discard(writer)
        writer.transport.abort()

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await source.read(65_536):
                if self.delay:
                    await asyncio.sleep(self.delay)
                await self._forwarding.wait()
                sink.write(data)
                await sink.drain()
        with suppress(OSError):
            sink.close()

    def _reset(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()
