"""What somebody may send before anybody asks who it is: bounded in bytes and in time."""

import asyncio
import socket
import threading

import pytest
import uvicorn

from farthing.service import http_limits
from farthing.service.http_limits import MOST_HEAD_BYTES, BoundedHttp

MEBIBYTE = 1024 * 1024


@pytest.fixture
def address(monkeypatch):
    """A server that answers how many bytes of a body it got, and gives a head a moment."""
    monkeypatch.setattr(http_limits, "HEAD_SECONDS", 0.3)

    async def count(scope, receive, send):
        size, more = 0, True
        while more:
            message = await receive()
            size += len(message.get("body", b""))
            more = message.get("more_body", False)
        body = str(size).encode()
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(
        uvicorn.Config(count, http=BoundedHttp, log_level="critical", lifespan="off", timeout_keep_alive=1)
    )
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
    thread.start()
    yield listener.getsockname()
    server.should_exit = True
    thread.join()
    listener.close()


def sent(address, *parts):
    """(How many bytes went out before the server closed, its answer)."""
    with socket.create_connection(address, timeout=5) as connection:
        count, answer = 0, b""
        try:
            for part in parts:
                connection.sendall(part)
                count += len(part)
            while data := connection.recv(65536):
                answer += data
        except ConnectionError:
            pass
        return count, answer


def test_a_head_without_end_is_cut_off_and_not_kept(address):
    """A token is asked for after the head: three hundred megabytes of headers were kept in memory until then."""
    lines = (b"X-%d: %s\r\n" % (number, b"a" * MEBIBYTE) for number in range(64))
    count, _ = sent(address, b"GET /metrics HTTP/1.1\r\nHost: h\r\n", *lines)
    assert count < 32 * MEBIBYTE


def test_a_request_line_without_end_is_cut_off(address):
    """It is kept like a header."""
    count, _ = sent(address, b"GET /", *(b"a" * MEBIBYTE for _ in range(64)))
    assert count < 32 * MEBIBYTE


def test_trailers_without_end_are_cut_off(address):
    """They come after the body, and are kept beside the headers."""
    head = b"POST /v1/usage HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n"
    count, _ = sent(address, head, *(b"X-%d: %s\r\n" % (number, b"a" * MEBIBYTE) for number in range(64)))
    assert count < 32 * MEBIBYTE


def test_too_large_a_head_is_told_so(address):
    """With the status that says it."""
    _, answer = sent(address, b"GET / HTTP/1.1\r\nHost: h\r\nX: ", b"a" * (MOST_HEAD_BYTES + 4096))
    assert answer == b"" or answer.startswith(b"HTTP/1.1 431 ")


def test_a_head_that_does_not_end_in_time_ends_the_connection(address):
    """Whether nothing came, a part of it, or a part of a second one."""
    whole = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
    assert sent(address) == (0, b"")
    assert sent(address, b"GET / HTTP/1.1\r\nHost: h\r\n")[1] == b""
    assert sent(address, whole, b"GET / HTTP/1.1\r\nHost: h\r\n")[1].count(b"HTTP/1.1 200 OK") == 1


def test_a_large_body_and_many_requests_on_one_connection_pass(address):
    """In one piece, in chunks of a byte, and one after another."""
    length = 8 * MEBIBYTE
    head = b"POST / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n"
    assert sent(address, b"%bContent-Length: %d\r\n\r\n" % (head, length), b"a" * length)[1].endswith(b"%d" % length)
    chunks = b"1\r\na\r\n" * 100_000 + b"0\r\n\r\n"
    assert sent(address, head + b"Transfer-Encoding: chunked\r\n\r\n", chunks)[1].endswith(b"\r\n\r\n100000")
    one = b"GET / HTTP/1.1\r\nHost: h\r\nX: %b\r\n\r\n" % (b"a" * 30_000)
    assert sent(address, *[one] * 20)[1].count(b"HTTP/1.1 200 OK") == 20
