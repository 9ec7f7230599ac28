"""A process that imports the package once, and then, for each line it reads, forks one that records a run.

A line is JSON: {"out": path, "at": n} has the child killed at its n-th call of the system's that changes files,
{"out": path, "after": seconds} after so long; {"out": path} lets it finish. It answers with how the child ended.
"named" beside these gives options of the recording.
"""

import json
import os
import signal
import sys
import threading
import time

import numpy as np

import streamdissect as sd
from streamdissect.stages import arrays, recording

N_IMAGES, UNITS, GRID = 40, 6, (5, 4)
CHANGING = ("replace", "link", "fsync", "unlink", "rename", "mkdir", "open")
NAMED = {"name": "generated", "shard_images": 8, "batch_size": 4, "codec": "zstd", "tails": "1/50"}


def compute(images):
    """Sparse activations that depend on the image alone."""
    found = []
    for image in images:
        maps = np.random.default_rng(image).normal(size=(UNITS, *GRID)).astype(np.float32)
        found.append(np.maximum(maps - 0.5, 0))
    return {"a": np.stack(found), "b": np.stack(found)[:, :3, 1:] - 0.25}


def data():
    return sd.open_dataset(f"synth:?n={N_IMAGES}&size=32")


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def count_down(n):
    """Die at the n-th call that changes files."""
    left = [n]

    def counted(function):
        def call(*given, **named):
            left[0] -= 1
            if left[0] == 0:
                die()
            return function(*given, **named)

        return call

    for name in CHANGING:
        setattr(os, name, counted(getattr(os, name)))


def child(asked):
    recording.COMMIT_SECONDS, recording.STATE_SHARE = 0.0, 0  # a commit after each shard
    if "at" in asked:
        count_down(asked["at"])
    if "after" in asked:
        threading.Thread(target=lambda: (time.sleep(asked["after"]), die()), daemon=True).start()
    arrays.record(compute, data(), asked["out"], **NAMED, **asked.get("named", {}))


def main():
    data()
    for line in sys.stdin:
        asked = json.loads(line)
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                child(asked)
                code = 0
            finally:
                os._exit(code)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
