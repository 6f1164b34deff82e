"""What is plugged into USB that matters here: depth cameras with their speed, and the serial DOFBOT."""

from pathlib import Path
from typing import NamedTuple

from firmware_tools.finding import Finding, failed, ok, warning
from firmware_tools.machine import Machine

INTEL = "8086"
# LRS d400-private.h. The first three have a profile; the others are told apart to be refused by name.
CAMERAS = {"0b5b": "D405", "0b07": "D435", "0b3a": "D435i", "0ad3": "D415", "0b5c": "D455"}
SUPPORTED = ("D405", "D435", "D435i")
CH340 = ("1a86", "7523")  # the chip of the serial DOFBOT-SE, and of the programming socket of the DOFBOT's I2C board
USB3_MBIT_S = 5000.0
RULES = Path(__file__).with_name("99-dofbot.rules")
UDEV = f"sudo cp {RULES} /etc/udev/rules.d/ && sudo udevadm control --reload && sudo udevadm trigger"


class Camera(NamedTuple):
    """A RealSense on USB."""

    model: str
    port: str  # '2-1': bus 2, port 1
    speed_mbit_s: float  # 480: USB 2; 5000 and more: USB 3
    device: str  # '/dev/bus/usb/002/003'


def cameras(machine: Machine) -> list[Camera]:
    """The depth cameras that the kernel sees, whoever may open them."""
    found = []
    for path, product in _devices(machine, INTEL):
        if product in CAMERAS:
            device = f"/dev/bus/usb/{_number(machine.text(f'{path}/busnum')):03.0f}/{_number(machine.text(f'{path}/devnum')):03.0f}"
            found.append(Camera(CAMERAS[product], path.rpartition("/")[2], _number(machine.text(f"{path}/speed")), device))
    return found


def camera_findings(machine: Machine) -> list[Finding]:
    """Which cameras there are, how fast they are connected, and whether we may open them."""
    found = cameras(machine)
    if not found:
        return [warning("camera", "no RealSense on USB", "plug a D405 or D435 into a USB 3 (blue) socket, with its own short cable")]
    return [_camera_finding(machine, camera) for camera in found]


def serial_findings(machine: Machine) -> list[Finding]:
    """A CH340 is a DOFBOT-SE, which is driven by a serial protocol that is not supported, or a board's programming socket."""
    if not any(product == CH340[1] for _, product in _devices(machine, CH340[0])):
        return []
    where = ", ".join(machine.find("/dev/ttyUSB*")) or "no /dev/ttyUSB*"
    found = f"CH340 at {where}: a DOFBOT-SE, whose serial protocol is not supported, or the programming socket of an I2C board"
    return [warning("serial", found, "connect the board's I2C socket to pins 3 (SDA), 5 (SCL) and 6 (GND) of the Pi instead")]


def _camera_finding(machine: Machine, camera: Camera) -> Finding:
    name, what = f"camera {camera.model}", f"on USB port {camera.port} at {camera.speed_mbit_s:g} Mbit/s"
    if camera.model not in SUPPORTED:
        return warning(name, f"{what}: no profile", f"use a {', '.join(SUPPORTED[:-1])} or {SUPPORTED[-1]}")
    if not machine.may_use(camera.device):
        return failed(name, f"{what}, but {camera.device} may not be opened", f"{UDEV} && sudo usermod -aG plugdev $USER; log in again")
    if camera.speed_mbit_s < USB3_MBIT_S:
        # Facts 5.5: 848x480 is not on USB 2, and rates are lower.
        found = f"{what}, which is USB 2: fewer modes, more dropped frames"
        return warning(name, found, "plug it into a USB 3 (blue) socket, with a USB 3 cable, pushed in quickly and fully")
    return ok(name, what)


def _devices(machine: Machine, vendor: str) -> list[tuple[str, str]]:
    """Each device of a vendor: its folder in sysfs, and its product id."""
    vendors = machine.find("/sys/bus/usb/devices/*/idVendor")
    folders = [path.removesuffix("/idVendor") for path in vendors if machine.text(path) == vendor]
    return [(folder, machine.text(f"{folder}/idProduct")) for folder in folders]


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
