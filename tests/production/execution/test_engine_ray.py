"""The Ray engine on a cluster of two nodes on this machine; workers that die, and items that kill them."""

import json
import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from manifests import video_row, write_manifest

from livecc_hf.production.build import build
from livecc_hf.production.options import BuildOptions

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.slow

STAGES = {"simple_stages:Titles": {}, "pretrain_clips": {"min_s": 20.0}, "simple_stages:Score": {"max_loss": 110.0}}
_MEMORY = 80 * 1024 * 1024


@pytest.fixture(scope="module")
def cluster():
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))  # the workers import the tests' stages
        patch.setenv("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
        found = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 1, "object_store_memory": _MEMORY, "include_dashboard": False},
        )
        found.add_node(num_cpus=1, object_store_memory=_MEMORY)
        ray.init(address=found.address, log_to_driver=False)
        yield found
        ray.shutdown()
        found.shutdown()


def run(tmp_path, out, stages=STAGES, **options):
    given = {"input": str(tmp_path / "m.jsonl"), "out": str(tmp_path / out), "unit_videos": 4, "workers": 1}
    return build(BuildOptions(**(given | {"stages": stages} | options)), say=lambda line: None)


def files_of(result) -> dict:
    """Return the content of the units, without run times."""
    import pyarrow.parquet as pq

    return {
        str(path.relative_to(result.out)): pq.read_table(path).to_pylist()
        for path in sorted(result.out.glob("units/*/*.parquet"))
    }


def test_an_address_where_nobody_listens_is_named_at_once():
    from livecc_hf.production.execution.ray import _check_reachable

    with pytest.raises(ConnectionError, match="no Ray cluster answers at 127.0.0.1:1 "):
        _check_reachable("127.0.0.1:1")
    for address in ("auto", "local", "ray://x:1"):
        _check_reachable(address)


@pytest.mark.parametrize("address", ["garbage", ":1", "host:", "host:99999", "host:x"])
def test_a_text_that_is_no_address_names_those_that_are(address):
    from livecc_hf.production.execution.ray import _check_reachable

    with pytest.raises(ValueError, match=f"the Ray address is '{address}': expected auto, local, HOST:PORT or"):
        _check_reachable(address)


@pytest.mark.parametrize(
    ("cpus", "gpus", "actors", "models"),
    [
        (2, 0, 1, 1),
        (2, 0, 3, 1),
        (2, 0, 2, 4),
        (64, 8, 8, 4),
        (8, 1, 2, 2),
        (8, 1, 2, 3),
        (1, 4, 4, 3),
        (8, 2, 1, 1),
        (8, 2, 3, 1),
    ],
)
def test_all_actors_fit_into_the_cluster_and_leave_cores_to_tasks(cpus, gpus, actors, models):
    from livecc_hf.production.execution.ray import actor_shares

    shares = actor_shares(cpus, gpus, models * actors, models)
    assert 0 < shares["num_cpus"] * models * actors <= cpus / 2
    assert ("num_gpus" in shares) == bool(gpus)
    if gpus:
        assert 0 < shares["num_gpus"] <= 1 / models and gpus * int(1 / shares["num_gpus"]) >= models * actors


def test_an_address_in_the_environment_is_checked_as_well(monkeypatch):
    from livecc_hf.production.execution.ray import RayEngine

    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(ConnectionError, match=r"no Ray cluster answers at 127.0.0.1:1 .*RAY_ADDRESS"):
        RayEngine(None)


def test_ray_makes_what_the_local_engine_makes(tmp_path, cluster):
    assert len(ray.nodes()) == 2
    titles = ["a"] * 20
    titles[3], titles[7], titles[12] = "drop", "raise", "bad line"
    write_manifest(tmp_path / "m.jsonl", titles)
    ours, local = run(tmp_path, "ray", engine="ray", workers=None), run(tmp_path, "local")
    assert files_of(ours) == files_of(local)
    assert len(files_of(ours)) == 10
    dataset = [(result.out / "dataset" / "data" / "train-00000.parquet").read_bytes() for result in (ours, local)]
    assert dataset[0] == dataset[1]
    for mine, other in zip(ours.stats, local.stats, strict=True):
        assert (mine.name, mine.items_in, mine.items_out, mine.errors) == (
            *(other.name, other.items_in, other.items_out, other.errors),
        )
    again = run(tmp_path, "ray", engine="ray")  # nothing is left to do
    assert again.n_clips == ours.n_clips


def test_a_worker_and_an_actor_killed_in_the_middle_cost_nothing(tmp_path, cluster):
    write_manifest(tmp_path / "m.jsonl", ["a"] * 16)
    (tmp_path / "pids").mkdir()
    deadly = {"simple_stages:Score": {"die_once": str(tmp_path / "died"), "pids": str(tmp_path / "pids")}}
    result = run(tmp_path, "out", {"pretrain_clips": {"min_s": 20.0}} | deadly, engine="ray")
    assert (tmp_path / "died").exists()
    assert len(list((tmp_path / "pids").iterdir())) == 2  # the actor and its successor
    dropped = [row for name, rows in files_of(result).items() if "dropped" in name for row in rows]
    assert {row["reason"] for row in dropped} == {"too_high"}  # of the loss; none is lost
    assert result.stats[-1].items_in == 22


def test_an_item_that_kills_its_worker_is_dropped_alone(tmp_path, cluster):
    titles = ["a"] * 8
    titles[5] = "kill"
    write_manifest(tmp_path / "m.jsonl", titles)
    result = run(tmp_path, "out", {"simple_stages:Titles": {}}, engine="ray", max_retries=1)
    [(identity, reason)] = [
        (row["id"], row["reason"]) for name, rows in files_of(result).items() if "dropped" in name for row in rows
    ]
    assert (identity, reason, result.n_clips) == ("v5", "error", 7)
    assert sorted(path.name for path in result.out.glob("units/.*")) in ([], [".progress"])


def test_a_stage_that_cannot_work_is_the_same_error(tmp_path, cluster):
    write_manifest(tmp_path / "m.jsonl", ["a"] * 8)
    with pytest.raises(ValueError, match="model /no/such/folder does not exist"):
        run(tmp_path, "out", {"pretrain_clips": {"min_s": 20.0}, "simple_stages:NoModel": {}}, engine="ray")


def test_a_models_scores_are_those_of_the_local_engine(tmp_path, cluster, published_checkpoint):
    from models import write_language_model

    model = write_language_model(tmp_path / "lm", published_checkpoint, context=512)
    write_manifest(tmp_path / "m.jsonl", ["a title"] * 6, seconds=24)
    loss = {"model": str(model), "device": "cpu", "min_loss": -1.0, "max_loss": 1e9}
    stages = {"pretrain_clips": {"min_s": 8.0}, "text_loss": loss}
    ours, local = (run(tmp_path, engine, stages, engine=engine) for engine in ("ray", "local"))
    scores = [
        {row["id"]: row["text_loss"] for name, rows in files_of(result).items() if "clips" in name for row in rows}
        for result in (ours, local)
    ]
    assert len(scores[0]) == 8
    assert all(score > 1 for score in scores[0].values())
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)


def write_manifest_of_unknown_lengths(path, titles):
    rows = [video_row(number, title) | {"duration_s": None} for number, title in enumerate(titles)]
    path.write_text("\n".join(map(json.dumps, rows)))


@pytest.mark.parametrize("stage", ["Titles", "Score"], ids=["task", "actor"])
def test_an_item_on_which_a_stage_hangs_is_dropped_alone(tmp_path, cluster, stage):
    titles = ["a"] * 8
    titles[5] = "hang"
    write_manifest_of_unknown_lengths(tmp_path / "m.jsonl", titles)
    result = run(
        tmp_path,
        "out",
        {f"simple_stages:{stage}": {"max_loss": 1e3} if stage == "Score" else {}},
        engine="ray",
        item_timeout_s=4.4,
        keep_going=True,
    )
    [(identity, detail)] = [
        (row["id"], row["detail"]) for name, rows in files_of(result).items() if "dropped" in name for row in rows
    ]
    assert (identity, detail, result.n_clips) == ("v5", "timed out: not finished after 4 s", 7)
    assert sorted(path.name for path in result.out.glob("units/.*")) in ([], [".progress"])


def test_progress_moves_within_a_unit(tmp_path, cluster):
    from livecc_hf.production.execution.pipeline import RunPlan, group_stages
    from livecc_hf.production.execution.ray import RayEngine
    from livecc_hf.production.execution.unit_folder import UnitFolder
    from livecc_hf.production.inputs.videos import open_input
    from livecc_hf.production.progress import Progress
    from livecc_hf.production.stages.registry import make_stage
    from livecc_hf.production.watchdog import read_progress

    write_manifest(tmp_path / "m.jsonl", ["a"] * 4)
    (tmp_path / "units").mkdir()
    stages = [
        make_stage("pretrain_clips", {"min_s": 20.0}),
        make_stage("simple_stages:Score", {"delay_s": 1, "counts": True}),
    ]
    work = RunPlan(open_input(tmp_path / "m.jsonl"), group_stages(stages), UnitFolder(tmp_path / "units"))
    lines = []
    progress = Progress(lines.append, every_s=0.3, in_flight=lambda: read_progress(work.folder.folder))
    with progress.running():
        RayEngine(work).run(work.source.units(), progress.add)
    within = [line for line in lines if line.startswith("0 units")]
    assert any(re.search(r"pretrain_clips 4 → \d .*· score [1-9] → 0 ", line) for line in within), lines
