"""What a judge is asked, and how its reply is read."""

from __future__ import annotations

from typing import NamedTuple

from ..predictions.rows import MODEL, OPPONENT, TIE
from ..prompt_files import Prompts, load_prompts


class Reading(NamedTuple):
    """What a reply means.

    Attributes:
        winner: "model", "opponent" or "tie".
        is_valid: whether it named exactly one of the texts.
    """

    winner: str
    is_valid: bool


def judge_prompts() -> Prompts:
    """Return LiveSports-3K CC's published prompt."""
    return load_prompts("judging", "livesports3k_cc")


def messages_of(
    prompts: Prompts, order: str, model_text: str, opponent_text: str, reference: str
) -> list[dict[str, str]]:
    """Return the question: order "ab" shows the model's text first, "ba" the opponent's."""
    a, b = (model_text, opponent_text) if order == "ab" else (opponent_text, model_text)
    return [{"role": "user", "content": prompts.fill("user", a=a, b=b, reference=reference)}]


def read_reply(prompts: Prompts, order: str, reply: str) -> Reading:
    """Return who won: a reply that names neither or both texts is invalid, and a tie."""
    named = prompts["names_a"] in reply, prompts["names_b"] in reply
    if named[0] == named[1]:
        return Reading(TIE, False)
    return Reading(MODEL if named[0] == (order == "ab") else OPPONENT, True)
