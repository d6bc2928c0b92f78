"""Rows of an array, on the host or on a device, whose chunks are processed on the device."""

from contextlib import closing, suppress

import numpy as np

from ..device import CPU, array_device, log_once
from ..device.arrays import BFloat16
from ..device.transfers import MIN_THREADED_COPY_BYTES, upload_chunks
from ..interrupts import raise_if_interrupted
from .chunked import ChunkedRows, ica_work

MAX_CHUNK_ELEMENTS = 1 << 26
MIN_CHUNK_WORK = 1.6e10  # operations, 0.6 ms at 50 TFLOP/s: launching the kernels for a chunk takes the host 0.25 ms
MAX_SORTED_ROWS = 1 << 32  # rows that 32-bit keys distinguish


class DeviceRows(ChunkedRows):
    """An array whose chunks are processed on a device, sequentially, in pieces that its memory allows."""

    piece_rows: int  # rows that are processed at once: those of a chunk, or fewer after the device ran out of memory

    def __init__(self, array, **settings):
        super().__init__(array, **settings)
        self.piece_rows = self.chunk_rows

    def default_chunk_rows(self):
        return default_chunk_rows(self.n_features, self.device, self.work)

    @property
    def batch_chunk_rows(self):
        return self.chunk_rows

    def upload(self):
        bits = self._bits
        if not isinstance(bits, np.ndarray) or 2 * bits.nbytes > self.device.budget():
            return self
        try:
            uploaded, row = self.xp.empty(bits.shape, dtype=bits.dtype.newbyteorder("=")), 0
            with closing(self._uploads()) as uploads:
                for part in uploads:
                    raise_if_interrupted()
                    uploaded[row : row + len(part)] = part
                    row += len(part)
        except self.device.out_of_memory:  # other libraries allocated it
            self.device.release()
            return self
        self.array = uploaded if bits is self.array else BFloat16(uploaded)
        return self

    def map(self, function, *params, out=None):
        self.n_passes += 1
        if not self.n_rows:
            return function(self._chunk(0), *params)

        def write(row, part):
            nonlocal out
            if out is None:
                out = part if len(part) == self.n_rows else self.xp.empty((self.n_rows, *part.shape[1:]), part.dtype)
            if out is not part:
                out[row : row + len(part)] = part

        self._each_piece(write, function, params)
        return out

    def _shuffled(self, rng):
        """As of the base class; by sorting random keys where the array is on the device.

        Drawing 10^7 numbers takes the host tenths of a second, during which the device would be idle.
        """
        if array_device(self.array) != CPU and self.n_rows <= MAX_SORTED_ROWS:
            with suppress(*self.device.out_of_memory):
                return self.xp.argsort(_random_keys(self.n_rows, rng, self.xp))
        return super()._shuffled(rng)

    def _in_memory(self, array, **settings):
        return DeviceRows(array, device=self.device, **settings)

    def _projected_array(self, projection):
        stored = None
        with suppress(*self.device.out_of_memory):
            stored = super()._projected_array(projection)
        if stored is None:
            log_once(f"{self.device} has no room for a whitened copy of X: it is recomputed in every pass.")
        return stored

    def _for_each_part(self, consume, function, params, weighted=False):
        self._each_piece(lambda row, part: consume(part), function, params, weighted)

    def _each_piece(self, consume, function, params, weighted=False):
        """Call consume(first row, function(piece, *params)) for the pieces of every chunk, in order."""

        def work(i, chunk):
            row = 0
            while row < len(chunk):
                piece = slice(row, row + self.piece_rows)
                weights = {name: w[piece] for name, w in self._weights_of(i).items()} if weighted else {}
                try:
                    part = function(chunk[piece], *params, **weights)
                except self.device.out_of_memory as error:
                    self._halve_pieces(min(self.piece_rows, len(chunk)), error)
                    continue
                consume(i * self.chunk_rows + row, part)
                del part  # before the next piece needs the memory
                row += self.piece_rows

        self._each_chunk(work)

    def _halve_pieces(self, rows, error):
        """Process half as many rows at once from now on; MemoryError after one row did not fit."""
        if rows == 1:
            raise MemoryError(
                f"The memory of {self.device} is too small for the work on one row: free some, or use device='cpu'."
            ) from error
        self.piece_rows = rows // 2
        self.device.release()
        log_once(f"{self.device} ran out of memory: the fit continues with chunks of half as many rows.")

    @property
    def _bits(self):
        """The array (n_rows, n_features) as stored: the bits of bfloat16."""
        return self.array.bits if isinstance(self.array, BFloat16) else self.array

    def _uploads(self):
        """The chunks of a host array as stored, (chunk_rows, n_features), on the device; see `upload_chunks`."""
        bits, starts = self._bits, range(0, self.n_rows, self.chunk_rows)
        return upload_chunks((bits[i : i + self.chunk_rows] for i in starts), self.device)

    def _each_chunk(self, work, wait_for_slot=None):
        bits = self._bits
        if isinstance(bits, np.ndarray) and (self.n_chunks > 1 or bits.nbytes > MIN_THREADED_COPY_BYTES):
            with closing(self._uploads()) as uploads:
                for i, part in enumerate(uploads):
                    raise_if_interrupted()
                    work(i, self._prepared(part if bits is self.array else BFloat16(part)))
            return
        for i in range(self.n_chunks):
            raise_if_interrupted()
            work(i, self._chunk(i))


def _random_keys(n, rng, xp):
    """n distinct pseudo-random 32-bit integers, (n,): two rounds of MurmurHash3's finalizer, which is a bijection."""
    keys = xp.arange(n, dtype=np.uint32)
    for _ in range(2):
        keys += int(rng.randint(1 << 32, dtype=np.uint32))
        for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
            keys ^= keys >> shift
            keys *= factor
    return keys


def max_chunk_elements(device):
    """The largest number of elements of a chunk: float64 temporaries of its size must fit the memory several times."""
    return min(MAX_CHUNK_ELEMENTS, device.budget() // 64)


def default_chunk_rows(n_features, device, work=None):
    """Rows of a chunk that fill a quarter of the L2 cache in float32, but whose work exceeds the launch overhead.

    work: floating-point operations per row and pass, by default those of ICA.
    """
    in_cache = device.cache // (4 * 4 * n_features)
    worth_launching = int(MIN_CHUNK_WORK / (work or ica_work(n_features)))
    return max(1, min(max_chunk_elements(device) // n_features, max(in_cache, worth_launching)))
