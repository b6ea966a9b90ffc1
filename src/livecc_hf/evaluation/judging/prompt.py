"""What a judge is asked, and how its reply is read: a protocol each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from ..predictions.rows import MODEL, OPPONENT, TIE
from ..prompt_files import Prompts, load_prompts

LIVESPORTS, INF_STREAMS = "livecc", "inf-streams"


class Reading(NamedTuple):
    """What a reply means.

    Attributes:
        winner: "model", "opponent" or "tie".
        is_valid: whether it named exactly one of the texts.
    """

    winner: str
    is_valid: bool


@dataclass(frozen=True)
class JudgeProtocol:
    """How a judge is asked.

    Attributes:
        name: as the header of a file of verdicts has it.
        prompts: the published texts.
        choose: takes the prompts and a reply; returns the text it is for, "a" or "b" (`None`: a tie), and whether it
            named exactly one.
        max_chars: longer texts are cut there; `None`: none is.
        seed: asked for where the endpoint takes one.
    """

    name: str
    prompts: Prompts
    choose: Callable[[Prompts, str], tuple[str | None, bool]]
    max_chars: int | None = None
    seed: int | None = None

    def messages(self, order: str, model_text: str, opponent_text: str, reference: str) -> list[dict[str, str]]:
        """Return the question: order "ab" shows the model's text first, "ba" the opponent's."""
        ours, theirs, reference = map(self._shown, (model_text, opponent_text, reference))
        a, b = (ours, theirs) if order == "ab" else (theirs, ours)
        system = self.prompts.get("system")
        asked = {"role": "user", "content": self.prompts.fill("user", a=a, b=b, reference=reference)}
        return [{"role": "system", "content": system}, asked] if system else [asked]

    def read(self, order: str, reply: str) -> Reading:
        """Return who won."""
        named, is_valid = self.choose(self.prompts, reply)
        if named is None:
            return Reading(TIE, is_valid)
        return Reading(MODEL if (named == "a") == (order == "ab") else OPPONENT, is_valid)

    def _shown(self, text: str) -> str:
        return text if self.max_chars is None else text.strip()[: self.max_chars]


def judge_protocol(name: str) -> JudgeProtocol:
    """Return the protocol of that name.

    Raises:
        ValueError: if there is none.
    """
    if name == LIVESPORTS:
        return JudgeProtocol(name, load_prompts("judging", "livesports3k_cc"), _named_once, seed=42)
    if name == INF_STREAMS:
        return JudgeProtocol(name, load_prompts("judging", "inf_streams"), _begun_with, max_chars=8000)
    raise ValueError(f"there is no judge's protocol {name!r}: expected {LIVESPORTS} or {INF_STREAMS}")


def _named_once(prompts: Prompts, reply: str) -> tuple[str | None, bool]:
    """Read a reply as LiveSports-3K does; one that names neither or both texts is invalid, and a tie."""
    named = [letter for letter in "ab" if prompts[f"names_{letter}"] in reply]
    return (named[0], True) if len(named) == 1 else (None, False)


def _begun_with(prompts: Prompts, reply: str) -> tuple[str | None, bool]:
    """Read a reply as StreamingVLM does: what does not begin with A is for B, here marked as invalid if not with B."""
    said = reply.strip().upper()
    chosen = "a" if said.startswith(prompts["names_a"]) else "b"
    return chosen, said.startswith((prompts["names_a"], prompts["names_b"]))
