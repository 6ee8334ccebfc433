"""The benchmark: every method in turn, on the same texts, what it counts and what it writes."""

from pathlib import Path

import pandas as pd
import pytest
from conftest import tiny_draft
from worded import QUESTIONS, TREE, quiet, saved, worded_target

from fspad_ref import TreeConfig
from fspad_ref.bench import bench as module
from fspad_ref.bench.bench import PLAIN, BenchConfig, Plain, Speculative, bench, decode_questions, loops, summarize
from fspad_ref.bench.record import load_record, save_record
from fspad_ref.errors import ConfigError, InputError

SMALL = TreeConfig(2, 1, 4)


@pytest.fixture(scope="module")
def target():
    return worded_target()


@pytest.fixture(scope="module")
def methods(target) -> dict[str, Speculative]:
    return {name: Speculative(tiny_draft(target), tree) for name, tree in (("fspad", TREE), ("small", SMALL))}


def test_all_methods_answer_every_turn_alike(target, methods):
    answers = decode_questions(target, methods, QUESTIONS, max_new_tokens=12, repetitions=2, progress=quiet)
    assert len(answers) == 3 * 2 * 2 * 5, "methods, repetitions, temperatures, turns"
    assert answers["identical"].all() and (answers["seconds"] > 0).all()
    same = answers.groupby(["temperature", "question_id", "turn"])[["tokens", "prompt"]].nunique()
    assert (same == 1).all(axis=None), "the history of a second turn must be the same for all"
    plain, fast = (answers[answers["method"] == name] for name in (PLAIN, "fspad"))
    assert (plain["rounds"] == plain["tokens"] - 1).all() and fast["rounds"].sum() < plain["rounds"].sum()
    first, second = (answers[answers["repetition"] == n]["rounds"].tolist() for n in (0, 1))
    assert first == second


def test_methods_take_turns_in_changing_order(target, methods, monkeypatch):
    """A machine that slows down slows all methods alike: none is timed at a stretch, none always comes first."""
    order, real, names = [], module.timed, {id(method): name for name, method in methods.items()}
    monkeypatch.setattr(module, "timed", lambda target, method, *rest: [
        order.append(names.get(id(method), PLAIN)), real(target, method, *rest)][1])  # fmt: skip
    settings = dict(temperatures=(0.0,), max_new_tokens=3, repetitions=4, progress=quiet)
    decode_questions(target, methods, QUESTIONS[1:], **settings)
    calls = [tuple(order[start : start + 3]) for start in range(3, len(order), 3)]  # behind the warm-up
    assert len(calls) == 12 and all(sorted(call) == sorted([PLAIN, *methods]) for call in calls)
    assert {call[0] for call in calls} == {PLAIN, *methods}


def test_an_answer_that_differs_is_counted(target):
    """A method that is not lossless: its texts are one token short."""

    class Short(Plain):
        def decode(self, *given):
            result = super().decode(*given)
            result.tokens.pop()
            return result

    answers = decode_questions(target, {"short": Short(target)}, QUESTIONS, max_new_tokens=6, progress=quiet)
    row = summarize(answers).query("temperature == 1 and task == 'mean'").set_index("method")
    assert row["identical"].to_dict() == {PLAIN: 5, "short": 0} and (row["answers"] == 5).all()


def test_an_interrupted_run_goes_on(target, methods, tmp_path, monkeypatch):
    part, settings = tmp_path / "part.csv", dict(temperatures=(1.0,), max_new_tokens=6, progress=quiet)
    whole = decode_questions(target, methods, QUESTIONS, **settings)
    with pytest.raises(ZeroDivisionError):
        decode_questions(target, methods, QUESTIONS, part=part, **settings | {"progress": stops})
    done = load_record(part)
    assert set(done["question_id"]) == {7, 8}
    again = decode_questions(target, methods, QUESTIONS, part=part, **settings)
    assert again["seconds"][: len(done)].tolist() == pytest.approx(done["seconds"].tolist()), "not measured anew"
    pd.testing.assert_frame_equal(again.drop(columns="seconds"), whole.drop(columns="seconds"))


def stops(jobs, **_):
    yield from jobs[:2]
    raise ZeroDivisionError


def test_tau_and_speedup_by_hand():
    """Sums over sums, of the medians over repetitions; the mean weighs tasks alike."""
    counted = [(PLAIN, "a", 1, 31, 30, [0.75] * 3), (PLAIN, "a", 2, 91, 90, [2.25] * 3),
               ("m", "a", 1, 31, 10, [0.5] * 3), ("m", "a", 2, 91, 18, [1.2, 9.0, 1.0]),
               (PLAIN, "b", 3, 11, 10, [1.0]), (PLAIN, "b", 4, 11, 10, [1.0]),
               ("m", "b", 3, 11, 5, [0.25]), ("m", "b", 4, 11, 5, [0.25])]  # fmt: skip
    names = ["method", "task", "question_id", "tokens", "rounds", "seconds"]
    rows = pd.DataFrame(counted, columns=names).explode("seconds").astype({"seconds": float})
    found = summarize(rows.assign(seed=0, temperature=0.0, turn=0, identical=True)).set_index(["task", "method"])
    speedup = (122 / 1.7) / (122 / 3.0)
    assert found.loc[("a", "m"), ["tau", "speedup"]].tolist() == pytest.approx([120 / 28, speedup])
    assert found.loc[("b", "m"), ["tau", "speedup", "speedup_low"]].tolist() == pytest.approx([2, 4, 4])
    means = [(120 / 28 + 2) / 2, (speedup + 4) / 2]
    assert found.loc[("mean", "m"), ["tau", "speedup"]].tolist() == pytest.approx(means)
    assert (found.xs(PLAIN, level="method")[["tau", "speedup", "speedup_low", "speedup_high"]] == 1).all(axis=None)
    assert found.loc[("a", "m"), ["tau_low", "tau_high"]].tolist() == [3, 5], "one question or the other"
    assert "4.29" in module.table(found.reset_index()) and "identical" in module.table(found.reset_index())


def test_the_command_writes_a_table_that_says_where_it_comes_from(target, tmp_path, capsys):
    save_record(tmp_path / "tune.json", {"tree": TreeConfig(3, 2, 9)})
    config = BenchConfig(**saved(target, tmp_path), per_task=1, tuned=(tmp_path / "tune.json",), max_new_tokens=6,
                         out=tmp_path / "out" / "bench.csv")  # fmt: skip
    answers = bench(config)
    pd.testing.assert_frame_equal(load_record(config.out), answers)
    assert [file.name for file in config.out.parent.iterdir()] == ["bench.csv"], "nothing is left of the run"
    about = [line for line in config.out.read_text().splitlines() if line.startswith("# ")]
    assert {"command", "date", "processor", "threads", "versions"} <= {line[2:].split(":")[0] for line in about}
    assert "fspad" in capsys.readouterr().out and module.load(config)[2]["fspad"].tree == TreeConfig(3, 2, 9)


def test_settings_that_cannot_work_are_refused():
    for wrong in (dict(drafts=("a/x", "b/x")), dict(drafts=(f"a/{PLAIN}",)), dict(tuned=(Path("tune.json"),))):
        with pytest.raises(ConfigError, match="different names"):
            module.load(BenchConfig(**wrong))
    assert [q.question_id for q in module.choose_questions(QUESTIONS, ["qa", "conversation"], 1)] == [9, 7]
    with pytest.raises(InputError, match="conversation, qa, found rag"):
        module.choose_questions(QUESTIONS, ["rag"], None)
    with pytest.raises(InputError, match="found none"):
        module.choose_questions(QUESTIONS, [], None)


def test_texts_that_repeat_themselves_are_found():
    eight = list(range(8))
    assert loops(eight * 4) and not loops(eight * 3 + [9] + eight[:-1]) and not loops([1, 2, 3])
    assert loops([5] + eight + [6] + eight + [7] + eight + [8] + eight), "with other words between"
