"""What `dofbot doctor` looks at below /proc, /sys and /etc: the kernel, the wires, the permissions."""

import struct

from edge.config import Config
from firmware_tools.board import bus_of
from firmware_tools.finding import Finding, failed, not_applicable, ok, warning
from firmware_tools.machine import Machine
from firmware_tools.usb import RULES, UDEV

RULES_PLACES = ("/etc/udev/rules.d/99-dofbot.rules", "/usr/lib/udev/rules.d/99-dofbot.rules", "/lib/udev/rules.d/99-dofbot.rules")
GROUPS = {"i2c": "the servo board", "plugdev": "the RealSense", "video": "other cameras"}
STANDARD_HZ = 100_000
CAP_IPC_LOCK, CAP_SYS_NICE = 14, 23  # <linux/capability.h>
# Raspberry Pi firmware, get_throttled: what is so now, and 16 bits higher what has been since the start.
THROTTLED = {0: "undervoltage", 1: "frequency capped", 2: "throttled", 3: "soft temperature limit"}


def machine_findings(machine: Machine, config: Config) -> list[Finding]:
    """All of them."""
    return [
        _model(machine),
        _i2c_speed(machine, config),
        _i2c_timeout(machine, config),
        *_groups(machine),
        _udev(machine),
        _governor(machine),
        _realtime_priority(machine, config.realtime.fifo_priority),
        _locked_memory(machine),
        _power(machine),
        _service(machine),
    ]


def _model(machine: Machine) -> Finding:
    name = "machine"
    if machine.model():
        return ok(name, machine.model())
    return not_applicable(name, "no Raspberry Pi; the runtime runs, but without servos and camera")


def _i2c_speed(machine: Machine, config: Config) -> Finding:
    """The device tree has it: nothing else tells."""
    name, bus = "I2C speed", bus_of(config.bus)
    data = machine.data(f"/sys/bus/i2c/devices/{bus.rpartition('/')[2]}/of_node/clock-frequency")
    if config.bus.driver == "simulator" or config.bus.i2c == "emulated":
        return not_applicable(name, "the configuration has no real I2C bus")
    if len(data) != 4:
        return not_applicable(name, f"no device tree says how fast {bus} is")
    speed_hz = int(struct.unpack(">I", data)[0])
    found = f"{bus} at {speed_hz / 1000:g} kHz"
    if speed_hz < STANDARD_HZ:
        remedy = f"set dtparam=i2c_arm_baudrate={STANDARD_HZ} in /boot/firmware/config.txt, and restart: a tick of 20 ms has to fit"
        return warning(name, found, remedy)
    if speed_hz > STANDARD_HZ and config.bus.driver == "dofbot_board":
        remedy = (
            f"set dtparam=i2c_arm_baudrate={STANDARD_HZ} in /boot/firmware/config.txt, and restart: what the board can take is not known"
        )
        return warning(name, found, remedy)
    return ok(name, found)


def _i2c_timeout(machine: Machine, config: Config) -> Finding:
    name = "I2C time-out"
    if not machine.find("/dev/i2c-*"):
        return not_applicable(name, "no I2C bus")
    if config.bus.driver == "dofbot_board":
        return ok(name, "cannot be read; the driver sets 10 ms when it opens the bus")
    return ok(name, "cannot be read; the kernel's is 1 s, and a thread of its own waits for the bus, never the control loop")


def _groups(machine: Machine) -> list[Finding]:
    if not machine.is_pi():
        return [not_applicable("groups", "no Raspberry Pi")]
    missing = [group for group in GROUPS if group not in machine.groups]
    if not missing or machine.has_capability(CAP_SYS_NICE):  # root opens everything
        return [ok("groups", ", ".join(sorted(set(GROUPS) & machine.groups)) or "you are root")]
    remedy = "sudo usermod -aG {} $USER, then log in again"
    return [warning(f"group {group}", f"you are not in it, so {GROUPS[group]} may stay closed", remedy.format(group)) for group in missing]


def _udev(machine: Machine) -> Finding:
    name = "udev rules"
    installed = [text for place in RULES_PLACES if (text := machine.text(place))]
    if not machine.is_pi() and not installed:
        return not_applicable(name, "no Raspberry Pi")
    if not installed:
        return warning(name, "99-dofbot.rules is not installed: the camera may be root's alone", UDEV)
    if installed[0] != RULES.read_text().strip():
        return warning(name, "99-dofbot.rules is of another version", UDEV)
    return ok(name, "99-dofbot.rules is installed")


def _governor(machine: Machine) -> Finding:
    name = "CPU governor"
    governors = {machine.text(path) for path in machine.find("/sys/devices/system/cpu/cpu*/cpufreq/scaling_governor")}
    if not governors:
        return not_applicable(name, "no cpufreq")
    found = ", ".join(sorted(governors))
    if governors == {"performance"}:
        return ok(name, found)
    return warning(name, found, "echo performance | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor; others wake up late")


def _realtime_priority(machine: Machine, wanted: int) -> Finding:
    name = "real-time priority"
    limit = _soft_limit(machine, "Max realtime priority")
    if limit is None:
        return not_applicable(name, "no /proc/self/limits")
    if machine.has_capability(CAP_SYS_NICE) or limit >= wanted:
        return ok(name, f"SCHED_FIFO {wanted} is allowed")
    remedy = f"nothing for the service, whose unit has it; for dofbot run by hand: 'rtprio {wanted}' for you in /etc/security/limits.d"
    return warning(name, f"at most {limit:g}, realtime.fifo_priority is {wanted}", remedy)


def _locked_memory(machine: Machine) -> Finding:
    name = "locked memory"
    limit = _soft_limit(machine, "Max locked memory")
    if limit is None:
        return not_applicable(name, "no /proc/self/limits")
    if machine.has_capability(CAP_IPC_LOCK) or limit == float("inf"):
        return ok(name, "unlimited")
    remedy = "nothing for the service, whose unit has it; for dofbot run by hand: 'memlock unlimited' for you in /etc/security/limits.d"
    return warning(name, f"at most {limit / 2**20:.0f} MiB", remedy)


def _soft_limit(machine: Machine, name: str) -> float | None:
    """A line of /proc/self/limits; None: there is none."""
    for line in machine.text("/proc/self/limits").splitlines():
        if line.startswith(name):
            soft = line.removeprefix(name).split()[0]
            return float("inf") if soft == "unlimited" else float(soft)
    return None


def _power(machine: Machine) -> Finding:
    """Undervoltage and heat, as the Pi's firmware has seen them."""
    name = "power"
    if not machine.is_pi():
        return not_applicable(name, "no Raspberry Pi")
    text = machine.run(("vcgencmd", "get_throttled")).partition("=")[2] or machine.text(
        "/sys/devices/platform/soc/soc:firmware/get_throttled"
    )
    try:
        bits = int(text, 16)
    except ValueError:
        return _undervoltage_alarm(machine, name)
    now = [what for bit, what in THROTTLED.items() if bits >> bit & 1]
    before = [what for bit, what in THROTTLED.items() if bits >> bit + 16 & 1]
    remedy = "use the Pi's own supply (Pi 4: 5.1 V 3 A, Pi 5: 5.1 V 5 A) with its own cable, never the servos'; cool it"
    if now:
        return failed(name, f"now: {', '.join(now)}", remedy)
    if before:
        return warning(name, f"since the start: {', '.join(before)}", remedy)
    return ok(name, "no undervoltage and no throttling since the start")


def _undervoltage_alarm(machine: Machine, name: str) -> Finding:
    """What the kernel's rpi_volt driver has, where vcgencmd is not there or not allowed."""
    sensors = [path.removesuffix("/name") for path in machine.find("/sys/class/hwmon/hwmon*/name") if machine.text(path) == "rpi_volt"]
    if not sensors:
        return warning(name, "neither vcgencmd nor rpi_volt tells", "sudo usermod -aG video $USER, then log in again")
    if machine.text(f"{sensors[0]}/in0_lcrit_alarm") == "1":
        return failed(name, "undervoltage", "use the Pi's own supply with its own cable, never the servos'")
    return ok(name, "no undervoltage")


def _service(machine: Machine) -> Finding:
    name = "service"
    answer = machine.run(("systemctl", "show", "dofbot-grasp", "--property=LoadState,ActiveState,SubState,Result"))
    state = dict(line.split("=", 1) for line in answer.splitlines() if "=" in line)
    if state.get("LoadState") != "loaded":
        return not_applicable(name, "dofbot-grasp.service is not installed")
    found = f"{state.get('ActiveState')} ({state.get('SubState')})"
    if state.get("ActiveState") == "failed":
        return failed(
            name, f"{found}: {state.get('Result')}", "journalctl -u dofbot-grasp -e tells why; then sudo systemctl restart dofbot-grasp"
        )
    if state.get("ActiveState") == "activating":
        return warning(name, found, "systemctl status dofbot-grasp tells what it waits for, journalctl -u dofbot-grasp -e why it ended")
    return ok(name, found)
