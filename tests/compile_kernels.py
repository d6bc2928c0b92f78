"""Compile every CUDA kernel for several GPUs, on a machine without one, and fail where registers spill to memory.

    python -m tests.compile_kernels [--all] [word of a kernel's name ...]

Needs numba-cuda[cu13] and cuda-core (the extra `cuda-check`), and no driver.  A kernel that says it works in single
precision must not multiply, divide or compare in double: those are slow on most GPUs, and an accident.
"""

import importlib
import pkgutil
import re
import struct
import sys
import time
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np

from gpuica.device import REMOVED_NAME

ARCHITECTURES = {"sm_80": (8, 0), "sm_90": (9, 0)}
ALSO = {"sm_75": (7, 5), "sm_100": (10, 0), "sm_120": (12, 0)}  # with --all, where the toolchain knows them
DOUBLE = re.compile(r"^\s*(?:@\S+\s+)?((?:mul|fma|div|rcp|sqrt|setp|ex2|lg2|neg|abs|min|max)[a-z.]*\.f64)\b", re.M)


def builds():
    """Every `Build` of the modules in gpuica.kernels.cuda."""
    package = importlib.import_module("gpuica.kernels.cuda")
    for found in sorted(module.name for module in pkgutil.iter_modules(package.__path__)):
        module = importlib.import_module(f"{package.__name__}.{found}")
        yield from getattr(module, "builds", tuple)()


def compiled(build, arch, capability):
    """(registers, bytes of stack, of spill stores and loads, and of code, PTX) of a kernel on an architecture."""
    from cuda.core import Linker, LinkerOptions, ObjectCode

    from gpuica.kernels.cuda.loading import ptx as ptx_of

    # device functions ask which GPU they are compiled for, and get their answer from the driver
    with patch("numba.cuda.dispatcher.get_current_device", lambda: SimpleNamespace(compute_capability=capability)):
        ptx = ptx_of(build.function, build.signature, capability, "the_kernel")
    check_convention(build, ptx)
    linker = Linker(ObjectCode.from_ptx(ptx.encode()), options=LinkerOptions(arch=arch, ptxas_options=["-v"]))
    code = code_size(linker.link("cubin").code)
    report = linker.get_info_log()
    registers = max(int(n) for n in re.findall(r"Used (\d+) registers", report))
    frame, *spills = (
        sum(map(int, re.findall(rf"(\d+) bytes {what}", report)))
        for what in ("stack frame", "spill stores", "spill loads")
    )
    return registers, frame, sum(spills), code, ptx


def code_size(cubin):
    """Bytes of machine code in a cubin, a 64-bit ELF file: of its sections named .text..."""
    (sections,) = struct.unpack_from("<Q", cubin, 40)
    entry, count, names = struct.unpack_from("<3H", cubin, 58)
    headers = [struct.unpack_from("<2I4Q", cubin, sections + entry * i) for i in range(count)]
    start = headers[names][4]
    return sum(header[5] for header in headers if cubin[start + header[0] :].startswith(b".text"))


PARAMETERS = re.compile(r"\.entry the_kernel\((.*?)\)", re.S)
SIZES = {"bool": "8", "boolean": "8", "int32": "32", "float32": "32", "int64": "64", "float64": "64"}  # bits of numbers


def check_convention(build, ptx):
    """Numba's parameters of the kernel are the numbers that `loading.flatten` makes of its arguments, one by one."""
    from gpuica.kernels.cuda.loading import flatten

    expected = []
    for kind in build.signature:
        if hasattr(kind, "ndim"):
            some = np.zeros((1,) * kind.ndim)
            there = SimpleNamespace(
                __cuda_array_interface__={},
                size=1,
                itemsize=8,
                data=SimpleNamespace(ptr=0),
                shape=some.shape,
                strides=some.strides,
            )
            expected += ["64"] * len(flatten(there))
        else:
            expected.append(SIZES[str(kind)])
    found = re.findall(r"\.param \.[a-z](\d+)", PARAMETERS.search(ptx)[1])
    if found != expected:
        raise ValueError(f"parameters of {found} bits, where `flatten` gives {expected}")


def main(words):
    began, failures, count = time.perf_counter(), [], 0
    if hasattr(np, REMOVED_NAME):  # kernels must compile without it, whatever NumPy is installed
        delattr(np, REMOVED_NAME)
        np.__all__ = [name for name in np.__all__ if name != REMOVED_NAME]
    targets = {**ARCHITECTURES, **(ALSO if "--all" in words else {})}
    words = [word for word in words if word != "--all"]
    print(f"{'kernel':48}" + "".join(f"{arch:>14}" for arch in targets) + "   registers, KB of code, + stack bytes")
    for build in builds():
        if words and not any(word in build.name for word in words):
            continue
        count += 1
        cells = []
        for arch, capability in targets.items():
            try:
                registers, frame, spills, code, ptx = compiled(build, arch, capability)
            except Exception as error:
                cells.append("fails" if arch in ARCHITECTURES else "-")
                if arch in ARCHITECTURES:
                    failures.append(f"{build.name} does not compile for {arch}: {' '.join(str(error).split())[:600]}")
                continue
            cells.append(
                f"{registers} {code / 1024:4.0f}"
                + (f" + {frame}" if frame else "")
                + (f" SPILLS {spills}" if spills else "")
            )
            if spills:
                failures.append(f"{build.name} spills {spills} bytes on {arch}")
            if build.single and (double := sorted(set(DOUBLE.findall(ptx)))):
                failures.append(f"{build.name} works in double precision on {arch}: {', '.join(double)}")
        print(f"{build.name:48}" + "".join(f"{cell:>14}" for cell in cells), flush=True)
    print(f"{count} kernels, {time.perf_counter() - began:.0f} s")
    for failure in failures:
        print("FAILED:", failure)
    if not count:
        print("FAILED: no kernel of such a name")
    return bool(failures) or not count


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
