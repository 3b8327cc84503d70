"""How many threads there are by default, several Python threads at once, and fork in the middle."""

import os
import re
import subprocess
import sys
import threading

import numpy as np
import pytest

import gollm
from gollm import _native
from gollm.system.threads import cpu_quota, default_num_threads, physical_cores

UNLIMITED = os.cpu_count() or 1  # what cpu_quota() gives where there is no limit


def python(code, **environment):
    inherited = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=inherited | environment
    )


SPIN_COUNT = """
import os, sys

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "gollm._native":
            print(os.environ.get("GOMP_SPINCOUNT"))

sys.meta_path.insert(0, Watch())
import gollm
print(os.environ.get("GOMP_SPINCOUNT"))
"""


def test_how_long_threads_spin_is_set_while_the_extension_module_is_loaded():
    run = python(SPIN_COUNT)
    assert run.stdout.split() == ["1000", "None"], run.stderr


@pytest.mark.skipif(not _native.has_openmp(), reason="built without OpenMP: always one thread")
@pytest.mark.parametrize("n", [1, 3, 1024])
def test_gollm_num_threads_sets_the_number(n):
    run = python("import gollm; print(gollm.num_threads())", GOLLM_NUM_THREADS=str(n))
    assert run.stdout.split() == [str(n)], run.stderr


@pytest.mark.parametrize("value", ["0", "-2", "1025", "two", "1.5", ""])
def test_a_wrong_gollm_num_threads_is_one_clear_sentence(value):
    run = python("import gollm", GOLLM_NUM_THREADS=value)
    assert run.returncode == 1
    sentence = f"GOLLM_NUM_THREADS is '{value}'; it must be a whole number from 1 to 1024"
    assert run.stderr.splitlines()[-1] == f"gollm.errors.ConfigError: {sentence}"


@pytest.mark.skipif(not _native.has_openmp(), reason="built without OpenMP: always one thread")
@pytest.mark.parametrize(
    ("value", "n"), [("3", 3), (" 5 ", 5), ("4,2", 4), ("99999", 1024), *((odd, None) for odd in ("0", "-1", "x", ""))]
)
def test_omp_num_threads_is_honoured_but_not_above_gollms_own(value, n):
    count = "import gollm; print(gollm.num_threads())"
    usual = python(count).stdout
    assert python(count, OMP_NUM_THREADS=value).stdout == (usual if n is None else f"{n}\n")
    assert python(count, OMP_NUM_THREADS=value, GOLLM_NUM_THREADS="7").stdout == "7\n"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity on this system")
def test_the_default_follows_affinity():
    run = python(
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); import gollm; print(gollm.num_threads())"
    )
    assert run.stdout.split() == ["1"], run.stderr


@pytest.mark.skipif(not _native.has_openmp(), reason="built without OpenMP: always one thread")
def test_the_default_is_what_the_module_says():
    run = python("import gollm; print(gollm.num_threads())")
    assert run.stdout.split() == [str(min(default_num_threads(), 1024))], run.stderr


@pytest.mark.parametrize("n", [0, -1, 1025, 10**30, -(10**30), 1.5, True, "4", None, np.float32(2), [1]], ids=str)
def test_set_num_threads_refuses(n):
    before = gollm.num_threads()
    with pytest.raises(
        gollm.errors.ConfigError, match=re.escape(f"is {n!r}; it must be a whole number from 1 to 1024")
    ):
        gollm.set_num_threads(n)
    assert gollm.num_threads() == before


@pytest.mark.parametrize("n", [np.int64(1), np.uint8(1)], ids=repr)
def test_set_num_threads_takes_numpys_whole_numbers(n):
    before = gollm.num_threads()
    gollm.set_num_threads(n)
    assert gollm.num_threads() == 1
    gollm.set_num_threads(before)


def test_physical_cores(tmp_path):
    """Four hyper-threads on two cores, and two CPUs of which the system says nothing."""
    for cpu, siblings in [(0, "0,2\n"), (1, "1,3\n"), (2, "0,2\n"), (3, "1,3\n")]:
        folder = tmp_path / f"cpu{cpu}" / "topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(siblings)
    root = str(tmp_path)
    assert physical_cores({0, 1, 2, 3}, root) == 2
    assert physical_cores({0, 2}, root) == 1
    assert physical_cores({0, 1}, root) == 2
    assert physical_cores({0, 4, 5}, root) == 3


def quota(tmp_path, own, files):
    """cpu_quota() on a tree of control groups: own is /proc/self/cgroup's text, files are {path: text}."""
    (tmp_path / "own").write_text(own)
    for path, text in files.items():
        file = tmp_path / "cgroup" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return cpu_quota(str(tmp_path / "cgroup"), str(tmp_path / "own"))


@pytest.mark.parametrize(
    ("files", "cpus"),
    [
        ({"a/b/cpu.max": "150000 100000\n"}, 2),
        ({"a/b/cpu.max": "50000 100000\n"}, 1),
        ({"a/b/cpu.max": "max 100000\n"}, UNLIMITED),
        ({"a/b/cpu.max": "max 100000\n", "a/cpu.max": "300000 100000\n"}, 3),
        ({"a/b/cpu.max": "400000 100000\n", "a/cpu.max": "300000 100000\n"}, 3),
        ({"cpu.max": "200000 100000\n"}, 2),  # in a container the own group is often the mounted root
        ({"a/b/cpu.max": "nonsense\n"}, UNLIMITED),
        ({}, UNLIMITED),
    ],
)
def test_cpu_quota_version_2(tmp_path, files, cpus):
    assert quota(tmp_path, "0::/a/b\n", files) == cpus


@pytest.mark.parametrize(
    ("limit", "cpus"), [("250000", 3), ("-1", UNLIMITED), ("0", UNLIMITED), ("nonsense", UNLIMITED)]
)
def test_cpu_quota_version_1(tmp_path, limit, cpus):
    files = {"cpu/a/cpu.cfs_quota_us": f"{limit}\n", "cpu/a/cpu.cfs_period_us": "100000\n"}
    assert quota(tmp_path, "4:memory:/m\n3:cpu,cpuacct:/a\n", files) == cpus


def test_cpu_quota_without_control_groups(tmp_path):
    assert cpu_quota(str(tmp_path), str(tmp_path / "absent")) == UNLIMITED


def test_python_threads_take_turns():
    """Kernels with workspace, called by four threads at once, give each its own results."""
    wrong = []

    def work(seed):
        rng = np.random.default_rng(seed)
        n, c = 50 + seed, 65 + seed
        x, dy = rng.standard_normal((2, n, c)).astype(np.float32)
        want = backward(x, dy)
        for _ in range(100):
            got = backward(x, dy)
            if any(a.tobytes() != b.tobytes() for a, b in zip(got, want, strict=True)):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def backward(x, dy):
    n, c = x.shape
    y, mean, rstd = np.empty_like(x), np.empty(n, x.dtype), np.empty(n, x.dtype)
    w = np.linspace(-1, 1, c, dtype=x.dtype)
    _native.layernorm_forward(y=y, mean=mean, rstd=rstd, x=x, w=w, b=w, eps=1e-5)
    dx, dw, db = np.empty_like(x), np.empty_like(w), np.empty_like(w)
    _native.layernorm_backward(dx=dx, dw=dw, db=db, dy=dy, x=x, w=w, mean=mean, rstd=rstd)
    return y, dx, dw, db


FORK = """
import os, sys, threading
sys.path.insert(0, {folder!r})
import numpy as np
import gollm
from test_threads import backward

gollm.set_num_threads(2)
rng = np.random.default_rng(1)
x, dy = rng.standard_normal((2, 200, 300)).astype(np.float32)
want = b"".join(a.tobytes() for a in backward(x, dy))
stop = threading.Event()

def keep_busy():  # another thread computes while this one forks
    while not stop.is_set():
        backward(x, dy)

busy = threading.Thread(target=keep_busy)
busy.start()
outcomes = []
for _ in range(10):
    pid = os.fork()
    if pid == 0:
        same = all(b"".join(a.tobytes() for a in backward(x, dy)) == want for _ in range(3))
        os._exit(0 if same and gollm.num_threads() == 1 else 1)
    outcomes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
stop.set()
busy.join()
after = b"".join(a.tobytes() for a in backward(x, dy)) == want
print(outcomes, after, gollm.num_threads())
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_after_fork_the_child_computes_alone_with_the_same_bits():
    run = python(FORK.format(folder=os.path.dirname(__file__)))
    assert run.stdout.strip() == f"{[0] * 10} True {2 if _native.has_openmp() else 1}", run.stderr


DAEMON = """
import threading, time
import numpy as np
from gollm import _native

x, c = np.ones((300, 1000), np.float32), np.empty((3, 300, 300), np.float32)
def keep_busy(i):
    while True:
        _native.matmul_nt(c=c[i], a=x, b=x, activation=0, compute=0)
for i in range(3):
    threading.Thread(target=keep_busy, args=(i,), daemon=True).start()
time.sleep(0.1)
print("end", flush=True)
"""


@pytest.mark.parametrize("end", ["", "raise SystemExit(3)", "import os; os._exit(3)"])
def test_a_daemon_thread_that_computes_does_not_disturb_the_end(end):
    for _ in range(3):
        run = python(DAEMON + end)
        assert (run.returncode, run.stdout, run.stderr) == (3 if end else 0, "end\n", "")


SUBINTERPRETER = """
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
one = interpreters.create()
code = "try:\\n    import gollm\\nexcept ImportError as error:\\n    print(error, flush=True)"
interpreters.run_string(one, code)
import gollm
interpreters.run_string(one, code)
print(gollm.num_threads() > 0)
"""


def test_a_subinterpreter_is_refused_and_the_main_one_goes_on():
    run = python(SUBINTERPRETER)
    refused, again, works = run.stdout.splitlines()
    assert "subinterpreter" in refused and "subinterpreter" in again and works == "True", run.stderr


AFFINITY = """
import os, numpy as np
from gollm.kernels import cpu
from gollm.nn.plan import Plan

allowed = frozenset(os.sched_getaffinity(0))
x, y = np.zeros(7, np.float32), np.zeros((64, 7), np.float32)

def uneven(step):  # few numbers: most threads have nothing to do, and wait
    for _ in range(50):
        cpu.fill(y=x, value=1.0)
        cpu.softmax_forward(y=y, x=y)

plan = Plan(uneven)
for _ in range(40):
    plan(np.zeros(1))
masks = {frozenset(os.sched_getaffinity(int(thread))) for thread in os.listdir("/proc/self/task")}
assert masks == {allowed}, masks
print("same")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_threads_that_move_to_another_cpu_keep_their_affinity():
    """More threads than CPUs: every barrier sends some to sleep, and wakes them on another's CPU."""
    run = python(AFFINITY, GOLLM_NUM_THREADS=str(2 * UNLIMITED))
    assert run.stdout.split() == ["same"], run.stderr
