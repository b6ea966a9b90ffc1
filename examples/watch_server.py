"""Stream a video to a server in real time, and print the commentary.

    livecc serve                                    # in another terminal
    python examples/watch_server.py VIDEO [--url ws://127.0.0.1:8000/v1/commentary] [--query "What happens?"]

Needs `pip install websockets pillow av`. For a browser, see docs/serving.md.
"""

import argparse
import io
import json
import os
import struct
import threading
import time

import av
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI
from websockets.sync.client import connect


def show(connection, container, speed):
    """Send two frames a second at their time in the video: 8 bytes of time, then a JPEG file."""
    began_s, next_s = time.monotonic(), 0.0
    try:
        for frame in container.decode(video=0):
            if frame.time < next_s:
                continue  # the server would skip it: the model sees 2 a second
            next_s = frame.time // 0.5 * 0.5 + 0.5
            time.sleep(max(0.0, frame.time / speed - (time.monotonic() - began_s)))
            image = frame.to_image()
            image.thumbnail((960, 960))  # the model reads no more than about 300,000 pixels
            file = io.BytesIO()
            image.save(file, "JPEG", quality=90)
            connection.send(struct.pack(">d", frame.time) + file.getvalue())
        connection.send(json.dumps({"type": "finish"}))
    except ConnectionClosed:
        pass  # the reason is printed below
    except Exception as error:  # a damaged file; finish, so that the server does not wait
        print(f"cannot read the rest of the video: {error}", flush=True)
        connection.send(json.dumps({"type": "finish"}))


def watch(args, container, headers):
    """Print the commentary until the server closes the connection, then the reason."""
    with connect(args.url, additional_headers=headers) as connection:
        connection.send(json.dumps({"type": "start", "query": args.query}))
        threading.Thread(target=show, args=(connection, container, args.speed), daemon=True).start()
        reason = ""
        try:
            while True:
                message = json.loads(connection.recv())
                if message["type"] == "segment":
                    lag = f"{message['latency_s']:.2f} s"
                    print(f"{message['start_s']:6.1f} s  {message['text'] or '(silence)'}  [{lag}]", flush=True)
                elif message["type"] == "error" and message["is_final"]:
                    reason = f"{message['code']}: {message['message']}"
                elif message["type"] in ("error", "notice"):
                    print(f"{message['code']}: {message['message']}", flush=True)
        except ConnectionClosed as closed:
            print("closed:", reason or (closed.rcvd.reason if closed.rcvd else "no reason given"))


def open_video(video):
    """Open a video, or exit with an error before connecting."""
    try:
        container = av.open(video)
        if not container.streams.video:
            raise ValueError("it has no video stream")
        return container
    except (OSError, ValueError, av.FFmpegError) as error:
        raise SystemExit(f"cannot show {video}: {getattr(error, 'strerror', None) or error}") from None


parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("video")
parser.add_argument("--url", default="ws://127.0.0.1:8000/v1/commentary")
parser.add_argument("--query", help="what to comment on")
parser.add_argument("--speed", type=float, default=1.0, help="times real time")
args = parser.parse_args()
if not args.speed > 0:
    parser.error(f"--speed {args.speed:g}: expected a number above 0")
container = open_video(args.video)
token = os.environ.get("LIVECC_SERVE_TOKEN")
try:
    watch(args, container, {"Authorization": f"Bearer {token}"} if token else {})
except KeyboardInterrupt:
    raise SystemExit(130) from None
except InvalidStatus as refused:  # such as 401: no token, or 503: too many connections
    raise SystemExit(f"refused: {refused.response.body.decode().strip() or refused}") from None
except (OSError, InvalidURI, InvalidHandshake) as error:
    raise SystemExit(f"no server at {args.url} ({error}): start one with `livecc serve`") from None
