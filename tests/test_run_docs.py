"""tools/run_docs.py runs the blocks of a page, and compares what they print with what the page shows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

PAGE = """
```python
x = 2
print("first")
```

```python
print("second",  x)
```

<!-- prints -->
```text
{shown}
```
"""


@pytest.mark.parametrize(
    ("shown", "status"), [("second 2", 0), ("second\n2", 0), ("second 3", 1), ("first second 2", 1)]
)
def test_printed_output_is_compared(shown: str, status: int, tmp_path: Path) -> None:
    """White space aside; what earlier blocks print, which run again, does not count."""
    page = tmp_path / "page.md"
    page.write_text(PAGE.format(shown=shown))
    command = [sys.executable, str(ROOT / "tools" / "run_docs.py"), str(page)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == status
    assert ("does not print what the page shows" in done.stderr) == (status == 1)


def test_files_have_the_names_of_a_checkout(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```sh\ntest -f docs/learn/README.md && test -f csrc/gollm.h\n```\n")
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "run_docs.py"), str(page)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
