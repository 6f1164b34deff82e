"""A configuration is either what it says, checked field by field, or one sentence that names file, field and remedy."""

import math
import os
import subprocess
import sys
from operator import attrgetter
from pathlib import Path

import msgspec
import pytest

from edge.buses.servos import check_travel
from edge.config import Config, MountConfig, load
from edge.errors import ConfigError
from edge.simulated.faults import Fault

ROOT = Path(__file__).parents[2]
SIX = [f"{{channel = {channel}}}" for channel in range(6)]


def write(path: Path, text: str | bytes) -> Path:
    file = path / "dofbot.toml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def refusal(path: Path, text: str | bytes) -> str:
    """The sentence with which a file is refused, without the file's name, which it must have."""
    file = write(path, text)
    with pytest.raises(ConfigError) as caught:
        load(file)
    message = str(caught.value)
    assert str(file) in message
    assert "\n" not in message
    assert caught.value.exit_code == 2
    return message.replace(str(file), "FILE")


def servos(*entries: str) -> str:
    return f"[bus]\nservos = [{', '.join(entries)}]"


def test_an_empty_file_is_all_defaults(tmp_path: Path) -> None:
    assert load(write(tmp_path, "")) == Config()
    assert load(write(tmp_path, "[mount]\n[bus]\n[camera]\n[simulator]\n[run]\n[faults]\n")) == Config()


def test_the_defaults_are_a_valid_file_and_an_arm_that_reaches_its_limits(tmp_path: Path) -> None:
    document = msgspec.to_builtins(Config())
    tables = [
        f"[{section}]\n" + "".join(f"{key} = {toml(value)}\n" for key, value in fields.items()) for section, fields in document.items()
    ]
    assert load(write(tmp_path, "\n".join(tables))) == Config()
    check_travel(Config().bus.servos)


def toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(toml, value)) + "]"
    return repr(value)


@pytest.mark.parametrize(
    "line",
    [
        "socket = '0.0.0.0:5000'",
        "socket = 'tcp://localhost'",
        "socket = 'a.sock'",
        "socket = '@abstract'",
        "socket = 5000",
        "port = 5000",
        "host = '0.0.0.0'",
        "listen = '::'",
    ],
)
def test_commands_come_from_a_unix_socket_only_and_the_refusal_says_how_to_tunnel(line: str, tmp_path: Path) -> None:
    message = refusal(tmp_path, f"[control]\n{line}")
    assert "control" in message
    assert "ssh -L local.sock:/run/dofbot-grasp/control.sock pi@robot" in message


@pytest.mark.parametrize(("path", "mode"), [("/run/dofbot-grasp/control.sock", 0o660), ("", 0o600), ("auto", 0o660)])
def test_a_control_socket_is_a_path_for_owner_and_group(path: str, mode: int, tmp_path: Path) -> None:
    control = load(write(tmp_path, f"[control]\nsocket = '{path}'\nmode = {mode:#o}\ngroup = 'dofbot'")).control
    assert msgspec.structs.astuple(control) == (path, mode, "dofbot")


@pytest.mark.parametrize("mode", [0o666, 0o640, 0o662, 0o777, 0, -1])
def test_nobody_else_commands_the_arm(mode: int, tmp_path: Path) -> None:
    assert f"control.mode = {mode:#o}: expected 0o660 or 0o600" in refusal(tmp_path, f"[control]\nmode = {mode}")


def test_every_field_is_read(tmp_path: Path) -> None:
    entries = ["{channel = 15, min_us = 400, max_us = 2600.0, travel_deg = 180, zero_deg = -3.5, direction = -1}", *SIX[1:]]
    first = "{id = 6, zero_raw = 1990, counts_per_deg = 13.0, direction = -1, min_raw = 100, max_raw = 3900}"
    by_id = [first, *(f"{{id = {number}}}" for number in range(1, 6))]
    config = load(
        write(
            tmp_path,
            "[mount]\ninverted = false\nbase_height_m = 0.05\n"
            + servos(*entries)
            + "\ndriver = 'simulator'\ni2c = 'emulated'\naddress = 0x41\nreference_clock_hz = 26_000_000\n"
            + f"[bus.board]\ni2c_bus = 7\naddress = 0x16\nmove_ms = 300\nservos = [{', '.join(by_id)}]\n"
            + "[camera]\ndriver = 'replay'\nmax_age_s = 0.2\nserial = '405'\nwidth = 640\nheight = 480\nfps = 15\n"
            + "preset = 'high_accuracy'\nfile = 'seen.db3'\nloop = true\n[simulator]\nport = 6000\nclock = 'virtual'\n"
            + "[run]\npolicy = 'other.onnx'\ngrasps = 3\nplace_in_table_m = [0.1, 0.07]\nrecord = 'run.msgpack'\n"
            + "[block]\ndictionary = 'DICT_5X5_100'\nmarkers = [7, 999]\nmarker_m = 0.026\n"
            + "[fixed_marker]\nid = 36\nat_in_table_m = [0.08, 0.14]\nsize_m = 0.03\noff_max_m = 0.02\n"
            + "[realtime]\nfifo_priority = 0\ncpus = [3, 1023]\nlock_memory = false\nfreeze_gc = false\n",
        )
    )
    assert config.mount == MountConfig(inverted=False, base_height_m=0.05)
    assert msgspec.structs.astuple(config.bus.servos[0]) == (15, 400.0, 2600.0, 180.0, -3.5, -1)
    assert (config.bus.driver, config.bus.i2c, config.bus.address, config.bus.reference_clock_hz) == (
        "simulator",
        "emulated",
        0x41,
        26_000_000,
    )
    assert msgspec.structs.astuple(config.bus.board)[:3] == (7, 0x16, 300)
    assert msgspec.structs.astuple(config.bus.board.servos[0]) == (6, 1990.0, 13.0, -1, 100, 3900)
    assert msgspec.structs.astuple(config.camera) == ("replay", 0.2, "405", 640, 480, 15, "high_accuracy", "seen.db3", True)
    assert (config.simulator.port, config.simulator.clock) == (6000, "virtual")
    assert msgspec.structs.astuple(config.fixed_marker) == (36, (0.08, 0.14), 0.03, 0.02)
    assert msgspec.structs.astuple(config.block) == ("DICT_5X5_100", (7, 999), 0.026)
    assert msgspec.structs.astuple(config.realtime) == (0, (3, 1023), False, False)
    assert msgspec.structs.astuple(config.run) == ("other.onnx", 3, (0.1, 0.07), "run.msgpack")


@pytest.mark.parametrize(
    ("text", "key", "nearest"),
    [
        ("[mount]\nbase_hight_m = 0.4", "[mount] 'base_hight_m'", "base_height_m"),
        ("[mont]\ninverted = true", "'mont'", "mount"),
        ("inverted = true", "'inverted'", ""),
        ("[mount]\nxyz = 1", "[mount] 'xyz'", ""),
        ("[camera]\nmax_age = 0.1", "[camera] 'max_age'", "max_age_s"),
        ("[simulator]\n'port-number' = 1", "[simulator] 'port-number'", "port"),
        ("[simulator]\n'' = 1", "[simulator] ''", ""),
        (servos("{chanel = 0}", *SIX[1:]), "[bus.servos[0]] 'chanel'", "channel"),
        ("[faults]\nscript = [{target = 'bus', mode = 'off', start = 1}]", "[faults.script[0]] 'start'", "start_s"),
        (servos(*SIX[:5], "{channel = 5, zero = 1}"), "[bus.servos[5]] 'zero'", "zero_deg"),
        ("[block]\nmarker = 30", "[block] 'marker'", "markers"),
        ("[bus.board]\nmove_s = 1", "[bus.board] 'move_s'", "move_ms"),
        ("[bus.board]\nservos = [{id = 1, zero = 1}]", "[bus.board.servos[0]] 'zero'", "zero_raw"),
    ],
)
def test_an_unknown_key_is_named_with_a_near_one_only_if_it_is_near(text: str, key: str, nearest: str, tmp_path: Path) -> None:
    message = refusal(tmp_path, text)
    assert f"unknown key {key}" in message
    assert "(known: " in message
    assert ("did you mean" in message) == bool(nearest)
    assert f"'{nearest}'?" in message or not nearest


def test_a_fixed_marker_is_no_blocks(tmp_path: Path) -> None:
    assert "fixed_marker.id = 31 is one of block.markers, expected another" in refusal(tmp_path, "[fixed_marker]\nid = 31")


@pytest.mark.parametrize("markers", ["[]", "[-1]", "[1000]", "['30']", "30"])
def test_markers_are_numbers_and_there_is_one(markers: str, tmp_path: Path) -> None:
    assert "block.markers" in refusal(tmp_path, f"[block]\nmarkers = {markers}")


@pytest.mark.parametrize(
    ("section", "field", "inside", "outside"),
    [
        ("mount", "base_height_m", (0.0, 1.0), (math.nextafter(0.0, -1.0), math.nextafter(1.0, 2.0), -1.0)),
        ("bus", "address", (0x03, 0x77), (0x02, 0x78, -1)),
        ("bus.board", "i2c_bus", (0, 99), (-1, 100)),
        ("bus.board", "address", (0x03, 0x77), (0x02, 0x78)),
        ("camera", "width", (1, 1280), (0, 1281)),
        ("camera", "height", (1, 800), (0, 801)),
        ("camera", "fps", (15, 90), (14, 91)),
        ("bus.board", "move_ms", (0, 1000), (-1, 1001)),
        ("bus", "reference_clock_hz", (22_000_000, 28_000_000), (21_999_999, 28_000_001)),
        ("camera", "max_age_s", (5e-324, 1e9), (0.0, -0.1)),
        ("block", "marker_m", (0.010, 0.100), (math.nextafter(0.010, 0.0), math.nextafter(0.100, 1.0), 25)),
        ("fixed_marker", "id", (-1, 0, 29, 36, 999), (-2, 1000)),
        ("fixed_marker", "off_max_m", (5e-324, 0.1), (0.0, math.nextafter(0.1, 1.0), 10)),
        ("simulator", "port", (0, 65535), (-1, 65536)),
        ("run", "grasps", (0, 10**30), (-1,)),
        ("realtime", "fifo_priority", (0, 98), (-1, 99)),
        ("faults", "seed", (0, 10**30), (-1,)),
    ],
)
def test_ranges_end_where_they_say(section: str, field: str, inside: tuple[float, ...], outside: tuple[float, ...], tmp_path: Path) -> None:
    for value in inside:
        config = load(write(tmp_path, f"[{section}]\n{field} = {value}"))
        assert attrgetter(f"{section}.{field}")(config) == value
    for value in outside:
        message = refusal(tmp_path, f"[{section}]\n{field} = {value}")
        assert f"{section}.{field} = {value}: expected" in message


@pytest.mark.parametrize(
    ("field", "inside", "outside"),
    [
        ("channel", (0, 15), (-1, 16)),
        ("min_us", (400, 2499.9), (399.9, 2600.1)),
        ("max_us", (500.1, 2600), (399.9, 2600.1)),
        ("travel_deg", (1e-9, 360), (0.0, 360.1, -1)),
        ("direction", (1, -1), (0, 2)),
    ],
)
def test_ranges_of_a_servo_end_where_they_say(field: str, inside: tuple[float, ...], outside: tuple[float, ...], tmp_path: Path) -> None:
    others = [f"{{channel = {channel}}}" for channel in range(1, 6)]
    channel = "" if field == "channel" else "channel = 6, "
    for value in inside:
        first = f"{{{channel}{field} = {value}}}"
        if field == "channel":
            others = [f"{{channel = {c}}}" for c in range(16) if c != value][:5]
        assert getattr(load(write(tmp_path, servos(first, *others))).bus.servos[0], field) == value
    for value in outside:
        message = refusal(tmp_path, servos(f"{{{channel}{field} = {value}}}", *others))
        assert f"bus.servos[0].{field} = {value}: expected" in message


@pytest.mark.parametrize("number", ["nan", "inf", "-inf", "-nan"])
@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("[mount]\nbase_height_m = NUMBER", "mount.base_height_m"),
        ("[camera]\nmax_age_s = NUMBER", "camera.max_age_s"),
        ("[run]\nplace_in_table_m = [0.1, NUMBER]", "run.place_in_table_m[1]"),
        (servos(*SIX[:3], "{channel = 3, zero_deg = NUMBER}", *SIX[4:]), "bus.servos[3].zero_deg"),
        (servos(*SIX[:3], "{channel = 3, travel_deg = NUMBER}", *SIX[4:]), "bus.servos[3].travel_deg"),
        ("'a-b' = [[NUMBER]]", "a-b[0][0]"),
    ],
)
def test_what_is_not_finite_is_refused_wherever_it_is(text: str, where: str, number: str, tmp_path: Path) -> None:
    message = refusal(tmp_path, text.replace("NUMBER", number))
    assert f"{where} = {float(number)}: expected a finite number" in message


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("mount = 3", "mount = 3: expected"),
        ("[[mount]]", "mount = [{}]: expected"),
        ("[mount]\ninverted = 1", "mount.inverted = 1: expected `bool`"),
        ("[simulator]\nport = 1.5", "simulator.port = 1.5: expected `int`"),
        ("[simulator]\nport = true", "simulator.port = True: expected `int`"),
        ("[simulator]\nclock = 'fast'", "simulator.clock = 'fast': expected 'real' or 'virtual'"),
        ("[bus]\ndriver = 'pca'", "bus.driver = 'pca': expected 'pca9685' or 'dofbot_board' or 'simulator'"),
        ("[camera]\ndriver = 'd405'", "camera.driver = 'd405': expected 'simulator' or 'realsense' or 'replay'"),
        ("[camera]\nserial = 405", "camera.serial = 405: expected `str`"),
        ("[camera]\npreset = 'hand'", "camera.preset = 'hand': expected 'default' or 'high_accuracy' or"),
        ("[run]\nplace_in_table_m = [0.1]", "run.place_in_table_m = [0.1]: expected `array` of length 2"),
        ("[realtime]\ncpus = [-1]", "realtime.cpus[0] = -1: expected"),
        ("[realtime]\ncpus = 3", "realtime.cpus = 3: expected `array`"),
        ("[run]\nplace_in_table_m = ['a', 1]", "run.place_in_table_m[0] = 'a': expected `float`"),
        ("[bus.servos]\nchannel = 1", "bus.servos = {'channel': 1}: expected"),
        (servos("{min_us = 500}", *SIX[1:]), "bus.servos[0] = {'min_us': 500}: object missing required field `channel`"),
    ],
)
def test_a_value_of_the_wrong_kind_is_named_with_what_was_expected(text: str, where: str, tmp_path: Path) -> None:
    assert where in refusal(tmp_path, text)


def test_a_replay_without_a_recording_is_refused(tmp_path: Path) -> None:
    assert "camera.file = '' with camera.driver = 'replay', expected a recording" in refusal(tmp_path, "[camera]\ndriver = 'replay'")


@pytest.mark.parametrize("count", [0, 1, 5, 7])
def test_another_number_of_servos_is_refused(count: int, tmp_path: Path) -> None:
    entries = [f"{{channel = {channel}}}" for channel in range(count)]
    assert f"bus.servos has {count} entries, expected 6" in refusal(tmp_path, servos(*entries))


def test_two_servos_on_one_channel_are_refused(tmp_path: Path) -> None:
    assert "bus.servos share a channel ([0, 1, 2, 3, 4, 0])" in refusal(tmp_path, servos(*SIX[:5], "{channel = 0}"))


@pytest.mark.parametrize("place", [(-0.226, 0.06), (0.226, 0.06), (0.1, -0.021), (0.1, 0.276)])
def test_a_place_that_the_safety_gate_would_never_let_the_tool_reach_is_refused(place: tuple[float, float], tmp_path: Path) -> None:
    message = refusal(tmp_path, f"[run]\nplace_in_table_m = {list(place)}")
    assert f"run.place_in_table_m = {place}, expected a place in the safety gate's box, (-0.225, -0.02)…(0.225, 0.275)" in message


@pytest.mark.parametrize(("low", "high", "accepted"), [(1500.0, 1500.0, False), (1500.1, 1500.0, False), (1500.0, 1500.1, True)])
def test_a_pulse_range_must_have_a_width(low: float, high: float, accepted: bool, tmp_path: Path) -> None:
    text = servos(*SIX[:4], f"{{channel = 4, min_us = {low}, max_us = {high}}}", SIX[5])
    if accepted:
        load(write(tmp_path, text))
    else:
        assert f"bus.servos[4] has min_us {low} >= max_us {high}; swap them and set direction = -1" in refusal(tmp_path, text)


def board(*entries: str) -> str:
    return f"[bus.board]\nservos = [{', '.join(entries)}]"


@pytest.mark.parametrize("ids", [(1, 2, 3, 4, 5), (1, 2, 3, 4, 5, 5), (2, 1, 3, 4, 6, 1)])
def test_the_boards_servos_have_the_ids_1_to_6(ids: tuple[int, ...], tmp_path: Path) -> None:
    entries = [f"{{id = {number}}}" for number in ids]
    assert f"bus.board.servos have ids {list(ids)}, expected each of 1…6 once" in refusal(tmp_path, board(*entries))


def test_counts_must_have_a_range(tmp_path: Path) -> None:
    entries = ["{id = 1, min_raw = 2000, max_raw = 2000}", *(f"{{id = {number}}}" for number in range(2, 7))]
    assert "bus.board.servos[0] has min_raw 2000 >= max_raw 2000; swap them" in refusal(tmp_path, board(*entries))
    entries[0] = "{id = 1, direction = 0}"
    assert "bus.board.servos[0].direction = 0: expected 1 or -1" in refusal(tmp_path, board(*entries))


@pytest.mark.parametrize(
    "text",
    [b"\xff\xfe", b"[mount]\n# \xe9", "[mount", "a = ", "[mount]\n[mount]", "\x00", "\ufeff[mount]", f"a = {'[' * 5000}"],
    ids=["utf-16", "latin-1", "bracket", "no value", "twice", "nul", "byte order mark", "nested"],
)
def test_what_is_not_toml_is_refused(text: str | bytes, tmp_path: Path) -> None:
    assert "configuration FILE is not readable TOML: " in refusal(tmp_path, text)


def test_a_file_is_utf8_whatever_the_locale_is(tmp_path: Path) -> None:
    file = write(tmp_path, "[run]\npolicy = 'Würfel.onnx'  # 0.3 µs")
    code = "import sys, pathlib, edge.config; print(ascii(edge.config.load(pathlib.Path(sys.argv[1])).run.policy))"
    environment = os.environ | {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    result = subprocess.run([sys.executable, "-c", code, file], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert result.stdout.strip() == ascii("Würfel.onnx"), result.stderr


def test_a_missing_file_is_told_from_an_unreadable_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml does not exist; give --config a TOML file or leave it out"):
        load(tmp_path / "nowhere.toml")
    with pytest.raises(ConfigError, match="is not readable TOML: .*directory"):
        load(tmp_path)


def test_a_configuration_cannot_be_changed() -> None:
    for part in (Config(), Config().mount, Config().bus.servos[0], Config().run):
        with pytest.raises(AttributeError):
            setattr(part, part.__struct_fields__[0], None)


def script(*faults: str, allow: str = "true") -> str:
    return f"[faults]\nallow = {allow}\nscript = [{', '.join(faults)}]"


def test_a_script_of_faults_is_read_if_it_is_allowed(tmp_path: Path) -> None:
    entries = ("{target = 'bus', mode = 'intermittent', value = 0.05}", "{target = 'camera', mode = 'off', start_s = 2, for_s = 1.5}")
    faults = load(write(tmp_path, script(*entries))).faults
    assert faults.allow
    assert faults.script == (Fault("bus", "intermittent", 0.05), Fault("camera", "off", start_s=2.0, for_s=1.5))
    for text in (script(*entries, allow="false"), script(*entries).replace("allow = true\n", "")):
        assert "faults.script has 2 faults, expected none while faults.allow = false; set it to true" in refusal(tmp_path, text)


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ("{target = 'bus', mode = 'broken'}", "faults.script[1].mode = 'broken': expected 'ok' or 'off' or"),
        ("{target = 'gyro', mode = 'off'}", "faults.script[1].target = 'gyro': expected 'camera' or 'bus'"),
        ("{target = 'bus'}", "missing required field `mode`"),
        ("{target = 'bus', mode = 'off', start_s = -1}", "faults.script[1].start_s = -1: expected"),
        ("{target = 'bus', mode = 'off', value = 1}", "faults.script[1]: fault 'bus off' has value 1.0, expected none"),
        ("{target = 'bus', mode = 'slow', value = 9}", "faults.script[1]: fault 'bus slow' has value 9.0, expected 0.0…1.0 (seconds)"),
        ("{target = 'host', mode = 'wrong'}", "faults.script[1]: fault 'host wrong' cannot be injected: the wall clock"),
        ("{target = 'bus', mode = 'slow', value = nan}", "faults.script[1].value = nan: expected a finite number"),
    ],
)
def test_a_fault_that_cannot_be_is_named(entry: str, says: str, tmp_path: Path) -> None:
    assert says in refusal(tmp_path, script("{target = 'camera', mode = 'ok'}", entry))
