"""A clock for device work, random rows on the device, and the ceilings that shares are shares of."""

import gc
import statistics
import time

import numpy as np


class Bench:
    """scale: all numbers of rows times this.  ceilings: name -> rate, that of the results with an entry "ceiling"."""

    def __init__(self, scale=1.0, ceilings=()):
        import cupy

        self.xp, self.scale, self.ceilings = cupy, scale, dict(ceilings)
        self.real = hasattr(cupy.cuda, "get_elapsed_time")
        self.rng = np.random.default_rng()  # fresh inputs in every run

    def device(self):
        if not self.real:
            return {"name": "fake"}
        runtime = self.xp.cuda.runtime
        properties = runtime.getDeviceProperties(runtime.getDevice())
        return {
            "name": properties["name"].decode(),
            "capability": f"{properties['major']}.{properties['minor']}",
            "multiprocessors": properties["multiProcessorCount"],
            "memory": properties["totalGlobalMem"],
            "l2": properties["l2CacheSize"],
            "driver": runtime.driverGetVersion(),
            "runtime": runtime.runtimeGetVersion(),
        }

    def n(self, rows):
        """So many rows, scaled."""
        return max(64, int(rows * self.scale))

    def k(self, size):
        """A number of columns or atoms; small ones where the rows are scaled."""
        return size if self.scale == 1 else min(size, 12)

    def wait(self):
        if self.real:
            self.xp.cuda.Device().synchronize()

    def seconds(self, call, repeats=20, longest=3.0):
        """The median of the device's seconds for a call, by events, after a warm-up; at most `longest` in all."""
        call()
        self.wait()
        times: list[float] = []
        while len(times) < repeats and (len(times) < 3 or sum(times) < longest):
            if self.real:
                start, end = self.xp.cuda.Event(), self.xp.cuda.Event()
                start.record()
                call()
                end.record()
                end.synchronize()
                times.append(self.xp.cuda.get_elapsed_time(start, end) / 1e3)
            else:
                began = time.perf_counter()
                call()
                times.append(time.perf_counter() - began)
        return statistics.median(times)

    def wall(self, call, repeats=1):
        """(the least of the host's seconds until the device is done, the last answer)."""
        times = []
        for _ in range(repeats):
            self.wait()
            began = time.perf_counter()
            answer = call()
            self.wait()
            times.append(time.perf_counter() - began)
        return min(times), answer

    def rows(self, n, k, dtype=np.float32):
        """Random rows (n, k) on the device: Laplace and uniform sources of variance 1, not mixed, a block repeated."""
        block = min(n, max(1, (1 << 24) // k))
        S = self.rng.laplace(scale=0.5**0.5, size=(block, k))
        S[:, 1::2] = self.rng.uniform(-(3**0.5), 3**0.5, size=S[:, 1::2].shape)
        block_there = self.xp.asarray(S.astype(dtype))
        there = self.xp.empty((n, k), dtype=dtype)
        for start in range(0, n, block):
            stop = min(start + block, n)
            there[start:stop] = block_there[: stop - start]
        return there

    def share(self, rate, ceiling):
        """The entries of a result that compare a rate with a ceiling."""
        return {"share": rate / self.ceilings[ceiling], "of": ceiling} if ceiling in self.ceilings else {}

    def tidy(self):
        gc.collect()
        self.xp.get_default_memory_pool().free_all_blocks()


def gradient(xp, X, components, mean):
    """The largest entry of the relative gradient at the whitened sources of components (k, d), in float64: see
    `referee.gradient_and_loss`.  X: (n, d) on the device."""
    C, m = xp.asarray(components).astype(np.float64), xp.asarray(mean).astype(np.float64)
    k, n, rows = len(C), len(X), max(1, (1 << 25) // X.shape[1])

    def sources():
        for start in range(0, n, rows):
            yield (X[start : start + rows].astype(np.float64) - m) @ C.T

    total, scatter = xp.zeros(k), xp.zeros((k, k))
    for Y in sources():
        total += Y.sum(axis=0)
        scatter += Y.T @ Y
    center = total / n
    values, vectors = xp.linalg.eigh(scatter / n - center[:, None] * center)
    white = (vectors / xp.sqrt(values)) @ vectors.T
    cross, square = xp.zeros((k, k)), xp.zeros(k)
    for Y in sources():
        U = (Y - center) @ white.T
        g = xp.tanh(U)
        cross += g.T @ U / n
        square += (g * g).sum(axis=0) / n
    sign = xp.where(1 - square < xp.diagonal(cross), -1.0, 1.0)
    M = sign[:, None] * cross
    return float(xp.abs(M - M.T).max()) / 2
