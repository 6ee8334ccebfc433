"""The command line: `python -m fspad_ref COMMAND`, each command made by tyro from a config dataclass.

A command's module is imported only when the command is chosen, so that help comes at once. Exit status: 0; 1 where a
command found something amiss that it reports (`check`); 2 for an error or wrong usage; 130 for Ctrl-C.
"""

import importlib
import os
import sys
from collections.abc import Sequence
from typing import NamedTuple

from fspad_ref.errors import FspadError


class Command(NamedTuple):
    """Where a command lives: a module, its config dataclass, and the function that takes it."""

    module: str
    config: str
    function: str
    summary: str


COMMANDS = {
    "demo": Command("commands.demo", "DemoConfig", "demo", "train two drafts, decode, print tau and speedup, draw figures"),
    "check": Command("commands.check", "CheckConfig", "check", "show environment, device, versions, and what will run"),
    "generate": Command("commands.generate", "GenerateConfig", "generate", "answer a prompt, with accepted tokens marked"),
    "bench": Command("bench.bench", "BenchConfig", "bench", "measure tau and speedup on question files"),
    "study": Command("bench.study", "StudyConfig", "run_study", "train drafts of several seeds, compare them by replay"),
    "tune": Command("bench.tune", "TuneConfig", "tune", "choose the tree size that decodes fastest on this machine"),
    "train": Command("commands.train", "DraftsConfig", "train_drafts", "train drafts for a target"),
}

# What `COMMAND --preset NAME` runs instead, with options of its own.
PRESETS: dict = {}

# What `COMMAND --OPTION ...` runs instead, once that option is among the arguments.
OTHERS = {
    ("bench", "--shape"): Command("bench.shapes", "ShapeConfig", "bench_shape", "time decoding at a model's shape"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    name = arguments[0] if arguments else "--help"
    if name in ("-h", "--help"):
        print(usage())
        return 0
    if name not in COMMANDS:
        print(f"expected one of the commands {', '.join(COMMANDS)}; found {name!r}\n\n{usage()}", file=sys.stderr)
        return 2
    try:
        return run(name, arguments[1:])
    except FspadError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nStopped. Files are written whole or not at all, so none is broken.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def run(name: str, arguments: Sequence[str]) -> int:
    """Import the command, read its config from `arguments`, call it. Only a plain False counts as a failure."""
    import tyro

    command, arguments, prog = chosen(name, arguments)
    module = importlib.import_module(f"fspad_ref.{command.module}")
    config = tyro.cli(getattr(module, command.config), prog=f"python -m fspad_ref {prog}", args=arguments)
    return 1 if getattr(module, command.function)(config) is False else 0


def chosen(name: str, arguments: Sequence[str]) -> tuple[Command, list[str], str]:
    """The command, preset or variant that is asked for, the arguments that it is to read, and how it is called."""
    words = [part for argument in arguments for part in argument.split("=", 1)]
    for (of, preset), command in PRESETS.items():
        if of == name and ("--preset", preset) in zip(words, words[1:], strict=False):
            rest = [word for word in arguments if word != f"--preset={preset}"]
            if "--preset" in rest:
                place = rest.index("--preset")
                rest = rest[:place] + rest[place + 2 :]
            return command, rest, f"{name} --preset {preset}"
    for (of, option), command in OTHERS.items():
        if of == name and option in words:
            return command, list(arguments), name
    return COMMANDS[name], list(arguments), name


def usage() -> str:
    """The help of `python -m fspad_ref`."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {command.summary}" for name, command in COMMANDS.items()]
    head = "usage: python -m fspad_ref COMMAND [options]\n\nFSPAD speculative decoding (arXiv 2408.15562).\n\n"
    return head + "commands:\n" + "\n".join(lines) + "\n\npython -m fspad_ref COMMAND --help lists a command's options."


if __name__ == "__main__":
    sys.exit(main())
