"""The process gives memory back that many threads needed for a moment."""

import subprocess
import sys

import pytest

PROGRAM = """
import ctypes, sys, threading
from farthing.service.heap import keep_one_heap

kept = keep_one_heap()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc_info.argtypes = (ctypes.c_int, ctypes.c_void_p)
libc.fopen.restype = ctypes.c_void_p
libc.fclose.argtypes = (ctypes.c_void_p,)
together = threading.Barrier(8)

def work():
    together.wait()
    libc.malloc(100_000)
    together.wait()

threads = [threading.Thread(target=work) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
file = libc.fopen(sys.argv[1].encode(), b"w")
libc.malloc_info(0, file)
libc.fclose(file)
print(kept)
"""


@pytest.mark.parametrize(("environment", "kept"), [({}, True), ({"MALLOC_ARENA_MAX": "3"}, False)])
def test_threads_share_one_heap_unless_the_operator_says_otherwise(tmp_path, environment, kept):
    """As glibc itself tells of its heaps."""
    told = tmp_path / "heaps.xml"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(told)], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str(kept)
    heaps = told.read_text().count("<heap nr=")
    assert heaps == 1 if kept else 1 < heaps <= 3
