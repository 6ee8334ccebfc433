"""The command line: help for every command, errors without a traceback, and the small commands end to end."""

import dataclasses
import importlib
import subprocess
import sys
import types
from dataclasses import dataclass
from unittest.mock import Mock

import pytest
import torch
from worded import saved, worded_target

from fspad_ref import __main__ as cli
from fspad_ref.commands import check, demo, generate
from fspad_ref.errors import InputError


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
def test_the_exit_status_is_1_only_for_false(command, result, status: int) -> None:
    seen = []
    command(lambda config: seen.append(config.number) or result)
    assert cli.main(["try", "--number", "7"]) == status
    assert seen == [7]


def test_our_errors_and_ctrl_c_end_without_a_traceback(command, capsys: pytest.CaptureFixture) -> None:
    command(Mock(side_effect=[InputError("expected a prompt, found none"), KeyboardInterrupt(), ZeroDivisionError()]))
    assert [cli.main(["try"]), cli.main(["try"])] == [2, 130]
    assert capsys.readouterr().err.startswith("InputError: expected a prompt, found none\n\nStopped.")
    with pytest.raises(ZeroDivisionError):
        cli.main(["try"])


def test_an_unknown_command_is_refused_and_the_known_ones_are_listed(capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["demos"]) == 2
    shown = capsys.readouterr().err
    assert "'demos'" in shown and all(f"\n  {name} " in shown for name in cli.COMMANDS)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_command_has_help_for_every_option(name: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main([name, "--help"])
    shown = capsys.readouterr().out
    assert stopped.value.code == 0
    command = cli.COMMANDS[name]
    module = importlib.import_module(f"fspad_ref.{command.module}")
    # tyro heads the options of a nested config with its name, and shows a positional argument without one
    headed = [f"--{o.name.replace('_', '-')}" in shown or f"{o.name} options" in shown
              for o in dataclasses.fields(getattr(module, command.config)) if o.name != "prompt"]  # fmt: skip
    assert headed and all(headed)


def test_help_imports_no_command() -> None:
    slow = {"fspad_ref.bench", "fspad_ref.viz", "fspad_ref.commands", "tyro", "matplotlib", "IPython"}
    code = f"import sys; from fspad_ref.__main__ import main; main(['--help']); assert not {slow} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_check_names_what_is_missing(tmp_path, capsys: pytest.CaptureFixture) -> None:
    assert check.check(check.CheckConfig(data=tmp_path)) is False
    shown = capsys.readouterr().out
    assert f"torch {torch.__version__.partition('+')[0]}" in shown and f"processor: {check.arithmetic()}: " in shown
    for fault in ("target/config.json: not there. Run `python -m fspad_ref fetch`",
                  "drafts/fspad/config.json: not there. Restore", "questions.jsonl: not there"):  # fmt: skip
        assert fault in shown
    saved(worded_target(), tmp_path)
    assert check.check(check.CheckConfig(data=tmp_path)) is True


class Letters:
    """A tokenizer that makes each letter a token, without a chat template."""

    chat_template = None
    eos_token_id = 1

    def __call__(self, text: str) -> dict:
        return {"input_ids": [ord(letter) - 97 for letter in text]}

    def get_vocab(self) -> dict:
        return {chr(97 + token): token for token in range(26)}

    def decode(self, ids: list[int], **_: object) -> str:
        return "".join(chr(97 + token) for token in ids)


def test_generate_prints_the_same_text_with_and_without_a_draft(monkeypatch, tmp_path, capsys, target, draft) -> None:
    draft.save_pretrained(tmp_path)
    monkeypatch.setattr(target, "tokenizer", Letters())
    monkeypatch.setattr(generate.Target, "from_pretrained", lambda *_, **__: target)
    config = generate.GenerateConfig(prompt="hello", raw=True, max_new_tokens=12, draft=tmp_path)
    generate.generate(config)
    drafted = capsys.readouterr()
    generate.generate(dataclasses.replace(config, draft=None))
    assert capsys.readouterr().out == drafted.out
    assert 1 < len(drafted.out) <= 13
    assert "tau = " in drafted.err


def test_the_demo_runs_to_its_figures(monkeypatch, tmp_path, capsys: pytest.CaptureFixture) -> None:
    saved(worded_target(), tmp_path)
    monkeypatch.setattr(demo, "CATEGORIES", ("conversation", "qa"))
    training = dataclasses.replace(demo.DemoConfig.training, steps=2, evaluate_every=2, tokens_per_batch=64)
    demo.demo(demo.DemoConfig(data=tmp_path, per_task=1, vocabulary=16, max_new_tokens=8, dtype="float32",
                              training=training, out=tmp_path / "out"))  # fmt: skip
    assert "that of plain decoding in 24 of 24 answers." in capsys.readouterr().out
    figures = {"tau.png", "speedup.png", "training.png"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == figures | {"results.json"}
