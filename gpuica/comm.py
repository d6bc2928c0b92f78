"""Communicators: sums of arrays over the processes that share rows (`gpuica.shared`).

A communicator is any object with `rank`, `size` and `allreduce(arrays)`, see `Comm`. Three are provided.
"""

import threading
from typing import Any, Protocol

import numpy as np

__all__ = ["Comm", "MPIComm", "TorchComm", "loopback"]


def __dir__() -> list[str]:
    return __all__


class Comm(Protocol):
    """Protocol of the communicators that `gpuica.shared` accepts.

    Attributes
    ----------
    rank : int
        The number of this process, from 0.
    size : int
        The number of processes.

    See Also
    --------
    TorchComm : Ranks of torch.distributed.
    MPIComm : Ranks of an mpi4py communicator.
    loopback : Ranks that are threads of this process.
    """

    @property
    def rank(self) -> int:
        """The number of this process, from 0."""
        ...

    @property
    def size(self) -> int:
        """The number of processes."""
        ...

    def allreduce(self, arrays: list) -> list:
        """Sum arrays over the ranks.

        Parameters
        ----------
        arrays : list of ndarray
            Of the same shapes on every rank.

        Returns
        -------
        totals : list of ndarray
            The sums, in float64. Every rank gets the same bits.
        """
        ...


class TorchComm:
    """Communicator over the ranks of torch.distributed, with the backend gloo, or nccl for GPUs.

    `torch.distributed.init_process_group` must be called first, for instance in a script started by `torchrun`; its
    `timeout` limits how long a rank waits for the others.

    Parameters
    ----------
    group : torch.distributed.ProcessGroup, default=None
        The process group. None means all ranks.

    Attributes
    ----------
    rank : int
        The number of this process in the group, from 0.
    size : int
        The number of processes in the group.

    Raises
    ------
    ImportError
        If torch is not installed.
    RuntimeError
        If torch.distributed is not initialized.

    See Also
    --------
    MPIComm : Ranks of an mpi4py communicator.
    """

    def __init__(self, group: Any = None) -> None:
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

    def allreduce(self, arrays: Any) -> Any:
        """Sum arrays over the ranks, see `Comm.allreduce`.

        Parameters
        ----------
        arrays : list of ndarray
            Of the same shapes on every rank.

        Returns
        -------
        totals : list of ndarray
            The sums, in float64.
        """
        flat = self._torch.from_numpy(_flatten(arrays)).to(self._device)
        self._distributed.all_reduce(flat, group=self._group)  # each entry is summed by one rank, and sent to all
        return _unflatten(flat.cpu().numpy(), arrays)


class MPIComm:
    """Communicator over the ranks of an mpi4py communicator.

    Parameters
    ----------
    comm : mpi4py.MPI.Comm
        For instance `mpi4py.MPI.COMM_WORLD`.

    Attributes
    ----------
    rank : int
        The number of this process, from 0.
    size : int
        The number of processes.

    See Also
    --------
    TorchComm : Ranks of torch.distributed.
    """

    def __init__(self, comm: Any) -> None:
        self.comm, self.rank, self.size = comm, comm.Get_rank(), comm.Get_size()

    def allreduce(self, arrays: Any) -> Any:
        """Sum arrays over the ranks, see `Comm.allreduce`.

        Parameters
        ----------
        arrays : list of ndarray
            Of the same shapes on every rank.

        Returns
        -------
        totals : list of ndarray
            The sums, in float64.
        """
        flat = _flatten(arrays)
        total = np.empty_like(flat)
        self.comm.Reduce(flat, total, root=0)  # MPI's Allreduce need not return the same bits on every rank
        self.comm.Bcast(total, root=0)
        return _unflatten(total, arrays)


def loopback(size: int, timeout: Any = 60.0) -> Any:
    """Connect threads of this process as ranks, for experiments and tests.

    Parameters
    ----------
    size : int
        The number of threads.
    timeout : float, default=60.0
        Seconds that a thread waits for the others, before all of them raise a RuntimeError. None means no limit.

    Returns
    -------
    comms : list of Comm
        One communicator for each thread.

    See Also
    --------
    TorchComm : Ranks of torch.distributed.
    MPIComm : Ranks of an mpi4py communicator.

    Examples
    --------
    >>> import numpy as np
    >>> from concurrent.futures import ThreadPoolExecutor
    >>> from gpuica.comm import loopback
    >>> comms = loopback(2)
    >>> with ThreadPoolExecutor(2) as threads:
    ...     totals = list(threads.map(lambda comm: comm.allreduce([np.array([comm.rank + 1.0])]), comms))
    >>> totals
    [[array([3.])], [array([3.])]]
    """
    barrier, contributions = threading.Barrier(size, timeout=timeout), [np.zeros(0)] * size
    return [_Loopback(rank, barrier, contributions) for rank in range(size)]


class _Loopback:
    """The communicator of one of several threads, which exchange arrays by a shared list."""

    def __init__(self, rank: int, barrier: Any, contributions: Any) -> None:
        self.rank, self.size = rank, len(contributions)
        self._barrier, self._contributions = barrier, contributions

    def leave(self) -> None:
        """Stop taking part: threads that wait for this one raise a RuntimeError."""
        self._barrier.abort()

    def allreduce(self, arrays: Any) -> Any:
        """Sum arrays over the threads, see `Comm.allreduce`."""
        self._contributions[self.rank] = _flatten(arrays)
        try:
            self._barrier.wait()
            total = np.zeros_like(self._contributions[0])
            for flat in self._contributions:
                total += flat
            self._barrier.wait()  # until every thread has read the contributions
        except threading.BrokenBarrierError:
            raise RuntimeError(
                f"allreduce of rank {self.rank} of {self.size} was aborted: another rank stopped, or did not make the "
                "same call in time."
            ) from None
        return _unflatten(total, arrays)


def _flatten(arrays: Any) -> Any:
    """The entries of all arrays, (n,) in float64."""
    return np.concatenate([np.asarray(array, dtype=np.float64).ravel() for array in arrays])


def _unflatten(flat: Any, arrays: Any) -> Any:
    """The inverse of `_flatten`: parts of `flat` with the shapes of the arrays."""
    ends = np.cumsum([np.size(array) for array in arrays])[:-1]
    return [part.reshape(np.shape(array)) for part, array in zip(np.split(flat, ends), arrays, strict=True)]
