"""One HTML page of a hand-eye calibration: both methods side by side, each servo, errors on images that neither saw, and the pictures."""

from html import escape
from pathlib import Path

import numpy as np

from calibration import hand_eye
from calibration.arm import placements
from calibration.arm.images import Rejected
from calibration.arm_session import Solved
from calibration.pages.html import drawing, table
from calibration.pages.lens import page, picture_of
from calibration.servo_zeros import sigma
from edge.calibration import Check
from edge.robot import JOINT_NAMES

VIEWS_SHOWN = 6
SERVOS = ("joint", "zero, °", "scale", "direction", "repeatability, °", "gives way, °/(N·m)")
NOTE = "<p>Zeros and scales are those that hold with the tool straight down, as it grasps.</p>"
BAR_PX, ROW_PX, NAME_PX = 420, 20, 160


def write(path: Path, solved: Solved, folder: Path, refused: dict[str, str]) -> None:
    """Write the page whole; `refused` are images that do not show the board. Raises `OSError`."""
    found = solved.found
    out = [*refused.items(), *((one.name, one.reason) for one in found.rejected)]
    sections = {
        "Figures": _figures(found),
        "Both methods": table(("", "generalised least squares", "bundle adjustment over pixels"), both_methods(found), left=(0,)),
        f"Camera {placements.WHERE[solved.arm.camera]}": table(("number", "value", "σ"), camera(found), left=(0,)),
        "Servos": table(SERVOS, servos(solved), left=(0,)) + NOTE,
        "Errors on images that were not used": _bars(solved),
        "Some of the images": _pictures(solved, folder),
        "Images that were not used": table(("image", "why"), out) if out else "<p>None.</p>",
    }
    page(path, "The camera, and the servos of the arm", f"{len(found.used)} images of {folder}", sections)


def write_servos(path: Path, solved: Solved, folder: Path, refused: dict[str, str]) -> None:
    """The same for the servos alone. Raises `OSError`."""
    found = solved.found
    out = [*refused.items(), *((one.name, one.reason) for one in found.rejected)]
    sections = {
        "Figures": _figures(found),
        "Servos": table(SERVOS, servos(solved), left=(0,)) + NOTE,
        "Errors on images that were not used": _bars(solved),
        "Images that were not used": table(("image", "why"), out) if out else "<p>None.</p>",
    }
    page(path, "The arm's servos", f"{len(found.used)} images of {folder}", sections)


def _figures(found: hand_eye.Estimate) -> str:
    rows = [(one.name, f"{one.found:.3g}", f"{hand_eye.GOOD[one.name]:g}", f"{one.limit:g}", state(one)) for one in found.checks]
    warnings = "".join(f'<p class="bearable">{escape(line)}.</p>' for line in found.warnings)
    return table(("figure", "found", "good", "at most", ""), rows, states=True) + f"<p>{escape(hand_eye.describe(found))}.</p>" + warnings


def state(check: Check) -> str:
    """'good', 'bearable' or 'refused'; NaN is refused."""
    return "good" if check.found <= hand_eye.GOOD[check.name] else "bearable" if check.found <= check.limit else "refused"


def both_methods(found: hand_eye.Estimate) -> list[tuple[str, str, str]]:
    """What each method finds, in mm and degrees."""
    errors, fits = found.held_out, (found.gls.state, found.pixel.state)
    rows: list[tuple[str, str, str]] = []
    for name, pick in (("median", np.median), ("95 %", lambda error: np.percentile(error, 95))):
        rows.append((f"held-out error, {name}, mm", f"{1e3 * pick(errors.gls_m):.2f}", f"{1e3 * pick(errors.pixel_m):.2f}"))
    for axis, name in enumerate("xyz"):
        first, second = (f"{1e3 * one.hand_eye[axis, 3]:.2f}" for one in fits)
        rows.append((f"camera {name}, mm", first, second))
    for joint, name in enumerate(JOINT_NAMES[:5]):
        first, second = (f"{np.degrees(one.zeros_rad[joint]):+.2f}" for one in fits)
        rows.append((f"zero {name}, °", first, second))
    return rows


def camera(found: hand_eye.Estimate) -> list[tuple[str, str, str]]:
    """Position in mm, and the optical axis."""
    told, pose = found.sigma(), found.state.hand_eye
    rows = [(f"{name}, mm", f"{1e3 * pose[i, 3]:.2f}", f"{told[f'hand-eye {name}, mm']:.2f}") for i, name in enumerate("xyz")]
    turns = [f"{told[f'hand-eye r{name}, deg']:.3f}°" for name in "xyz"]
    return [*rows, ("optical axis", " ".join(f"{value:.4f}" for value in pose[:3, 2]), ", ".join(turns))]


def servos(solved: Solved) -> list[tuple[str, ...]]:
    """Each joint as a person reads it; '–' for what no picture shows."""
    found, told = solved.found, sigma(solved.found)
    rows: list[tuple[str, ...]] = []
    compliances = np.degrees(np.broadcast_to(found.state.compliance, 5))
    for joint, (name, sign) in enumerate(zip(JOINT_NAMES[:5], solved.signs, strict=True)):
        zero, scale = np.degrees(found.state.zeros_rad[joint]), 1.0 + found.state.scales[joint]
        zero_text = f"{zero:+.2f} ± {told[f'{name}.zero_deg']:.2f}" if f"{name}.zero_deg" in told else "–"
        scale_text = f"{scale:.4f} ± {told[f'{name}.scale']:.4f}" if f"{name}.scale" in told else "–"
        direction = "as configured" if sign > 0 else "the other way"
        compliance = f"{name}.compliance_deg_per_nm"
        gives = f"{compliances[joint]:+.2f} ± {told[compliance]:.2f}" if compliance in told else "–"
        rows.append((name, zero_text, scale_text, direction, f"{told[f'{name}.repeatability_deg']:.2f}", gives))
    return rows


def rejected(refused: dict[str, str], found: tuple[Rejected, ...]) -> dict[str, str]:
    """Every image that was left out, and why."""
    return refused | {one.name: one.reason for one in found}


def _bars(solved: Solved) -> str:
    """A bar an image, of the method that is used."""
    errors = solved.found.held_out
    used_mm = 1e3 * np.sort(errors.gls_m if solved.found.method == "gls" else errors.pixel_m)
    top = max(float(used_mm.max()), 1.0)
    lines = []
    for row, value in enumerate(used_mm):
        y = row * ROW_PX
        lines.append(f'<rect x="{NAME_PX}" y="{y + 3}" width="{value / top * BAR_PX:.1f}" height="{ROW_PX - 6}" fill="#0969da"/>')
        lines.append(f'<text x="{NAME_PX - 8}" y="{y + 15}" text-anchor="end">{value:.2f} mm</text>')
    caption = "Mean distance on the board between its corners and where the joints and the estimate put them, image by image."
    return drawing(NAME_PX + BAR_PX + 20, len(used_mm) * ROW_PX + 4, "".join(lines), caption)


def _pictures(solved: Solved, folder: Path) -> str:
    views = solved.views
    chosen = np.unique(np.linspace(0, len(views.names) - 1, VIEWS_SHOWN).round().astype(int))
    shown = []
    for index in chosen:
        corners = views.corners_px[index]
        shown.append(picture_of(folder / views.names[index], corners[np.isfinite(corners[:, 0])]))
    return "".join(shown)
