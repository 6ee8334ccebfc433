"""`python -m fspad_ref bench --preset paper`: every recorded result, measured again where it is not up to date.

    tune          the tree that is fastest here            data/results/tune.json
    calibration   tau under the tree of the EAGLE-2 paper  data/results/calibration.json
    temperatures  tau against the temperature              data/results/temperatures.json
    speed         all methods in the real loop             data/results/speed.json
    stages        where the time of a round goes           data/results/stages.json
    adaptive      a tree that stops growing by itself      data/results/adaptive.json
    study         seeds x kinds, tau and n-alpha           data/results/study.json
    goals         what was aimed at, and what came of it   data/results/goals.json

A file is up to date if its key is: settings, weights of target and drafts, the code it rests on, and, where times were
measured, the machine (provenance.py). So a result becomes stale by another target, another draft, a change in what the
named modules do (not in their comments), and times by another machine too. Interrupted steps go on where they were.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from tqdm.auto import tqdm

from fspad_ref.checkpoint import load_json, save_json
from fspad_ref.corpus import prompt_ids, read_questions
from fspad_ref.draft import KINDS, Draft
from fspad_ref.errors import ConfigError
from fspad_ref.lab import goals as aims
from fspad_ref.lab.adaptive_bench import AdaptiveConfig, compare
from fspad_ref.lab.adaptive_bench import table as adaptive_table
from fspad_ref.lab.assisted import AssistantConfig
from fspad_ref.lab.bench import BenchConfig, choose_questions, decode_questions, results_of
from fspad_ref.lab.comparison import table as study_table
from fspad_ref.lab.data import training_data
from fspad_ref.lab.provenance import METHOD, code_hash, digest, fingerprint, jsonable, kept, machine, plain, provenance
from fspad_ref.lab.rivals import FIXED, OTHER_TEXT, Rivals, methods, rivals
from fspad_ref.lab.speed import SpeedConfig, model_rows, speed_rows, stage_rows, timed_answers
from fspad_ref.lab.study import StudyConfig, features_of, study
from fspad_ref.lab.trainings import training_key
from fspad_ref.lab.tune import TuneConfig, tune_tree, tuning_prompts
from fspad_ref.lab.tuned import load_tuned, save_tuned
from fspad_ref.lab.tuned import table as tune_table
from fspad_ref.target import Target
from fspad_ref.train import TrainConfig
from fspad_ref.tree import TreeConfig

Step = Literal["tune", "calibration", "temperatures", "speed", "stages", "adaptive", "study", "goals"]
LARGE = 240  # nodes of the tree that shows how the work outside the models grows
TEMPERATURES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25)
BOTH = ("eagle", "fspad")  # the drafts of calibration, temperatures and adaptive


@dataclass(frozen=True)
class Schooling:
    """What the other methods of the speed measurement learn from: what the shipped drafts have learned from."""

    dialogues: int = 16_000
    """Dialogues of the built-in world, unless the study's `data` names a file."""
    own_answers: int = 960
    """Questions more, answered by the target itself."""
    steps: int = 3_000
    """As many as the drafts', of as many tokens."""


@dataclass(frozen=True)
class PaperConfig:
    """Regenerate the recorded results, each only if it is not up to date."""

    steps: tuple[Step, ...] = get_args(Step)
    """Which of them, in any order; temperatures, speed, stages and adaptive take the tree that tune has chosen."""
    target: str = "data/target"
    """Folder or Hub id of the target."""
    drafts: Path = Path("data/drafts")
    """Folder with the drafts eagle, fs, pad and fspad, for everything but the study."""
    questions: Path = Path("data/questions.jsonl")
    """Questions in Spec-Bench's format."""
    results: Path = Path("data/results")
    """Folder for the results."""
    speed_per_task: int = 4
    """Questions a task of the speed measurement, the first ones of the file."""
    calibration_per_task: int = 6
    """Questions a task of the calibration."""
    temperatures_per_task: int = 2
    """Questions a task at each of the temperatures."""
    speed: SpeedConfig = field(default_factory=SpeedConfig)
    tune: TuneConfig = field(default_factory=TuneConfig)
    """Its target, draft, device, dtype and out are set by the other options."""
    assistant: AssistantConfig = field(default_factory=AssistantConfig)
    rivals: Schooling = field(default_factory=Schooling)
    adaptive: AdaptiveConfig = field(default_factory=lambda: AdaptiveConfig(depths=(6,), multiples=(0.0, 1.0), tau=4.0))
    """Its target, drafts, questions, tree, device, dtype and out are set by the other options."""
    study: StudyConfig = field(default_factory=StudyConfig)
    """Its target, questions, device, dtype and results are set by the other options."""
    device: str = "cpu"
    """Where to compute."""
    dtype: Literal["float64", "float32"] = "float32"
    """Precision of weights and arithmetic."""

    def __post_init__(self) -> None:
        if not self.steps or not {*self.steps} <= {*get_args(Step)}:
            raise ConfigError(f"expected steps among {', '.join(get_args(Step))}, found {self.steps}. Name some.")


def paper(config: PaperConfig, progress: Callable[..., Any] = tqdm) -> None:
    """Bring every result up to date, and say which goals are met."""
    work = Paper(config, progress)
    for step in get_args(Step):
        if step in config.steps:
            began = time.monotonic()
            print(f"\n--- {step}", flush=True)
            getattr(work, step)()
            print(f"--- {step}: {work.file(step)}, {(time.monotonic() - began) / 60:.1f} minutes", flush=True)


class Paper:
    """The steps, one method each, and what they share, loaded when first needed."""

    def __init__(self, config: PaperConfig, progress: Callable[..., Any] = tqdm):
        self.config, self.progress = config, progress
        where = dict(target=config.target, device=config.device, dtype=config.dtype)
        self.of_study = replace(config.study, **where, questions=config.questions, results=self.file("study"))
        self.of_tune = replace(config.tune, **where, draft=str(config.drafts / "fspad"), out=self.file("tune"))

    def file(self, step: str) -> Path:
        return self.config.results / f"{step}.json"

    @cached_property
    def target(self) -> Target:
        return Target.from_pretrained(self.config.target, device=self.config.device, dtype=self.config.dtype)

    @cached_property
    def drafts(self) -> dict[str, Draft]:
        return {kind: Draft.from_pretrained(self.config.drafts / kind, self.target) for kind in KINDS}

    @cached_property
    def dialogues(self) -> list:
        """Those of the study."""
        return self.texts(self.of_study.dialogues, self.of_study.own_answers)

    def texts(self, dialogues: int, own_answers: int) -> list:
        of = self.of_study
        return training_data(self.target, of.data, dialogues, own_answers, of.training.seed, of.out)

    @cached_property
    def rivals(self) -> Rivals:
        """The trained parts of other methods."""
        return rivals(self.target, *self.schooling, self.config.assistant, self.of_study.out, self.progress)

    @cached_property
    def schooling(self) -> tuple[list, TrainConfig]:
        """What the other methods learn from, and how."""
        of = self.config.rivals
        return self.texts(of.dialogues, of.own_answers), replace(self.of_study.training, steps=of.steps)

    @cached_property
    def features(self) -> Target:
        """What all trainings of the study take the target's features from: they see the same dialogues."""
        return features_of(self.target, self.of_study)

    @cached_property
    def prompts(self) -> list[list[int]]:
        """Questions that are nobody's benchmark."""
        return tuning_prompts(self.target, self.of_tune)

    def chosen(self, per_task: int | None) -> list:
        """The first questions of each task."""
        return choose_questions(read_questions(self.config.questions), self.of_study.tasks, per_task)

    def key(self, settings: dict[str, Any], modules: tuple[str, ...], timed: bool = True) -> dict[str, Any]:
        """What a result of the real loop depends on: weights, settings, code, and the machine if it was timed."""
        weights = {name: fingerprint(draft) for name, draft in self.drafts.items()}
        key = {"target": fingerprint(self.target.model), "drafts": weights, "settings": settings}
        key |= {"questions": digest(self.config.questions.read_text(encoding="utf-8"))}
        key |= {"code": code_hash(*METHOD, *modules)}
        return plain(key | {"machine": machine(self.target)} if timed else key)

    # ---- the steps ----

    def tune(self) -> None:
        """Choose a tree, unless one was chosen with these weights on this machine."""
        settings = plain({name: value for name, value in jsonable(self.of_tune).items() if name != "out"})
        settings |= {"questions": digest(self.prompts)}
        key = self.key(settings, ("lab.tune", "lab.bench", "lab.calibration", "lab.costs", "lab.timings"))
        file = self.file("tune")
        if not (file.exists() and load_json(file).get("key") == key):
            tuned = tune_tree(self.target, self.drafts["fspad"], self.prompts, self.of_tune)
            print(tune_table(tuned))
            save_tuned(file, tuned, self.target, settings)
            save_json(file, {"key": key} | load_json(file))

    @property
    def tree(self) -> TreeConfig:
        """What `tune` has chosen. Raises CheckpointError if there is nothing, or another machine's."""
        return load_tuned(self.file("tune"), self.target)

    def calibration(self) -> None:
        """tau of EAGLE-2 and FSPAD at T=0 with the tree of the EAGLE-2 paper."""
        self._decoded("calibration", self.config.calibration_per_task, (0.0,), TreeConfig())

    def temperatures(self) -> None:
        """tau of EAGLE-2 and FSPAD against the temperature, with the tuned tree."""
        self._decoded("temperatures", self.config.temperatures_per_task, TEMPERATURES, self.tree)

    def _decoded(self, step: str, per_task: int, temperatures: tuple[float, ...], tree: TreeConfig) -> None:
        """A bench of two drafts, for what it counts and not for its times."""
        config = BenchConfig(self.config.target, tuple(str(self.config.drafts / name) for name in BOTH),
                             self.config.questions, per_task, self.of_study.tasks, temperatures, tree,
                             self.config.speed.max_new_tokens, device=self.config.device, dtype=self.config.dtype,
                             out=self.file(step))  # fmt: skip

        def measured() -> dict[str, Any]:
            answers = decode_questions(self.target, {name: self.drafts[name] for name in BOTH}, self.chosen(per_task),
                                       temperatures=temperatures, tree=tree, max_new_tokens=config.max_new_tokens,
                                       progress=self.progress)  # fmt: skip
            return results_of(self.target, config, answers)

        settings = {"per_task": per_task, "max_new_tokens": config.max_new_tokens, "temperatures": temperatures,
                    "tree": asdict(tree)}  # fmt: skip
        kept(self.file(step), self.key(settings, ("lab.bench",), timed=False), measured)

    def speed(self) -> None:
        """Every method in the real loop, and the cost model of ours."""
        config, tree, fixed = self.config.speed, self.tree, TreeConfig()
        settings = {"speed": asdict(config), "per_task": self.config.speed_per_task, "tree": asdict(tree),
                    "assistant": asdict(self.config.assistant), "prompts": digest(self.prompts),
                    "training": training_key(self.target, *self.schooling)}  # fmt: skip
        modules = ("baselines", "assisted", "medusa", "static_tree", "rates", "bench", "speed", "costs", "timings")
        key = self.key(settings, tuple(f"lab.{name}" for name in modules))

        def measured() -> dict[str, Any]:
            ways = methods(self.target, self.drafts, self.rivals, self.prompts, tree, fixed, config.max_new_tokens)
            answers = timed_answers(self.target, ways, self.chosen(self.config.speed_per_task), config,
                                    self.of_study.out / f"speed-{digest(key)}.json", self.progress)  # fmt: skip
            trees = {"eagle": tree, "fspad": tree, "fspad" + FIXED: fixed}
            ours = {name: (self.drafts[name.removesuffix(FIXED)], of) for name, of in trees.items()}
            return {
                "provenance": provenance(self.target),
                "config": plain(settings | {"fixed": asdict(fixed)}),
                "other_text": OTHER_TEXT,
                "summary": speed_rows(answers),
                "cost_model": model_rows(self.target, ours, answers, config),
            }

        kept(self.file("speed"), key, measured)

    def stages(self) -> None:
        """A round of FSPAD taken apart: with the tuned tree, the fixed one, and one of 240 nodes."""
        wide = replace(TreeConfig(), total_tokens=LARGE)
        trees = {"tuned": self.tree, "N=60": TreeConfig(), f"N={LARGE}": wide}
        settings = {"trees": {name: asdict(tree) for name, tree in trees.items()}, "speed": asdict(self.config.speed)}
        prompts = [prompt_ids(self.target.tokenizer, [], question.turns[0]) for question in self.chosen(1)]

        def measured() -> dict[str, Any]:
            profiles = stage_rows(self.target, self.drafts["fspad"], trees, prompts, self.config.speed, self.progress)
            return {"provenance": provenance(self.target), "config": settings, "profiles": profiles}

        kept(self.file("stages"), self.key(settings, ("lab.stages",)), measured)

    def adaptive(self) -> None:
        """Trees that stop growing when a level no longer pays, against the tuned tree; see adaptive.py."""
        drafts = tuple(str(self.config.drafts / name) for name in BOTH)
        config = replace(self.config.adaptive, target=self.config.target, drafts=drafts, tree=self.tree,
                         questions=self.config.questions, tasks=self.of_study.tasks, device=self.config.device,
                         dtype=self.config.dtype, out=self.file("adaptive"))  # fmt: skip

        def measured() -> dict[str, Any]:
            found = compare(self.target, {name: self.drafts[name] for name in BOTH}, self.chosen(config.per_task),
                            config, self.progress)  # fmt: skip
            print(adaptive_table(found))
            return found

        settings = {name: value for name, value in jsonable(config).items() if name != "out"}
        modules = ("lab.adaptive", "lab.adaptive_bench", "lab.bench", "lab.speed", "lab.costs", "lab.timings")
        kept(self.file("adaptive"), self.key(settings, modules), measured)

    def study(self) -> None:
        """Seeds x kinds; see study.py."""
        questions = self.chosen(self.of_study.per_task)
        found = study(self.target, self.dialogues, questions, self.of_study, progress=self.progress,
                      features=self.features)  # fmt: skip
        print(study_table(found))

    def goals(self) -> None:
        """What the files that are there say about the goals."""
        names = [step for step in ("study", "speed", "stages", "calibration") if self.file(step).exists()]
        found = aims.goals({step: load_json(self.file(step)) for step in names})
        save_json(self.file("goals"), {"from": names, "goals": found})
        print(aims.table(found))
