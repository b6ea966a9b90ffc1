"""Questions about one clip that share its prefill."""

import pytest
import torch
from asked_alone import separately

from livecc_hf.evaluation.running.shared_vision import CandidateError, SharedVision, candidate_ids

QUESTION = "Which colour?\nA. Red.\nB. Blue.\nPlease select the correct answer."


@pytest.fixture(scope="module")
def frames():
    return torch.randint(0, 255, (8, 3, 56, 84), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


class TestSharedVision:
    @pytest.mark.parametrize("scheme", ["mrope", "sequential", "reference"])
    def test_each_question_is_answered_as_if_it_were_the_only_one(self, scheme, make_model, processor, frames):
        model = make_model(scheme)
        vision = SharedVision(model, processor, frames)
        for text in (QUESTION, "Who?\nA. x\nB. y", QUESTION):
            choice = vision.choose(text, "Answer:", "ABCD", ": ")
            _, logits = separately(model, processor, frames, text, "Answer:")
            expected = torch.softmax(logits[candidate_ids(processor.tokenizer, "ABCD", ": ")].double(), 0)
            assert list(choice.probabilities.values()) == pytest.approx(expected.tolist(), abs=1e-4)
            assert choice.answer == "ABCD"[int(expected.argmax())]
            said = vision.generate(text, "", 6)
            inputs, _ = separately(model, processor, frames, text, "")
            options = {"do_sample": False, "max_new_tokens": 6, "repetition_penalty": 1.0}
            tokens = model.generate(**inputs, **options)[0, inputs["input_ids"].shape[1] :]
            assert said == processor.decode_answer(tokens.tolist())

    def test_a_common_beginning_of_questions_is_prefilled_once(self, make_model, processor, frames):
        model = make_model("mrope")
        vision = SharedVision(model, processor, frames)
        said = "Subtitles: he runs, he falls.\n"
        lengths = []
        handle = model.model.language_model.register_forward_hook(
            lambda module, args, outputs: lengths.append(outputs.last_hidden_state.shape[1])
        )
        texts = [f"{said}Who?", f"{said}Where is he?", "Where is he?", f"{said}Who?", f"{said}Who?"]
        choices = [vision.choose(text, "Answer:", "ABCD", ": ") for text in texts]
        handle.remove()
        assert lengths[1] < lengths[0] - 5
        assert lengths[3] == lengths[0]
        assert lengths[4] == 1  # the question is repeated
        for text, choice in zip(texts, choices, strict=True):
            _, logits = separately(model, processor, frames, text, "Answer:")
            expected = torch.softmax(logits[candidate_ids(processor.tokenizer, "ABCD", ": ")].double(), 0)
            assert list(choice.probabilities.values()) == pytest.approx(expected.tolist(), abs=1e-4)

    def test_another_system_prompt(self, make_model, processor, frames):
        model = make_model("mrope")
        usual = SharedVision(model, processor, frames).choose(QUESTION, "Answer:", "ABCD", ": ")
        other = SharedVision(model, processor, frames, "Watch.\n").choose(QUESTION, "Answer:", "ABCD", ": ")
        assert usual.probabilities != other.probabilities

    def test_candidates_that_are_not_single_tokens(self, processor):
        with pytest.raises(CandidateError, match=r"'Yes' into several tokens \(the last one is 'es'\)"):
            candidate_ids(processor.tokenizer, ["No", "Yes"][::-1], "\n")

    def test_candidates_that_are_the_same_token(self, processor):
        with pytest.raises(CandidateError, match="share a token"):
            candidate_ids(processor.tokenizer, ["A", "A"], ": ")

    def test_scores_that_are_not_finite(self, make_model, processor, frames):
        model = make_model("mrope")
        weight = model.lm_head.weight
        before = weight.detach().clone()
        try:
            with torch.no_grad():
                weight.fill_(float("nan"))
            vision = SharedVision(model, processor, frames)
            assert vision.choose(QUESTION, "Answer:", "ABCD", ": ") is None
            assert vision.generate(QUESTION, "", 4) is None
        finally:
            with torch.no_grad():
                weight.copy_(before)
