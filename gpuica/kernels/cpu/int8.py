"""Products of 8-bit integers by the VNNI instructions of AVX-512, for which Numba has no function."""

from functools import cache
from itertools import chain

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic

ROWS, VECTORS, LANES = 4, 4, 16  # of a tile: 16 registers of sums, so that no instruction waits for the one before it
ATOMS = VECTORS * LANES
MAX_FEATURES = 60_000  # whose sums of products are below 2³¹

# A word + the inner product of four bytes, unsigned and signed.  With words as operands: newer versions of LLVM, which
# take bytes, convert the declaration; older ones take nothing else.
MULTIPLY_ADD = "llvm.x86.avx512.vpdpbusd.512"
WORD, INDEX = ir.IntType(32), ir.IntType(64)
WORDS, FLOATS = ir.VectorType(WORD, LANES), ir.VectorType(ir.FloatType(), LANES)


@cache
def has_int8_products():
    """Whether Numba compiles for a processor with these instructions."""
    features = cpu_target.target_context.codegen().magic_tuple()[2]
    return {"+avx512f", "+avx512vnni"} <= set(features.split(","))


class _Code:
    """Instructions on vectors of 64 bytes."""

    def __init__(self, builder):
        self.builder = builder

    def at(self, base, offset, type_):
        """The address base + offset bytes, as a pointer; offset: an integer or a value."""
        offset = ir.Constant(INDEX, offset) if isinstance(offset, int) else offset
        return self.builder.inttoptr(self.builder.add(base, offset), type_.as_pointer())

    def load(self, base, offset, type_):
        return self.builder.load(self.at(base, offset, type_), align=1)

    def store(self, value, base, offset):
        self.builder.store(value, self.at(base, offset, value.type), align=1)

    def times(self, value, factor):
        return self.builder.mul(value, ir.Constant(INDEX, factor))

    def splat(self, word):
        """A vector of 16 times the same word."""
        empty = ir.Constant(WORDS, ir.Undefined)
        one = self.builder.insert_element(empty, word, ir.Constant(WORD, 0))
        return self.builder.shuffle_vector(one, empty, ir.Constant(WORDS, [0] * LANES))

    def call(self, name, *arguments, result=WORDS):
        function = ir.FunctionType(result, [argument.type for argument in arguments])
        return self.builder.call(self.builder.module.declare_intrinsic(name, (), function), arguments)

    def products(self, panel, rows, stride, n_fours):
        """The inner products of a tile: ROWS lists of VECTORS vectors.  Ends in a new block, after a loop."""
        before, loop, after = self.builder.block, *(self.builder.append_basic_block() for _ in range(2))
        self.builder.branch(loop)
        self.builder.position_at_end(loop)
        k, sums = self.builder.phi(INDEX), [[self.builder.phi(WORDS) for _ in range(VECTORS)] for _ in range(ROWS)]
        here = self.builder.add(panel, self.times(k, 4 * ATOMS))
        atoms, new = [self.load(here, 64 * v, WORDS) for v in range(VECTORS)], []
        for i, of_row in enumerate(sums):
            offset = self.builder.add(self.times(stride, i), self.times(k, 4))
            row = self.splat(self.load(rows, offset, WORD))
            new.append([self.call(MULTIPLY_ADD, total, atom, row) for total, atom in zip(of_row, atoms, strict=True)])
        following = self.builder.add(k, ir.Constant(INDEX, 1))
        for phi, value in zip([k, *chain(*sums)], [following, *chain(*new)], strict=True):
            phi.add_incoming(ir.Constant(phi.type, 0 if phi is k else [0] * LANES), before)
            phi.add_incoming(value, loop)
        self.builder.cbranch(self.builder.icmp_signed("<", following, n_fours), loop, after)
        self.builder.position_at_end(after)
        return new


@intrinsic
def multiply_tile(typing, panel, rows, sizes, offsets, factors, mask, values, tops, steps):
    """(inner products of ROWS rows with the ATOMS atoms of a panel, less the row's offset) times the atom's factor.

    Arrays are addresses.  panel: unsigned bytes in the order [four features][atom][feature].  rows: signed bytes.
    sizes: the bytes of a row, and a quarter of that, at least 1.  offsets: (ROWS,) int32.  factors: (ATOMS,)
    float32.  values: (ROWS, ATOMS) float32.  tops: (ROWS,) int32, the bits of the largest value of each row, after
    `mask`: see `vectors.Searchable`.  steps: bytes from one row to the next of values and of tops.
    """

    def generate(context, builder, signature, arguments):
        panel, rows, sizes, offsets, factors, mask, values, tops, steps = arguments
        (stride, n_fours), (step, top_step) = (cgutils.unpack_tuple(builder, pair) for pair in (sizes, steps))
        code, mask = _Code(builder), _Code(builder).splat(mask)
        scales = [code.load(factors, 64 * v, FLOATS) for v in range(VECTORS)]
        for i, sums in enumerate(code.products(panel, rows, stride, n_fours)):
            offset, top = code.splat(code.load(offsets, 4 * i, WORD)), ir.Constant(WORDS, [0] * LANES)
            row = builder.add(values, code.times(step, i))
            for v, (total, scale) in enumerate(zip(sums, scales, strict=True)):
                value = builder.fmul(builder.sitofp(builder.sub(total, offset), FLOATS), scale)
                code.store(value, row, 64 * v)
                top = code.call("llvm.smax.v16i32", top, builder.and_(builder.bitcast(value, WORDS), mask))
            largest = code.call("llvm.vector.reduce.smax.v16i32", top, result=WORD)
            code.store(largest, tops, code.times(top_step, i))
        return context.get_dummy_value()

    return types.void(panel, rows, sizes, offsets, factors, mask, values, tops, steps), generate
