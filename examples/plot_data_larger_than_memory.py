"""
ICA of data larger than memory
==============================

A fit needs only sums over rows, so the rows can be streamed from files within a fixed memory budget, or arrive in
batches.  Three ways to the same components: a fit of an array, a fit of a file with ``memory_limit``, and
``partial_fit`` on batches.

Needs matplotlib: ``pip install 'gpuica[bench]'``.
"""

# %%
# The data
# --------
# Batches of mixed sources, alternately Laplace and uniform, are written to one .npy file of 60,000 x 16 numbers, which
# stands for one of hundreds of gigabytes.
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from gpuica import Picard
from gpuica.metrics import amari_distance, matched_correlation

BATCHES, SIZE, K = 60, 1_000, 16

rng = np.random.default_rng(0)
A = rng.normal(size=(K, K))


def batch():
    """Rows (SIZE, K) float32."""
    sources = rng.laplace(scale=0.5**0.5, size=(SIZE, K))
    sources[:, 1::2] = rng.uniform(-(3**0.5), 3**0.5, size=(SIZE, K // 2))
    return (sources @ A.T).astype(np.float32)


folder = tempfile.TemporaryDirectory()  # deleted at the end
path = Path(folder.name) / "rows.npy"
rows = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(BATCHES * SIZE, K))
for i in range(BATCHES):
    rows[i * SIZE : (i + 1) * SIZE] = batch()
rows.flush()

# %%
# In memory, and from the file
# ----------------------------
# ``memory_limit`` bounds the memory of the fit.  Picard starts on small samples of the rows and grows them, so that
# only the last iterations read the whole file.  Both fits find the same sources.
in_memory = Picard(random_state=0).fit(np.array(rows))
from_file = Picard(random_state=0, memory_limit="1MB").fit(path)
for name, ica in {"array": in_memory, "file": from_file}.items():
    distance = amari_distance(ica.components_, A)
    print(f"{name:6} {ica.n_iter_} iterations, {ica.n_passes_:.1f} passes, Amari distance {distance:.4f}")

sources = from_file.transform(path, out=path.with_name("sources.npy"))  # streamed to a file, in the same memory
correlation = matched_correlation(in_memory.transform(rows), np.load(sources))[0]
print(f"smallest |correlation| of the sources of both fits: {correlation.min():.6f}")

# %%
# Batch by batch
# --------------
# ``partial_fit`` updates the model with each batch, which is then discarded.  It approaches the quality of the fit of
# all rows.
online, distances = Picard(random_state=0), []
for i in range(BATCHES):
    online.partial_fit(rows[i * SIZE : (i + 1) * SIZE])
    distances.append(amari_distance(online.components_, A))

figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
axis.semilogy(SIZE * np.arange(1, BATCHES + 1), distances, color="#4a6fa5", label="partial_fit")
axis.axhline(amari_distance(in_memory.components_, A), color="#d1495b", ls="--", label="fit of all rows")
axis.set(xlabel="rows seen", ylabel="Amari distance to the true mixing matrix")
axis.legend(frameon=False)
folder.cleanup()
plt.show()
