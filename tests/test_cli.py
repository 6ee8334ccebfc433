"""The command line: help without a manual, errors without a traceback, Ctrl-C without a broken file."""

import dataclasses
import importlib
import io
import subprocess
import sys
import types
from dataclasses import dataclass

import pytest
import torch
from fspad_ref.show import exam

from fspad_ref import __main__ as cli
from fspad_ref.commands import check
from fspad_ref.commands import generate as stream
from fspad_ref.commands import train as drafts
from fspad_ref.errors import InputError
from fspad_ref.teaching.exercises import Pieces


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch):
    """Install a function as the command "try"; its config has one option, --number."""

    @dataclass(frozen=True)
    class TryConfig:
        """Try something."""

        number: int = 1
        """Any number."""

    def install(function) -> None:
        module = types.SimpleNamespace(TryConfig=TryConfig, function=function)
        monkeypatch.setitem(cli.COMMANDS, "try", cli.Command("errors", "TryConfig", "function", "try it"))
        monkeypatch.setattr(cli.importlib, "import_module", lambda name: module)

    return install


@pytest.mark.parametrize(("result", "status"), [(None, 0), (True, 0), (False, 1), ({"tau": 0}, 0)])
def test_exit_status_is_what_the_command_says(command, result, status: int) -> None:
    seen = []
    command(lambda config: seen.append(config.number) or result)
    assert cli.main(["try", "--number", "7"]) == status
    assert seen == [7]


def raises(error: BaseException):
    def function(config):
        raise error

    return function


def test_our_errors_print_their_message_alone(command, capsys: pytest.CaptureFixture) -> None:
    command(raises(InputError("expected a prompt, found none")))
    assert cli.main(["try"]) == 2
    assert capsys.readouterr().err == "InputError: expected a prompt, found none\n"


def test_other_errors_are_not_hidden(command) -> None:
    command(raises(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        cli.main(["try"])


def test_ctrl_c_ends_with_130_and_a_line(command, capsys: pytest.CaptureFixture) -> None:
    command(raises(KeyboardInterrupt()))
    assert cli.main(["try"]) == 130
    assert "Stopped" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help_lists_every_command(arguments: list[str], capsys: pytest.CaptureFixture) -> None:
    assert cli.main(arguments) == 0
    shown = capsys.readouterr().out
    assert all(f"\n  {name} " in shown for name in cli.COMMANDS)


def test_an_unknown_command_is_named(capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["demos"]) == 2
    assert "'demos'" in capsys.readouterr().err


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help_for_every_option(name: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main([name, "--help"])
    shown = capsys.readouterr().out
    assert stopped.value.code == 0
    command = cli.COMMANDS[name]
    module = importlib.import_module(f"fspad_ref.{command.module}")
    assert callable(getattr(module, command.function))
    # tyro heads the options of a nested config with its name, and shows a positional argument without one
    headed = [f"--{o.name.replace('_', '-')}" in shown or f"{o.name} options" in shown
              for o in dataclasses.fields(getattr(module, command.config)) if o.name != "prompt"]  # fmt: skip
    assert headed and all(headed)


@pytest.mark.parametrize("how", [["--preset", "paper"], ["--preset=paper"]])
def test_a_preset_is_a_command_with_options_of_its_own(how: list[str], capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["bench", *how, "--help"])
    shown = capsys.readouterr().out
    assert stopped.value.code == 0 and "bench --preset paper" in shown
    for option in ("--steps", "--study.seeds", "--study.training.steps", "--speed.repetitions", "--results"):
        assert option in shown
    assert cli.chosen("bench", ["--per-task", "2", *how])[1] == ["--per-task", "2"]
    assert cli.chosen("bench", ["--preset", "none"]) == (cli.COMMANDS["bench"], ["--preset", "none"], "bench")
    assert cli.chosen("tune", how)[0] == cli.COMMANDS["tune"], "another command has no presets"


def test_the_command_line_does_not_import_what_it_does_not_use() -> None:
    code = (
        "import sys; from fspad_ref.__main__ import main; main(['--help'])\n"
        "assert not [m for m in sys.modules if m.startswith(('fspad_ref.world', 'fspad_ref.lab', 'fspad_ref.show'))]\n"
        "assert 'tyro' not in sys.modules and 'matplotlib' not in sys.modules and 'IPython' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_check_tells_what_is_missing(tmp_path, capsys: pytest.CaptureFixture) -> None:
    assert check.check(check.CheckConfig(data=tmp_path)) is False
    shown = capsys.readouterr().out
    assert f"torch {torch.__version__.partition('+')[0]}" in shown
    for thing in ("target: no config.json", "drafts/fspad: no", "lexicon: no", "questions.jsonl: not there"):
        assert thing in shown


def test_check_counts_questions(tmp_path) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(f'{{"question_id": {i}}}\n' for i in range(479)))
    assert list(check.missing_questions(path)) == ["questions.jsonl: expected 480 questions, found 479"]
    path.write_text("".join(f'{{"question_id": {i}}}\n' for i in range(480)))
    assert list(check.missing_questions(path)) == []
    path.write_text("{broken")
    assert "not a file of questions" in next(check.missing_questions(path))


class Letters:
    """A tokenizer of one letter a token, without a chat template."""

    chat_template = None
    eos_token_id = 1

    def __call__(self, text: str) -> dict:
        return {"input_ids": [ord(letter) - 97 for letter in text]}

    def get_vocab(self) -> dict:
        return {chr(97 + token): token for token in range(26)}

    def decode(self, ids: list[int], **_: object) -> str:
        return "".join(chr(97 + token) for token in ids)


def test_a_stream_shows_each_round_as_it_comes() -> None:
    out = io.StringIO()
    on_round = stream.print_marked(Pieces(Letters()), out)
    on_round([0], 0)
    assert out.getvalue() == "a"
    on_round([1, 2, 3], 2)
    assert out.getvalue() == "abcd"


def test_prompts_come_from_the_argument_or_from_standard_input() -> None:
    assert stream.read_prompt(io.StringIO(" two\nlines \n")) == "two\nlines"
    with pytest.raises(InputError, match="found none"):
        stream.read_prompt(io.StringIO("\n"))
    assert stream.encode_prompt(Letters(), "abc", raw=True) == [0, 1, 2]
    with pytest.raises(InputError, match="chat template"):
        stream.encode_prompt(Letters(), "abc", raw=False)
    with pytest.raises(InputError, match="tokenizer"):
        stream.encode_prompt(None, "abc", raw=True)


def test_generate_prints_the_same_text_with_and_without_a_draft(monkeypatch, tmp_path, capsys, target, draft) -> None:
    draft.save_pretrained(tmp_path)
    monkeypatch.setattr(target, "tokenizer", Letters())
    monkeypatch.setattr(stream, "load_target", lambda *_: target)
    config = stream.GenerateConfig(prompt="hello", raw=True, max_new_tokens=12, draft=tmp_path)
    stream.generate(config)
    drafted = capsys.readouterr()
    stream.generate(dataclasses.replace(config, draft=None))
    assert capsys.readouterr().out == drafted.out
    assert 1 < len(drafted.out) <= 13
    assert "tau = " in drafted.err


def test_a_summary_counts_tokens_and_rounds() -> None:
    assert stream.summary([5] * 7, [1, 3], 2.0) == (
        "7 tokens in 2.0 s, 4 a second; 2 target forwards after the prompt, tau = 3.00 tokens a forward"
    )
    assert stream.summary([5], [], 0.5) == "1 tokens in 0.5 s, 2 a second"


def test_a_missing_built_in_target_is_not_looked_for_on_the_hub() -> None:
    with pytest.raises(InputError, match="top folder"):
        drafts.load_target("data/no-such-target")


def test_check_target_compares_with_the_goals() -> None:
    good = {task: {column: least} for task, (column, least) in exam.GOALS.items()}
    assert exam.goals_missed(good) == []
    bad = good | {"qa": {"right": 0.894}}
    assert exam.goals_missed(bad) == ["qa: 89.4% right, below the goal of 90%"]
