"""The labels of an image -> planes and the counter rows that they feed: the rest of csrc/planes.h."""

# mypy: allow-untyped-defs, no-check-untyped-defs

from __future__ import annotations

import numpy as np

from .numba_bits import ahead, pointer, popcount64
from .numba_jit import inlined, jit
from .numba_planes import (
    ALL,
    AREA,
    COLUMN,
    IGNORED,
    KEY,
    N_COUNTS,
    N_LAID,
    N_PLANES,
    N_PRESENT,
    N_SEEN,
    N_WHOLE_COLUMN,
    N_WHOLE_ROW,
    NOWHERE,
    NUMBER,
    ORDER,
    PALETTE,
    PLANE_ROW,
    PRESENT_AREA,
    PRESENT_ROW,
    STATE,
    TOUCH_ROW,
    UNSEEN,
    WHOLE_COLUMN,
    WHOLE_ROW,
    Found,
    Palette,
    Rules,
    forget,
    is_among,
    last_valid,
    new_plane,
    pixels_at,
    plane_at,
    scan_layer,
)

SOMEWHERE, EVERYWHERE = 1, 2
"""A category has labels, at every pixel."""


@inlined
def find_whole(rules, found, whole):
    """The columns of labels that hold at every pixel: as given, or each once, ascending."""
    n = 0
    for number in whole:
        column = rules.column_of[number]
        if column < 0 or (rules.as_set and is_among(found.whole_column, n, column)):
            continue
        at = n
        while rules.as_set and at > 0 and found.whole_column[at - 1] > column:
            found.whole_column[at] = found.whole_column[at - 1]
            at -= 1
        found.whole_column[at] = column
        n += 1
    found.n[N_WHOLE_COLUMN] = n


@inlined
def fill(found, plane):
    """Every pixel, padding left out."""
    words = found.n_words // found.height
    for y in range(found.height):
        for q in range(words):
            plane[y * words + q] = ALL
        plane[y * words + words - 1] = last_valid(found)


@inlined
def add(found, plane, other):
    """The pixels of another plane too."""
    for i in range(found.n_words):
        plane[i] |= other[i]


@inlined
def take(found, plane, other):
    """But the pixels of another plane."""
    for i in range(found.n_words):
        plane[i] &= ~other[i]


@inlined
def area_of(found, plane):
    """Its pixels."""
    area = 0
    for i in range(found.n_words):
        area += popcount64(plane[i])
    return area


@jit
def find_ignored(rules, found, whole):
    """Planes of the pixels not judged for a category. False where there is no room."""
    n_labels = found.n[N_PLANES]
    for g in range(len(rules.ignore)):
        code = rules.ignore[g]
        found.ignored[g] = -1
        if not code:
            continue
        everywhere = is_among(whole, len(whole), code)
        if not everywhere and not is_among(found.number, n_labels, code):
            continue
        slot = new_plane(found, 0, 0, -1)
        if slot < 0:
            return False
        found.ignored[g] = slot
        if everywhere:
            fill(found, plane_at(found, slot))
        for i in range(n_labels):
            if found.number[i] == code:
                add(found, plane_at(found, slot), plane_at(found, i))
    return True


@inlined
def sort_planes(key, order, n):
    """Ascending keys, and no two are equal (Shell's sort: rarely more than 30)."""
    gap = 1
    while gap < n // 3:
        gap = 3 * gap + 1
    while gap > 0:
        for i in range(gap, n):
            one, at = order[i], i
            while at >= gap and key[order[at - gap]] > key[one]:
                order[at] = order[at - gap]
                at -= gap
            order[at] = one
        gap //= 3


@inlined
def lay_next(found, slot, row):
    """A plane lies next to the last."""
    n = found.n[N_LAID]
    found.order[n], found.touch_row[n], found.plane_row[n] = slot, -1, row
    found.n[N_LAID] = n + 1


@inlined
def judged(found, category, column):
    """A plane of the pixels judged for a category; -1 where there is no room."""
    slot, ignored = new_plane(found, 0, 0, column), found.ignored[category]
    if slot >= 0:
        fill(found, plane_at(found, slot))
        if ignored >= 0:
            take(found, plane_at(found, slot), plane_at(found, ignored))
    return slot


@jit
def lay_concepts(rules, found, n_labels):
    """Planes of concepts: those of maps by category, then those of labels that no longer hold at every pixel."""
    n = 0
    for i in range(1, n_labels):
        if found.column[i] < 0:
            continue
        ignored = found.ignored[rules.category[found.column[i]]]
        if ignored >= 0:
            take(found, plane_at(found, i), plane_at(found, ignored))
        found.area[i] = area_of(found, plane_at(found, i))
        if found.area[i]:
            found.order[n] = i
            n += 1
    sort_planes(found.key, found.order, n)
    found.n[N_LAID] = 0
    for i in range(n):
        lay_next(found, found.order[i], found.column[found.order[i]])
    n = 0
    for i in range(found.n[N_WHOLE_COLUMN]):
        column = found.whole_column[i]
        category = rules.category[column]
        if found.ignored[category] < 0:
            found.whole_column[n] = column
            n += 1
            continue
        slot = judged(found, category, column)
        if slot < 0:
            return False
        found.area[slot] = area_of(found, plane_at(found, slot))
        lay_next(found, slot, column)
    found.n[N_WHOLE_COLUMN] = n
    return True


@inlined
def add_present(rules, found, column, area, state):
    """A concept is in the image, at some of its pixels. `slot_of` is no longer of numbers: its place in the list."""
    at = found.slot_of[column]
    if at == UNSEEN:
        at = np.int32(found.n[N_PRESENT])
        found.seen[found.n[N_SEEN]] = column
        found.n[N_SEEN] += 1
        found.present_row[at], found.present_area[at], found.slot_of[column] = column, 0, at
        found.n[N_PRESENT] += 1
    found.present_area[at] += area
    found.state[rules.category[column]] |= state


@jit
def list_present(rules, found):
    """The concepts in the image."""
    found.n[N_PRESENT] = 0
    for g in range(len(rules.ignore)):
        found.state[g] = 0
    for i in range(found.n[N_LAID]):
        add_present(rules, found, found.plane_row[i], found.area[found.order[i]], SOMEWHERE)
    for i in range(found.n[N_WHOLE_COLUMN]):
        add_present(rules, found, found.whole_column[i], found.height * found.width, SOMEWHERE | EVERYWHERE)
    forget(found)


@jit
def lay_categories(rules, found, category_pixels):
    """Rows of the unit's area: over all images, and over those with a category, where part of an image may count."""
    n_pixels, n, n_whole = found.height * found.width, found.n[N_LAID], found.n[N_WHOLE_COLUMN]
    n_concepts, n_categories = len(rules.category), len(rules.ignore)
    for i in range(n_whole):
        found.whole_row[i] = found.whole_column[i]
    found.whole_row[n_whole] = n_concepts + n_categories
    n_whole += 1
    for g in range(n_categories):
        if not found.state[g]:
            continue
        row, slot, pixels = n_concepts + g, -1, n_pixels
        is_partly = not found.state[g] & EVERYWHERE
        if rules.labelled_only and is_partly:
            slot = new_plane(found, 0, 0, -1)
            if slot < 0:
                return False
            for i in range(n):  # of which no pixel is ignored
                if rules.category[found.plane_row[i]] == g:
                    add(found, plane_at(found, slot), plane_at(found, found.order[i]))
        elif found.ignored[g] >= 0:
            slot = judged(found, g, -1)
            if slot < 0:
                return False
        if slot >= 0:
            pixels = area_of(found, plane_at(found, slot))
        category_pixels[g] = pixels
        if pixels < n_pixels:
            lay_next(found, slot, row)
        elif rules.touch and is_partly:
            for i in range(n):
                if rules.category[found.plane_row[i]] == g:
                    found.touch_row[i] = row
        else:
            found.whole_row[n_whole] = row
            n_whole += 1
    found.n[N_WHOLE_ROW] = n_whole
    return True


@jit
def index_labels(
    addresses, whole, column_of, category, ignore, as_set, touch, labelled_only, height, width, planes, tables,
    long_lists, lists, counts, pixels, category_pixels
):  # fmt: skip
    """Everything about an image but the planes side by side. False where there is no room: to be called with more."""
    rules = Rules(column_of, category, ignore, as_set, touch, labelled_only)
    long_list, short_list, most = pointer(long_lists), pointer(lists), lists.shape[1]
    found = Found(
        pointer(planes),
        pointer(tables),
        ahead(pointer(tables), tables.shape[1]),
        ahead(long_list, KEY * most),
        ahead(long_list, AREA * most),
        ahead(long_list, ORDER * most),
        ahead(long_list, PRESENT_AREA * most),
        ahead(short_list, NUMBER * most),
        ahead(short_list, COLUMN * most),
        ahead(short_list, PLANE_ROW * most),
        ahead(short_list, TOUCH_ROW * most),
        ahead(short_list, WHOLE_ROW * most),
        ahead(short_list, PRESENT_ROW * most),
        ahead(short_list, WHOLE_COLUMN * most),
        ahead(short_list, IGNORED * most),
        ahead(short_list, STATE * most),
        pointer(counts),
        planes.shape[0],
        planes.shape[1],
        height,
        width,
        height * ((width + 63) // 64),
    )
    n = pointer(counts)
    palette = Palette(ahead(pointer(pixels), 64), ahead(n, N_COUNTS), ahead(n, N_COUNTS + PALETTE))
    found.n[N_PLANES] = 0
    find_whole(rules, found, whole)
    has_room = new_plane(found, 0, 0, -1) == NOWHERE
    for i in range(len(addresses)):
        has_room = has_room and scan_layer(rules, found, i, pixels_at(addresses[i]), palette, pointer(pixels))
    forget(found)
    n_labels = found.n[N_PLANES]
    if not (has_room and find_ignored(rules, found, whole) and lay_concepts(rules, found, n_labels)):
        return False
    list_present(rules, found)
    return lay_categories(rules, found, category_pixels)
