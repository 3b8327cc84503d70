"""Other libraries, each in a process of its own that takes turns with gollm.

Two pools of OpenMP threads in one process spin against each other, and a machine's speed changes from minute to minute.

    peer = Peer("import numpy as np; a = np.ones((9, 9), np.float32)", threads=2)
    seconds = peer.run("a @ a")        # once to warm up, then once timed
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

SERVER = """
import json, sys, time
names, out = {}, sys.stdout
sys.stdout = sys.stderr
for line in sys.stdin:
    setup, statement = json.loads(line)
    try:
        exec(setup, names)
        seconds = 0.0
        if statement:
            code = compile(statement, "peer", "exec")
            exec(code, names)
            begin = time.perf_counter()
            exec(code, names)
            seconds = time.perf_counter() - begin
        print(json.dumps(seconds), file=out, flush=True)
    except Exception as error:
        print(json.dumps(f"{type(error).__name__}: {error}"), file=out, flush=True)
"""


class Peer:
    """A Python process that has run `setup`. Raises RuntimeError where that fails, for example on an import."""

    def __init__(self, setup: str, threads: int) -> None:
        names = ("OMP", "OPENBLAS", "MKL", "BLIS", "VECLIB")
        environment = os.environ | {f"{name}_NUM_THREADS": str(threads) for name in names}
        self._process = subprocess.Popen(
            [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.run("", setup)

    def run(self, statement: str, setup: str = "") -> float:
        """Seconds that `statement` takes, the second time."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([setup, statement]) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline() or '"the process ended"')
        if isinstance(answer, str):
            raise RuntimeError(answer)
        return float(answer)

    def close(self) -> None:
        self._process.communicate()
