"""A TCP relay on loopback that counts bytes, and a control plane that only acknowledges."""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress

import grpc

from protos.comboio.v1 import batch_pb2 as pb
from protos.comboio.v1 import link_pb2, link_pb2_grpc

CHANNEL_OPTIONS = (
    ("grpc.http2.bdp_probe", 0),  # its pings cost 17 bytes each way per message
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
)
WAIT_S = 60.0


class Relay:
    """Passes on what it gets, in both directions, until closed; `up` counts what came from clients."""

    def __init__(self, port: int) -> None:
        self.up = 0
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def close(self) -> None:
        for one in (self._listener, *self._sockets):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                client = self._listener.accept()[0]
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._target))
            for one in (client, server):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._sockets += [client, server]
            for ends in ((client, server, True), (server, client, False)):
                thread = threading.Thread(target=self._pass_on, args=ends)
                self._threads.append(thread)
                thread.start()

    def _pass_on(self, source: socket.socket, target: socket.socket, upward: bool) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                if upward:
                    self.up += len(data)
                target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)


class Acknowledger(link_pb2_grpc.LinkServicer):
    """Keeps every batch and acknowledges each at once."""

    def __init__(self) -> None:
        self.batches: list[pb.Batch] = []

    def Connect(  # noqa: N802
        self, request_iterator: Iterator[link_pb2.Uplink], context: grpc.ServicerContext
    ) -> Iterator[link_pb2.Downlink]:
        del context
        for message in request_iterator:
            if message.HasField("hello"):
                yield link_pb2.Downlink(welcome=link_pb2.Welcome(session=1))
            elif message.HasField("batch"):
                batch = message.batch
                self.batches.append(batch)
                lane = link_pb2.LaneReceived(lane=batch.lane, acked=batch.seq)
                yield link_pb2.Downlink(ack=link_pb2.Ack(epoch=batch.epoch, lanes=[lane]))


class Uplink:
    """One stream; a batch is sent when the one before it is acknowledged, as at any usual interval."""

    def __init__(self, stub: link_pb2_grpc.LinkStub, relay: Relay) -> None:
        self._relay = relay
        self._messages: queue.SimpleQueue[link_pb2.Uplink | None] = queue.SimpleQueue()
        self._answers = stub.Connect(iter(self._messages.get, None), timeout=600.0)

    def hello(self, declare: pb.Declare) -> None:
        self._messages.put(link_pb2.Uplink(hello=link_pb2.Hello(protocol=1, epoch=declare.epoch)))
        next(self._answers)
        self._messages.put(link_pb2.Uplink(declare=declare))

    def send(self, batch: pb.Batch) -> None:
        """Returns when it is acknowledged."""
        self._messages.put(link_pb2.Uplink(batch=batch))
        next(self._answers)

    def bytes_sent(self) -> int:
        """What has gone up so far, once nothing more comes."""
        before, still = -1, threading.Event()
        while before != self._relay.up:
            before = self._relay.up
            still.wait(0.2)
        return before

    def close(self) -> None:
        self._messages.put(None)
        for _ in self._answers:
            pass


@contextmanager
def connected() -> Iterator[tuple[Uplink, Acknowledger]]:
    """A client, the relay and the far end; all gone afterwards."""
    far_end = Acknowledger()
    with ExitStack() as stack:
        server = grpc.server(stack.enter_context(ThreadPoolExecutor(2)), options=CHANNEL_OPTIONS)
        stack.callback(lambda: server.stop(None).wait(WAIT_S))
        link_pb2_grpc.add_LinkServicer_to_server(far_end, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        relay = Relay(port)
        stack.callback(relay.close)
        channel = stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{relay.port}", options=CHANNEL_OPTIONS))
        uplink = Uplink(link_pb2_grpc.LinkStub(channel), relay)
        yield uplink, far_end
        uplink.close()
