"""Makes the screenshots of docs/demo.md: python tests/serve/screenshots.py [FOLDER], with chromium installed."""

import argparse
import io
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from browsing import GREEDY, Watcher, chromium
from PIL import Image
from served import serving

from livecc_hf.assets import bundled_model_path
from livecc_hf.checkpoints.loading import load_model_and_processor

DOCS = Path(__file__).parents[2] / "docs" / "images"
DESKTOP, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 844}


def shoot(watcher, path):
    """Write a screenshot of the tab as WebP."""
    Image.open(io.BytesIO(watcher.page.screenshot())).convert("RGB").save(path, "WEBP", quality=86, method=6)


def make(browser, url, folder):
    """Write demo.webp and demo-phone.webp."""
    with (
        Watcher(browser, url, viewport=DESKTOP, color_scheme="light") as light,
        Watcher(browser, url, viewport=PHONE, device_scale_factor=2, color_scheme="dark", has_touch=True) as phone,
    ):
        for tab in (light, phone):
            tab.click("#clip")
        light.wait_for(lambda: len(light.segments) >= 6)
        light.page.mouse.move(2, 2)
        light.page.wait_for_timeout(250)
        shoot(light, folder / "demo.webp")
        phone.wait_for(lambda: len(phone.segments) >= 8)
        phone.page.wait_for_timeout(250)
        shoot(phone, folder / "demo-phone.webp")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=DOCS)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    model, processor, _ = load_model_and_processor(bundled_model_path(), device="cpu")
    with serving(model, processor, GREEDY) as served, chromium() as browser:
        make(browser, f"http://127.0.0.1:{served.port}", folder)


if __name__ == "__main__":
    main()
