"""Command line: parse, call one stage, print. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from types import FrameType
from typing import Any

from .. import __doc__ as about
from .. import __version__
from ..errors import BadInput, StreamdissectError
from ..ranks import Rank, find_rank
from ..stages.profile import describe_profile
from . import arguments
from .arguments import COMMANDS
from .output import TerminalControl, note, speaking_as

PREFIX = "STREAMDISSECT_"
OTHER_VARIABLES = ("RUN", "KERNELS", "SIMD", "REQUIRE_EXT", "TEST_SHARED", "GOLDEN_CSV")
"""That are no options."""
SWITCH_SECONDS = 0.0002
"""How long a thread that comes back from a kernel waits for one that runs Python; Python's own 5 ms are longer than a
chunk's counting, and took a third of the gain from reading ahead."""
STOP_SIGNALS = ("SIGINT", "SIGTERM", "SIGUSR1")
FULL = (errno.ENOSPC, errno.EDQUOT)


def build_parser() -> tuple[arguments.Parser, dict[str, Any]]:
    """The parser, and the module of each command."""
    parser = arguments.Parser(prog="streamdissect", description=(about or "").partition("\n")[0])
    parser.add_argument("--version", action="version", version=f"streamdissect {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=arguments.Parser)
    modules = {}
    for name in COMMANDS:
        module = modules[name] = import_module(f".{name}", __name__)
        text = (module.__doc__ or "").strip()
        child = commands.add_parser(name, help=text.partition("\n")[0], description=text)
        child.set_defaults(parser=child)
        module.add_arguments(child)
    return parser, modules


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; returns its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # names of concepts and files may be more than a terminal can show
    sys.setswitchinterval(SWITCH_SECONDS)
    parser, modules = build_parser()
    given, unknown = parser.parse_known_args(argv)
    if given.command is None:
        parser.refuse_unknown(unknown)
        parser.print_help()
        return 0
    if hasattr(given, "words"):  # argparse takes none that come behind the first option
        given.words += [word for word in unknown if not word.startswith("-")]
        unknown = [word for word in unknown if word.startswith("-")]
    given.parser.refuse_unknown(unknown)
    with speaking_as(rank := find_rank()):
        return call(modules, given, rank)


def call(modules: dict[str, Any], given: Any, rank: Rank | None) -> int:
    """Run the command given, and turn what goes wrong into a line and a code."""
    place = f"streamdissect {given.command}"
    debug = bool(given.debug)
    try:
        values = resolve_all(modules, given)
        debug = values.get("debug", False)
        module = modules[given.command]
        is_split = any(option.flag == "--shard" for option in module.OPTIONS) and "until_stable" not in values
        if rank is not None and not rank.index and is_split and "shard" not in values:
            note(f"{place}: {rank.count} processes of {rank.launcher} share the work")
        if rank is not None and rank.index and not is_split:
            return 0  # rank 0 does what is not shared out
        return run_command(module, given.command, values)
    except StreamdissectError as error:
        return fail(f"{place}: {error}", error.exit_code, debug)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or closing stdout would complain once more
        return 1
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        what = "the disk is full" if error.errno in FULL else error.strerror or str(error)
        remedy = "; the same command resumes" if error.errno in (*FULL, errno.EIO, errno.EFBIG) else ""
        return fail(f"{place}: {where}{what}{remedy}", 1, debug)
    except MemoryError as error:
        return fail(f"{place}: out of memory ({error}); give a smaller --memory or --batch-size", 1, debug)
    except Exception as error:  # a mistake of ours: one line all the same, and the way to more
        remedy = "" if debug else "; --debug shows where"
        return fail(f"{place}: internal error: {type(error).__name__}: {error}{remedy}", 1, debug)


def refuse_misspelt(modules: dict[str, Any]) -> None:
    """BadInput for a variable that is nearly an option's: it would be ignored. Others may be of other programs."""
    options = {option.name.upper() for module in modules.values() for option in module.OPTIONS}
    for name in os.environ:
        bare = name.removeprefix(PREFIX)
        if (
            name != bare
            and bare not in {*options, *OTHER_VARIABLES}
            and (near := get_close_matches(bare, [*options, *OTHER_VARIABLES], 1, 0.8))
        ):
            remedy = f"did you mean {PREFIX}{near[0]}?"
            raise BadInput("environment", name, "the name of an option", remedy)


def resolve_all(modules: dict[str, Any], given: Any) -> dict[str, Any]:
    """Values of the options, and of RUN, OUT or DATA."""
    refuse_misspelt(modules)
    values = arguments.resolve(modules[given.command].OPTIONS, given, given.command)
    for name in ("run", "out", "source", "words"):
        if getattr(given, name, None) is not None:
            values[name] = getattr(given, name)
    default = os.environ.get("STREAMDISSECT_RUN")
    place = "out" if given.command == "extract" else "run"
    if default and place not in values and hasattr(given, place) and given.command != "info":
        values[place] = default
    return values


def run_command(module: Any, command: str, values: dict[str, Any]) -> int:
    """Listen to signals, call the command."""
    control = TerminalControl()

    def stop(number: int, frame: FrameType | None) -> None:
        # Launchers send SIGTERM twice, to the group and from each to its own: only a person means it the second time
        is_from_terminal = number == signal.SIGINT
        signal.signal(number, signal.SIG_DFL if is_from_terminal else signal.SIG_IGN)
        more = "; once more to stop at once" if is_from_terminal else ""
        note(f"streamdissect {command}: {signal.Signals(number).name}: stopping{more}")
        control.stop()

    for name in STOP_SIGNALS:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), stop)
    begin = time.perf_counter()
    code: int = module.run(values, control)
    if values.get("profile"):
        for line in describe_profile(control.seconds, time.perf_counter() - begin):
            note(line)
    return code


def fail(message: str, code: int, debug: bool) -> int:
    """Print what went wrong, in one line unless more is asked for."""
    if debug:
        traceback.print_exc()
    print(" ".join(message.split("\n")), file=sys.stderr, flush=True)
    return code
