"""Every exception of the package, and the exit code each one means."""

from __future__ import annotations


class StreamdissectError(Exception):
    """Anything the package refuses or fails to do; the command line prints its one line and leaves with `exit_code`."""

    exit_code = 1


class BadInput(StreamdissectError, ValueError):
    """The user's input cannot be used.

    Parameters
    ----------
    thing : str
        What was given: an option, a file, a table cell.
    value : str
        The value found there.
    expected : str
        What would have been accepted.
    remedy : str
        What to do about it.
    """

    exit_code = 2

    def __init__(self, thing: str, value: str, expected: str, remedy: str) -> None:
        super().__init__(thing, value, expected, remedy)
        self.thing, self.value, self.expected, self.remedy = thing, value, expected, remedy

    def __str__(self) -> str:
        return f"{self.thing}: got {self.value}, expected {self.expected}; {self.remedy}"


class IncompleteRun(StreamdissectError):
    """A run lacks shards, or a file in it is damaged; the message names them and the remedy."""

    exit_code = 3


class StorageFailure(StreamdissectError):
    """The disk is full or a file cannot be read or written."""

    exit_code = 1


class Stopped(StreamdissectError):
    """Stopped cleanly by a signal; the same command resumes."""

    exit_code = 75
