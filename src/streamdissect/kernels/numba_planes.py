"""Label maps -> label planes: the loops of csrc/planes.h."""

# mypy: allow-untyped-defs, no-check-untyped-defs

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from .numba_bits import ahead, load, lowest_bit, pack, pointer
from .numba_jit import inlined, jit

ALL = np.uint64(2**64 - 1)
PALETTE = 8
"""Labels that are compared with every word."""
REMEMBERED = 8
"""Rows after which those not met again are dropped."""
UNSEEN = -1
NOWHERE = 0
"""The plane of what is no concept; nobody reads it."""
N_LISTS, N_LONG_LISTS, N_COUNTS = 9, 4, 6
NUMBER, COLUMN, PLANE_ROW, TOUCH_ROW, WHOLE_ROW, PRESENT_ROW, WHOLE_COLUMN, IGNORED, STATE = range(N_LISTS)
KEY, AREA, ORDER, PRESENT_AREA = range(N_LONG_LISTS)
N_PLANES, N_SEEN, N_WHOLE_COLUMN, N_LAID, N_WHOLE_ROW, N_PRESENT = range(N_COUNTS)


class Rules(NamedTuple):
    """LabelTables as the kernels take them."""

    column_of: NDArray[np.int32]
    category: NDArray[np.int32]
    ignore: NDArray[np.int32]
    as_set: bool
    touch: bool
    labelled_only: bool


class Found(NamedTuple):
    """What is known of an image: sd_found, by pointers, its counts in a list of their own."""

    planes: Any
    slot_of: Any
    seen: Any
    key: Any
    area: Any
    order: Any
    present_area: Any
    number: Any
    column: Any
    plane_row: Any
    touch_row: Any
    whole_row: Any
    present_row: Any
    whole_column: Any
    ignored: Any
    state: Any
    n: Any
    room: int
    stride: int
    height: int
    width: int
    n_words: int


class Palette(NamedTuple):
    """Labels that a column of words has lately met, by pointers."""

    number: Any
    slot: Any
    met: Any


@intrinsic
def pixels_at(context, address):
    """The label map at an address."""

    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.CPointer(types.uint16)(types.int64), generate


@inlined
def pixels_from(at):
    """64 pixels, ready to be compared with a number."""
    return load(at), load(ahead(at, 16)), load(ahead(at, 32)), load(ahead(at, 48))


@inlined
def equal(pixels, number):
    """Bits of those that carry the number."""
    a, b, c, d = pixels
    low = pack(a == number) | pack(b == number) << np.uint64(16)
    high = pack(c == number) | pack(d == number) << np.uint64(16)
    return low | high << np.uint64(32)


@inlined
def plane_at(found, slot):
    """A plane's words."""
    return ahead(found.planes, slot * found.stride)


@inlined
def last_valid(found):
    """Bits of the last word of a row that stand for pixels."""
    return ALL >> np.uint64(-found.width & 63)


@jit
def new_plane(found, key, number, column):
    """An empty plane; -1 where there is no room for it."""
    slot = found.n[N_PLANES]
    if slot == found.room:
        return -1
    plane = plane_at(found, slot)
    for i in range(found.n_words):
        plane[i] = np.uint64(0)
    found.key[slot] = key
    found.number[slot] = number
    found.column[slot] = column
    found.n[N_PLANES] = slot + 1
    return slot


@inlined
def is_among(some, n, one):
    """Does a list hold a number?"""
    i = 0
    while i < n and some[i] != one:
        i += 1
    return i < n


@jit
def meet(rules, found, layer, number):
    """The plane of a number that is met for the first time; -1 where there is no room."""
    slot, key = np.int64(NOWHERE), np.int64(0)
    column = rules.column_of[number]
    if column >= 0 and rules.as_set and is_among(found.whole_column, found.n[N_WHOLE_COLUMN], column):
        column = np.int32(-1)
    if column >= 0:
        key = np.int64(rules.category[column]) << 32 | layer << 16 | np.int64(number)
    if column >= 0 or (number and is_among(rules.ignore, len(rules.ignore), number)):
        slot = new_plane(found, key, number, column)
        if slot < 0:
            return slot
    found.slot_of[number] = slot
    found.seen[found.n[N_SEEN]] = number
    found.n[N_SEEN] += 1
    return slot


@inlined
def forget(found):
    """Every number is unseen."""
    for i in range(found.n[N_SEEN]):
        found.slot_of[found.seen[i]] = UNSEEN
    found.n[N_SEEN] = 0


@jit
def scan_layer(rules, found, layer, label_map, palette, rest):
    """Sets the pixels of one label map in the planes of its numbers. False where there is no room for another plane."""
    words, n_pixels = found.n_words // found.height, found.height * found.width
    number_of, slot_of, met = palette.number, palette.slot, palette.met
    for q in range(words):
        valid = last_valid(found) if q == words - 1 else ALL
        n_palette = 0
        for y in range(found.height):
            first = y * found.width + q * 64
            at, place = ahead(label_map, first), y * words + q
            left = valid
            if n_pixels - first < 64:  # where the map ends, memory may end too
                for i in range(n_pixels - first):
                    rest[i] = at[i]
                at = rest
            pixels = pixels_from(at)
            if y % REMEMBERED == 0:
                n = 0
                for i in range(n_palette):
                    if met[i]:
                        number_of[n], slot_of[n], met[n] = number_of[i], slot_of[i], 0
                        n += 1
                n_palette = n
            for i in range(n_palette):
                bits = equal(pixels, number_of[i]) & valid
                found.planes[slot_of[i] * found.stride + place] |= bits
                met[i] |= np.int64(bits)
                left &= ~bits
            while left:
                number = at[lowest_bit(left)]
                bits = equal(pixels, number) & valid
                slot = np.int64(found.slot_of[number])
                if slot == UNSEEN:
                    slot = meet(rules, found, layer, number)
                if slot < 0:
                    return False
                if n_palette < PALETTE:
                    number_of[n_palette], slot_of[n_palette], met[n_palette] = number, slot, np.int64(bits)
                    n_palette += 1
                found.planes[slot * found.stride + place] |= bits
                left &= ~bits
    if not rules.as_set:  # the same label in another map counts again
        forget(found)
    return True


@jit
def address_of(label_map):
    """Of its first pixel; the map is held by the caller."""
    return label_map.ctypes.data


@jit
def lay_planes(planes, order, words):
    """words (H * words, n_planes): planes side by side, eight words of each at a time."""
    n_words, n = words.shape
    source, out = pointer(planes), pointer(words)
    for begin in range(0, n_words, 8):
        end = min(begin + 8, n_words)
        for p in range(n):
            plane = ahead(source, order[p] * planes.shape[1])
            for w in range(begin, end):
                out[w * n + p] = plane[w]
