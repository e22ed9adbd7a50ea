"""Processes that end without closing their animator, and processes that are forked while there is one."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

BEGIN = """
import os, sys, threading, time
import numpy as np
from contextlib import suppress
from animate_rt import Animator, AnimateError, Rejected
picture = np.zeros((96, 64, 3), np.uint8)
animator = Animator.load(sys.argv[1])
clip = animator.animate(picture, [picture] * 40, steps=4, windows="open")
"""

# Each ends while the CPU's streams, or a thread of its own, are inside OpenVINO.
ENDS = {
    "after one frame": "next(clip)",
    "while a daemon iterates": """
begun = threading.Event()
def iterate():
    with suppress(Rejected):  # the process is ending
        for _ in clip:
            begun.set()
threading.Thread(target=iterate, daemon=True).start()
assert begun.wait(60)
""",
    "while a daemon loads": """
def iterate():
    with suppress(Rejected):  # the process is ending
        list(clip)
threading.Thread(target=iterate, daemon=True).start()
time.sleep(0.1)
""",
}
# In other ways, which are tried only in the long test.
OTHER_ENDS = {
    "with an exception": "next(clip)\nraise SystemExit(0)",
    "closed at the end": "import atexit\natexit.register(animator.close)\nnext(clip)",
    "closed at the very end": "import weakref\nweakref.finalize(clip, animator.close)\nnext(clip)",
}

FORK = """
next(clip)
waiting = animator.animate(picture, [picture] * 3, steps=1)
child = os.fork()
if child == 0:
    for attempt in (
        lambda: animator.animate(picture, [picture]),
        lambda: next(clip),
        lambda: next(waiting),
        clip.close,
        animator.close,
        animator.__enter__().close,
        lambda: Animator.load(sys.argv[1]),
    ):
        try:
            attempt()
        except AnimateError as error:
            print(error.code, error, sep=": ", flush=True)
    sys.exit(7)  # frees everything, as the end of the interpreter does
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
print(1 + len(list(clip)), "frames", flush=True)
animator.close()
"""

# A library's exit handler may wait for threads that a fork does not have, as TBB's does now and then. Here
# one aborts. What C code has printed still arrives.
FORK_AND_END = """
import ctypes
next(clip)
c_library = ctypes.CDLL(None)
c_library.on_exit(c_library.abort, None)
child = os.fork()
if child == 0:
    c_library.puts(b"printed")
    sys.exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
os._exit(0)
"""

# Bundles may be loaded in processes that are forked before.
FORK_FIRST = """
import os, sys
import numpy as np
from animate_rt import Animator
child = os.fork()
picture = np.zeros((96, 64, 3), np.uint8)
with Animator.load(sys.argv[1]) as animator:
    print(len(list(animator.animate(picture, [picture] * 3, steps=1))), "frames", flush=True)
if child:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def run(bundle: Path, script: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", script, str(bundle)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("end", ENDS)
def test_a_process_ends_well_without_closing(small_bundle: Path, end: str) -> None:
    done = run(small_bundle, BEGIN + ENDS[end])
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_20_processes_of_each_kind(small_bundle: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        for end, script in (ENDS | OTHER_ENDS).items():
            statuses = [done.returncode for done in pool.map(run, [small_bundle] * 20, [BEGIN + script] * 20)]
            assert statuses == [0] * 20, end


def test_an_animator_used_after_fork_says_so(small_bundle: Path) -> None:
    done = run(small_bundle, BEGIN + FORK)
    used = "rejected: animator: expected the process that loaded it, found a fork of that process; "
    loaded = "rejected: openvino: expected a new process, found a fork of one that has used OpenVINO; "
    lines = done.stdout.splitlines()
    assert [line[: line.index(";") + 2] for line in lines[:-2]] == [used] * 6 + [loaded], done
    assert lines[-2:] == ["7", "40 frames"]
    assert done.stderr == ""


@pytest.mark.skipif(sys.platform != "linux", reason="needs glibc's on_exit")
def test_a_fork_ends_without_exit_handlers_of_libraries(small_bundle: Path) -> None:
    done = run(small_bundle, BEGIN + FORK_AND_END)
    assert (done.returncode, done.stdout, done.stderr) == (0, "printed\n7\n", "")


def test_processes_forked_before_load_bundles(small_bundle: Path) -> None:
    done = run(small_bundle, FORK_FIRST)
    assert (done.returncode, done.stdout, done.stderr) == (0, "3 frames\n" * 2, "")
