"""Device memory allocated as by CuPy's pool: the smallest free chunk that is large enough, split to the requested size.

Freed chunks remain in the pool and are merged with free neighbours; only blocks that are entirely free are returned to
the driver.  So a chunk in use retains the whole block that it was split from, and not all free bytes can be allocated.
"""

import threading
import weakref

UNIT = 512
MEMORY = 9 << 30  # of the device, in bytes


class OutOfMemoryError(MemoryError):
    pass


class Chunk:
    def __init__(self, size, block):
        self.size, self.block, self.free = size, block, False
        block.append(self)  # a block is the ordered list of its chunks


class MemoryPool:
    def __init__(self):
        self.blocks, self.limit, self.roots = [], 0, {}
        self.lock = threading.RLock()  # garbage collection may free chunks during an allocation

    # ---- CuPy's interface --------------------------------------------------------------------------------------------
    def get_limit(self):
        return self.limit

    def set_limit(self, size=None, fraction=None):
        self.limit = size if size is not None else int((fraction or 0) * MEMORY)

    def total_bytes(self):
        return self._sum(lambda chunk: True)

    def free_bytes(self):
        return self._sum(lambda chunk: chunk.free)

    def used_bytes(self):
        return self._sum(lambda chunk: not chunk.free)

    def free_all_blocks(self, stream=None):
        with self.lock:
            self.blocks = [block for block in self.blocks if not (len(block) == 1 and block[0].free)]

    # ---- for the fake arrays -----------------------------------------------------------------------------------------
    def hold(self, array):
        """Allocate memory for a NumPy array that represents a device array, until its last view is deleted."""
        while isinstance(getattr(array, "base", None), type(array)):
            array = array.base
        with self.lock:
            if id(array) not in self.roots and array.nbytes:
                self.roots[id(array)] = self.malloc(array.nbytes)
                weakref.finalize(array, self._release, id(array))

    def malloc(self, size):
        size = -(-size // UNIT) * UNIT
        with self.lock:
            large = [chunk for block in self.blocks for chunk in block if chunk.free and chunk.size >= size]
            if large:
                return self._cut(min(large, key=lambda chunk: chunk.size), size)
            for _ in range(2):
                total = self.total_bytes() + size
                if total <= (self.limit or MEMORY) and total <= MEMORY:
                    self.blocks.append([])
                    return Chunk(size, self.blocks[-1])
                self.free_all_blocks()
            raise OutOfMemoryError(f"Out of memory allocating {size:,} bytes (limit set to: {self.limit:,} bytes).")

    def _cut(self, chunk, size):
        if chunk.size > size:
            rest = Chunk(chunk.size - size, chunk.block)
            chunk.block.remove(rest)
            chunk.block.insert(chunk.block.index(chunk) + 1, rest)
            chunk.size, rest.free = size, True
        chunk.free = False
        return chunk

    def _release(self, root):
        with self.lock:
            chunk = self.roots.pop(root)
            chunk.free, block = True, chunk.block
            i = block.index(chunk)
            for neighbour in [*block[i + 1 : i + 2], *block[max(i - 1, 0) : i]]:
                if neighbour.free:
                    chunk.size += neighbour.size
                    block.remove(neighbour)

    def _sum(self, wanted):
        with self.lock:
            return sum(chunk.size for block in self.blocks for chunk in block if wanted(chunk))
