"""gollm doctor"""

from __future__ import annotations

import json
import os
import platform
from dataclasses import dataclass
from typing import Any

import gollm
from gollm import _native, cuda
from gollm.errors import GollmError
from gollm.system import threads


@dataclass(frozen=True)
class Options:
    """Show how gollm was built, the hardware that it uses, and its measured speed (takes three seconds)."""

    measure: bool = True  # measure peak FLOP/s (FMA), bfloat16 products and read bandwidth
    json: bool = False  # print one JSON document


def run(options: Options) -> None:
    report = examine()
    if options.measure:
        report["measured"] = measure()
    if options.json:
        print(json.dumps(report, indent=2))
    else:
        print(in_lines(report))


def examine() -> dict[str, Any]:
    """What is known without measuring."""
    cpus = sorted(threads.available_cpus())
    return {
        "version": gollm.__version__,
        "package": os.path.dirname(gollm.__file__),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "compiler": _native.compiler(),
        "isa": {
            "built": list(_native.isa_variants()),
            "usable": list(_native.isa_supported()),
            "chosen": _native.isa(),
            "from_environment": os.environ.get("GOLLM_ISA") or None,
        },
        "threads": {
            "used": gollm.num_threads(),
            "default": threads.default_num_threads(),
            "cpus_allowed": len(cpus),
            "cpus_in_machine": os.cpu_count(),
            "physical_cores_allowed": threads.physical_cores(set(cpus)),
            "cpu_quota": threads.cpu_quota(),
            "from_environment": threads.from_environment(),
        },
        "openmp": bool(_native.has_openmp()),
        "workspace_bytes": _native.workspace_size(),
        "cuda": gpu(),
    }


def gpu() -> dict[str, Any]:
    """The GPU and what was compiled for it, or why there is none."""
    reason = cuda.unavailable_reason()
    if reason is None:
        try:
            return {"available": True, "reason": None, **cuda.describe()}
        except GollmError as error:
            reason = str(error)
    return {"available": False, "reason": reason}


def measure() -> dict[str, float]:
    """Three seconds, on all threads in use: GFLOP/s of float32 fused multiply-adds, the speed of products of bfloat16
    operands over that of float32 ones, GB/s of reading memory."""
    from gollm.nn import products
    from gollm.system import machine

    return {
        "fma_peak_gflops": machine.fma_peak() / 1e9,
        "bfloat16_speedup": machine.product_rate(products.BFLOAT16) / machine.product_rate(products.FLOAT32),
        "read_bandwidth_gb_per_s": machine.read_bandwidth() / 1e9,
    }


def cpu_name() -> str:
    """The processor as its maker calls it, or its architecture."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                key, _, value = line.partition(":")
                if key.strip().lower() in ("model name", "hardware"):
                    return value.strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def in_lines(report: dict[str, Any]) -> str:
    isa, team = report["isa"], report["threads"]
    chosen = " (GOLLM_ISA)" if isa["from_environment"] else ""
    rows = [
        ("gollm", f"{report['version']} in {report['package']}"),
        ("Python", f"{report['python']} on {report['platform']}"),
        ("processor", report["cpu"]),
        ("compiler", report["compiler"]),
        (
            "kernels",
            f"built {' '.join(isa['built'])} · usable {' '.join(isa['usable'])} · chosen {isa['chosen']}{chosen}",
        ),
        ("threads", f"{team['used']} ({why_threads(team, report['openmp'])})"),
        ("OpenMP", "yes" if report["openmp"] else NO_OPENMP),
        ("workspace", f"{report['workspace_bytes']:,} bytes, which kernels keep from call to call"),
        *gpu_in_lines(report["cuda"]),
    ]
    if measured := report.get("measured"):
        rows += [
            ("compute", f"{measured['fma_peak_gflops']:.0f} GFLOP/s, the measured peak of float32 multiply-adds"),
            (
                "bfloat16",
                f"{measured['bfloat16_speedup']:.1f} x float32's speed (gollm train --compute-dtype)",
            ),
            ("memory", f"{measured['read_bandwidth_gb_per_s']:.1f} GB/s, measured reading"),
        ]
    return "\n".join(f"{name:10} {text}" for name, text in rows)


def gpu_in_lines(gpu: dict[str, Any]) -> list[tuple[str, str]]:
    if not gpu["available"]:
        return [("CUDA", f"no: {gpu['reason']}")]
    return [
        ("GPU", f"{gpu['name']}, compute capability {gpu['compute_capability']}"),
        ("its memory", f"{gpu['total_bytes'] / 1e9:.1f} GB, {gpu['free_bytes'] / 1e9:.1f} GB free"),
        ("CUDA", f"{gpu['runtime']}, driver for {gpu['driver_supports']} · built {' '.join(gpu['targets'])}"),
    ]


NO_OPENMP = (
    "NO! All computing is done by ONE thread. Install your compiler's OpenMP library (libgomp, libomp) "
    "and build gollm again"
)


def why_threads(team: dict[str, Any], openmp: bool) -> str:
    """Where the number of threads comes from."""
    if not openmp:
        return "OpenMP is missing"
    variable, wanted = team["from_environment"] or ("", team["default"])
    if team["used"] != wanted:
        return f"set by --threads or by the program; the default is {team['default']}"
    if variable:
        return f"{variable}; the default would be {team['default']}"
    reasons = [
        f"{team['physical_cores_allowed']} physical cores in the {team['cpus_allowed']} CPUs that this process may use"
    ]
    if team["cpus_in_machine"] and team["cpus_allowed"] < team["cpus_in_machine"]:
        reasons.append(f"of {team['cpus_in_machine']}")
    if team["cpu_quota"] < team["physical_cores_allowed"]:
        reasons.append(f"limited to {team['cpu_quota']} by the CPU quota of the container")
    return ", ".join(reasons)
