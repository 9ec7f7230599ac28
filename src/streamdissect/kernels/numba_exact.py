"""Is the bilinear value of four corners above a threshold, in real arithmetic: csrc/exact.h, where it is explained."""

# mypy: allow-untyped-defs, no-check-untyped-defs

from __future__ import annotations

import numpy as np

from .numba_bits import key32
from .numba_jit import jit

INFINITY_KEY = 0x7F800000
PIECE_BITS = 29
PIECE = (1 << PIECE_BITS) - 1
LEAST = 2.0**-149


@jit
def double_of(bits, value):
    """float32 -> float64, also where the FPU would read a subnormal as zero."""
    if bits & 0x7F800000:
        return np.float64(value)
    tiny = np.float64(bits & 0x7FFFFF) * LEAST
    return -tiny if bits < 0 else tiny


@jit
def sum_sign(terms, n_terms, expansion):
    """Sign of the exact sum of the terms, by a nonoverlapping expansion."""
    length = 0
    for t in range(n_terms):
        carry = terms[t]
        kept = 0
        for i in range(length):
            part = expansion[i]
            total = carry + part
            virtual_part = total - carry
            error = (carry - (total - virtual_part)) + (part - virtual_part)
            if error != 0:
                expansion[kept] = error
                kept += 1
            carry = total
        if carry != 0:
            expansion[kept] = carry
            kept += 1
        length = kept
    if length == 0:
        return 0
    return 1 if expansion[length - 1] > 0 else -1


@jit
def add_terms(terms, n_terms, value, weight):
    """value * weight as products without rounding."""
    for piece in range(3):
        part = (weight >> (PIECE_BITS * piece)) & PIECE
        if part != 0 and value != 0:
            terms[n_terms] = value * (np.float64(part) * np.float64(1 << (PIECE_BITS * piece)))
            n_terms += 1
    return n_terms


@jit
def is_above(scratch, rows, y, columns, x, bound_bits, bound, or_equal):
    """Is the bilinear value of pixel (y, x) above the threshold, in real arithmetic? The threshold is no -0.0."""
    bound_key = key32(bound_bits)
    if (bound_bits & 0x7FFFFFFF) > INFINITY_KEY:
        return False
    n_plus = n_minus = n_above = n_below = n_terms = 0
    for corner in range(4):
        weight = rows.numerator[y] if corner >= 2 else rows.denominator - rows.numerator[y]
        weight *= columns.numerator[x] if corner % 2 else columns.denominator - columns.numerator[x]
        if weight == 0:
            continue
        i = rows.second[y] if corner >= 2 else rows.first[y]
        j = columns.second[x] if corner % 2 else columns.first[x]
        bits = scratch.bits[i * scratch.stride + j]
        magnitude = bits & 0x7FFFFFFF
        if magnitude > INFINITY_KEY:
            return False
        if magnitude == INFINITY_KEY:
            n_plus += bits > 0
            n_minus += bits < 0
        key = key32(bits) if magnitude else np.int32(0)
        n_above += key > bound_key
        n_below += key < bound_key
    if n_plus and n_minus:
        return False
    if n_plus:
        return or_equal or bound_key < INFINITY_KEY
    if n_minus:
        return or_equal and bound_key == -INFINITY_KEY - 1
    if (bound_bits & 0x7FFFFFFF) == INFINITY_KEY:
        return bound_bits < 0
    if n_below == 0:
        return or_equal or n_above > 0
    if n_above == 0:
        return False
    for corner in range(4):
        weight = rows.numerator[y] if corner >= 2 else rows.denominator - rows.numerator[y]
        weight *= columns.numerator[x] if corner % 2 else columns.denominator - columns.numerator[x]
        i = rows.second[y] if corner >= 2 else rows.first[y]
        j = columns.second[x] if corner % 2 else columns.first[x]
        at = i * scratch.stride + j
        value = double_of(scratch.bits[at], scratch.floats[at])
        n_terms = add_terms(scratch.terms, n_terms, value, weight)
    whole = rows.denominator * columns.denominator
    n_terms = add_terms(scratch.terms, n_terms, -double_of(bound_bits, bound), whole)
    sign = sum_sign(scratch.terms, n_terms, scratch.expansion)
    return sign > 0 or (or_equal and sign == 0)
