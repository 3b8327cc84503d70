"""Random bytes through the C cores, built with the address and undefined-behaviour sanitizers."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
SOURCES = HERE.parents[1] / "csrc" / "tokenizer"
SANITIZE = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


@pytest.fixture(scope="module", params=["fuzz", "fuzz_pieces"])
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = os.environ.get("CC") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "empty.c").write_text("int main(void) { return 0; }\n")
    probe = subprocess.run([compiler, *SANITIZE, "empty.c", "-o", "empty"], cwd=folder, capture_output=True)
    if probe.returncode:
        pytest.skip("this compiler has no sanitizers")
    flags = ["-DMERGE_WINDOW=16", "-std=c11", "-O1", "-g", "-Wall", "-Wextra", "-Werror", *SANITIZE]
    files = [str(path) for path in sorted(SOURCES.glob("*.c"))]
    built = subprocess.run(
        [compiler, *flags, str(HERE / f"{request.param}.c"), *files, "-o", "fuzz"], cwd=folder, capture_output=True
    )
    assert built.returncode == 0, built.stderr.decode()
    return folder / "fuzz"


@pytest.mark.parametrize("seed", range(4))
def test_random_bytes(program: Path, seed: int) -> None:
    run = subprocess.run([program, str(seed), "150"], capture_output=True, timeout=300)
    assert run.returncode == 0, run.stderr.decode()[-3000:]
