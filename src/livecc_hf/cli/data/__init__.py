"""`livecc data`: make a dataset from videos, fetch videos, push a dataset to the Hub."""

# Name: (summary, module); see `add_commands`.
TASKS = {
    "build": ("make a dataset from videos with captions or speech", "livecc_hf.cli.data.build"),
    "fetch": ("download videos with captions and metadata, with yt-dlp", "livecc_hf.cli.data.fetch"),
    "push": ("upload a dataset folder to the Hub", "livecc_hf.cli.data.push"),
    "shapes": ("make a folder of narrated videos of moving shapes, to try training", "livecc_hf.cli.data.shapes"),
}
