"""The command line: `python -m fspad_ref COMMAND`. tyro makes each command's options from its config dataclass.

Exit status: 0; 1 where a command returns False (`check` found a fault); 2 for an error or wrong usage; 130 on Ctrl-C.
"""

import importlib
import os
import sys
from collections import namedtuple
from collections.abc import Sequence

from fspad_ref.errors import FspadError

Command = namedtuple("Command", "module config function summary")  # function takes config, a dataclass of that module
COMMANDS = {
    "demo": Command("commands.demo", "DemoConfig", "demo", "decode with a draft, print tau and speedup, draw figures"),
    "check": Command("commands.check", "CheckConfig", "check", "show environment, device, versions, and what will run"),
    "generate": Command("commands.generate", "GenerateConfig", "generate", "answer a prompt, accepted tokens marked"),
    "fetch": Command("fetch", "FetchConfig", "fetch", "make the built-in target, SmolLM2-135M-Instruct"),
    "train": Command("commands.train", "DraftsConfig", "train_drafts", "train drafts for a target"),
    "bench": Command("bench.bench", "BenchConfig", "bench", "measure tau and speedup on question files"),
    "study": Command("bench.study", "StudyConfig", "run_study", "train drafts of several seeds, compare by replay"),
    "tune": Command("bench.tune", "TuneConfig", "tune", "choose the tree that decodes fastest on this machine"),
    "speed": Command("bench.speed", "SpeedConfig", "speed", "where the time of a round goes"),
    "write": Command("commands.write", "WriteConfig", "write", "let the target write dialogues to train on"),
    "select": Command("commands.select", "SelectConfig", "select", "choose dialogues and questions from written text"),
    "shapes": Command("bench.shapes", "ShapeConfig", "bench_shape", "time decoding at a large model's shape"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    name, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if name not in COMMANDS:
        head = "" if (asked := name in ("-h", "--help")) else f"expected one of the commands below, found {name!r}\n\n"
        head += "usage: python -m fspad_ref COMMAND [options]; COMMAND --help lists its options\n\n"
        head += "\n".join(f"  {command:10}{COMMANDS[command].summary}" for command in COMMANDS)
        print(head, file=sys.stdout if asked else sys.stderr)
        return 0 if asked else 2
    import tyro  # only now, as the command's module: help should come at once

    command = COMMANDS[name]
    try:
        module = importlib.import_module(f"fspad_ref.{command.module}")
        config = tyro.cli(getattr(module, command.config), prog=f"python -m fspad_ref {name}", args=rest)
        return 1 if getattr(module, command.function)(config) is False else 0
    except FspadError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nStopped. Run the command again to go on or to begin anew; no file is left broken.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


if __name__ == "__main__":
    sys.exit(main())
