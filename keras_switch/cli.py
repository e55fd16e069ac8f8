"""`keras-switch COMMAND [flags]`."""

import os
import pathlib
import sys
import traceback

from absl import logging

from keras_switch import __version__
from keras_switch import command_line
from keras_switch import process
from keras_switch.commands import COMMANDS

FAILED, MISUSED = 1, 2


def main(argv=None):
    """Runs a command; returns its exit code by `SystemExit`."""
    try:
        code = _main((sys.argv if argv is None else argv)[1:])
        sys.stdout.flush()
    except command_line.UsageError as error:
        print(error, file=sys.stderr)
        code = MISUSED
    except BrokenPipeError:
        # Whoever read the output has gone, and Python would flush it once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = FAILED
    sys.exit(code)


def _main(arguments):
    """Answers a call for help, or runs a command; returns the exit code."""
    name, *rest = arguments or ["help"]
    if name == "--version":
        print(f"keras-switch {__version__}")
        return 0
    asks = name == "help" or command_line.is_help(name)
    if asks and not rest:
        print(command_line.usage(COMMANDS))
        return 0
    if asks:
        name, *rest = [*rest, "--help"]
    if name.startswith("-"):
        raise command_line.UsageError(f"Unknown flag: {name}. A command comes before its flags.")
    if name not in COMMANDS:
        proposal = command_line.did_you_mean(name, COMMANDS)
        known = ", ".join(COMMANDS)
        raise command_line.UsageError(
            f"Unknown command: {name!r}.{proposal} The commands are: {known}."
        )
    if any(map(command_line.is_help, rest)):
        print(command_line.command_usage(name, COMMANDS[name]))
        return 0
    values = command_line.define(COMMANDS[name].define_flags)
    arguments = command_line.parse(name, values, rest, bool(COMMANDS[name].arguments))
    command_line.require(name, values, COMMANDS[name].required)
    return _run(name, values, arguments)


def _run(name, values, arguments):
    logging.set_verbosity(logging.ERROR)
    try:
        COMMANDS[name].run(values, *arguments)
        sys.stdout.flush()
        return 0
    except KeyboardInterrupt:
        print(f"\nStopped.{_how_to_resume(values)}", file=sys.stderr)
        return process.INTERRUPTED
    except BrokenPipeError:
        raise
    except Exception as error:
        if os.environ.get(command_line.TRACEBACK, "0") not in ("", "0"):
            traceback.print_exc()
        else:
            if sys.stdout.isatty():
                print(flush=True)  # A progress bar may be in the line.
            message = command_line.explain(error, values, COMMANDS[name].aliases)
            print(f"keras-switch {name}: {message}", file=sys.stderr)
        return FAILED


def _how_to_resume(values):
    """What to do after Ctrl-C in a command that saves checkpoints."""
    if "restart" not in values:
        return ""
    from keras_switch.training import checkpoint

    if checkpoint.latest(pathlib.Path(values["output_dir"].value) / "checkpoints") is None:
        return " There is no checkpoint yet."
    again = " The same command again"
    if values["restart"].value:
        again += ", but without --restart,"
    return f"{again} resumes from the last checkpoint."


if __name__ == "__main__":
    main()
