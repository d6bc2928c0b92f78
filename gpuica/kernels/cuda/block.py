"""What the threads of one block do together: sums, the largest of their numbers, and its index.

Each warp by shuffles, then every thread from the results of the warps: two barriers, and the same order of operations
in every run, so that results are reproducible bit for bit.  Every function is called by all threads of a block, ends
past a barrier, and returns the same to all.
tree, places: a number for each warp, float64 and int32, in shared memory of the kernel (that of a device function would
be linked twice where two others call it, which is invalid).

The last warp can have fewer lanes; those that do not exist are never read.  `first_largest` and `rank_among` need
whole warps on a GPU.
"""

from numba import cuda, int32, uint32

LANES = 32  # threads of a warp
ALL = 0xFFFFFFFF  # of its lanes


@cuda.jit(device=True)
def lane():
    """The number of this thread in its warp."""
    return cuda.threadIdx.x & (LANES - 1)


@cuda.jit(device=True)
def lanes():
    """The number of lanes of this thread's warp."""
    return min(LANES, cuda.blockDim.x - (cuda.threadIdx.x - lane()))


@cuda.jit(device=True)
def warps():
    """The number of warps of the block."""
    return (cuda.blockDim.x + LANES - 1) // LANES


@cuda.jit(device=True)
def first_largest_of_warp(value, index):
    """The largest value over the lanes of the warp, and its index; the smallest index of several.

    The same for all lanes where there are 2, 4, 8, 16 or 32 of them; else the first lane's.
    """
    step = LANES // 2
    while step > 0:
        other, where = cuda.shfl_xor_sync(ALL, value, step), cuda.shfl_xor_sync(ALL, index, step)
        if other > value or (other == value and where < index):
            value, index = other, where
        step //= 2
    return value, index


@cuda.jit(device=True)
def summed_by_warp(value):
    """Σ value over the lanes of the warp, for its first lane."""
    step, mine, count = LANES // 2, lane(), lanes()
    while step > 0:
        other = cuda.shfl_down_sync(ALL, value, step)
        if mine + step < count:
            value += other
        step //= 2
    return value


@cuda.jit(device=True)
def summed(value, tree):
    """Σ value over the threads, in float64."""
    value = summed_by_warp(value)
    if lane() == 0:
        tree[cuda.threadIdx.x // LANES] = value
    cuda.syncthreads()
    total, warp, count = tree[0], 1, warps()
    while warp < count:
        total += tree[warp]
        warp += 1
    cuda.syncthreads()  # before the next sum overwrites it
    return total


@cuda.jit(device=True)
def largest(value, tree):
    """The largest value over the threads, in float64."""
    step, mine, count = LANES // 2, lane(), lanes()
    while step > 0:
        other = cuda.shfl_down_sync(ALL, value, step)
        if mine + step < count:
            value = max(value, other)
        step //= 2
    if mine == 0:
        tree[cuda.threadIdx.x // LANES] = value
    cuda.syncthreads()
    top, warp, count = tree[0], 1, warps()
    while warp < count:
        top = max(top, tree[warp])
        warp += 1
    cuda.syncthreads()
    return top


@cuda.jit(device=True)
def first_largest(value, index, tree, indices):
    """The largest value over the threads, in float64, and its index; the smallest index of several."""
    value, index = first_largest_of_warp(value, index)
    if lane() == 0:
        tree[cuda.threadIdx.x // LANES] = value
        indices[cuda.threadIdx.x // LANES] = index
    cuda.syncthreads()
    top, best, warp, count = tree[0], indices[0], 1, warps()
    while warp < count:
        if tree[warp] > top or (tree[warp] == top and indices[warp] < best):
            top, best = tree[warp], indices[warp]
        warp += 1
    cuda.syncthreads()
    return top, best


@cuda.jit(device=True)
def rank_among(flag, counts):
    """The number of threads before this one whose flag (0 or 1) is set, and of all threads.  counts: one per warp."""
    raised = cuda.ballot_sync(ALL, flag != 0)
    if lane() == 0:
        counts[cuda.threadIdx.x // LANES] = cuda.popc(raised)
    cuda.syncthreads()
    before, total = int32(cuda.popc(raised & uint32((1 << lane()) - 1))), int32(0)
    warp, count = 0, warps()
    while warp < count:
        if warp < cuda.threadIdx.x // LANES:
            before += counts[warp]
        total += counts[warp]
        warp += 1
    cuda.syncthreads()
    return before, total
