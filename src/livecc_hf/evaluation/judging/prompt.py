"""Judge protocols: the prompt for a judge, and how its reply is parsed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from ..predictions.rows import MODEL, OPPONENT, TIE
from ..prompt_files import Prompts, load_prompts

LIVESPORTS, INF_STREAMS = "livecc", "inf-streams"


class Reading(NamedTuple):
    """A parsed reply.

    Attributes:
        winner: "model", "opponent" or "tie".
        is_valid: whether the reply names exactly one of the two texts.
    """

    winner: str
    is_valid: bool


@dataclass(frozen=True)
class JudgeProtocol:
    """How a judge is asked and its replies are parsed.

    Attributes:
        name: name in the header of verdict files.
        prompts: the published texts.
        choose: called with the prompts and a reply; returns the winner, "a" or "b" (`None` for a tie), and whether the
            reply names exactly one text.
        max_chars: texts are cut to this many characters; `None` for no limit.
        seed: sampling seed sent to the endpoint; `None` to send none.
    """

    name: str
    prompts: Prompts
    choose: Callable[[Prompts, str], tuple[str | None, bool]]
    max_chars: int | None = None
    seed: int | None = None

    def messages(self, order: str, model_text: str, opponent_text: str, reference: str) -> list[dict[str, str]]:
        """Return the chat messages; order "ab" shows the model's text first, "ba" the opponent's."""
        ours, theirs, reference = map(self._cut, (model_text, opponent_text, reference))
        a, b = (ours, theirs) if order == "ab" else (theirs, ours)
        system = self.prompts.get("system")
        question = {"role": "user", "content": self.prompts.fill("user", a=a, b=b, reference=reference)}
        return [{"role": "system", "content": system}, question] if system else [question]

    def read(self, order: str, reply: str) -> Reading:
        """Return the winner that a reply names, and whether the reply is valid."""
        named, is_valid = self.choose(self.prompts, reply)
        if named is None:
            return Reading(TIE, is_valid)
        return Reading(MODEL if (named == "a") == (order == "ab") else OPPONENT, is_valid)

    def _cut(self, text: str) -> str:
        return text if self.max_chars is None else text.strip()[: self.max_chars]


def judge_protocol(name: str) -> JudgeProtocol:
    """Return the protocol of that name.

    Raises:
        ValueError: if the name is unknown.
    """
    if name == LIVESPORTS:
        return JudgeProtocol(name, load_prompts("judging", "livesports3k_cc"), _choose_livesports, seed=42)
    if name == INF_STREAMS:
        return JudgeProtocol(name, load_prompts("judging", "inf_streams"), _choose_inf_streams, max_chars=8000)
    raise ValueError(f"there is no judge protocol {name!r}: expected {LIVESPORTS} or {INF_STREAMS}")


def _choose_livesports(prompts: Prompts, reply: str) -> tuple[str | None, bool]:
    """Parse a reply as LiveSports-3K does; a reply that names neither or both texts is invalid and counts as a tie."""
    named = [letter for letter in "ab" if prompts[f"names_{letter}"] in reply]
    return (named[0], True) if len(named) == 1 else (None, False)


def _choose_inf_streams(prompts: Prompts, reply: str) -> tuple[str | None, bool]:
    """Parse a reply as StreamingVLM does: B wins unless the reply begins with A; invalid if it begins with neither."""
    said = reply.strip().upper()
    chosen = "a" if said.startswith(prompts["names_a"]) else "b"
    return chosen, said.startswith((prompts["names_a"], prompts["names_b"]))
