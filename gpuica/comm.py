"""How processes that share rows (`gpuica.shared`) add up their totals.

A comm has `rank`, from 0, `size`, and `allreduce(arrays)`: a list of NumPy arrays, of the same shapes on every rank, to
their sums over the ranks, in float64, the same bits on every rank.  Any object of this form will do; here are three.
"""

import threading
from typing import Any, Protocol

import numpy as np

__all__ = ["Comm", "MPIComm", "TorchComm", "loopback"]


class Comm(Protocol):
    """What `gpuica.shared` asks of a comm."""

    @property
    def rank(self) -> int:
        """Which of the processes this one is, from 0."""
        ...

    @property
    def size(self) -> int:
        """How many processes there are."""
        ...

    def allreduce(self, arrays: list) -> list:
        """Sums over the ranks, in float64; the same bits on every rank."""
        ...


class TorchComm:
    """Ranks of torch.distributed, as `torchrun` starts them; with gloo, or nccl for GPUs.

    Call `torch.distributed.init_process_group` first; its `timeout` is how long a rank waits for one that does not
    come.
    """

    def __init__(self, group=None):
        """group: a process group; None for all ranks.  ImportError or RuntimeError without torch or a group."""
        try:
            import torch
            import torch.distributed as distributed
        except ImportError as error:
            raise ImportError("TorchComm needs torch: pip install torch.") from error
        if not (distributed.is_available() and distributed.is_initialized()):
            raise RuntimeError(
                "TorchComm needs a process group: start the script by torchrun, and call "
                "torch.distributed.init_process_group('gloo') (or 'nccl') first."
            )
        self._torch, self._distributed, self._group = torch, distributed, group
        self.rank, self.size = distributed.get_rank(group), distributed.get_world_size(group)
        self._device = "cuda" if "nccl" in distributed.get_backend(group) else "cpu"

    def allreduce(self, arrays):
        flat = self._torch.from_numpy(_flat(arrays)).to(self._device)
        self._distributed.all_reduce(flat, group=self._group)  # each entry is added up by one rank, and sent to all
        return _parts(flat.cpu().numpy(), arrays)


class MPIComm:
    """Ranks of an mpi4py communicator, `mpi4py.MPI.COMM_WORLD` say."""

    def __init__(self, comm: Any):
        self.comm, self.rank, self.size = comm, comm.Get_rank(), comm.Get_size()

    def allreduce(self, arrays):
        flat = _flat(arrays)
        total = np.empty_like(flat)
        self.comm.Reduce(flat, total, root=0)  # MPI's own allreduce need not give every rank the same bits
        self.comm.Bcast(total, root=0)
        return _parts(total, arrays)


def loopback(size, timeout=60.0):
    """Comms of `size` threads of this process, one for each, in a list: to try things out, and for tests.

    timeout: seconds that a thread waits for the others, before all of them get a RuntimeError.
    """
    meeting = _Meeting(size, timeout)
    return [_Loopback(meeting, rank) for rank in range(size)]


class _Meeting:
    def __init__(self, size, timeout):
        self.barrier = threading.Barrier(size, timeout=timeout)
        self.brought: list[Any] = [None] * size


class _Loopback:
    def __init__(self, meeting, rank):
        self._meeting, self.rank, self.size = meeting, rank, len(meeting.brought)

    def allreduce(self, arrays):
        brought, barrier = self._meeting.brought, self._meeting.barrier
        brought[self.rank] = _flat(arrays)
        try:
            barrier.wait()
            total = np.zeros_like(brought[0])
            for flat in brought:
                total += flat
            barrier.wait()  # until everybody has read what was brought
        except threading.BrokenBarrierError:
            raise RuntimeError(f"rank {self.rank} of {self.size} waited in vain for another rank.") from None
        return _parts(total, arrays)


def _flat(arrays):
    """One array (n,) of float64 that holds them all."""
    return np.concatenate([np.asarray(array, dtype=np.float64).ravel() for array in arrays])


def _parts(flat, arrays):
    """The arrays that `_flat` made one of."""
    ends = np.cumsum([np.size(array) for array in arrays])[:-1]
    return [part.reshape(np.shape(array)) for part, array in zip(np.split(flat, ends), arrays, strict=True)]
