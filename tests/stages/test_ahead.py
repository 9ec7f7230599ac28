"""Reading ahead."""

import threading

import pytest

from streamdissect.stages.ahead import AHEAD, read_ahead


def test_items_come_in_order_and_read_ahead():
    made = []

    def items():
        for i in range(5):
            made.append((i, threading.current_thread() is threading.main_thread()))
            yield i

    seen = []
    for i in read_ahead(items(), 2):
        seen.append(i)
        assert len(made) <= i + 1 + AHEAD
    assert seen == list(range(5)) and [i for i, _ in made] == seen
    assert not any(is_main for _, is_main in made)
    assert list(read_ahead(iter([]), 2)) == []


def test_one_thread_does_all_itself():
    made = []

    def items():
        for i in range(3):
            made.append(threading.current_thread() is threading.main_thread())
            yield i

    for i in read_ahead(items(), 1):
        assert made == [True] * (i + 1)


def test_an_error_comes_out_where_its_item_is_asked_for():
    def items():
        yield 1
        raise OSError("gone")

    ahead = read_ahead(items(), 2)
    assert next(ahead) == 1
    with pytest.raises(OSError, match="gone"):
        next(ahead)


def test_whoever_leaves_early_leaves_no_thread():
    before = threading.active_count()
    ahead = read_ahead(iter(range(100)), 2)
    assert next(ahead) == 0
    ahead.close()
    assert threading.active_count() == before
