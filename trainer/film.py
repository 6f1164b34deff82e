"""Pictures of a desk at work: a film of one grasp as a GIF, and a map of where blocks lay and what became of them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Polygon, Rectangle
from PIL import Image, ImageDraw, ImageFont

from edge.contract import DepthInput, Episode
from edge.messages import Float32
from edge.task import Phase
from trainer import spec
from trainer.blocks import Block
from trainer.desk import Desk, Result
from trainer.env import DofbotGrasp
from trainer.world import World

SHOT_PERIOD_S = 0.16  # of simulated time: 90 shots for a grasp of 14 s
EPISODE_SHOTS = 2  # an evaluated episode gets every second shot, shown for twice as long: several films go into one page
SHOW_MS = 110  # a shot on the screen (GIF counts in 10 ms): 9 a second, and a grasp in 10 s
FILM_MAX_S = 17.0  # of simulated time: the last block of a run has no next one that would end the film

SCENE_PX = (440, 400)  # width, height
SUPERSAMPLING = 2  # the renderer has no anti-aliasing of its own
# From ahead and above, on the side where blocks are put down: no part of the arm hides the block or is cut off.
EYE_M = (-0.40, 0.47, 0.285)
TARGET_M = (-0.045, 0.07, 0.195)
DEPTH_SCALE = 5  # 64 pixels become 320
MARGIN_PX = 20
COLOURS = 160  # of the GIF, shared by all its frames
_PAPER = (255, 255, 255)
_INK, _GREY, _GOOD, _BAD = "#1f2328", "#6b7280", "#1a7f37", "#cf222e"


class Shot(NamedTuple):
    """One moment: seconds since the block was fed, the scene (height, width, 3) uint8, the wrist's depth in metres."""

    time_s: float
    scene: np.ndarray
    depth_m: Float32


class Film:
    """A `Desk.watch` that films one grasp: that of the next block fed after `before`. Simulated time waits for it."""

    def __init__(self, before: Block | None) -> None:
        self.shots: list[Shot] = []
        self._before = before
        self._filmed: Block | None = None

    def watch(self, desk: Desk) -> None:
        """Take a shot if one is due."""
        if self._filmed is None and desk.block is not self._before:
            self._filmed = desk.block
        time_s = desk.now_s - desk.fed_s
        if desk.block is self._filmed is not None and len(self.shots) * SHOT_PERIOD_S <= time_s <= FILM_MAX_S:
            self.shots.append(Shot(time_s, _photograph(desk.world), desk.world.depth()))

    def save(self, path: Path, phase_s: dict[str, float], depth: DepthInput | None) -> None:
        """Write the GIF; `phase_s` are the durations of the filmed grasp's phases, in their order from APPROACH on."""
        with path.open("wb") as file:
            animate(self.shots, [_phase_at(shot.time_s, phase_s) for shot in self.shots], depth, SHOW_MS, file)


class FilmedGrasp(DofbotGrasp):
    """An environment that films its episode and changes nothing in it; while it steers, the depth is what the policy gets."""

    def reset(self, **keywords: Any) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """A new scene, and a new film."""
        self.shots: list[Shot] = []
        self.phases: list[str] = []
        observation = super().reset(**keywords)
        self._began_s = self.world.now_s
        return observation

    def save(self, file: BinaryIO) -> None:
        """Write the GIF of the episode so far."""
        animate(self.shots, self.phases, self.contract.depth, EPISODE_SHOTS * SHOW_MS, file)

    def _tick(self, action: np.ndarray | None) -> None:
        super()._tick(action)
        time_s = self.world.now_s - self._began_s
        if len(self.shots) * EPISODE_SHOTS * SHOT_PERIOD_S <= time_s:
            self.shots.append(Shot(time_s, _photograph(self.world), self._seen_m()))
            self.phases.append(self._state.phase)

    def _seen_m(self) -> Float32:
        depth = self.contract.depth
        if depth is None or self._image is None or self._state.phase is not Phase.APPROACH:
            return self.world.depth()
        depth_m: Float32 = np.where(self._image > 0.0, depth.near_m + self._image * (depth.far_m - depth.near_m), 0.0).astype(np.float32)
        return depth_m


def animate(shots: Sequence[Shot], phases: Sequence[str], depth: DepthInput | None, show_ms: int, file: BinaryIO) -> None:
    """Write a GIF of shots that are shown for `show_ms` each, under the phase of each; `depth` is None where no policy sees it."""
    frames = [_compose(shot, phase, depth or spec.DEPTH) for shot, phase in zip(shots, phases, strict=True)]
    sample = Image.fromarray(np.concatenate([np.asarray(frame) for frame in frames[:: max(1, len(frames) // 8)]]))
    palette = sample.quantize(COLOURS, Image.Quantize.MEDIANCUT)
    flat = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    flat[0].save(file, "GIF", save_all=True, append_images=flat[1:], duration=show_ms, loop=0, optimize=False)


def draw_map(results: Sequence[Result], episode: Episode, path: Path) -> None:
    """Write a PNG of the table from above: every block where it was fed, with its yaw, and whether it was picked."""
    figure = Figure(figsize=(6.4, 5.2), dpi=120, layout="constrained")
    axes = figure.subplots()
    low, high = episode.spawn_min_in_table_m, episode.spawn_max_in_table_m
    left, bottom, right, top = (1e3 * edge_m for edge_m in (*low, *high))
    size = right - left, top - bottom
    axes.add_patch(Rectangle((left, bottom), *size, facecolor="#f3f4f6", edgecolor=_GREY, linestyle="--", label="where blocks are fed"))
    for picked, colour, marker, word in ((True, _GOOD, "o", "picked"), (False, _BAD, "X", "missed")):
        blocks = [result for result in results if result.picked is picked]
        for block in blocks:
            axes.add_patch(_outline(block, episode.block_size_m * 1e3, colour))
        x_mm, y_mm = [block.x_m * 1e3 for block in blocks], [block.y_m * 1e3 for block in blocks]
        axes.plot(x_mm, y_mm, marker, color=colour, markersize=7, label=f"{word}: {len(blocks)}")
    # The table frame's origin lies below the base axis.
    arrow = {"arrowstyle": "->", "color": _INK}
    axes.annotate("to the arm's base", (0.0, 18.0), (0.0, 36.0), ha="center", color=_INK, arrowprops=arrow)
    axes.set(xlim=(left - 30, right + 30), ylim=(15, top + 20), aspect="equal")
    axes.set(xlabel="x (mm)", ylabel="y, away from the base (mm)")
    axes.set_title(f"Simulated: {sum(result.picked for result in results)} of {len(results)} blocks picked")
    axes.legend(loc="lower right")
    figure.savefig(path)


def _outline(block: Result, size_mm: float, colour: str) -> Polygon:
    """The block from above, millimetres."""
    corners = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * size_mm / 2.0  # (4, 2)
    cos, sin = np.cos(block.yaw_rad), np.sin(block.yaw_rad)
    turned = corners @ np.array([[cos, sin], [-sin, cos]])
    return Polygon(turned + np.array((block.x_m, block.y_m)) * 1e3, facecolor="none", edgecolor=colour, linewidth=0.8, alpha=0.7)


def _photograph(world: World) -> np.ndarray:
    """(height, width, 3) uint8, smoothed."""
    width, height = SCENE_PX
    large = world.picture(width * SUPERSAMPLING, height * SUPERSAMPLING, EYE_M, TARGET_M)
    return np.asarray(Image.fromarray(large).reduce(SUPERSAMPLING))


def _phase_at(time_s: float, phase_s: dict[str, float]) -> str:
    """The phase at a time after the first of them began; after the last one the arm goes home."""
    for phase, duration_s in phase_s.items():
        if time_s < duration_s:
            return phase
        time_s -= duration_s
    return "HOMING"


def _compose(shot: Shot, phase: str, depth: DepthInput) -> Image.Image:
    """Scene on the left, what the policy sees on the right."""
    view = _colour(shot.depth_m, depth)
    height, width = view.shape[:2]
    panel_px = width * DEPTH_SCALE + 2 * MARGIN_PX
    page = Image.new("RGB", (SCENE_PX[0] + panel_px, SCENE_PX[1]), _PAPER)
    page.paste(Image.fromarray(shot.scene), (0, 0))
    left, top = SCENE_PX[0] + MARGIN_PX, SCENE_PX[1] - MARGIN_PX - height * DEPTH_SCALE
    page.paste(Image.fromarray(view).resize((width * DEPTH_SCALE, height * DEPTH_SCALE), Image.Resampling.NEAREST), (left, top))
    draw = ImageDraw.Draw(page)
    draw.text((left, 10), phase, _INK, ImageFont.load_default(22))
    draw.text((left + width * DEPTH_SCALE, 10), f"{shot.time_s:.1f} s", _INK, ImageFont.load_default(22), anchor="ra")
    caption = f"wrist depth, {width} x {height} pixels, {depth.near_m * 1e3:.0f} to {depth.far_m * 1e3:.0f} mm"
    draw.text((left, top - 20), caption, _GREY, ImageFont.load_default(13))
    draw.text(
        (10, SCENE_PX[1] - 22), f"simulated; played {SHOT_PERIOD_S / SHOW_MS * 1e3:.1f} times as fast", _GREY, ImageFont.load_default(13)
    )
    return page


def _colour(depth_m: Float32, depth: DepthInput) -> np.ndarray:
    """(height, width, 3) uint8: near is red, far is blue, no depth is black; the map's own dark ends are left out."""
    share = np.clip((depth_m - depth.near_m) / (depth.far_m - depth.near_m), 0.0, 1.0)
    colours = matplotlib.colormaps["turbo"](0.95 - 0.87 * share, bytes=True)[..., :3]
    return np.where((depth_m > 0.0)[..., None], colours, 0).astype(np.uint8)
