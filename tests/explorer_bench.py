"""A workbench of tiny models for the explorer's tests: prompts are encoded letter by letter."""

from conftest import tiny_draft, tiny_target

from fspad_ref import SamplingConfig, TreeConfig
from fspad_ref.corpus import Question
from fspad_ref.show.explorer.runs import Settings, Workbench

PROMPT = (2, 7, 5, 11, 3)
TREE = TreeConfig(top_k=4, depth=3, total_tokens=20)
QUESTIONS = (Question(1, "qa", ("who?",)), Question(2, "qa", ("where?",)), Question(3, "rag", ("a passage",)))


def encode(text: str) -> list[int]:
    return [2 + ord(letter) % 29 for letter in text]


def make_bench(**more) -> Workbench:
    target = tiny_target()
    drafts = {
        "eagle": tiny_draft(target),
        "fspad": tiny_draft(target, 1, feature_sampling=True, partial_alignment=True),
    }
    return Workbench(target, drafts, QUESTIONS, encode=encode, words=lambda token: f"w{token}", **more)


def settings(temperature: float = 1.0, draft: str = "eagle", tree: TreeConfig = TREE, tokens: int = 12) -> Settings:
    return Settings(PROMPT, draft, tree, SamplingConfig(temperature, seed=3), tokens)


def quiet(text: str) -> None:
    """Progress that nobody watches."""
