"""
ICA of rows distributed over processes
======================================

Each rank generates, or reads, its own rows; all ranks obtain the same model, bit for bit.

    torchrun --nproc-per-node 2 torchrun_ica.py

On GPUs use one rank per GPU, ``init_process_group("nccl")``, ``torch.cuda.set_device(local_rank)``, and pass X as a
CUDA tensor.  Needs PyTorch: ``pip install torch``.
"""

import hashlib
import os
import sys
import time

import numpy as np

import gpuica
import gpuica.metrics

try:
    import torch.distributed as distributed
except ImportError:
    sys.exit("This example needs PyTorch: pip install torch. Run it with: torchrun --nproc-per-node 2 torchrun_ica.py")

K = 16


def mixed(n_rows, seed):
    """Rows (n_rows, K) mixed from Laplace sources, and the mixing matrix, which is the same on all ranks."""
    A = np.random.default_rng(0).normal(size=(K, K))
    return np.random.default_rng(1 + seed).laplace(size=(n_rows, K)).astype(np.float32) @ A.T.astype(np.float32), A


def main():
    if "RANK" not in os.environ:
        sys.exit("Run this example with: torchrun --nproc-per-node 2 torchrun_ica.py")
    distributed.init_process_group("gloo")
    comm = gpuica.comm.TorchComm()
    X, A = mixed(50_000 + 10_000 * comm.rank, seed=comm.rank)  # ranks may differ in their number of rows

    began = time.perf_counter()
    ica = gpuica.FastICA(random_state=0).fit(gpuica.shared(X, comm))
    sources = ica.transform(X)  # those of this rank, without communication

    distance = gpuica.metrics.amari_distance(ica.components_, A)
    print(
        f"rank {comm.rank} of {comm.size}: {len(sources)} rows, {ica.n_passes_} passes, "
        f"{time.perf_counter() - began:.2f} s, Amari distance {distance:.4f}, hash of the model "
        f"{hashlib.sha256(ica.components_.tobytes()).hexdigest()[:12]}",
        flush=True,
    )
    distributed.destroy_process_group()


if __name__ == "__main__":
    main()
