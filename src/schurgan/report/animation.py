"""The sample grids of a run as a film: how the sounds of the same noise change while the generator learns."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from schurgan.core.errors import SchurganError, writing
from schurgan.core.files import atomic_write, lock
from schurgan.core.progress import Bar
from schurgan.runs.folder import RunFolder

MOST_FRAMES = 150
MOST_PIXELS = 24_000_000
"""Of all frames together; a byte each before compression, so that the file stays below some 25 MB."""
_HOLD_SECONDS = 2.0
"""The last frame stays for so long."""
_LABEL = 18
"""Height in pixels of the strip that says the step."""
_FFMPEG_SECONDS = 300


def animate(run: str | Path, out: str | Path | None = None, fps: float = 6.0) -> Path:
    """Make RUN/samples.gif, or `out`: a .gif, or a .mp4 where ffmpeg is on the PATH. The same grids give the same GIF.

    Of more than 150 grids as many are taken, evenly, with the first and the last; large ones are made smaller.

    Raises:
        SchurganError: there are no grids, `fps` is not within 0.1 to 50, or the file cannot be written.
    """
    folder = RunFolder(run)
    out = Path(out) if out is not None else folder.animation
    if not 0.1 <= fps <= 50:
        raise SchurganError(f"fps: {fps:g} given, 0.1 to 50 frames a second are possible")
    if out.suffix not in (".gif", ".mp4"):
        raise SchurganError(f"out: {out} given, a name that ends in .gif or .mp4 is needed")
    if not folder.grids():
        folder.require()
    with writing(out), lock(out, beside=True), Bar("film"):
        frames = _frames(folder)
        if out.suffix == ".gif":
            _save_gif(frames, out, fps)
        else:
            _save_mp4(frames, out, fps)
    return out


def _frames(folder: RunFolder) -> list[Image.Image]:
    """The grids in the order of attempts and steps, all of one even size (video needs it), each over its label."""
    grids = folder.grids()
    if not grids:
        every = "a run makes them as `train.sample_every` says"
        raise SchurganError(f"{folder.samples}: no sample grids here yet; {every}")
    if len(grids) > MOST_FRAMES:
        grids = [grids[round(i * (len(grids) - 1) / (MOST_FRAMES - 1))] for i in range(MOST_FRAMES)]
    opened = []
    for grid in grids:
        with suppress(OSError, SyntaxError, ValueError), Image.open(grid.path) as file:
            opened.append((grid, file.convert("RGB")))
    if not opened:
        raise SchurganError(f"{folder.samples}: none of its {len(grids)} sample grids is a picture that can be read")
    width, height = (max(drawn.size[side] for _, drawn in opened) for side in (0, 1))
    scale = min(1.0, (MOST_PIXELS / (len(opened) * width * height)) ** 0.5)
    width, height = (max(2, round(side * scale)) for side in (width, height))
    size = (width + width % 2, height + (height + _LABEL) % 2 + _LABEL)
    font = ImageFont.load_default(13)
    frames = []
    for grid, drawn in opened:
        if scale < 1:
            drawn = drawn.resize([max(1, round(side * scale)) for side in drawn.size], Image.Resampling.BOX)
        frame = Image.new("RGB", size, "white")
        frame.paste(drawn, (width - drawn.width, 0))  # an older version's grids had no names at their left
        label = f"step {grid.step}" + (f", attempt {grid.attempt}" if grid.attempt else "")
        ImageDraw.Draw(frame).text((3, height + 1), label, fill="black", font=font)
        frames.append(frame)
    return frames


def _save_gif(frames: Sequence[Image.Image], out: Path, fps: float) -> None:
    """One palette, fitted to frames from the whole film, so that colours do not flicker from frame to frame."""
    chosen = [frames[i] for i in sorted({round(k * (len(frames) - 1) / 7) for k in range(8)})]
    width, height = chosen[0].size
    sheet = Image.new("RGB", (width, height * len(chosen)))
    for number, frame in enumerate(chosen):
        sheet.paste(frame, (0, number * height))
    palette = sheet.quantize(256, Image.Quantize.MEDIANCUT)
    first, *rest = (frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames)
    duration = max(20, round(1000 / fps))
    durations = [duration] * len(rest) + [duration + round(1000 * _HOLD_SECONDS)]
    with atomic_write(out) as file:
        first.save(file, "GIF", save_all=True, append_images=rest, duration=durations, loop=0, optimize=False)


def _save_mp4(frames: Sequence[Image.Image], out: Path, fps: float) -> None:
    program = shutil.which("ffmpeg")
    if program is None:
        raise SchurganError(
            f"out: {out} given, but there is no ffmpeg on the PATH; a name that ends in .gif needs none"
        )
    width, height = frames[0].size
    held = [*frames, *[frames[-1]] * round(_HOLD_SECONDS * fps)]
    with tempfile.TemporaryDirectory(prefix="schurgan-") as folder:
        film = Path(folder) / "film.mp4"
        source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", f"{fps:g}", "-i", "-"]
        command = [program, "-y", "-loglevel", "error", *source, "-pix_fmt", "yuv420p", "-movflags", "+faststart"]
        try:
            pixels = b"".join(frame.tobytes() for frame in held)
            done = subprocess.run([*command, str(film)], input=pixels, capture_output=True, timeout=_FFMPEG_SECONDS)
        except subprocess.TimeoutExpired:
            raise SchurganError(f"{out}: ffmpeg took more than {_FFMPEG_SECONDS} s and was ended") from None
        if done.returncode or not film.exists():
            lines = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["without a message"]
            raise SchurganError(f"{out}: ffmpeg failed ({lines[-1][:200]})")
        with atomic_write(out) as file:
            file.write(film.read_bytes())
