"""What librealsense's post-processing makes of a wrist camera's image: the SDK's own filters, on a synthetic D405 over a block.

The camera moves by `STEP_PX` from frame to frame, the block 30 mm above the table. Why edge/cameras/depth_stream.py uses none of them:
docs/realsense.md. Alone: python tests/bench/depth_filters.py
"""

import time
from typing import Any

import numpy as np
from tables import Bench, Figures

from tests.edge.software_realsense import D405_UNIT_M, FX, HEIGHT, WIDTH, SoftwareRealSense

TABLE_M, BLOCK_M = 0.20, 0.17
BASELINE_M = 0.018
NOISE_PX = 0.08  # of the disparity: what librealsense's own people reckon with (#3904)
FRAMES, STEP_PX = 40, 4
WARM = 10  # frames until the temporal filter has its history


def bench() -> Bench:
    """A row for each filter with the SDK's defaults."""
    import pyrealsense2 as rs

    to_disparity, to_depth = rs.disparity_transform(True), rs.disparity_transform(False)
    chains: dict[str, list[Any]] = {
        "none": [],
        "spatial": [rs.spatial_filter()],
        "spatial, on disparity": [to_disparity, rs.spatial_filter(), to_depth],
        "temporal": [rs.temporal_filter()],
        "temporal, on disparity": [to_disparity, rs.temporal_filter(), to_depth],
        "hole filling": [rs.hole_filling_filter()],
        "threshold": [rs.threshold_filter(0.03, 0.6)],
    }
    rows = {name: _row(rs, chain) for name, chain in chains.items()}
    notes = (
        f"{WIDTH}×{HEIGHT}, {TABLE_M * 1e3:g} mm over the table; disparity noise {NOISE_PX} px, half of it in patches of 4×4; "
        f"{STEP_PX} px of motion a frame. Invented: share of the pixels without depth that got one. "
        "Edge: pixels within 4 of the block's edge that are off by more than 5 mm."
    )
    return Bench("Post-processing of depth", rows, {}, notes)


def _row(rs: Any, chain: list[Any]) -> Figures:
    camera, rng, frames = SoftwareRealSense(D405_UNIT_M), np.random.default_rng(0), []
    camera.sensor.add_read_only_option(rs.option.stereo_baseline, BASELINE_M * 1e3)
    camera.sensor.open(camera.profile)
    camera.sensor.start(frames.append)
    times_s, noise_m, invented, off = [], [], [], []
    for number in range(FRAMES):
        true_m, is_hidden, is_edge = _scene(20 + STEP_PX * number)
        camera.send(_counts(true_m, is_hidden, rng))
        frame, began_s = frames.pop(), time.process_time()
        for block in chain:
            frame = block.process(frame)
        times_s.append(time.process_time() - began_s)
        if number >= WARM:
            depth_m = np.asanyarray(frame.get_data()) * D405_UNIT_M
            error_m = np.where(depth_m > 0.0, np.abs(depth_m - true_m), 0.0)
            noise_m.append(np.sqrt(np.mean(error_m[:40] ** 2)))  # table alone
            invented.append(np.mean(depth_m[is_hidden] > 0.0))
            off.append(np.mean(error_m[is_edge & ~is_hidden] > 0.005))
    camera.sensor.stop()
    camera.sensor.close()
    return {
        "noise mm": float(np.mean(noise_m)) * 1e3,
        "invented %": float(np.mean(invented)) * 1e2,
        "edge off %": float(np.mean(off)) * 1e2,
        "CPU ms, p50": float(np.median(times_s)) * 1e3,
    }


def _scene(left_px: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """True depth of a block whose left edge is at `left_px`; where only one imager sees the table; the block's surroundings."""
    size_px, shadow_px = round(FX * 0.03 / BLOCK_M), round(FX * BASELINE_M * (1.0 / BLOCK_M - 1.0 / TABLE_M))
    top_px = HEIGHT // 2
    true_m = np.full((HEIGHT, WIDTH), TABLE_M)
    true_m[top_px : top_px + size_px, left_px : left_px + size_px] = BLOCK_M
    is_hidden, is_edge = np.zeros((2, HEIGHT, WIDTH), bool)
    is_hidden[top_px : top_px + size_px, left_px - shadow_px : left_px] = True
    is_edge[top_px - 4 : top_px + size_px + 4, left_px - 4 : left_px + size_px + 4] = True
    is_edge[top_px + 4 : top_px + size_px - 4, left_px + 4 : left_px + size_px - 4] = False
    return true_m, is_hidden, is_edge


def _counts(true_m: np.ndarray, is_hidden: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    patches = np.kron(rng.standard_normal((HEIGHT // 4, WIDTH // 4)), np.ones((4, 4)))
    noise_px = NOISE_PX * (patches + rng.standard_normal(true_m.shape)) / np.sqrt(2.0)
    seen_m = FX * BASELINE_M / (FX * BASELINE_M / true_m + noise_px)
    return np.where(is_hidden, 0.0, np.round(seen_m / D405_UNIT_M)).astype(np.uint16)


if __name__ == "__main__":
    from rich import print as show

    show(bench().table())
