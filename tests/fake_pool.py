"""Device memory as CuPy's pool hands it out: the smallest free chunk that is large enough, cut to size.

Freed chunks stay with the pool and are joined with free neighbours; only blocks that are free as a whole go back to the
driver.  So a chunk in use keeps all of the block that it was cut from, and free bytes are not all to be had.
"""

import threading
import weakref

UNIT = 512
MEMORY = 9 << 30  # of the device


class OutOfMemoryError(MemoryError):
    pass


class Chunk:
    def __init__(self, size, block):
        self.size, self.block, self.free = size, block, False
        block.append(self)  # a block is the list of its chunks, in their order


class MemoryPool:
    def __init__(self):
        self.blocks, self.limit, self.roots = [], 0, {}
        self.lock = threading.RLock()  # garbage collection may free in the midst of an allocation

    # ---- what CuPy's has ---------------------------------------------------------------------------------------------
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
        """Memory for a NumPy array that stands for one on the device, until the last view of it has gone."""
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
