"""Who counts in the tests of masks and counters: every backend, and Cython at each of its levels."""

from contextlib import contextmanager

import pytest

from streamdissect.kernels import kernel_backend

LEVELS = ("avx512", "avx2", "portable")
CONTENDERS = (*(f"cython {level}" for level in LEVELS), "numba", "torch")


@contextmanager
def taking(contender):
    """The backend's name; meanwhile it works at the contender's level. ImportError where there is no such thing."""
    name, _, level = contender.partition(" ")
    module = kernel_backend(name)
    if not level:
        yield name
        return
    if level not in module.levels():
        raise ImportError(f"cython has no level {level} here")
    before = module.level()
    module.use_level(level)
    try:
        yield name
    finally:
        module.use_level(before)


def skip_unless_here(contender):
    """The test is skipped where there is no such thing."""
    try:
        with taking(contender):
            pass
    except ImportError as error:
        pytest.skip(str(error))


def contenders_here():
    """Those that there are."""
    found = []
    for contender in CONTENDERS:
        try:
            with taking(contender):
                found.append(contender)
        except ImportError:
            continue
    return found
