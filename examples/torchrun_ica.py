"""ICA of rows that several processes share.

    torchrun --nproc-per-node 2 examples/torchrun_ica.py

Each rank makes, or reads, its own rows; all ranks end with the same model, bit for bit.  On GPUs: a rank for each,
init_process_group("nccl"), torch.cuda.set_device(local rank), and X a CUDA tensor.
"""

import hashlib
import time

import numpy as np
import torch.distributed as distributed

import gpuica
import gpuica.metrics

K = 16


def mixed(n_rows, seed):
    """Rows (n_rows, K) mixed from Laplace sources by a matrix that all ranks know."""
    A = np.random.default_rng(0).normal(size=(K, K))
    return np.random.default_rng(1 + seed).laplace(size=(n_rows, K)).astype(np.float32) @ A.T.astype(np.float32), A


def main():
    distributed.init_process_group("gloo")
    comm = gpuica.comm.TorchComm()
    X, A = mixed(50_000 + 10_000 * comm.rank, seed=comm.rank)  # ranks need not have the same number of rows

    began = time.perf_counter()
    ica = gpuica.FastICA(random_state=0).fit(gpuica.shared(X, comm))
    sources = ica.transform(X)  # this rank's; no other rank is needed for it

    distance = gpuica.metrics.amari_distance(ica.components_, A)
    print(
        f"rank {comm.rank} of {comm.size}: {len(sources)} rows, {ica.n_passes_} passes, "
        f"{time.perf_counter() - began:.2f} s, Amari distance {distance:.4f}, the model's hash "
        f"{hashlib.sha256(ica.components_.tobytes()).hexdigest()[:12]}",
        flush=True,
    )
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
