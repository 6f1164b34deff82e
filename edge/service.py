"""The process: everything that is opened before the control loop runs, and closed after it."""

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np

import urdf
from edge import calibration, kinematics
from edge.block import BlockTracker
from edge.cameras import camera_check
from edge.cameras.fixed_marker import FixedMarker
from edge.cameras.markers import Marking
from edge.cameras.virtual_camera import Mounting, mounting_of
from edge.cameras.wrist import WristCamera
from edge.config import Config
from edge.contract import Contract
from edge.contract_check import Expectation
from edge.devices import Devices, View, open_devices
from edge.errors import ConfigError, RefusedError, UnreachableError
from edge.grasping import Markers
from edge.notify import Notifier
from edge.policies.first_policy import first_policy
from edge.policies.policy_slots import PolicySlots
from edge.policies.probation import Probation
from edge.policy import Policy, load
from edge.preflight import preflight
from edge.realtime import Grant, realtime
from edge.records.record import Recorder, Summary, Timings
from edge.remote.control import ControlServer
from edge.remote.control_socket import server_path
from edge.remote.orders import Orders
from edge.runtime import Runtime
from edge.task import GraspTask

_log = logging.getLogger(__name__)


class Parts(NamedTuple):
    """What a run needs, checked: a policy that fits this robot, its task, open devices and a record."""

    policy: Policy
    task: GraspTask
    devices: Devices
    recorder: Recorder
    markers: Markers | None = None  # where the policy, or the configuration, wants them looked for
    policy_warning: str = ""  # why the policy is not the active one


@contextmanager
def opened(
    settings: Config, records: bool = True, camera_within_s: float = 0.0, say: Callable[[str], None] = lambda why: None
) -> Iterator[Parts]:
    """Check the policy, then open the devices and see that they answer; nothing moves. Raises `DofbotError`.

    With `records`, that of the last run is overwritten. `say` hears what is waited for.
    """
    policy, warning = first_policy(PolicySlots(settings), partial(_load, settings))
    settings, mounting = _calibrated(settings, policy)
    try:
        task = GraspTask(policy.contract, settings.run.place_in_table_m)
    except UnreachableError as error:
        raise ConfigError(f"run.place_in_table_m = {settings.run.place_in_table_m}, or the policy's start: {error}") from None
    view, markers = seeing(settings, policy.contract, task, mounting)
    with closing(open_devices(settings, view)) as devices:
        preflight(policy, devices.camera, camera_within_s, say)
        with closing(Recorder(settings.run.record if records else "")) as recorder:
            yield Parts(policy, task, devices, recorder, markers, warning)


def run_once(parts: Parts, settings: Config, grasps: int, stop: Callable[[], bool], systemd: Notifier) -> Summary:
    """Arm, grasp, park, end: for demonstrations and tests, without a control socket."""
    reason = _why_not_armed(settings)
    if reason:
        raise RefusedError(reason)
    runtime = _runtime(parts, settings, systemd)
    with _realtime(settings, runtime):
        systemd.ready("grasping")
        return _ended(systemd, runtime.run(grasps, _telling(stop, systemd)))


def serve(parts: Parts, settings: Config, stop: Callable[[], bool], systemd: Notifier) -> Summary:
    """Disarmed, until somebody commands it over the control socket; until `stop`."""
    config, timings = settings.control, Timings.empty()
    path = server_path(config.socket)
    if path is None:
        raise ConfigError("control.socket = '' leaves nobody to arm the arm, expected a path; set it, or run with --arm")
    with closing(ControlServer(path, config.mode, config.group or None, lambda: msgspec.to_builtins(timings.so_far()))) as control:
        probation = Probation(PolicySlots(settings), settings.policy) if settings.policy.folder else None
        why_not = partial(_why_not_armed, settings)
        orders = Orders(control, parts.devices.faults, partial(_load, settings), settings.bus.driver, why_not, probation)
        orders.policy_warning = parts.policy_warning
        runtime = _runtime(parts, settings, systemd, obey=orders, timings=timings)
        with _realtime(settings, runtime) as grants:
            orders.realtime = tuple(map(str, grants))
            systemd.ready("DISARMED: policy, bus and camera answer")
            _log.info("DISARMED, listening on %s", path)
            try:
                return _ended(systemd, runtime.serve(_telling(stop, systemd)))
            finally:
                orders.close(runtime)


def _runtime(parts: Parts, settings: Config, systemd: Notifier, **more: Any) -> Runtime:
    max_age_s = settings.camera.max_age_s
    return Runtime(parts.policy, parts.task, parts.devices, parts.recorder, max_age_s, systemd.alive, markers=parts.markers, **more)


def _telling(stop: Callable[[], bool], systemd: Notifier) -> Callable[[], bool]:
    """`stop`; systemd hears of it, too, because parking takes a while."""

    def stopping() -> bool:
        if stop():
            systemd.stopping("parking the arm")
            return True
        return False

    return stopping


def _ended(systemd: Notifier, result: Summary) -> Summary:
    systemd.ended()
    return result


def _calibrated(settings: Config, policy: Policy) -> tuple[Config, Mounting | None]:
    """The configuration with what was measured on this robot, and what of its camera; raises `ConfigError` for what is of another robot."""
    if not settings.calibration.file:
        return settings, None
    path = Path(settings.calibration.file)
    found = calibration.load(path)
    calibration.check_robot(found, path, settings.mount, settings.bus, urdf.dofbot_sha256())
    return calibration.applied(settings, found), mounting_of(found, path, policy.contract.camera)


def seeing(settings: Config, contract: Contract, task: GraspTask, mounting: Mounting | None) -> tuple[View, Markers | None]:
    """What of the frames is looked at, and by whom: with the camera as calibrated, else as in training; raises `ConfigError`."""
    lens = hand_eye = None
    if mounting is not None:
        lens, hand_eye = mounting.found.lens, mounting.found.hand_eye
    pose, config, fixed = np.array((hand_eye or contract.camera).transform_camera_to_tool), settings.block, settings.fixed_marker
    start_m = (kinematics.transform_tool_to_table(task.start, task.mount) @ pose)[:3, 3]
    wrist = WristCamera(pose, task.mount)
    markers, narrowest = Markers(wrist), math.inf
    ids: tuple[int, ...] = ()
    if contract.block is not None:
        block_m, low, high = contract.episode.block_size_m, contract.episode.spawn_min_in_table_m, contract.episode.spawn_max_in_table_m
        if config.marker_m > block_m:
            found = f"block.marker_m = {config.marker_m:g}"
            raise ConfigError(f"{found}, expected at most the policy's block, {block_m:g}; give the black square's edge, in m")
        corners_m = [(x_m, y_m, block_m) for x_m in (low[0], high[0]) for y_m in (low[1], high[1])]
        narrowest = min(config.marker_m / math.dist(start_m, corner) for corner in corners_m)
        markers, ids = markers._replace(block=BlockTracker(contract.episode, config, wrist)), config.markers
    if fixed.id >= 0:
        narrowest = min(narrowest, fixed.size_m / math.dist(start_m, (*fixed.at_in_table_m, 0.0)))
        markers, ids = markers._replace(fixed=FixedMarker(fixed, wrist)), (*ids, fixed.id)
    if not ids:
        return View(mounting), None
    marking = Marking(config.dictionary, ids, narrowest)
    if lens is not None:
        marking = msgspec.structs.replace(marking, lens=lens.intrinsics, distortion=lens.distortion)
    return View(mounting, marking), markers


def _why_not_armed(settings: Config) -> str:
    return camera_check.why_not_armed(settings.calibration, camera_check.now())


def _load(settings: Config, path: Path) -> Policy:
    data = PolicySlots(settings).vouched(path)
    return load(path, Expectation(settings.mount, urdf.dofbot_sha256()), data)


@contextmanager
def _realtime(settings: Config, runtime: Runtime) -> Iterator[tuple[Grant, ...]]:
    """What real time takes; on a virtual clock there is no hurry."""
    with nullcontext(()) if settings.simulator.clock == "virtual" else realtime(settings.realtime, runtime.helpers) as grants:
        yield grants
