"""Pointers and short vectors for the Numba kernels, which then read like csrc/bits.h.

LLVM lowers the vectors to whatever the CPU has, as the C compiler does with its vector extensions. Pointers spare the
kernels what arrays cost them: a slice, or an array out of a tuple, counts its references atomically each time, which
took more than half of the time. A pointer keeps nothing alive: what it points to is made, and held, by the caller in
Python.
"""

# mypy: allow-untyped-defs, no-check-untyped-defs, allow-untyped-calls

from __future__ import annotations

import operator

import numpy as np
from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, lower_builtin, models, register_model, type_callable

from .numba_jit import inlined

LANES = 16
"""Of a vector; of 64-bit words half as many."""
SIGN = np.int32(-(2**31))
LEAST_HALF = np.float32(2.0**-24)
WIDER = 112 << 23
"""What the exponent's bias of float32 has more than that of float16."""
ODD = 0x7C00
"""float16 bits of infinity; NaN lie beyond."""


class Vector(types.Type):
    """Numbers of one type side by side, or the flags that comparing them gives."""

    def __init__(self, element, lanes):
        self.element, self.lanes = element, lanes
        super().__init__(name=f"Vector({element}, {lanes})")

    @property
    def is_float(self):
        return isinstance(self.element, types.Float)

    @property
    def low_level(self):
        """The LLVM type."""
        width = 1 if self.element == types.boolean else self.element.bitwidth
        return ir.VectorType(ir.FloatType() if self.is_float else ir.IntType(width), self.lanes)


@register_model(Vector)
class VectorModel(models.PrimitiveModel):
    """Held in registers."""

    def __init__(self, manager, vector):
        super().__init__(manager, vector, vector.low_level)


def vector_of(element):
    """The vector type of an element type."""
    return Vector(element, LANES if element.bitwidth <= 32 else LANES // 2)


def flags_of(vector):
    """The type of a comparison's result."""
    return Vector(types.boolean, vector.lanes)


FLOATS, INTEGERS = vector_of(types.float32), vector_of(types.int32)


# Operators: between vectors of one type, or a vector and a number, which then stands in every lane


def splat(builder, vector, number):
    """The number in every lane."""
    kind = vector.low_level
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), number, ir.IntType(32)(0))
    first = ir.Constant(ir.VectorType(ir.IntType(32), vector.lanes), [0] * vector.lanes)
    return builder.shuffle_vector(one, ir.Constant(kind, ir.Undefined), first)


def define(symbol, generate, compares=False):
    """An operator; `generate(builder, vector type, left, right)` gives its LLVM value."""

    @type_callable(symbol)
    def _(context):
        def signature(left, right):
            vectors = [one for one in (left, right) if isinstance(one, Vector)]
            if not vectors or vectors[0] != vectors[-1]:
                return None
            vector = vectors[0]
            operands = [one if isinstance(one, Vector) else vector.element for one in (left, right)]
            return (flags_of(vector) if compares else vector)(*operands)

        return signature

    def lower(context, builder, signature, arguments):
        vector = next(one for one in signature.args if isinstance(one, Vector))
        operands = [
            value if isinstance(one, Vector) else splat(builder, vector, value)
            for one, value in zip(signature.args, arguments, strict=True)
        ]
        return generate(builder, vector, *operands)

    for operands in ((Vector, Vector), (Vector, types.Number), (types.Number, Vector)):
        lower_builtin(symbol, *operands)(lower)


def arithmetic(of_floats, of_integers):
    """Of floats and of integers."""
    return lambda builder, vector, a, b: getattr(builder, of_floats if vector.is_float else of_integers)(a, b)


def comparison(symbol):
    """Never true of NaN; integers are signed."""
    return lambda builder, vector, a, b: (builder.fcmp_ordered if vector.is_float else builder.icmp_signed)(
        symbol, a, b
    )


define(operator.add, arithmetic("fadd", "add"))
define(operator.sub, arithmetic("fsub", "sub"))
define(operator.mul, arithmetic("fmul", "mul"))
define(operator.and_, lambda builder, vector, a, b: builder.and_(a, b))
define(operator.or_, lambda builder, vector, a, b: builder.or_(a, b))
define(operator.xor, lambda builder, vector, a, b: builder.xor(a, b))
define(operator.lshift, lambda builder, vector, a, b: builder.shl(a, b))
define(operator.rshift, lambda builder, vector, a, b: builder.ashr(a, b))
for one, symbol in ((operator.gt, ">"), (operator.ge, ">="), (operator.lt, "<"), (operator.le, "<=")):
    define(one, comparison(symbol), compares=True)
define(operator.eq, comparison("=="), compares=True)


# Pointers


@intrinsic
def pointer(context, array):
    """To the first element of an array, whose elements lie one after the other."""
    if array.layout != "C":
        return None

    def generate(context, builder, signature, arguments):
        return context.make_array(array)(context, builder, arguments[0]).data

    return types.CPointer(array.dtype)(array), generate


@intrinsic
def ahead(context, start, n):
    """The pointer `n` elements on."""

    def generate(context, builder, signature, arguments):
        return builder.gep(arguments[0], [arguments[1]])

    return start(start, types.intp), generate


@intrinsic
def fetch(context, start):
    """Ask for the memory at a pointer, which is written to soon."""

    def generate(context, builder, signature, arguments):
        at = builder.bitcast(arguments[0], ir.IntType(8).as_pointer())
        flag = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [at.type, flag, flag, flag])
        call = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0i8")
        builder.call(call, [at, flag(1), flag(3), flag(1)])  # to write, to keep, data
        return context.get_dummy_value()

    return types.none(start), generate


@intrinsic
def load(context, start):
    """The vector that begins at a pointer, which need not be aligned to it."""
    vector = vector_of(start.dtype)

    def generate(context, builder, signature, arguments):
        at = builder.bitcast(arguments[0], vector.low_level.as_pointer())
        return builder.load(at, align=start.dtype.bitwidth // 8)

    return vector(start), generate


@intrinsic
def store(context, start, vector):
    """A vector to where the pointer points."""

    def generate(context, builder, signature, arguments):
        at = builder.bitcast(arguments[0], vector.low_level.as_pointer())
        builder.store(arguments[1], at, align=start.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(start, vector), generate


# Vectors


def call(builder, name, result, *arguments):
    """An LLVM intrinsic function."""
    kind = ir.FunctionType(result, [one.type for one in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)


@intrinsic
def lane_numbers(context):
    """0, 1, 2, ... as int32."""

    def generate(context, builder, signature, arguments):
        return ir.Constant(INTEGERS.low_level, list(range(LANES)))

    return INTEGERS(), generate


@intrinsic
def select(context, flags, yes, no):
    """From each lane of `yes` or `no`."""

    def generate(context, builder, signature, arguments):
        return builder.select(*arguments)

    return yes(flags, yes, no), generate


@intrinsic
def pack(context, flags):
    """Flags as bits of a uint64, lane 0 lowest."""

    def generate(context, builder, signature, arguments):
        return builder.zext(builder.bitcast(arguments[0], ir.IntType(flags.lanes)), ir.IntType(64))

    return types.uint64(flags), generate


@intrinsic
def keys_of(context, vector):
    """Float bits as signed integers -> integers in the order of the floats (see csrc/bits.h)."""

    def generate(context, builder, signature, arguments):
        width, bits = vector.element.bitwidth, arguments[0]
        one, sign = (ir.Constant(bits.type, [n] * vector.lanes) for n in (1, width - 1))
        return builder.xor(bits, builder.lshr(builder.ashr(bits, sign), one))

    return vector(vector), generate


@intrinsic
def counts_of(context, words):
    """Bits set in each uint64, as int64."""

    def generate(context, builder, signature, arguments):
        return call(builder, f"llvm.ctpop.v{words.lanes}i64", words.low_level, arguments[0])

    return Vector(types.int64, words.lanes)(words), generate


@intrinsic
def most_of(context, vector):
    """The largest of signed integers."""
    return vector.element(vector), across("smax", vector)


@intrinsic
def least_of(context, vector):
    """The least of signed integers."""
    return vector.element(vector), across("smin", vector)


def across(name, vector):
    """What LLVM reduces the lanes to."""

    def generate(context, builder, signature, arguments):
        name_of_type = f"v{vector.lanes}i{vector.element.bitwidth}"
        return call(builder, f"llvm.vector.reduce.{name}.{name_of_type}", vector.low_level.element, arguments[0])

    return generate


@intrinsic
def widened(context, halves):
    """int16 -> int32, of the same value."""

    def generate(context, builder, signature, arguments):
        return builder.sext(arguments[0], INTEGERS.low_level)

    return INTEGERS(halves), generate


@intrinsic
def as_floats(context, integers):
    """int32 -> float32, of the same value."""

    def generate(context, builder, signature, arguments):
        return builder.sitofp(arguments[0], FLOATS.low_level)

    return FLOATS(integers), generate


@intrinsic
def bits_of(context, floats):
    """float32 -> int32, of the same bits."""

    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], INTEGERS.low_level)

    return INTEGERS(floats), generate


@inlined
def load_vector(values, n, last):
    """The next LANES values; where only n are left in memory, those, and what `last` holds behind them."""
    if n >= LANES:
        return load(values)
    for i in range(n):
        last[i] = values[i]
    return load(last)


@inlined
def as_single(half):
    """float16 bits -> float32 bits, by integers and normal floats alone, so that no mode of the FPU matters."""
    bits = widened(half)
    magnitude = bits & 0x7FFF
    small = bits_of(as_floats(magnitude) * LEAST_HALF)
    normal = (magnitude << 13) + WIDER
    normal = select(magnitude >= ODD, normal + WIDER, normal)
    return select(magnitude < 0x0400, small, normal) | (bits & SIGN)


# Single words and numbers


@intrinsic
def popcount64(context, word):
    """Bits set in a uint64, as int64."""

    def generate(context, builder, signature, arguments):
        return builder.ctpop(arguments[0])

    return types.int64(types.uint64), generate


@intrinsic
def lowest_bit(context, word):
    """Place of the lowest bit set in a uint64 that is not 0."""

    def generate(context, builder, signature, arguments):
        return builder.cttz(arguments[0], ir.IntType(1)(1))

    return types.int64(types.uint64), generate


@intrinsic
def highest_bit(context, word):
    """Place of the highest bit set in a uint64 that is not 0."""

    def generate(context, builder, signature, arguments):
        return builder.sub(ir.IntType(64)(63), builder.ctlz(arguments[0], ir.IntType(1)(1)))

    return types.int64(types.uint64), generate


@inlined
def key32(bits):
    """float32 bits, signed -> an integer in the order of the floats."""
    value = np.int32(bits)
    return np.int32(value ^ ((value >> 31) & 0x7FFFFFFF))


@inlined
def low_bits(n):
    """The lowest n bits, fewer than 64."""
    return (np.uint64(1) << np.uint64(n)) - np.uint64(1)
