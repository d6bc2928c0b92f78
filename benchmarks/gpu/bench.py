"""A clock for device work, random data generated on the device, and the ceilings that results are compared with."""

import gc
import statistics
import time

import numpy as np


class Bench:
    """scale: factor of all numbers of rows.  ceilings: {name: rate}, of the results with an entry "ceiling"."""

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
        """A number of rows, scaled."""
        return max(64, int(rows * self.scale))

    def k(self, size):
        """A number of columns or atoms, at most 12 if rows are scaled."""
        return size if self.scale == 1 else min(size, 12)

    def wait(self):
        if self.real:
            self.xp.cuda.Device().synchronize()

    def seconds(self, call, repeats=20, longest=3.0):
        """Median seconds of a call on the device, by events, after a warm-up; repeats take about `longest` at most."""
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
        """(least seconds on the host until the device has finished, last result)."""
        times = []
        for _ in range(repeats):
            self.wait()
            began = time.perf_counter()
            result = call()
            self.wait()
            times.append(time.perf_counter() - began)
        return min(times), result

    def normal(self, shape):
        """Standard normal numbers on the device, float32."""
        if self.real:
            return self.xp.random.standard_normal(shape, dtype=np.float32)
        return self.xp.asarray(self.rng.standard_normal(shape, dtype=np.float32))

    def uniform(self, low, high, shape):
        """Uniform numbers on the device, float32."""
        if self.real:
            return self.xp.random.uniform(low, high, shape, dtype=np.float32)
        return self.xp.asarray(self.rng.uniform(low, high, shape).astype(np.float32))

    def laplace(self, shape):
        """Laplace numbers of variance 1 on the device, float32."""
        if self.real:
            first, second = (self.xp.random.standard_exponential(shape, dtype=np.float32) for _ in range(2))
            return (first - second) * 0.5**0.5
        return self.xp.asarray(self.rng.laplace(scale=0.5**0.5, size=shape).astype(np.float32))

    def integers(self, high, shape):
        """Integers below `high` on the device, int32."""
        if self.real:
            return self.xp.random.randint(0, high, shape, dtype=np.int32)
        return self.xp.asarray(self.rng.integers(high, size=shape, dtype=np.int32))

    def _filled(self, n, d, part):
        """Rows (n, d) float32 on the device, generated in parts by part(rows)."""
        rows, step = self.xp.empty((n, d), dtype=np.float32), max(1, (1 << 26) // d)
        for start in range(0, n, step):
            rows[start : start + step] = part(min(step, n - start))
        return rows

    def rows(self, n, k):
        """Random rows (n, k) on the device: alternately Laplace and uniform sources of variance 1, unmixed."""

        def part(rows):
            S = self.laplace((rows, k))
            S[:, 1::2] = self.uniform(-(3**0.5), 3**0.5, (rows, k // 2))
            return S

        return self._filled(n, k, part)

    def activations(self, n, k, group=16):
        """Rows (n, k) on the device that resemble activations: sparse, heavy-tailed sources, dependent through the
        scale of each row and of groups of sources; mixed, with a mean."""
        group = min(group, k)
        A, mean = self.normal((k, k)) / k**0.5, self.normal((k,))

        def part(rows):
            S = self.normal((rows, k)) * (self.uniform(0, 1, (rows, k)) < 0.3)
            sizes = self.xp.exp(0.5 * self.normal((rows, k // group)))
            S[:, : k // group * group] *= sizes[:, self.xp.arange(k // group * group) // group]
            return (S * self.xp.exp(0.5 * self.normal((rows, 1)))) @ A + mean

        return self._filled(n, k, part)

    def dictionary(self, k, d):
        """Random atoms (k, d) of unit norm on the device."""
        D = self.normal((k, d))
        return D / self.xp.sqrt((D * D).sum(axis=1, keepdims=True))

    def coded(self, n, D, used, noise=0.05):
        """Rows (n, d) on the device: `used` atoms of D (k, d) with coefficients ±0.5 to ±1.5, and normal noise."""

        def part(rows):
            X = noise * self.normal((rows, D.shape[1]))
            for _ in range(used):
                sign = 2.0 * (self.uniform(0, 1, (rows, 1)) < 0.5).astype(np.float32) - 1
                X += sign * self.uniform(0.5, 1.5, (rows, 1)) * D[self.integers(len(D), (rows,))]
            return X

        return self._filled(n, D.shape[1], part)

    def bfloat16(self, X):
        """The bits (uint16, on the host) of the nearest bfloat16 numbers of X, float32 on the device."""
        bits = X.view(np.uint32)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16).get()

    def link(self, size=1 << 29):
        """Bytes per second from page-locked host memory."""
        size = int(size * self.scale) // 4 * 4
        source = np.frombuffer(self.xp.cuda.alloc_pinned_memory(size), dtype=np.float32, count=size // 4)
        target = self.xp.zeros(size // 4, dtype=np.float32)
        return size / self.wall(lambda: target.set(source), repeats=4)[0]

    def learn(self, result):
        """Store the rate of a result that is a ceiling."""
        if "ceiling" in result:
            self.ceilings[result["ceiling"]] = result["rate"]

    def share(self, rate, ceiling):
        """The entries of a result that relate a rate to a ceiling, if that was measured."""
        return {"share": rate / self.ceilings[ceiling], "of": ceiling} if ceiling in self.ceilings else {}

    def tidy(self):
        """Free unused memory."""
        gc.collect()
        self.xp.get_default_memory_pool().free_all_blocks()


def gradient(xp, X, components, mean):
    """The largest entry of the relative gradient at the whitened sources of components (k, d), in float64, as in
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
