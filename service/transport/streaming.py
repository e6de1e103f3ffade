"""ModelStreamInfer, Triton's wire type: many requests in flight on one stream, answers as they come.

An answer carries its request's id. An error is an answer too and does not end the stream. The server
reads no faster than the caller: with ``MAX_IN_FLIGHT`` requests unanswered or answers unread, the next
request waits on the wire.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from google.protobuf.message import DecodeError

from service.dataplane import Ticket
from service.errors import InvalidInput
from service.fields import write_varint
from service.pb.inference import grpc_service_pb2 as inference
from service.transport import wire
from service.transport.access import Metadata
from service.transport.calls import MAX_INFER_FIELDS, MODEL_INFER, Calls
from service.transport.reply_queue import ReplyQueue
from service.transport.status import Status

MODEL_STREAM_INFER = "/inference.GRPCInferenceService/ModelStreamInfer"
MAX_IN_FLIGHT = 1024
_INFER_RESPONSE_TAG = b"\x12"  # ModelStreamInferResponse.infer_response, field 2, length-delimited
# Every answer is the only one to its request. Clients of decoupled models ask for this mark.
_FINAL = inference.ModelInferResponse(
    parameters={"triton_final_response": inference.InferParameter(bool_param=True)}
).SerializeToString()


class Stream:
    """One caller's stream, on the loop's thread; answers arrive from others by way of ``replies``."""

    def __init__(
        self,
        calls: Calls,
        replies: ReplyQueue,
        time_remaining: float | None,
        request_id: str,
        metadata: Metadata = (),
    ) -> None:
        """Prepare.

        Args:
            calls: Where each request goes.
            replies: The way to the loop's thread; told of each request that is taken in until its answer has gone out.
            time_remaining: Seconds to the deadline of the whole stream; None for none.
            request_id: The stream's id; each request is known by it and its own number.
            metadata: The stream's metadata; its credential counts for each request.
        """
        self._metadata = metadata
        self._calls = calls
        self._replies = replies
        self._clock = calls.dataplane.clock
        self._deadline = None if time_remaining is None else self._clock() + time_remaining
        self._request_id = request_id
        self._answers: asyncio.Queue[tuple[int, bytes] | None] = asyncio.Queue()
        self._room = asyncio.Semaphore(MAX_IN_FLIGHT)
        self._tickets: dict[int, Ticket] = {}
        self._unsent: set[int] = set()
        self._unanswered = 0
        self._read_all = False

    async def run(self, requests: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Yield serialised ModelStreamInferResponse messages until every request is answered."""
        reader = asyncio.get_running_loop().create_task(self._read(requests))
        try:
            while (numbered := await self._answers.get()) is not None:
                number, answer = numbered
                yield answer  # comes back when gRPC has taken it, which waits for the caller to read
                self._room.release()
                self._sent(number)
            await reader
        finally:
            # The caller left, or everything is answered: whatever still runs has nobody to wait for it.
            reader.cancel()
            for ticket in list(self._tickets.values()):
                ticket.cancel()
            for number in list(self._unsent):
                self._sent(number)

    async def _read(self, requests: AsyncIterator[bytes]) -> None:
        number = 0
        try:
            async for payload in requests:
                await self._room.acquire()
                responder = _StreamResponder(self, number, f"{self._request_id}-{number}", payload)
                remaining = None if self._deadline is None else self._deadline - self._clock()
                self._unsent.add(number)
                self._replies.unsent += 1
                self._unanswered += 1  # last: nothing but ``begin`` answers it, and the stream waits for that
                ticket = self._calls.begin(MODEL_INFER, payload, remaining, responder, self._metadata)
                if ticket is None:  # who goes on sending to a server that stops must not keep it
                    self._sent(number)
                else:
                    self._tickets[number] = ticket
                number += 1
        finally:
            self._read_all = True
            self._end_if_done()

    def settle(self, number: int, answer: bytes) -> None:
        """Pass an answer on, from any thread."""
        self._replies.call(lambda: self._settle_on_loop(number, answer))

    def _settle_on_loop(self, number: int, answer: bytes) -> None:
        self._tickets.pop(number, None)
        self._unanswered -= 1
        self._answers.put_nowait((number, answer))
        self._end_if_done()

    def _sent(self, number: int) -> None:
        if number in self._unsent:
            self._unsent.remove(number)
            self._replies.unsent -= 1

    def _end_if_done(self) -> None:
        if self._read_all and not self._unanswered:
            self._answers.put_nowait(None)


class _StreamResponder:
    """Answers one request of a stream."""

    transport = "stream"
    __slots__ = ("_number", "_payload", "_stream", "request_id")

    def __init__(self, stream: Stream, number: int, request_id: str, payload: bytes) -> None:
        self._stream = stream
        self._number = number
        self._payload = payload
        self.request_id = request_id

    def respond(self, payload: bytes) -> None:
        message = payload + _FINAL
        self._stream.settle(self._number, _INFER_RESPONSE_TAG + write_varint(len(message)) + message)

    def fail(self, status: Status) -> None:
        answer = inference.ModelStreamInferResponse(error_message=f"{status.name}: {status.message}")
        answer.infer_response.MergeFromString(_FINAL)
        try:
            request = wire.parse(inference.ModelInferRequest, self._payload, MAX_INFER_FIELDS)
        except (DecodeError, InvalidInput):
            pass
        else:
            answer.infer_response.id = request.id
            answer.infer_response.model_name = request.model_name
        self._stream.settle(self._number, answer.SerializeToString())
