"""`dofbot simulate`, `dofbot demo` and `dofbot soak`: the whole pipeline without hardware."""

import math
import threading
from pathlib import Path
from typing import Annotated, Literal

import typer

from edge.errors import ConfigError

CameraName = Literal["d405", "d435"]
POLICY = Path("trainer/results/policy.onnx")


def register(app: typer.Typer) -> None:
    """Add the verbs."""
    app.command()(simulate)
    app.command()(demo)
    app.command()(soak)


def simulate(
    port: Annotated[int, typer.Option(min=0, max=65535, help="On loopback; 0 takes a free one.")] = 5555,
    seed: Annotated[int, typer.Option(help="Of the blocks that are fed.")] = 0,
    policy: Annotated[Path | None, typer.Option(help="Policy file whose task is set up; without it, the task that we train.")] = None,
    camera: Annotated[CameraName | None, typer.Option(help="Its camera, 424×240 with noise; without it the policy's own, exact.")] = None,
    camera_off_mm: Annotated[str, typer.Option(metavar="X,Y,Z", help="How far --camera is from the policy's, in its own axes.")] = "0,0,0",
    camera_off_deg: Annotated[str, typer.Option(metavar="X,Y,Z", help="The same as a rotation vector, in degrees.")] = "0,0,0",
    calibration: Annotated[Path | None, typer.Option(help="Write what a perfect calibration of --camera would find to this file.")] = None,
) -> None:
    """Serve a simulated arm, camera and desk until Ctrl-C; `dofbot run` drives it like a real one.

    With --camera the wrist has a camera with a mount and a lens of its own. What it sees is not what the policy was trained with; a run
    with calibration.file set to the file that --calibration writes makes up for that.
    """
    from edge import calibration as calibrations
    from edge.policy import load
    from trainer import sensors, spec
    from trainer.desk import Desk
    from trainer.server import SimulatorServer

    if camera is None and (calibration or (camera_off_mm, camera_off_deg) != ("0,0,0", "0,0,0")):
        raise ConfigError("--camera is missing, expected d405 or d435 where an offset or a calibration is asked for; add it")
    contract = load(policy).contract if policy else spec.contract()
    wrist = None
    if camera is not None:
        shift_m = [mm * 1e-3 for mm in _three(camera_off_mm, "--camera-off-mm")]
        turn_rad = [math.radians(deg) for deg in _three(camera_off_deg, "--camera-off-deg")]
        wrist = sensors.wrist(camera, contract.camera, shift_m, turn_rad)
        if calibration:
            by = f"dofbot simulate --camera {camera} --camera-off-mm {camera_off_mm} --camera-off-deg {camera_off_deg}"
            calibrations.save(calibration, sensors.calibration_of(contract, wrist.camera, by))
    desk = Desk(contract, seed, wrist)
    server = SimulatorServer(desk, port)
    typer.echo(f"simulated DOFBOT (PyBullet; no hardware is touched) on 127.0.0.1:{server.port}, seed {seed}; Ctrl-C ends it")
    try:
        server.serve(threading.Event())  # which nobody sets
    except KeyboardInterrupt:
        picked = sum(result.picked for result in desk.results)
        typer.echo(f"\n{picked} of {len(desk.results)} blocks picked; the simulation lost {server.late_s:.2f} s against wall time")
    finally:
        desk.close()


def _three(text: str, option: str) -> tuple[float, ...]:
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = ()
    if len(found) != 3 or not all(map(math.isfinite, found)):
        raise ConfigError(f"{option} {text!r} is no vector, expected three numbers as in 5,0,-2.5; correct it")
    return found


def demo(
    policy: Annotated[Path, typer.Option(help="Policy file.")] = POLICY,
    grasps: Annotated[int, typer.Option(min=1, help="Blocks to pick up.")] = 20,
    real: Annotated[int, typer.Option(min=1, help="How many of them in real time, to measure it; the others as fast as can be.")] = 3,
    seed: Annotated[int, typer.Option(help="Of the blocks.")] = 0,
    out: Annotated[Path, typer.Option(help="Where demo.gif, map.png and demo.json go.")] = Path("out/demo"),
    json: Annotated[bool, typer.Option("--json", help="Print demo.json instead of the table.")] = False,
) -> None:
    """Pick blocks up with the runtime itself, on a simulated arm; exit code 1 below 90 %."""
    from trainer import demo as demonstration

    settings = demonstration.Settings(policy, grasps, min(real, grasps), seed, out)
    if not demonstration.run(settings, as_json=json):
        raise typer.Exit(1)


def soak(
    hours: Annotated[float, typer.Option(min=0.001, help="How long, on the clock of the loop.")] = 24.0,
    real: Annotated[bool, typer.Option("--real", help="On the real clock; without it as fast as can be.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the faults, the person and the blocks.")] = 0,
    policy: Annotated[Path, typer.Option(help="Policy file.")] = POLICY,
    out: Annotated[Path, typer.Option(help="Where soak.md, soak.png and soak.json go.")] = Path("out/soak"),
    json: Annotated[bool, typer.Option("--json", help="Print soak.json instead of the table.")] = False,
) -> None:
    """Run the runtime for hours on a simulated arm, with faults all the time; exit code 1 after an unsafe command or a crash.

    Ctrl-C ends it early and writes what was found until then.
    """
    from trainer import soak as soaking
    from trainer import soak_report

    settings = soaking.Settings(policy, hours, real, seed)
    with soak_report.progress(hours) as show, soaking.interruptible() as stop:
        found = soaking.run(settings, stop, show)
    options = f"{' --real' if real else ''}{f' --policy {policy}' if policy != POLICY else ''}"
    given = f"dofbot soak --hours {hours:g}{options} --seed {seed} --out {out}"
    soak_report.write(found, out, given)
    if json:
        typer.echo((out / "soak.json").read_text())
    else:
        soak_report.show(found, out)
    if not found.is_good:
        raise typer.Exit(1)
