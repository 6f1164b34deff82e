"""`dofbot calibrate handeye` and `servos`: camera and servos from one folder of images with the joints they were taken at."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from calibration.commands.hand_eye_result import Source, show, show_servos, show_truth, told, write_report
from calibration.commands.steps import AsJson, board_of, look_at, print_json, settings_with, write_parts
from edge.errors import ConfigError

Images = Annotated[Path | None, typer.Option(help="Folder of images, all of one stream and of one board that lies still on the table.")]
BoardFile = Annotated[
    Path | None, typer.Option("--board", help="The board's JSON, rulers measured; board.json among the images if left out.")
]
File = Annotated[
    Path | None,
    typer.Option("--calibration", help="The robot's calibration file, with its lens; calibration.json among the images if left out."),
]
Joints = Annotated[
    Path | None,
    typer.Option(
        help="Joint angles in degrees of each image, CSV: image,joint1_deg,…,joint5_deg; joints.csv among the images if left out."
    ),
]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="TOML file that describes the robot: mount, servos.")]
Simulate = Annotated[bool, typer.Option("--simulate", help="Let a simulated arm with errors take the images: no hardware, truth known.")]
Seed = Annotated[int, typer.Option(min=0, help="--simulate: which arm.")]
Report = Annotated[
    Path | None, typer.Option(help="Write a page with pictures to this HTML file; report.html among the images if left out.")
]


Camera = Literal["wrist", "forearm", "fixed"]  # `calibration.arm.model.CameraPlace`, which would import NumPy
Where = Annotated[
    Camera | None,
    typer.Option(
        "--camera",
        help="Where it is. wrist: behind joint 5, as policies need it. forearm: on link 4, before joint 5. fixed: on a stand, "
        "and the gripper holds the board. As before for a folder that was begun, else the wrist.",
        show_default=False,
    ),
]


def handeye(
    images: Images = None,
    camera: Where = None,
    board: BoardFile = None,
    calibration: File = None,
    joints: Joints = None,
    config: ConfigFile = None,
    report: Report = None,
    live: Annotated[
        bool,
        typer.Option(
            "--live", help="Let the arm move to planned poses by itself, slowly, and take an image in each; also with --simulate."
        ),
    ] = False,
    manual: Annotated[bool, typer.Option("--manual", help="Move the arm by hand; its joints are read back, or you type them.")] = False,
    take: Annotated[
        str,
        typer.Option(
            metavar="COMMAND", help="--live, --manual: takes one image with another camera than the configured one, and writes it to {}."
        ),
    ] = "",
    yes: Annotated[bool, typer.Option("--yes", help="--live: do not ask before the arm moves.")] = False,
    simulate: Simulate = False,
    seed: Seed = 1,
    as_json: AsJson = False,
) -> None:
    """Find where the camera sits on the arm, or stands, and with it zero, scale and direction of the servos.

    20 images or more of one board that stays where it is: 8 with the tool straight down, 12 tilted to all sides, and 8 more straight
    down to judge by (held_out = 1 in the joints file). For a camera on a stand the gripper holds the board: 20 poses that differ in
    tilt, turn and roll, and 8 more. Two methods are compared by their error on images that they did not see.
    The servos' part is written along: the camera's place holds for the arm that it was found with.
    """
    if live and simulate:
        if manual or take or board or calibration or config:
            raise ConfigError("--live --simulate has an arm, a camera and a board of its own, expected no option of others; leave them out")
        images, simulate = _collect_simulated(images, camera or "wrist", seed), False
    elif live or manual:
        _collect(images, camera, board, calibration, config, take, simulate, manual, yes)
    source = solved_from(images, camera, board, calibration, joints, config, simulate, seed, as_json)
    found = source.solved.found
    page = report or source.images / "report.html"
    write_report(page, source, with_hand_eye=True)
    if not as_json:
        show(source, page)
    if source.refusal:
        raise source.refusal
    _write(source, "dofbot calibrate handeye", with_hand_eye=True)
    if as_json:
        return print_json(told(found, source) | {"report": str(page)})
    from calibration.arm import placements

    typer.echo(f"written to {source.calibration}: the camera {placements.WHERE[source.solved.arm.camera]}, and servos")
    return None


def _collect(
    images: Path | None,
    camera: Camera | None,
    board: Path | None,
    calibration: Path | None,
    config: Path | None,
    take: str,
    simulate: bool,
    manual: bool,
    yes: bool,
) -> None:
    """Fill the folder before it is solved."""
    from calibration.commands import arm_images
    from edge import calibration as files

    if simulate or images is None:
        raise ConfigError("--live and --manual need a folder, expected --images DIR, and --manual a real arm, without --simulate; give it")
    drawn = board_of(board or images / "board.json", None)
    drawn.scale  # noqa: B018 - raises at once where the rulers were not measured
    calibration = calibration or images / "calibration.json"
    before = files.load(calibration)
    if before.lens is None:
        raise ConfigError(f"calibration {calibration} has no lens, expected one; run dofbot calibrate intrinsics first")
    settings = settings_with(config, before, calibration)
    if manual:
        arm_images.manual(images, drawn, settings, before, calibration, take, camera)
    else:
        arm_images.live(images, drawn, settings, before, calibration, take, yes, camera)


def _collect_simulated(images: Path | None, camera: Camera, seed: int) -> Path:
    """The folder, filled as `_collect` does it, by an arm in software that goes there; one that was begun is completed."""
    from calibration.commands import arm_images
    from calibration.simulated import arm as simulated_arm
    from calibration.simulated import session as simulated_session
    from edge import calibration as files
    from edge.config import BusConfig, Config

    folder = _simulated_folder(images, camera, None, seed, live=True)
    typer.echo("simulated: arm, camera and board; nothing real is measured", err=True)
    truth = simulated_session.begin(folder, seed, simulated_arm.Errors(), camera)
    path = folder / simulated_session.CALIBRATION
    board = board_of(folder / simulated_session.BOARD, None)
    settings = Config(bus=BusConfig(driver=simulated_session.DRIVER, i2c="emulated"))
    arm_images.live(folder, board, settings, files.load(path), path, "", True, camera, truth)
    return folder


def _simulated_folder(images: Path | None, camera: Camera, calibration: Path | None, seed: int, *, live: bool) -> Path:
    """Where a simulated arm's pictures go; raises `ConfigError` for a folder with other ones."""
    from calibration.session import make_folder
    from calibration.simulated import session as simulated_session

    folder = images or Path(f"simulated-arm-{seed}{'-live' * live}{'' if camera == 'wrist' else f'-{camera}'}")
    if calibration and calibration != folder / simulated_session.CALIBRATION:
        raise ConfigError(f"--calibration {calibration} with --simulate, expected none: what a simulated arm has goes into {folder} only")
    make_folder(folder)
    before = simulated_session.truth_of(folder)
    wanted = (seed, camera, live)
    if any(folder.iterdir()) if before is None else (before.seed, before.camera, before.live) != wanted:
        options = f"--simulate --seed {seed} --camera {camera}{' --live' * live}"
        raise ConfigError(f"--images {folder} has other images, expected a new folder, or one of {options}; name another")
    return folder


def servos(
    images: Images = None,
    camera: Where = None,
    board: BoardFile = None,
    calibration: File = None,
    joints: Joints = None,
    config: ConfigFile = None,
    report: Annotated[Path | None, typer.Option(help="Write a page to this HTML file.")] = None,
    simulate: Simulate = False,
    seed: Seed = 1,
    as_json: AsJson = False,
) -> None:
    """Find zero, scale, direction and repeatability of each servo, from the same images as handeye; the camera's place stays as it is.

    No picture shows the zero of joint 1 (the whole table turns with it) and of joint 5 (the camera turns with it). The first is found by
    touch (dofbot calibrate grid --touch), the second is set by eye.
    """
    source = solved_from(images, camera, board, calibration, joints, config, simulate, seed, as_json)
    if report:
        write_report(report, source, with_hand_eye=False)
    if not as_json:
        show_servos(source.solved)
        show_truth(source)
    if source.refusal:
        raise source.refusal
    _write(source, "dofbot calibrate servos", with_hand_eye=False)
    if as_json:
        return print_json(told(source.solved.found, source))
    typer.echo(f"written to {source.calibration}: servos")
    return None


def solved_from(
    images: Path | None,
    camera: Camera | None,
    board: Path | None,
    calibration: Path | None,
    joints: Path | None,
    config: Path | None,
    simulate: bool,
    seed: int,
    quiet: bool,
) -> Source:
    """The folder's estimate; one that did not keep its thresholds comes with its refusal."""
    from calibration import arm_session
    from calibration.arm import joints_file, placements
    from calibration.lens import lens_of
    from edge import calibration as files

    if simulate:
        images = _simulated(images, camera or "wrist", calibration, seed, quiet=quiet)
    if images is None:
        raise ConfigError("--images is missing, expected a folder of images with joints.csv; or try it without an arm: --simulate")
    calibration = calibration or images / "calibration.json"
    drawn = board_of(board or images / "board.json", None)
    drawn.scale  # noqa: B018 - raises at once where the rulers were not measured
    before = files.load(calibration)
    if before.lens is None:
        raise ConfigError(f"calibration {calibration} has no lens, expected one; run dofbot calibrate intrinsics first")
    posed = joints_file.load(joints_file.find(images, joints))
    session = look_at(images, drawn, quiet=quiet)
    settings = settings_with(config, before, calibration)
    arm = arm_session.arm_as_taken(images / arm_session.NAME, settings, before, camera)
    if config:
        arm_session.check_configured(arm, images / arm_session.NAME, settings, before)
    views, held_out, points = arm_session.views_of(session, posed, arm, drawn)
    if session.size != before.lens.intrinsics[:2]:
        raise ConfigError(
            f"images have {session.size} pixels, the lens {tuple(before.lens.intrinsics[:2])}, expected the same stream; take it"
        )
    refused = {name: seen.refused for name, seen in session.images.items() if seen.refused}
    try:
        guess = placements.drawn(arm.camera, points, lens_of(before.lens.intrinsics, before.lens.distortion)).hand_eye
        solved = arm_session.solve(views, held_out, points, before.lens, arm, guess)
    except arm_session.RefusedEstimateError as error:
        return Source(images, calibration, config, refused, error.solved, error)
    return Source(images, calibration, config, refused, solved, None)


def _simulated(images: Path | None, camera: Camera, calibration: Path | None, seed: int, *, quiet: bool) -> Path:
    """The folder, filled by a simulated arm; one that was begun is completed."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from calibration.live import plan_poses
    from calibration.simulated import arm as simulated_arm
    from calibration.simulated import session as simulated_session

    folder = _simulated_folder(images, camera, calibration, seed, live=False)
    console = Console(stderr=True, quiet=quiet)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(compact=True))
    with Progress(*columns, console=console, disable=quiet) as progress:
        task = progress.add_task("planning poses", total=None)
        plan = plan_poses.plan(simulated_arm.scene(camera))
        progress.update(task, description="taking simulated pictures", total=len(plan.calibrate_rad) + len(plan.held_out_rad))
        simulated_session.take(folder, seed, plan, simulated_arm.Errors(), lambda _: progress.advance(task), camera)
    return folder


def _write(source: Source, by: str, *, with_hand_eye: bool) -> None:
    from calibration import hand_eye, servo_zeros
    from edge import calibration as files

    solved = source.solved
    before = files.load(source.calibration)
    serial, servos, bus = before.lens, getattr(before, solved.arm.bus.driver), solved.arm.bus
    taken = (bus.board if bus.driver == "dofbot_board" else bus).servos[0]
    if servos is not None and "joint1.zero_deg" in servos.made.sigma and servos.servos[0] != taken:
        typer.echo("joint 1's zero, which the touch test had found, is as it was before that: touch again", err=True)
    parts: dict[str, Any] = {bus.driver: servo_zeros.part(bus, solved.found, solved.signs, by)}
    if with_hand_eye:
        assert serial is not None
        parts |= hand_eye.parts(solved.found, solved.arm.camera, serial.serial, by)
    write_parts(source.calibration, source.config, **parts)
