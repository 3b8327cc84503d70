"""gollm is small: what an installation adds to NumPy, and what an import loads."""

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import gollm

HEAVY = ["numpy", "yaml", "tqdm", "tyro", "torch", "asyncio", "multiprocessing", "subprocess", "json", "inspect"]


def installed_files(name):
    """Every file of a distribution and of what it requires, NumPy left out."""
    distribution = metadata.distribution(name)
    files = {Path(str(file.locate())) for file in distribution.files or ()}
    for requirement in distribution.requires or ():
        needed, _, condition = requirement.partition(";")
        needed = re.match(r"[\w.-]+", needed)[0]
        if needed == "numpy" or "extra" in condition:
            continue
        try:
            files |= installed_files(needed)
        except metadata.PackageNotFoundError:  # its condition does not hold here
            continue
    return files


def test_installed_size_without_numpy_is_below_20_mb():
    """And as much again for the CUDA kernels, where they were built."""
    files = installed_files("gollm") | set(Path(gollm.__file__).parent.rglob("*"))
    size = {file: file.stat().st_size for file in files if file.is_file()}
    cuda = sum(n for file, n in size.items() if file.name.startswith("_cuda."))
    assert 1e6 < sum(size.values()) - cuda < 20e6 and cuda < 20e6


def test_import_loads_nothing_heavy():
    """So that it stays far below 0.15 s: docs/performance.md."""
    code = f"import sys, gollm; assert gollm.__version__; print([name for name in {HEAVY} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"
