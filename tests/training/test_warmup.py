"""The vision warm-up of livecc-tiny's recipe."""

import numpy as np
import torch


def test_labelled_pairs_are_deterministic_and_in_range(warmup):
    for seed in range(20):
        frames, labels = warmup["labelled_pair"](seed)
        again, _ = warmup["labelled_pair"](seed)
        assert frames.shape == (2, 3, 84, 84)
        assert np.array_equal(frames, again)
        for name, n_classes in warmup["N_CLASSES"].items():
            kept = labels[name][labels[name] != -100]
            assert labels[name].shape == (9,)
            assert ((kept >= 0) & (kept < n_classes)).all()
        has_object = labels["shape"] > 0
        assert np.array_equal(has_object, labels["colour"] > 0)
        assert has_object[labels["motion"] != -100].all()


def test_cells_are_tokens_in_reading_order(warmup):
    assert [warmup["_cell"](x, y) for x, y in ((0.1, 0.1), (0.9, 0.1), (0.5, 0.5), (0.99, 1.0))] == [0, 2, 4, 8]


def test_the_model_is_small_and_its_head_starts_near_uniform(warmup, tiny_processor):
    model = warmup["build_model"](tiny_processor)
    assert model.num_parameters() < 2_000_000  # 4 MB in bfloat16
    inputs = torch.randint(0, 300, (1, 12))
    probabilities = model(input_ids=inputs).logits.softmax(-1)
    assert probabilities.max() < 0.05
