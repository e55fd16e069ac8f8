"""Flags of a command, their help, and errors in one line that name them as they are typed."""

import dataclasses
import difflib
import functools
import math
import re
import typing

from absl import flags

PROGRAM = "keras-switch"
TRACEBACK = "KERAS_SWITCH_TRACEBACK"
HELP = ("help", "h", "helpshort", "helpfull")


class Command(typing.NamedTuple):
    """A command.

    Attributes:
        summary: string. What it does, in a line.
        define_flags: Function of a `Definer`.
        run: Function of the flags' values, and of what else is given.
        required: Tuple of the names of the flags that must be given.
        aliases: Dictionary from names of arguments, which errors name, to names of flags.
        arguments: string. What it takes besides flags, as its help shows it, if anything.
    """

    summary: str
    define_flags: typing.Callable
    run: typing.Callable
    required: tuple = ()
    aliases: dict = {}
    arguments: str = ""


class UsageError(Exception):
    """A command line that is wrong."""

    def __init__(self, message, command=None):
        command = f" {command}" if command else ""
        super().__init__(f"{PROGRAM}{command}: {message} See: {PROGRAM}{command} --help")


class Definer:
    """`absl.flags`, for flags of their own: `DEFINE_string` and the others add to `values`."""

    def __init__(self):
        self.values = flags.FlagValues()

    def __getattr__(self, name):
        return functools.partial(getattr(flags, name), flag_values=self.values)


def define(define_flags):
    """Returns the `absl.flags.FlagValues` that a function of a `Definer` defines."""
    definer = Definer()
    define_flags(definer)
    return definer.values


def define_settings(flags, config_class):
    """Defines a flag for each field of a class of `keras_switch.configs`."""
    for field in dataclasses.fields(config_class):
        summary, least, most, choices = field.metadata.values()
        if choices:
            flags.DEFINE_enum(field.name, field.default, choices, summary)
        elif field.type is str:
            flags.DEFINE_string(field.name, field.default, summary)
        else:
            define = flags.DEFINE_integer if field.type is int else flags.DEFINE_float
            define(field.name, field.default, summary, least, most)


def settings(config_class, values):
    """Makes the settings of a command: those of the file `--config`, which flags replace."""
    names = [field.name for field in dataclasses.fields(config_class)]
    given = {name: values[name].value for name in names if values[name].present}
    base = config_class.from_file(values.config) if values.config else config_class()
    return dataclasses.replace(base, **given)


def is_help(argument):
    """Whether an argument asks for help, in one of the usual spellings."""
    return argument.startswith("-") and argument.lstrip("-") in HELP


def usage(commands):
    """The help of the program.

    Args:
        commands: Dictionary of `Command`s by name.
    """
    width = max(map(len, commands))
    lines = [f"  {name:{width}}  {command.summary}" for name, command in commands.items()]
    return "\n".join(
        [
            "Switch Transformers for Keras.",
            "",
            f"usage: {PROGRAM} COMMAND [flags]",
            f"       {PROGRAM} --version",
            "",
            "commands:",
            *lines,
            "",
            f"{PROGRAM} COMMAND --help lists the flags of a command.",
            "",
            "The exit code is 0; 1 after an error, 2 if the command line is wrong, 130 after",
            f"Ctrl-C. An error is one line; with {TRACEBACK}=1 in the environment it is a",
            "traceback.",
        ]
    )


def command_usage(name, command):
    """The help of a `Command`."""
    flags = _flags(define(command.define_flags))
    lines = [f"{PROGRAM} {name}: {command.summary}"]
    if command.arguments:
        lines += ["", f"usage: {PROGRAM} {name} [flags] {command.arguments}"]
    lines += ["", "flags:"] if flags else []
    width = max((len(flag.name) for flag in flags), default=0)
    for flag in flags:
        has_none = flag.default in (None, "") or flag.default is False
        default = "" if has_none else f" (default: {flag.default})"
        lines.append(f"  --{flag.name:{width}}  {flag.help}{default}")
    return "\n".join(lines)


def parse(command, values, arguments, takes_others=False):
    """Gives flags the values on the command line.

    Args:
        command: string. The name of the command.
        values: `absl.flags.FlagValues`.
        arguments: List of strings, what follows the command.
        takes_others: bool. Whether the command takes arguments that are no flags. They may stand
            before, between and after flags; all of them are none after `--`.

    Returns:
        List of the arguments that are no flags.

    Raises:
        UsageError: If a flag is unknown, lacks its value or has a bad one, or an argument is no
            flag where the command takes none.
    """
    values.set_gnu_getopt(takes_others)
    try:
        _, *rest = values([PROGRAM, *arguments])
    except flags.UnrecognizedFlagError as error:
        raise UsageError(_unknown(error.flagname, values), command) from None
    except (flags.Error, ValueError) as error:
        raise UsageError(_bad_value(str(error), values), command) from None
    if rest and not takes_others:
        raise UsageError(
            f"Unexpected argument: {rest[0]!r}. Everything is given by flags.", command
        )
    for flag in _flags(values):
        is_empty = flag.value == "" and flag.default != ""
        is_infinite = isinstance(flag.value, float) and not math.isfinite(flag.value)
        if is_empty or is_infinite:
            expected = "a finite number" if is_infinite else "a name that is not empty"
            message = f"--{flag.name} must be {expected}. Received: --{flag.name}={flag.value}."
            raise UsageError(message, command)
    return rest


def require(command, values, names):
    """Requires that flags are given.

    Raises:
        UsageError: If one is not.
    """
    for name in names:
        if values[name].value is None:
            raise UsageError(f"--{name} must be given: {values[name].help}", command)


def did_you_mean(name, known):
    """A sentence that proposes what may have been meant, or nothing."""
    close = difflib.get_close_matches(name, known, n=1)
    return f" Did you mean {close[0]}?" if close else ""


def explain(error, values, aliases):
    """Says in one line what is wrong.

    Args:
        error: Exception.
        values: `absl.flags.FlagValues`.
        aliases: Dictionary from names of arguments, which errors name, to names of flags.
    """
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename2 or error.filename}: {error.strerror}"
    if isinstance(error, (ImportError, OSError, ValueError)):
        return _as_typed(" ".join(str(error).split()), values, aliases)
    message = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {message} ({TRACEBACK}=1 shows where.)"


def _as_typed(message, values, aliases):
    """Names the arguments in a message by the flags that gave them."""

    def flag(match):
        name = aliases.get(match[1], match[1])
        return f"--{name}" if name in values else match[0]

    said, received, got = re.sub(r"`(\w+)`", flag, message).partition("Received: ")
    return said + received + re.sub(r"(?<![\w.-])(\w+)(?==)", flag, got)


def _flags(values):
    """The flags in the order of their definition."""
    return [values[name] for name in values]


def _unknown(name, values):
    known = [f"--{flag.name}" for flag in _flags(values)]
    known += [f"--no{flag.name}" for flag in _flags(values) if flag.boolean]
    return f"Unknown flag: --{name}.{did_you_mean(f'--{name}', known)}"


def _bad_value(message, values):
    """Says what a flag must be, of absl's message."""
    match = re.match(r"flag --(\w+)=(.*?): ", message, re.DOTALL)
    if match is None or match[1] not in values:
        return f"{message.removeprefix('ERROR:: ')}."
    parser = values[match[1]].parser
    expected = re.sub("^integer", "an integer", parser.syntactic_help)
    if isinstance(parser, flags.EnumParser):
        expected = f"one of {', '.join(parser.enum_values)}"
    if isinstance(parser, flags.BooleanParser):
        expected = "true or false"
    return f"--{match[1]} must be {expected}. Received: --{match[1]}={match[2]}."
