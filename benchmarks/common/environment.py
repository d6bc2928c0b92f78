"""The environment of a measurement: machine, versions, commit and date.  Every stored result includes it."""

import os
import platform
import shutil
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("numpy", "scipy", "scikit-learn", "numba", "gpuica", "cupy", "python-picard", "torch")
MORE_PACKAGES = ("cupy-cuda12x", "cupy-cuda13x", "numba-cuda", "fastica-torch", "icalens")


def environment():
    """A dict of machine, versions, commit and date (UTC), as stored with every result."""
    return {
        "machine": {"cpu": _cpu(), "cores": _cores(), "gpu": _gpu()},
        "versions": {"python": platform.python_version(), **_versions(), "blas": _blas()},
        "commit": _commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _cpu():
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:  # not Linux
        pass
    return platform.processor() or platform.machine()


def _cores():
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _gpu():
    return _output("nvidia-smi", "--query-gpu=name", "--format=csv,noheader").partition("\n")[0] or None


def _versions():
    found = {}
    for package in PACKAGES + MORE_PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _blas():
    """Version, kernel architecture and number of threads of each BLAS that is loaded."""
    import numpy  # noqa: F401  (loads the BLAS that threadpoolctl reports)
    from threadpoolctl import threadpool_info

    libraries = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
    return "; ".join(
        f"{pool['internal_api']} {pool['version']} ({pool.get('architecture')}), {pool['num_threads']} threads"
        for pool in libraries
    )


def _commit():
    """The abbreviated commit, with a + if tracked files differ from it; None outside a checkout."""
    name = _output("git", "rev-parse", "--short", "HEAD")
    return name + ("+" if _output("git", "status", "--porcelain", "--untracked-files=no") else "") or None


def _output(*command):
    """Standard output of a command, or "" if it cannot run or fails."""
    if shutil.which(command[0]) is None:
        return ""
    ran = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent, check=False)
    return ran.stdout.strip() if ran.returncode == 0 else ""
