"""Under FSDP2 every weight gets the mean of the processes' gradients, the head's too."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parent / "sharded_gradients.py"
TOLERANCE = 1e-5  # of a gradient's largest value


@pytest.fixture(scope="module")
def measured(tiny_folder, tmp_path_factory) -> dict[str, dict[str, dict[str, float]]]:
    folder = tmp_path_factory.mktemp("sharding")
    recipe = {
        "model_name_or_path": str(tiny_folder),
        "output_dir": str(folder / "out"),
        "data": [{"source": "tiny", "task": "list", "length": [1, 2], "samples": 8}],
        "train_parts": ["vision", "merger", "language_model"],
        "per_device_train_batch_size": 2,
        "activation_checkpointing": True,
        "bf16": False,
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(SCRIPT)]
    command += [str(folder / "result.json"), "--config", str(folder / "recipe.yaml")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr.decode()[-3000:]
    return json.loads((folder / "result.json").read_text())


@pytest.mark.parametrize("case", ["full", "tied", "frozen head", "head beside an adapter", "replicated"])
def test_every_gradient_is_the_mean_over_the_processes(measured, case):
    wrong = {name: difference for name, difference in measured[case]["ours"].items() if not difference < TOLERANCE}
    assert not wrong
    heads = [name for name in measured[case]["ours"] if "lm_head" in name]
    assert len(heads) == (case in ("full", "head beside an adapter", "replicated"))  # tied: named as the embeddings


def test_trl_alone_still_gets_the_head_wrong(measured):
    differences = measured["full"]["trl"]
    assert differences["lm_head.weight"] > 0.01, "TRL reduces the head's gradient now: model/sharding.py can go"
    assert max(value for name, value in differences.items() if name != "lm_head.weight") < TOLERANCE
