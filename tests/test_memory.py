"""What the machine and its cgroups still allow."""

import sys

import pytest

from gollm.system.memory import _cgroup_rooms, available_bytes

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="read from /proc and /sys")


def test_what_is_free_is_within_the_machine():
    with open("/proc/meminfo") as file:
        total = int(file.readline().split()[1]) * 1024
    assert 0 < available_bytes() <= total


def test_limits_of_cgroups(tmp_path):
    """A container's own limit, and a tighter one above it."""
    own = tmp_path / "own"
    own.write_text("0::/above/mine\n")
    for folder, limit, used in [("above/mine", "max", "1"), ("above", "5000", "2000"), (".", "9000", "9500")]:
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / "memory.max").write_text(f"{limit}\n")
        (tmp_path / folder / "memory.current").write_text(f"{used}\n")
    assert list(_cgroup_rooms(str(tmp_path), str(own))) == [3000, 0]
    assert list(_cgroup_rooms(str(tmp_path / "nothing"), str(own))) == []


def test_limits_of_cgroups_of_version_1(tmp_path):
    """Two levels, one without a limit; unused cached files count as free."""
    own = tmp_path / "own"
    own.write_text("5:cpu,cpuacct:/c\n4:memory:/above/mine\n0::/other\n")
    no_limit = 9223372036854771712
    for folder, limit, used in [("above/mine", 7000, 5000), ("above", no_limit, 6000), (".", 4000, 4500)]:
        (tmp_path / "memory" / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / "memory" / folder / "memory.limit_in_bytes").write_text(f"{limit}\n")
        (tmp_path / "memory" / folder / "memory.usage_in_bytes").write_text(f"{used}\n")
    (tmp_path / "memory/above/mine/memory.stat").write_text("cache 1500\ninactive_file 1\ntotal_inactive_file 1000\n")
    assert list(_cgroup_rooms(str(tmp_path), str(own))) == [3000, no_limit - 6000, 0]
    own.write_text("4:memory:/docker/only-the-host-has-this\n")
    assert list(_cgroup_rooms(str(tmp_path), str(own))) == [0]


def test_cached_files_make_room(tmp_path):
    for name, text in [("max", "9000"), ("current", "8000"), ("stat", "anon 1\ninactive_file 3000\nactive_file 5\n")]:
        (tmp_path / f"memory.{name}").write_text(text)
    assert list(_cgroup_rooms(str(tmp_path), str(tmp_path / "missing"))) == [4000]
