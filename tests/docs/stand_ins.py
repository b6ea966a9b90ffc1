"""What stands in for what a test has not: the 7B model, cameras, servers, GPUs; and what is not run, with the reason.

A block that a page gains is run as it stands, with these changes. Where that cannot be, add a line here.
"""

import re

from reader_folder import CHECKPOINT, TINY

# Commands that are not run, by how they begin. Files of the repository that they name must exist all the same.
NOT_RUN = {
    "git clone": "there is no address to clone from",
    "apt-get install": "changes the machine",
    "hf auth login": "asks for a token",
    "make test": "runs the tests, of which this is one",
    "make lint": "looks at the code; the tests do not",
    ".venv/bin/pre-commit install": "changes the repository that the tests run in",
    "livecc evaluate run": "no benchmark's videos are here; tests/evaluation/running/test_running.py runs made-up ones",
    "cd published": "what others published is not here",
    "livecc evaluate score --headline livecc/": "the same; tests/evaluation/test_published_results.py reads it",
    "python3 -m venv .venv-lmms": "downloads lmms-eval; tests/evaluation/lmms/test_lmms_eval.py does and runs it",
    ".venv-lmms/bin/pip install": "the same",
    "LIVESPORTS3K_VIDEOS=": "the same",
    "accelerate launch": "wants several GPUs; tests/training/options/test_recipes.py reads what it is given",
    "serve deploy": "wants a Ray cluster; tests/serve/test_ray_deployment.py runs the deployment",
}
# Blocks that are no code, by language.
NO_CODE = {"bibtex": "a reference to cite", "nginx": "configures another program", "mermaid": "a drawing"}

TEXTS = {
    "chenjoya/LiveCC-7B-Instruct": str(TINY),
    "Qwen/Qwen2-VL-7B-Instruct": str(CHECKPOINT),
    "mit-han-lab/StreamingVLM": str(CHECKPOINT),
    "camera:0": "lavfi:testsrc=size=160x120:rate=10:duration=5,realtime",
    "rtsp://camera.local/stream": "{rtsp}",
    "ws://127.0.0.1:8000/": "{ws}/",
    "ffmpeg -f x11grab -i :0 -c:v libx264 -tune zerolatency -f mpegts -": "cat screen.ts",
    "me/my-clips": "me/clips",
    "results/cc/livesports3k-cc.jsonl verdicts.jsonl": "mine.jsonl GPT-4o_mine.jsonl",
    "DIR_OR_FILE ...": "answers.json",
    "compare A B": "compare answers.json others.json",
    "MINE.jsonl": "mine.jsonl",
    "OTHERS.jsonl": "captions/GPT-4o.jsonl",
    "asr.model=small": "asr.model={whisper} asr.device=cpu asr.compute_type=int8",
    "make demo": "python examples/demo.py --fast",
}
# Options added to a command, by a pattern of the command; all that match are added.
OPTIONS = {
    r"livecc train (?!.*inspect=)": (
        "max_steps=1 gradient_accumulation_steps=1 eval_strategy=no save_strategy=no logging_steps=1 packing=false"
    ),
    r"livecc train .*(own-videos/lora)": f"model_name_or_path={TINY} dtype=float32 held_out=2 optim=adamw_torch",
    r"livecc train ": "use_cpu=true bf16=false dataloader_num_workers=0 disable_tqdm=true",
    r"livecc convert .* my-streaming-vlm": "--grammar streamingvlm --position-scheme mrope",
    r"livecc data shapes": "--videos 6 --seconds 12",
    r"livecc demo": "--no-browser",
    r"livecc serve": "--port 0 --silence-threshold 1",
    r"examples/watch_server\.py": "--url {ws}/v1/commentary --speed 8",
    r"livecc data fetch": "--sleep 0",
    r"livecc data build .*pretrain\.yaml": (
        "metadata.min_side_px=240 text_loss.model={language_model} text_loss.max_loss=1000 "
        f"talking_head.model={CHECKPOINT} talking_head.max_probability=1 workers=1"
    ),
    r"livecc data build .*my_videos\.yaml": "workers=1",
    r"livecc evaluate judge": "--base-url {judge}",
    r"livecc evaluate judge (?!.*inf-streams)": "--annotations LiveSports-3K-CC.json",
    r"livecc commentate .*--realtime": "--end 6",
    r"livecc commentate videos/": "--end 4",
    r"rtsp": "--reconnects 0",
}
# Commands that go on until they are stopped: what they say once they are ready, with their address.
SERVERS = {"livecc serve": r"listening on (ws://[^/\s]+)", "livecc demo": r"(http://[^/\s]+)/ \(Ctrl-C"}
# Variables for commands that begin so.
_HUB = {"HF_ENDPOINT": "{hub}", "HF_HUB_OFFLINE": "0", "HF_TOKEN": "hf_none"}
ENVIRONMENT = {"livecc data push": _HUB, "livecc push": _HUB}
# What must be there before a command that names it, and the command that makes it.
MADE_BY = {
    "runs/own-videos/lora": "livecc train --config recipes/own-videos/lora.yaml",
    "runs/data/my-videos": "livecc data build --config recipes/data/my_videos.yaml",
}


def replaced(text: str, texts: dict[str, str]) -> str:
    """Return the text with all of `texts` replaced, the longest first."""
    for name in sorted(texts, key=len, reverse=True):
        text = text.replace(name, texts[name])
    return text


def options_for(command: str) -> str:
    """Return the options that are added to a command."""
    return " ".join(options for pattern, options in OPTIONS.items() if re.search(pattern, command))


def reason_not_to_run(command: str) -> str | None:
    """Return why a command is not run; `None`: it is."""
    return next((reason for start, reason in NOT_RUN.items() if command.strip().startswith(start)), None)
