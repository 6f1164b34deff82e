"""Which poses to calibrate in: some straight down, as the arm works, and some tilted, each where it tells most; and when it is enough.

What a pose tells is its share of the normal matrix of `calibration.gls`, which adds up, so the best next pose is found by trying all
candidates. Straight-down poses alone leave the camera's height open; tilted ones alone miss the errors that servos have while the arm
works (a study: 3–9 mm instead of 2). All poses are reached from the same side, so that backlash is the same in all of them.
"""

from contextlib import suppress
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from calibration import gls, observability
from calibration.arm.images import IMAGES_MIN
from calibration.arm.model import CameraPlace, ServoArm, State, Views, predict, transform_board_to_camera
from calibration.hand_eye import COMPLIANCE_SIGMA, GOOD, LENS_SIGMA, NOISE, SCALE_SIGMA, SHIFT, TURN, ZERO_SIGMA_RAD
from edge import robot
from edge.errors import CalibrationError, UnreachableError
from edge.kinematics import Mount, solve
from edge.messages import Float64, ToolPose
from edge.safety import DOFBOT_LIMITS, Limits

DOWN, TILTED, HELD_OUT = 8, 12, 8
DOWN_CANDIDATES, TILTED_CANDIDATES = 40, 250
IMAGE_PX = (640, 480)
MARGIN_PX = 8.0  # corners nearer to the border are not counted on: the arm stops a degree beside
SEEN_SHARE = 0.75  # of the board's corners
TOOL_ABOVE_TABLE_M = 0.020
POINTER_ABOVE_TABLE_M = 0.004  # of the tip of what sticks out of the gripper; the gate of `calibration.live.slow_arm` stops it 1 mm lower
CAMERA_ABOVE_TABLE_M = 0.050  # its housing has 42 mm edges
CAMERA_TO_LINK_M = 0.060  # half a housing's diagonal, and half a bracket of 60 mm
BOARD_BORDER_M = 0.035  # around its outermost points: a square of 25 mm and white paper
BOARD_TO_LINK_M = 0.030  # half a bracket
TOOL_TO_LINK_M = 0.060  # half an open gripper, and half a bracket
OBLIQUE_MAX_RAD = np.radians(60.0)
APPROACH_RAD = np.radians(3.0)  # before each pose every joint stands as much lower: more than the backlash of any hobby servo
STOPS_DRAWN = 15
WAY_POINTS = 40  # looked at along a way of up to 180°
FIRST_GUESS_M, FIRST_GUESS_RAD = 0.02, np.radians(10.0)  # σ of hand-eye and board before anything was seen


class Scene(NamedTuple):
    """The arm, its camera and the board, as far as they are known before."""

    mount: Mount
    state: State
    points_m: Float64
    camera: CameraPlace = "wrist"
    image_px: tuple[int, int] = IMAGE_PX
    limits: Limits = DOFBOT_LIMITS
    pointer_m: float = 0.0  # by how much something in the gripper sticks out ahead of the tool centre

    def arm(self, joints_rad: Float64) -> ServoArm:
        """The arm in poses (n, 5)."""
        return ServoArm(joints_rad, self.mount, self.camera)


class Expected(NamedTuple):
    """σ that a set of poses leads to."""

    hand_eye_m: float
    hand_eye_rad: float
    zeros_rad: float  # largest
    table_m: float  # of a point on the board, seen with the tool straight down; servo noise of that one pose not counted

    @property
    def enough(self) -> bool:
        """Whether more poses are not worth their time."""
        return (
            1e3 * self.hand_eye_m <= GOOD["hand-eye position, σ, mm"]
            and np.degrees(self.hand_eye_rad) <= GOOD["hand-eye rotation, σ, deg"]
            and np.degrees(self.zeros_rad) <= GOOD["servo zeros, largest σ, deg"]
        )


class Advice(NamedTuple):
    """What the poses so far lead to, and which to take next."""

    expected: Expected
    enough: bool
    next_rad: Float64  # (5,)


class Plan(NamedTuple):
    """Poses in the order in which to take them, commanded angles."""

    calibrate_rad: Float64  # (20, 5)
    held_out_rad: Float64  # (8, 5), straight down where the camera is on the arm, for the verdict only
    expected: Expected


def plan(scene: Scene, noise: gls.Noise = NOISE) -> Plan:
    """Eight poses straight down, twelve tilted, eight more straight down to judge by; the same each time.

    To a fixed camera the gripper shows the board in twenty, and in eight more to judge by; none of them can be straight down.
    Raises `CalibrationError` when the board lies where the arm cannot look at it.
    """
    draws = np.random.default_rng(0)
    if scene.camera == "fixed":
        return _plan_fixed(scene, slanted(scene, TILTED_CANDIDATES, draws), noise)
    down = straight_down(scene, DOWN_CANDIDATES, draws)
    tilted = slanted(scene, TILTED_CANDIDATES, draws) if len(down) else down
    if len(down) < DOWN + HELD_OUT or len(tilted) < TILTED:
        raise CalibrationError(
            f"{len(down)} poses straight down and {len(tilted)} tilted see the board, expected {DOWN + HELD_OUT} and {TILTED}; "
            "lay it flat in front of the arm, its middle about 110 mm from the base axis"
        )
    chosen, matrix = _greedy(_information(scene, down, noise), _first(scene), DOWN)
    more, matrix = _greedy(_information(scene, tilted, noise), matrix, TILTED)
    left = np.setdiff1d(np.arange(len(down)), chosen)[:HELD_OUT]
    return Plan(np.vstack((down[chosen], tilted[more])), down[left], _expected(scene, matrix, down))


def _plan_fixed(scene: Scene, held: Float64, noise: gls.Noise) -> Plan:
    count = DOWN + TILTED
    if len(held) < count + HELD_OUT:
        raise CalibrationError(
            f"in {len(held)} poses the camera sees the board, expected {count + HELD_OUT}; let the gripper hold it across, facing away "
            "from the arm, and put the camera 0.6 m in front of the base axis, 0.3 m over the table, looking at the gripper"
        )
    chosen, matrix = _greedy(_information(scene, held, noise), _first(scene), count)
    left = np.setdiff1d(np.arange(len(held)), chosen)[:HELD_OUT]
    return Plan(held[chosen], held[left], _expected(scene, matrix, held))


def stops(scene: Scene, plan: Plan) -> Float64:
    """(n, 5) poses that the arm may go by: its park pose, the plan's own, and a few drawn ones, without which some have no clear way."""
    drawn = np.random.default_rng(0).uniform(robot.POSITION_MIN_RAD, robot.POSITION_MAX_RAD, (1000, 5))
    return np.vstack((robot.PARK_RAD, plan.calibrate_rad, plan.held_out_rad, drawn[is_clear(scene, drawn)][:STOPS_DRAWN]))


def advise(scene: Scene, done_rad: Float64, candidates_rad: Float64, noise: gls.Noise = NOISE) -> Advice:
    """What poses (n, 5) that were taken lead to, and which candidate (m, 5) tells most next."""
    matrix = _first(scene) + _information(scene, done_rad, noise).sum(axis=0)
    chosen, _ = _greedy(_information(scene, candidates_rad, noise), matrix, 1)
    expected = _expected(scene, matrix, candidates_rad)
    return Advice(expected, expected.enough and len(done_rad) >= IMAGES_MIN, candidates_rad[chosen[0]])


def approach_from(joints_rad: Float64) -> Float64:
    """(…, 5) where to stand before a pose, so that every joint comes to it from below."""
    return np.asarray(joints_rad - APPROACH_RAD)


def _columns(scene: Scene) -> NDArray[np.bool_]:
    return observability.estimable(scene.arm(np.zeros((1, 5))), lens=True)


def _first(scene: Scene) -> Float64:
    """What is known before the first picture, as a normal matrix (p, p) of the columns that are estimated."""
    six = [FIRST_GUESS_RAD] * 3 + [FIRST_GUESS_M] * 3
    sigma = np.concatenate((six * 2, np.full(5, ZERO_SIGMA_RAD), np.full(5, SCALE_SIGMA), np.full(5, COMPLIANCE_SIGMA), LENS_SIGMA))
    return np.diag(1.0 / sigma[_columns(scene)] ** 2)


def _information(scene: Scene, joints_rad: Float64, noise: gls.Noise) -> Float64:
    """(n, p, p) what each pose would add to the normal matrix."""
    arm = scene.arm(joints_rad)
    pixels = predict(scene.state, arm, scene.points_m).pixels
    views = Views(arm, np.where(in_picture(pixels, scene.image_px)[..., None], pixels, np.nan), tuple(map(str, range(len(joints_rad)))))
    free = _columns(scene)
    problem = gls.Problem(views, scene.points_m, scene.state, np.ones(len(free)), free, noise)
    return gls.scores(problem, gls.Fit(scene.state, noise, np.zeros((0, 0)), np.ones(len(joints_rad))))[0]


def _greedy(information: Float64, matrix: Float64, count: int) -> tuple[list[int], Float64]:
    """The poses that each shrink the volume of what is uncertain most (D-optimal), and the normal matrix with them."""
    chosen: list[int] = []
    for _ in range(count):
        size = np.sqrt(np.diag(matrix))
        gain = np.linalg.slogdet((matrix + information) / np.outer(size, size))[1]
        gain[chosen] = -np.inf
        best = int(np.argmax(gain))
        chosen.append(best)
        matrix = matrix + information[best]
    return chosen, matrix


def _expected(scene: Scene, matrix: Float64, joints_rad: Float64) -> Expected:
    free = _columns(scene)
    size = np.sqrt(np.diag(matrix))
    covariance = np.zeros((len(free), len(free)))
    covariance[np.ix_(free, free)] = np.linalg.inv(matrix / np.outer(size, size)) / np.outer(size, size)
    down = joints_rad[np.abs(np.sin(joints_rad[:, 1:4].sum(axis=1))) < 0.02]
    shown = down if len(down) else joints_rad
    arm = scene.arm(shown)
    by_state = predict(scene.state, arm, scene.points_m).by_state
    variance_px = ((by_state @ covariance) * by_state).sum(axis=(-2, -1)).mean()
    far = transform_board_to_camera(scene.state, arm)[:, 2, 3].mean()
    shift, turn = (float(np.sqrt(np.trace(covariance[part, part]))) for part in (SHIFT, TURN))
    return Expected(shift, turn, float(np.sqrt(np.diag(covariance)[12:17].max())), float(np.sqrt(variance_px) * far / scene.state.lens[0]))


def slanted(scene: Scene, count: int, draws: np.random.Generator) -> Float64:
    """Commanded joints (≤ count, 5), drawn from all that the joint limits allow, that are safe and see most of the board."""
    low, high = np.array(robot.POSITION_MIN_RAD), np.array(robot.POSITION_MAX_RAD)
    found: list[Float64] = []
    for _ in range(20):
        joints = draws.uniform(low, high, (20_000, 5))
        joints = joints[is_safe(scene, joints)]
        found.append(joints[sees_board(scene, joints)])
        if sum(map(len, found)) >= count:
            break
    return np.concatenate(found)[:count]


def straight_down(scene: Scene, count: int, draws: np.random.Generator) -> Float64:
    """Commanded joints (≤ count, 5) that are safe and see most of the board with the tool straight down, as it is when it grasps."""
    places = draws.uniform((-0.07, 0.06, 0.03, -np.pi), (0.07, 0.17, 0.11, np.pi), (50 * count, 4))
    good = np.empty((0, 5))
    for some in np.array_split(places, 25):
        found: list[Float64] = []
        for x, y, z, yaw in some.tolist():
            with suppress(UnreachableError):
                found.append(np.array(solve(ToolPose(x, y, z, 0.0, yaw), scene.mount)))
        joints = np.array(found).reshape(-1, 5)
        joints = joints[is_safe(scene, joints)]
        good = np.concatenate((good, joints[sees_board(scene, joints)]))
        if len(good) >= count:
            break
    return good[:count]


def is_safe(scene: Scene, joints_rad: Float64) -> NDArray[np.bool_]:
    """(n,) whether poses, and where they are approached from, are inside all limits, and tool and camera clear of the table."""
    return is_clear(scene, joints_rad) & is_clear(scene, approach_from(joints_rad))


def is_clear(scene: Scene, joints_rad: Float64) -> NDArray[np.bool_]:
    """(n,) the same of the poses alone."""
    chain = scene.arm(joints_rad).chain(np.zeros(5), np.zeros(5))
    flange, tool = chain.transform_flange_to_table, chain.transform_flange_to_table[:, :3, 3]
    low = np.maximum(scene.limits.tool_min_in_table_m, (-np.inf, -np.inf, TOOL_ABOVE_TABLE_M))
    clear = ((tool >= low) & (tool <= scene.limits.tool_max_in_table_m)).all(axis=1)
    clear &= tool[:, 2] + scene.pointer_m * flange[:, 2, 2] >= POINTER_ABOVE_TABLE_M
    clear &= ((joints_rad >= scene.limits.position_min[:5]) & (joints_rad <= scene.limits.position_max[:5])).all(axis=1)
    if scene.camera != "fixed":
        camera = (flange @ scene.state.hand_eye)[:, :3, 3]
        clear &= camera[:, 2] >= CAMERA_ABOVE_TABLE_M
        clear &= _to_links_m(camera, chain.origin[:, :4]).min(axis=1) >= CAMERA_TO_LINK_M
    elif not scene.pointer_m:  # the gripper holds the board
        held = flange @ scene.state.board
        for corner in _outline_m(scene.points_m):
            at = held[:, :3, :3] @ corner + held[:, :3, 3]
            clear &= at[:, 2] >= TOOL_ABOVE_TABLE_M
            clear &= _to_links_m(at, chain.origin[:, :3]).min(axis=1) >= BOARD_TO_LINK_M
    return np.asarray(clear & (_to_links_m(tool, chain.origin[:, :3]).min(axis=1) >= TOOL_TO_LINK_M))


def _outline_m(points_m: Float64) -> Float64:
    """(4, 3) corners of the board that the points are on."""
    (left, top, _), (right, below, _) = points_m.min(axis=0) - BOARD_BORDER_M, points_m.max(axis=0) + BOARD_BORDER_M
    return np.array([(x, y, 0.0) for x in (left, right) for y in (top, below)])


def is_clear_way(scene: Scene, start_rad: Float64, goal_rad: Float64) -> bool:
    """Whether all joints (5,) may turn straight from one pose to another."""
    share = np.linspace(0.0, 1.0, WAY_POINTS)[:, None]
    return bool(is_clear(scene, start_rad + (goal_rad - start_rad) * share).all())


def _to_links_m(point: Float64, joints: Float64) -> Float64:
    """(n, k - 1) distance from points (n, 3) to the links between joints (n, k, 3)."""
    start, link = joints[:, :-1], np.diff(joints, axis=1)
    to_point = point[:, None] - start
    share = np.clip((to_point * link).sum(axis=-1) / (link**2).sum(axis=-1), 0.0, 1.0)
    return np.asarray(np.linalg.norm(to_point - share[..., None] * link, axis=-1))


def sees_board(scene: Scene, joints_rad: Float64) -> NDArray[np.bool_]:
    """(n,) whether most of the board is in the picture, from the front, at less than 60° from its normal."""
    arm = scene.arm(joints_rad)
    poses = transform_board_to_camera(scene.state, arm)
    depth = (scene.points_m @ np.swapaxes(poses[:, :3, :3], 1, 2) + poses[:, None, :3, 3])[..., 2]
    result = (poses[:, 2, 2] > np.cos(OBLIQUE_MAX_RAD)) & (depth.min(axis=1) > 0.05)
    if result.any():
        pixels = predict(scene.state, arm.take(np.flatnonzero(result)), scene.points_m).pixels
        result[result] = in_picture(pixels, scene.image_px).mean(axis=1) >= SEEN_SHARE
    return np.asarray(result)


def in_picture(pixels: Float64, image_px: tuple[int, int] = IMAGE_PX) -> NDArray[np.bool_]:
    """(…,) whether pixels (…, 2) lie inside the image, with a margin."""
    return np.asarray(((pixels >= MARGIN_PX) & (pixels <= np.array(image_px) - 1.0 - MARGIN_PX)).all(axis=-1))
