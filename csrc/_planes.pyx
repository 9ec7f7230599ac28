# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""Label maps -> label planes. Twin of kernels/reference.py."""
from libc.stdint cimport int32_t, int64_t, uint16_t, uint64_t


def fill_planes(
    const uint16_t[:, ::1] layer,           # (H, W) label numbers
    const int32_t[::1] plane_of,            # (65536,) plane of a number, or -1
    uint64_t[:, ::1] planes,                # (H * words, n_planes), bits are set
):
    cdef Py_ssize_t y, x, end, q, words = (layer.shape[1] + 63) // 64, width = layer.shape[1]
    cdef Py_ssize_t first, last
    cdef uint16_t number
    cdef int32_t plane
    cdef uint64_t from_first, to_last
    with nogil:
        for y in range(layer.shape[0]):
            x = 0
            while x < width:                    # by runs of one label: maps are made of regions
                number = layer[y, x]
                end = x + 1
                while end < width and layer[y, end] == number:
                    end += 1
                plane = plane_of[number]
                if plane >= 0:
                    first, last = x >> 6, (end - 1) >> 6
                    from_first = (~<uint64_t> 0) << (x & 63)
                    to_last = (~<uint64_t> 0) >> (63 - ((end - 1) & 63))
                    if first == last:
                        planes[y * words + first, plane] |= from_first & to_last
                    else:
                        planes[y * words + first, plane] |= from_first
                        for q in range(first + 1, last):
                            planes[y * words + q, plane] = ~<uint64_t> 0
                        planes[y * words + last, plane] |= to_last
                x = end


def count_numbers(
    const uint16_t[:, ::1] layer,           # (H, W) label numbers
    int64_t[::1] count,                     # (65536,) added to
):
    cdef Py_ssize_t y, x, end, width = layer.shape[1]
    cdef uint16_t number
    with nogil:
        for y in range(layer.shape[0]):
            x = 0
            while x < width:
                number = layer[y, x]
                end = x + 1
                while end < width and layer[y, end] == number:
                    end += 1
                count[number] += end - x
                x = end
