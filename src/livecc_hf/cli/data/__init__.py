"""`livecc data`: make a dataset from videos, fetch videos, push a dataset to the Hub."""

# By name what a task does, and its module; see `add_commands`.
TASKS = {
    "build": ("videos with captions or speech become a dataset", "livecc_hf.cli.data.build"),
    "fetch": ("download videos with captions and metadata, by yt-dlp", "livecc_hf.cli.data.fetch"),
    "push": ("upload a dataset folder to the Hub", "livecc_hf.cli.data.push"),
    "shapes": ("a folder of narrated videos of moving shapes, to try training with", "livecc_hf.cli.data.shapes"),
}
