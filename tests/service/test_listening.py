"""The socket that a service listens on."""

import asyncio
import socket

from farthing.service.listening import bind


def test_answers_leave_at_once():
    """Without TCP_NODELAY the end of an answer waits 40 ms, for the client's delayed acknowledgement."""

    async def of_a_connection():
        taken = asyncio.get_running_loop().create_future()

        async def serve(_reader, writer):
            taken.set_result(writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        listener = bind("127.0.0.1", 0, "no setting")
        async with await asyncio.start_server(serve, sock=listener):
            _, writer = await asyncio.open_connection(*listener.getsockname())
            option = await taken
            writer.close()
        return option

    assert asyncio.run(of_a_connection()) == 1
