"""Why a board was not found: the likely mistakes are tried one after another, and the one that explains the image is named."""

import cv2
import numpy as np

from calibration.boards import Board, CharucoBoard
from calibration.opencv import DICTIONARIES, Ids, Image, find_charuco, find_markers

MARKERS_MIN = 4  # fewer may be chance: a small dictionary finds one in any clutter
BRIGHT, BRIGHT_SHARE = 250, 0.15
EDGE_MAX_PX = 5.0  # wider than that, markers begin to be lost
CONTRAST_MIN = 40.0  # grey levels; an image with less shows no print


def why_not_found(image: Image, board: Board, found: int, wanted: int) -> str:
    """One sentence: what was found, what was expected, what to do."""
    ours = {one.id for one in board.markers}
    seen = find_markers(image, board.dictionary).ids
    known = sum(int(i) in ours for i in seen)
    if known < min(MARKERS_MIN, len(ours)):
        explained = _mirrored(image, board, ours) or _other_ids(board, seen, ours) or _other_dictionary(image, board)
        return explained or _not_in_view(image, board, known)
    layout = _other_layout(image, board) if isinstance(board, CharucoBoard) and not found else ""
    few = f"only {found} corners of the board are in view, expected at least {wanted}"
    return layout or _too_bright(image) or _blurred(image, few) or f"{few}; show more of it, or come nearer"


def why_not_flat(image: Image, board: Board, off: float, most: float) -> str:
    """The same where corners were found that do not fit together: `off` squares instead of at most `most`."""
    found = f"the corners do not fit a flat board of this layout: {off:.2f} squares off, expected at most {most:g}"
    layout = _other_layout(image, board) if isinstance(board, CharucoBoard) else ""
    mirrored = _mirrored(image, board, {one.id for one in board.markers})
    return mirrored or layout or f"{found}; is the board bent, or is this another board's JSON?"


def _mirrored(image: Image, board: Board, ours: set[int]) -> str:
    flipped = find_markers(np.ascontiguousarray(image[:, ::-1]), board.dictionary).ids
    count = sum(int(i) in ours for i in flipped)
    if count < min(MARKERS_MIN, len(ours)):
        return ""
    return (
        f"mirrored: {count} markers are there when the image is flipped; print the board unmirrored, or switch the camera's mirroring off"
    )


def _other_ids(board: Board, seen: Ids, ours: set[int]) -> str:
    strange = sorted({int(i) for i in seen} - ours)
    if len(strange) < MARKERS_MIN:
        return ""
    found = f"markers {strange[0]} to {strange[-1]} of {board.dictionary} are in view, expected {min(ours)} to {max(ours)}"
    return f"another board: {found}; give the JSON of this board"


def _other_dictionary(image: Image, board: Board) -> str:
    """The family with the most markers, and its smallest dictionary that has them all: each is the beginning of the next."""
    found = {name: find_markers(image, name).ids for name in DICTIONARIES if not name.endswith(("_50", "_100", "_250"))}
    largest = max(found, key=lambda name: len(found[name]))
    count = len(found[largest])
    if count < MARKERS_MIN:
        return ""
    size = next((size for size in (50, 100, 250) if found[largest].max() < size), 1000)
    name = largest.replace("_1000", f"_{size}")
    return f"wrong dictionary: {count} markers of {name} are in view, expected {board.dictionary}; give the JSON of this board"


def _other_layout(image: Image, board: CharucoBoard) -> str:
    """Markers without corners: columns and rows swapped, or the layout that OpenCV had before 4.6."""
    share = board.marker_m / board.square_m
    markers = find_markers(image, board.dictionary).ids
    for shape, is_legacy, what in (
        ((board.rows, board.columns), False, "columns and rows are swapped"),
        ((board.columns, board.rows), True, "it has the layout of OpenCV before 4.6"),
        ((board.rows, board.columns), True, "columns and rows are swapped, in the layout of OpenCV before 4.6"),
    ):
        ids, _, _ = find_charuco(image, shape, share, board.dictionary, is_legacy=is_legacy)
        if len(ids) >= len(markers):
            expected = f"expected {board.columns} × {board.rows}; mend the board's JSON"
            return f"another layout: with {shape[0]} × {shape[1]} squares corners are there, {what}; {expected}"
    found = f"{len(markers)} markers of {board.dictionary} are in view, and they make no board of {board.columns} × {board.rows} squares"
    return f"another layout: {found}; is this another board's JSON?"


def _not_in_view(image: Image, board: Board, known: int) -> str:
    found = f"{known} markers of {board.dictionary}, expected at least {min(MARKERS_MIN, len(board.markers))}"
    unseen = f"no board in view: {found}; put it before the camera, or give the JSON of the board that is there"
    if known:
        unseen = f"only {found}; show more of the board, or come nearer"
    return _too_bright(image) or _blurred(image, found) or unseen


def _too_bright(image: Image) -> str:
    bright = float(np.mean(image >= BRIGHT))
    if bright <= BRIGHT_SHARE:
        return ""
    return f"glare: {bright:.0%} of the image is white, expected at most {BRIGHT_SHARE:.0%}; turn the lamp away or the exposure down"


def _blurred(image: Image, found: str) -> str:
    edge_px = _edge_px(image)
    if edge_px <= EDGE_MAX_PX:
        return ""
    return f"blurred: {found}, and the steepest edges are {edge_px:.0f} px wide; hold still, focus, or give more light"


def _edge_px(image: Image) -> float:
    """How many pixels the steepest edges anywhere take from dark to light, in the worse direction: motion blurs only one."""
    if min(image.shape) < 2:
        return 0.0
    smooth = cv2.GaussianBlur(image, (0, 0), 1.0).astype(np.float32)  # noise has edges, too
    dark, light = np.percentile(smooth, (2.0, 98.0))
    slope = min(float(np.percentile(np.abs(np.diff(smooth, axis=axis)), 99.9)) for axis in (0, 1))
    return float(light - dark) / max(slope, 1e-9) if light - dark > CONTRAST_MIN else 0.0
