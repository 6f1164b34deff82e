"""What `dofbot calibrate handeye` and `servos` tell of an estimate: on the terminal, as JSON, as a page."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import typer

from edge.errors import CalibrationError, ConfigError

if TYPE_CHECKING:
    from calibration.arm_session import Solved
    from calibration.hand_eye import Estimate


class Source(NamedTuple):
    """Where everything comes from."""

    images: Path
    calibration: Path
    config: Path | None
    refused: dict[str, str]
    solved: "Solved"
    refusal: CalibrationError | None


def show(source: Source, page: Path) -> None:
    """For a person: what was left out, both methods, figures, warnings, servos, and where the page is."""
    from rich.console import Console
    from rich.table import Table

    from calibration import hand_eye
    from calibration.pages import arm as arm_page

    found, console = source.solved.found, Console(width=110)
    for name, why in arm_page.rejected({}, found.rejected).items():
        console.print(f"left out: {name} {why}", highlight=False, markup=False, soft_wrap=True)
    table = Table("", "generalised least squares", "bundle adjustment over pixels", title="Both methods")
    for row in arm_page.both_methods(found):
        table.add_row(*row)
    console.print(table)
    for one in found.checks:
        state, good = arm_page.state(one), hand_eye.GOOD[one.name]
        console.print(f"{state:9} {one.found:8.3g}  (good {good:g}, at most {one.limit:g})  {one.name}", highlight=False)
    for line in found.warnings:
        console.print(f"warning: {line}", highlight=False, soft_wrap=True)
    console.print(hand_eye.describe(found), highlight=False, soft_wrap=True)
    show_servos(source.solved)
    show_truth(source)
    console.print(f"report: {page}", highlight=False, markup=False, soft_wrap=True)


def show_servos(solved: "Solved") -> None:
    """A table, in degrees."""
    from rich.console import Console
    from rich.table import Table

    from calibration.pages import arm as arm_page

    table = Table(*arm_page.SERVOS, title="Servos, against how they were configured")
    for row in arm_page.servos(solved):
        table.add_row(*row)
    Console(width=110).print(table)


def show_truth(source: Source) -> None:
    """How far a simulated arm's estimate is off, in mm and degrees; nothing of a real one."""
    off = _off(source)
    if off:
        typer.echo(
            f"off the truth, which only the simulation knows: camera {off['hand_eye_mm']:.2f} mm and {off['hand_eye_deg']:.3f}°, "
            f"worst zero {off['zeros_deg']:.2f}°"
        )


def _off(source: Source) -> dict[str, float] | None:
    from calibration.simulated import session as simulated_session

    truth = simulated_session.truth_of(source.images)
    return None if truth is None else simulated_session.off(truth, source.solved.found.state)._asdict()


def write_report(page: Path, source: Source, *, with_hand_eye: bool) -> None:
    """The page with the pictures; raises `ConfigError` where it cannot be written."""
    from calibration.pages import arm as arm_page

    write = arm_page.write if with_hand_eye else arm_page.write_servos
    try:
        write(page, source.solved, source.images, source.refused)
    except OSError as error:
        raise ConfigError(f"--report {page} cannot be written ({error.strerror}); give a path that you may write to") from None


def told(found: "Estimate", source: Source) -> dict[str, Any]:
    """For scripts: what a person is shown, in the units that the names end in."""
    import numpy as np

    from calibration import hand_eye, servo_zeros
    from calibration.arm import placements
    from calibration.pages import arm as arm_page

    def median_mm(errors: Any) -> float:
        return 1e3 * float(np.median(errors))

    return {
        "method": found.method,
        "summary": hand_eye.describe(found),
        f"transform_camera_to_{placements.MOVES_TO[source.solved.arm.camera]}": found.state.hand_eye.tolist(),
        "sigma": found.sigma(),
        "servo_sigma": servo_zeros.sigma(found),
        "zeros_deg": np.degrees(found.state.zeros_rad).tolist(),
        "scales": (1.0 + found.state.scales).tolist(),
        "compliance_deg_per_nm": np.degrees(np.broadcast_to(found.state.compliance, 5)).tolist(),
        "directions": list(source.solved.signs),
        "held_out_median_mm": {"gls": median_mm(found.held_out.gls_m), "pixel": median_mm(found.held_out.pixel_m)},
        "checks": list(found.checks),
        "warnings": list(found.warnings),
        "used": list(found.used),
        "left_out": arm_page.rejected(source.refused, found.rejected),
        "off_truth": _off(source),
        "calibration": str(source.calibration),
    }
