"""A servo is moved slowly, after a question, let go afterwards whatever happens, and never where the arm must not be."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from edge import calibration
from edge.buses.servos import LEAST_DEG, MOST_DEG
from edge.config import BusConfig, Config, load
from edge.errors import BusError, ConfigError, DofbotError, RefusedError
from edge.simulated.arm_errors import ArmErrors
from edge.simulated.emulated_arm import EmulatedArm
from firmware_tools import emulated, servo_cli, slow
from firmware_tools.bus_in_use import check_free, who_drives
from firmware_tools.servo_line import opened

UPRIGHT = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
PARKED = (0.0, -30.0, 100.0, 20.0, 0.0, -33.0)


class Rig:
    """The verbs, a configuration file, and the emulated arm that they find; time passes in it alone."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, driver: str) -> None:
        self.calibration = folder / "calibration.json"
        self.path = folder / "config.toml"
        self.path.write_text(f'[bus]\ndriver = "{driver}"\ni2c = "emulated"\n[calibration]\nfile = "{self.calibration}"\n')
        self.config = load(self.path)
        self.most_deg_s = 0.0
        self.build()
        monkeypatch.setattr(emulated, "emulated_arm", lambda config: self.arm)
        self._app = typer.Typer()
        servo_cli.register(self._app)

    def build(self, **options: object) -> None:
        """An arm without flaws, unless told otherwise."""
        self.arm = EmulatedArm(self.config.bus, **{"errors": ArmErrors(), "start_deg": PARKED, **options})  # type: ignore[arg-type]

    def run(self, *arguments: str, typed: str = "") -> Result:
        """A verb, with what somebody types; its `DofbotError` is in `exception`."""
        return CliRunner().invoke(self._app, [*arguments, "--config", str(self.path)], input=typed)

    def refused(self, *arguments: str, typed: str = "") -> str:
        """The same, and it must be refused in one sentence, with nothing powered and nothing moved."""
        before = self.arm.joints_deg()
        result = self.run(*arguments, typed=typed)
        assert isinstance(result.exception, DofbotError), result.output
        message = str(result.exception)
        assert "\n" not in message
        assert self.arm.powered() == (False,) * 6
        assert self.arm.joints_deg() == pytest.approx(before)
        return message


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rig:
    return Rig(tmp_path, monkeypatch, "dofbot_board")


@pytest.fixture
def pca9685(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Rig:
    return Rig(tmp_path, monkeypatch, "pca9685")


def test_it_asks_moves_says_where_it_is_and_lets_go(board) -> None:
    result = board.run("servo", "jog", "joint1", "--to", "12", typed="y\n\n")
    assert result.exit_code == 0, result.output
    assert "joint1: 12° sent" in result.stdout
    assert "° measured" in result.stdout
    assert board.arm.joints_deg()[0] == pytest.approx(12.0, abs=0.1)
    assert board.arm.powered() == (False,) * 6


def test_joints_that_are_not_meant_stay_where_they_are(board) -> None:
    board.run("servo", "jog", "1", "--to", "30", "--yes")
    assert board.arm.joints_deg()[1:] == pytest.approx(PARKED[1:], abs=0.2)


@pytest.mark.parametrize("rig", ["board", "pca9685"])
@pytest.mark.parametrize("typed", ["n\n", ""])
def test_without_a_yes_nothing_moves(rig, typed, request) -> None:
    message = request.getfixturevalue(rig).refused("servo", "jog", "joint1", "--to", "12", typed=typed)
    assert "nothing was done" in message


@pytest.mark.parametrize("rig", ["board", "pca9685"])
@pytest.mark.parametrize("verb", [("jog", "joint2", "--to", "12"), ("centre", "joint2"), ("sweep", "joint2"), ("limits", "joint2")])
def test_a_dry_run_says_what_it_would_do_and_opens_nothing(rig, verb, request, monkeypatch) -> None:
    rig = request.getfixturevalue(rig)
    monkeypatch.setattr(emulated, "emulated_arm", lambda _: pytest.fail("opened"))
    result = rig.run("servo", *verb, "--dry-run")
    assert (result.exit_code, "would" in result.stdout, "joint2" in result.stdout) == (0, True, True)


@pytest.mark.parametrize("verb", [("servo", "jog", "1", "--to", "5"), ("servo", "limits", "1"), ("pca9685", "trim")])
def test_a_dry_run_for_a_program_is_json(pca9685, verb) -> None:
    plain, for_program = pca9685.run(*verb, "--dry-run"), pca9685.run(*verb, "--dry-run", "--json")
    assert plain.stdout.strip() == f"would {json.loads(for_program.stdout)['would']}"


def test_with_yes_nobody_is_waited_for_and_a_dry_run_says_so(board) -> None:
    assert "hold it until Enter" in board.run("servo", "centre", "1", "--dry-run").stdout
    assert "hold" not in board.run("servo", "centre", "1", "--dry-run", "--yes").stdout
    assert "nor hold it" in " ".join(board.run("servo", "centre", "--help").stdout.replace("│", " ").split())


@pytest.mark.parametrize(("rig", "joint"), [("board", 0), ("board", 4), ("pca9685", 0), ("pca9685", 5)])
def test_no_servo_turns_faster_than_30_degrees_a_second(rig, joint, request, monkeypatch) -> None:
    rig = request.getfixturevalue(rig)
    seen: list[tuple[float, float]] = []
    with opened(rig.config) as line:
        start_deg = PARKED[joint]
        line.go(joint, line.position(joint, start_deg))
        go = line.go

        def watched(index: int, position: float) -> None:
            seen.append((line.clock.now_s(), line.deg(index, position)))
            go(index, position)

        monkeypatch.setattr(line, "go", watched)
        slow.turn(line, joint, start_deg, start_deg + 40.0)
    for (before_s, before_deg), (after_s, after_deg) in zip(seen, seen[1:], strict=False):
        assert abs(after_deg - before_deg) <= slow.SPEED_DEG_S * max(after_s - before_s, line.step_s) + 0.01
    assert seen[-1][1] == pytest.approx(start_deg + 40.0)


def test_where_the_gate_bars_the_way_nothing_moves(board) -> None:
    message = board.refused("servo", "jog", "joint2", "--to", "90", "--yes")
    assert "safety gate says tool z" in message
    # The second target only: it is looked at before the first one is gone to.
    assert "cannot go to 90.0°" in board.refused("servo", "jog", "joint2", "--to", "-20", "--to", "90", "--yes")


@pytest.mark.parametrize("rig", ["board", "pca9685"])
@pytest.mark.parametrize("joint", range(6))
def test_no_joint_is_sent_past_its_limits(rig, joint, request) -> None:
    rig = request.getfixturevalue(rig)
    for deg in (LEAST_DEG[joint] - 0.2, MOST_DEG[joint] + 0.2, math.nan, 1e9):
        assert "its limits" in rig.refused("servo", "jog", str(joint + 1), "--to", str(deg), "--yes")


def test_a_joint_whose_servo_turns_less_is_not_sent_past_its_travel(pca9685) -> None:
    with pca9685.path.open("a") as file:
        for channel, travel_deg, zero_deg in [*((c, 270.0, 0.0) for c in range(4)), (4, 267.0, 44.5), (5, 180.0, 0.0)]:
            file.write(f"[[bus.servos]]\nchannel = {channel}\ntravel_deg = {travel_deg}\nzero_deg = {zero_deg}\n")
    assert "expected -89.0°…178.0°" in pca9685.refused("servo", "jog", "joint5", "--to", "179", "--yes")
    assert "expected -89.0°…178.0°" in pca9685.refused("servo", "jog", "joint5", "--to", "-89.5", "--yes")


def test_an_unknown_servo_is_named(board) -> None:
    assert "joint1" in board.refused("servo", "centre", "elbow", "--yes")


def test_a_pwm_servo_leaps_first_and_the_question_says_so(pca9685) -> None:
    result = pca9685.run("servo", "jog", "joint2", "--to", "-25", "--json", typed="y\n\n")
    assert "leaps to -30° at full speed" in result.stderr
    assert json.loads(result.stdout[result.stdout.index("[") :]) == [{"joint": "joint2", "sent_deg": -25.0, "measured_deg": None}]
    assert pca9685.arm.joints_deg()[1] == pytest.approx(-25.0, abs=0.5)
    assert pca9685.arm.powered() == (False,) * 6


def test_one_that_does_not_follow_is_said(board) -> None:
    board.arm.block(0, -3.0, 3.0)
    result = board.run("servo", "jog", "joint1", "--to", "20", "--yes")
    assert isinstance(result.exception, BusError)
    assert "joint1 did not follow (3.0° for 20°)" in str(result.exception)
    assert board.arm.powered() == (False,) * 6


@pytest.mark.parametrize("rig", ["board", "pca9685"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_ctrl_c_a_kill_and_a_lost_connection_let_go(rig, number, request, monkeypatch) -> None:
    rig = request.getfixturevalue(rig)
    monkeypatch.setattr(slow, "SETTLE_S", 0.0)
    powered = []

    def stopped() -> None:
        with opened(rig.config) as line:
            slow.turn(line, 0, 0.0, 10.0)
            powered.append(rig.arm.powered()[0])
            os.kill(os.getpid(), number)
            time.sleep(1.0)  # the signal comes in it

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert powered == [True]
    assert rig.arm.powered() == (False,) * 6


@pytest.mark.parametrize("rig", ["board", "pca9685"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_second_ctrl_c_does_not_stop_the_release(rig, number, request, monkeypatch) -> None:
    rig = request.getfixturevalue(rig)
    i2c, write = rig.arm.i2c, rig.arm.i2c.writeto

    def impatient(*arguments: object) -> None:
        os.kill(os.getpid(), number)
        time.sleep(0.05)  # the signal comes in it
        write(*arguments)

    def stopped() -> None:
        with opened(rig.config) as line:
            slow.turn(line, 0, 0.0, 1.0)
            assert rig.arm.powered()[0]
            monkeypatch.setattr(i2c, "writeto", impatient)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert rig.arm.powered() == (False,) * 6


@pytest.mark.parametrize("rig", ["board", "pca9685"])
def test_a_tool_that_was_stopped_for_a_while_does_not_hurry_afterwards(rig, request) -> None:
    """Ctrl-Z and fg, or a machine that swaps: what is left of the way must not be one leap."""
    rig = request.getfixturevalue(rig)
    sent: list[tuple[float, float]] = []
    with opened(rig.config) as line:
        go = line.go

        def stalling(joint: int, position: float) -> None:
            go(joint, position)
            if len(sent) == 5:
                line.clock.sleep_until(line.clock.now_s() + 3.0)
            sent.append((line.clock.now_s(), line.deg(joint, position)))

        line.go = stalling  # type: ignore[method-assign]
        slow.turn(line, 0, 0.0, 40.0)
        slow.creep(line, 0, line.position(0, 40.0), line.position(0, 0.0))
    for (before_s, before_deg), (after_s, after_deg) in zip(sent, sent[1:], strict=False):
        assert abs(after_deg - before_deg) <= slow.SPEED_DEG_S * (after_s - before_s) + 0.01


def test_a_servo_that_cannot_be_told_to_stay_bars_torque(board) -> None:
    """Two with one id, turned by hand since they had a goal: they would leap back to it when another joint is jogged."""
    board.arm.board.servos[3].number = 2
    board.arm.turn_by_hand(1, 10.0)
    assert "servo 2 (joint2) answers, but tells no position twice alike" in board.refused("servo", "jog", "joint1", "--to", "5", "--yes")


@pytest.mark.parametrize("joint", [0, 3])
def test_an_arm_that_is_moved_while_the_question_stands_does_not_leap_back(board, monkeypatch, joint) -> None:
    asked: list[str] = []

    def meanwhile(question: str, yes: bool) -> None:
        asked.append(question)
        board.arm.turn_by_hand(joint, 40.0)

    monkeypatch.setattr("firmware_tools.servo.confirm", meanwhile)
    result = board.run("servo", "jog", "joint1", "--to", "5")
    assert "Hands away?" in asked[0]
    assert isinstance(result.exception, BusError)
    assert "° when it was asked about, and is at " in str(result.exception)
    assert board.arm.joints_deg()[joint] == pytest.approx(40.0, abs=0.5)
    assert board.arm.powered() == (False,) * 6


def test_sweep_goes_to_both_sides_and_back(board) -> None:
    result = board.run("servo", "sweep", "joint5", "--degrees", "8", "--yes", "--json")
    assert [one["sent_deg"] for one in json.loads(result.stdout)] == [0.0, 8.0, -8.0, 0.0]
    assert all(abs(one["measured_deg"] - one["sent_deg"]) < 0.2 for one in json.loads(result.stdout))


def test_the_table_has_every_servo_and_moves_none(board) -> None:
    result = board.run("servo", "read", "--json")
    rows = json.loads(result.stdout)
    assert [row["id"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [row["deg"] for row in rows] == pytest.approx(PARKED, abs=0.3)
    assert all(not row["problem"] for row in rows)
    assert "joint4" in board.run("servo", "read").stdout


def test_reading_leaves_servos_powered_that_another_has_powered(board) -> None:
    board.arm.smbus.write_i2c_block_data(0x15, 0x1A, [1])
    board.arm.clock.sleep_until(board.arm.clock.now_s() + 0.1)
    assert all(board.arm.powered())
    board.run("servo", "read")
    assert all(board.arm.powered())


def test_a_missing_servo_and_a_shared_id_are_told_apart(board) -> None:
    board.arm.plug(2, False)
    message = board.refused("servo", "read")
    assert "servo 3 (joint3) is silent" in message
    board.build()
    board.arm.board.servos[3].number = 2
    message = board.refused("servo", "read")
    assert "servo 2 (joint2) answers, but tells no position twice alike: two servos may share its id" in message
    assert "servo 4 (joint4) is silent" in message
    board.refused("servo", "jog", "joint4", "--to", "5", "--yes")


def test_an_id_is_given_to_the_one_servo_that_is_plugged_in(board) -> None:
    for joint in (0, 1, 3, 4, 5):
        board.arm.plug(joint, False)
    result = board.run("servo", "id", "5", typed="y\n")
    assert (result.exit_code, result.stdout.splitlines()[-1]) == (0, "servo 3 is now 5")
    assert board.arm.board.servos[2].number == 5
    assert board.run("servo", "id", "5", "--yes").stdout.strip() == "servo 5 has this id already"


def test_a_servo_that_reports_a_fault_has_its_new_id_nevertheless(board) -> None:
    for joint in (0, 1, 3, 4, 5):
        board.arm.plug(joint, False)
    board.arm.board.servos[2].status = 0x04
    result = board.run("servo", "id", "5", "--yes")
    assert (result.exit_code, result.stdout.strip(), board.arm.board.servos[2].number) == (0, "servo 3 is now 5", 5)


def test_no_id_is_given_while_several_servos_or_none_hear_it(board) -> None:
    before = [one.number for one in board.arm.board.servos]
    assert "servos 1, 2, 3, 4, 5, 6 answer, expected exactly one" in board.refused("servo", "id", "2", "--yes")
    for joint in range(6):
        board.arm.plug(joint, False)
    assert "no servo answers" in board.refused("servo", "id", "2", "--yes")
    board.arm.plug(1, True)
    assert "nothing was done" in board.refused("servo", "id", "3", typed="n\n")
    assert [one.number for one in board.arm.board.servos] == before
    assert "would give" in board.run("servo", "id", "3", "--dry-run").stdout


def test_pwm_servos_have_no_id(pca9685) -> None:
    assert "without ids" in pca9685.refused("servo", "id", "3", "--yes")


def test_limits_are_read_while_a_person_turns_the_joint(board, monkeypatch) -> None:
    stops = iter((-118.0, 117.0))
    board.build(start_deg=UPRIGHT)
    monkeypatch.setattr("firmware_tools.servo_limits.answer", lambda *_: board.arm.turn_by_hand(2, next(stops)) or "")
    result = board.run("servo", "limits", "joint3", "--yes", "--json")
    assert result.exit_code == 0, result.exception
    found = calibration.load(board.calibration)
    three = found.dofbot_board.servos[2]
    # joint3 is turned around: 2000 counts at 0°, 12.2 a degree.
    assert three.min_raw == pytest.approx(2000 - (117.0 - 1.5) * 2200 / 180, abs=3)
    assert three.max_raw == pytest.approx(2000 + (118.0 - 1.5) * 2200 / 180, abs=3)
    assert found.dofbot_board.servos[:2] == Config().bus.board.servos[:2]
    assert found.dofbot_board.made.by == "dofbot servo limits"
    assert set(found.dofbot_board.made.sigma) == {"joint3.min_raw", "joint3.max_raw"}


def test_a_second_servo_leaves_the_first_as_it_was_measured(board, monkeypatch) -> None:
    stops = iter((-118.0, 117.0, -115.0, 116.0))
    joints = iter((2, 2, 3, 3))
    board.build(start_deg=UPRIGHT)
    monkeypatch.setattr("firmware_tools.servo_limits.answer", lambda *_: board.arm.turn_by_hand(next(joints), next(stops)) or "")
    board.run("servo", "limits", "joint3", "--yes")
    first = calibration.load(board.calibration)
    board.run("servo", "limits", "joint4", "--yes")
    second = calibration.load(board.calibration)
    assert second.dofbot_board.servos[2] == first.dofbot_board.servos[2]
    assert second.dofbot_board.servos[3] != first.dofbot_board.servos[3]
    assert set(second.dofbot_board.made.sigma) == {f"{joint}.{end}_raw" for joint in ("joint3", "joint4") for end in ("min", "max")}
    assert calibration.load(calibration.previous_of(board.calibration)) == first


def test_a_travel_that_is_too_short_is_not_written(board, monkeypatch) -> None:
    stops = iter((-80.0, 80.0))
    board.build(start_deg=UPRIGHT)
    monkeypatch.setattr("firmware_tools.servo_limits.answer", lambda *_: board.arm.turn_by_hand(2, next(stops)) or "")
    result = board.run("servo", "limits", "joint3", "--yes")
    assert isinstance(result.exception, ConfigError)
    assert "joint3" in str(result.exception)
    assert not board.calibration.exists()


def test_a_joint_that_was_not_turned_is_noticed(board) -> None:
    message = board.refused("servo", "limits", "joint3", "--yes", typed="\n\n")
    assert "expected its two stops" in message
    assert not board.calibration.exists()


def test_a_pwm_servo_walks_to_its_stops_as_it_is_told(pca9685) -> None:
    # 1500 µs is the middle: 900 µs down in steps, a step back, then up; 0.135° a µs.
    typed = "y\n" + "100\n" * 9 + "b\ns\n" + "100\n" * 9 + "20\ns\n" + "240\n"
    result = pca9685.run("servo", "limits", "joint1", typed=typed)
    assert result.exit_code == 0, (result.exception, result.output)
    one = calibration.load(pca9685.calibration).pca9685.servos[0]
    assert (one.min_us, one.max_us, one.travel_deg) == (700.0, 2400.0, 240.0)
    # What was 0° at 1500 µs still is.
    at_1500 = one.zero_deg + (1500.0 - (one.min_us + one.max_us) / 2) * one.travel_deg / (one.max_us - one.min_us)
    assert at_1500 == pytest.approx(0.0, abs=1e-9)
    assert pca9685.arm.powered() == (False,) * 6


def test_what_is_no_number_moves_no_servo_and_is_asked_for_again(pca9685) -> None:
    typed = "y\n" + "nan\n" + "100\n" * 8 + "s\n" + "100\n" * 8 + "s\n" + "nan\ninf\n216\n"
    result = pca9685.run("servo", "limits", "joint1", typed=typed)
    assert result.exit_code == 0, (result.exception, result.output)
    one = calibration.load(pca9685.calibration).pca9685.servos[0]
    assert (one.min_us, one.max_us, one.travel_deg) == (800.0, 2200.0, 216.0)
    assert "'nan' is no number" in result.stderr
    assert "'inf' is no number" in result.stderr


def test_limits_without_a_file_to_write_are_refused_before_anything_moves(board) -> None:
    board.path.write_text('[bus]\ndriver = "dofbot_board"\ni2c = "emulated"\n')
    assert "calibration.file is empty" in board.refused("servo", "limits", "joint3", "--yes")


@pytest.mark.parametrize(
    "verb", [("servo", "read"), ("servo", "jog", "1", "--to", "5", "--yes"), ("pca9685", "trim", "--measured-hz", "50")]
)
def test_a_calibration_of_another_robot_is_refused_before_anything_moves(pca9685, verb) -> None:
    pca9685.run("pca9685", "trim", "--measured-hz", "50.5")
    pca9685.path.write_text(pca9685.path.read_text() + "[mount]\nbase_height_m = 0.2\n")
    before = pca9685.calibration.read_bytes()
    assert "is for another robot" in pca9685.refused(*verb)
    assert pca9685.calibration.read_bytes() == before


@pytest.mark.parametrize(
    ("chips", "says"),
    [(("pca9685", "dofbot_board"), "both answer"), (("dofbot_board",), "expected bus.driver = 'pca9685'")],
)
def test_another_board_or_a_second_one_is_refused(pca9685, chips, says) -> None:
    pca9685.build(chips=chips)
    assert says in pca9685.refused("servo", "jog", "joint1", "--to", "5", "--yes")


def test_while_a_runtime_holds_the_bus_nobody_else_moves_it(board, monkeypatch) -> None:
    board.path.write_text('[bus]\ndriver = "dofbot_board"\n')
    monkeypatch.setattr("firmware_tools.bus_in_use.who_drives", lambda _: "dofbot run, which is IDLE")
    monkeypatch.setattr("firmware_tools.servo_line.open_wires", lambda *_: pytest.fail("opened"))
    result = board.run("servo", "jog", "joint1", "--to", "5", "--yes")
    assert isinstance(result.exception, RefusedError)
    assert "systemctl stop dofbot-grasp" in str(result.exception)


@pytest.mark.parametrize("state", ["activating", "deactivating", "active", "inactive", "failed"])
def test_while_the_service_starts_or_ends_nobody_else_moves_it_either(tmp_path, monkeypatch, state) -> None:
    """It waits up to 45 s for a camera, and listens to nobody then; its end would switch the servos off under the tool."""
    systemctl = tmp_path / "systemctl"
    systemctl.write_text(f"#!/bin/sh\necho {state}\n")
    systemctl.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    config = Config(bus=BusConfig(driver="dofbot_board"))
    assert not who_drives(config)  # the check of the camera asks, which is part of the start
    if state in ("inactive", "failed"):
        return check_free(config)
    with pytest.raises(RefusedError, match=f"dofbot-grasp.service, which is {state}, .*systemctl stop"):
        check_free(config)
    return None


def test_a_simulator_has_no_servos(board) -> None:
    board.path.write_text('[bus]\ndriver = "simulator"\n')
    assert isinstance(board.run("servo", "read").exception, ConfigError)


@pytest.mark.parametrize("is_installed", [True, False])
def test_a_runtime_does_not_believe_afterwards_that_the_arm_is_where_it_left_it(pca9685, tmp_path, monkeypatch, is_installed) -> None:
    (tmp_path / "service").mkdir()
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr("edge.buses.last_pose.SERVICE_RUNTIME", tmp_path / ("service" if is_installed else "none"))
    place = tmp_path / "service/last_pose" if is_installed else tmp_path / "dofbot-grasp.last_pose"
    place.write_bytes(b"here")
    pca9685.run("servo", "read")
    assert place.exists()
    pca9685.run("servo", "centre", "joint1", "--yes")
    assert not place.exists()


def test_ctrl_c_at_a_question_is_ctrl_c_and_no_answer() -> None:
    code = "import sys\nfrom firmware_tools.asking import answer\ntry:\n    answer('well?', '')\nexcept KeyboardInterrupt:\n    sys.exit(7)"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as child:
        assert child.stderr is not None
        assert child.stderr.read(5) == b"well?"
        child.send_signal(signal.SIGINT)
        assert child.wait(20) == 7
