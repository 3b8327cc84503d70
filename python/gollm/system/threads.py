"""How many threads the kernels use by default: one for each physical core that this process may use.

More threads than cores make kernels that spin at barriers many times slower, so affinity (taskset, containers'
cpusets), the cgroup's CPU quota and hyper-threads are all taken into account. `OMP_NUM_THREADS` overrides it, as it
does for OpenMP programs; `GOLLM_NUM_THREADS` overrides that, for gollm alone; and `--threads` and
`gollm.set_num_threads()` override both.
"""

from __future__ import annotations

import contextlib
import math
import os
from pathlib import Path

# GNU's OpenMP library reads this once, when _native loads it: how often a waiting thread looks before it sleeps. Its
# own default keeps cores busy for milliseconds; where another program wants one of them, the thread that everybody
# waits for is then without a core for a slice of the scheduler at every call: docs/performance.md. It is taken out
# again, because it is nobody else's business.
_SPIN = "GOMP_SPINCOUNT"
_sets_spin = _SPIN not in os.environ and "OMP_WAIT_POLICY" not in os.environ
if _sets_spin:
    os.environ[_SPIN] = "1000"

from gollm import _native  # noqa: E402
from gollm.errors import ConfigError  # noqa: E402

MAX_THREADS = 1024

if _sets_spin:
    del os.environ[_SPIN]


def initialise() -> None:
    """Applies GOLLM_ISA, GOLLM_NUM_THREADS and OMP_NUM_THREADS, or the defaults, when gollm is imported.

    Raises ConfigError where one of the first two has a value that cannot be used."""
    isa = os.environ.get("GOLLM_ISA")
    if isa:
        try:
            _native.set_isa(isa)
        except ConfigError as error:
            raise ConfigError(f"GOLLM_ISA: {error}") from None
    wanted = from_environment()
    _native.set_num_threads(min(default_num_threads(), MAX_THREADS) if wanted is None else wanted[1])


def from_environment() -> tuple[str, int] | None:
    """The variable that says how many threads there are, and the number; None where neither is set.

    Of a list in OMP_NUM_THREADS the first number counts, that of the outermost parallel region. What no OpenMP program
    understands is ignored, as they do. Raises ConfigError for such a value of GOLLM_NUM_THREADS."""
    wanted = os.environ.get("GOLLM_NUM_THREADS")
    if wanted is not None:
        with contextlib.suppress(ValueError):
            if 1 <= int(wanted) <= MAX_THREADS:
                return "GOLLM_NUM_THREADS", int(wanted)
        text = wanted if len(wanted) <= 60 else wanted[:57] + "..."
        raise ConfigError(f"GOLLM_NUM_THREADS is '{text}'; it must be a whole number from 1 to {MAX_THREADS}")
    first = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if first.isdecimal() and len(first) < 10 and int(first) > 0:
        return "OMP_NUM_THREADS", min(int(first), MAX_THREADS)
    return None


def default_num_threads() -> int:
    """Physical cores that the affinity mask reaches, at most the CPU quota rounded up."""
    return max(1, min(physical_cores(available_cpus()), cpu_quota()))


def available_cpus() -> set[int]:
    """The CPUs that this process may run on; all of them where the system does not tell."""
    if hasattr(os, "sched_getaffinity"):
        return set(os.sched_getaffinity(0))
    return set(range(os.cpu_count() or 1))


def physical_cores(cpus: set[int], root: str = "/sys/devices/system/cpu") -> int:
    """How many different cores these CPUs belong to; every CPU counts where the system does not tell."""
    cores = set()
    for cpu in cpus:
        try:
            cores.add(Path(f"{root}/cpu{cpu}/topology/thread_siblings_list").read_text())
        except OSError:
            cores.add(str(cpu))
    return len(cores)


def cpu_quota(root: str = "/sys/fs/cgroup", own: str = "/proc/self/cgroup") -> int:
    """The cgroup's CPU quota in whole CPUs, rounded up: the smallest of the process' cgroup and those above it
    (versions 2 and 1)."""
    quota = math.inf
    try:
        paths = {line.rstrip("\n").split(":", 2)[2] for line in Path(own).read_text().splitlines()}
    except OSError:
        paths = {"/"}
    for path in paths | {"/"}:
        folder = Path(path.lstrip("/"))
        for level in [folder, *folder.parents]:
            for read in (_quota_v2, _quota_v1):
                quota = min(quota, read(Path(root), level))
    return max(1, math.ceil(quota)) if math.isfinite(quota) else os.cpu_count() or 1


def _quota_v2(root: Path, level: Path) -> float:
    try:
        limit, period = (root / level / "cpu.max").read_text().split()
        return math.inf if limit == "max" else int(limit) / int(period)
    except (OSError, ValueError):
        return math.inf


def _quota_v1(root: Path, level: Path) -> float:
    folder = root / "cpu" / level
    try:
        limit = int((folder / "cpu.cfs_quota_us").read_text())
        return math.inf if limit <= 0 else limit / int((folder / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return math.inf
