"""Switch every servo off from a cold process: `dofbot release`, and what the service runs after its process, however that ended.

The standard library alone, past the drivers: these take a second to import, and whatever broke the runtime must not break this.
While a runtime is running, its next tick switches them on again: stop that first.

Exit codes: 0 the servos are off, or there are none behind an emulated bus; 1 no chip acknowledged: cut their supply; 2 wrong options.
"""

import fcntl
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

SERVICE = "/etc/dofbot-grasp/config.toml"
USAGE = "usage: dofbot release [--config FILE] [--json]"
# Linux <linux/i2c-dev.h>. FORCE: a kernel driver that claims the chip must not keep servos powered.
I2C_TIMEOUT, I2C_SLAVE_FORCE = 0x0702, 0x0706
TIMEOUT_10_MS = 1  # the kernel's own is 1 s, and one stuck wire would cost it at each attempt
ATTEMPTS = 5
BETWEEN_ATTEMPTS_S = 0.01  # a glitch on the wires is over by then

WriteI2C = Callable[[str, int, bytes], None]  # device, 7-bit address, bytes; raises `OSError` where nobody acknowledges


class Off(NamedTuple):
    """The bytes that switch all servos of one chip off at once, and where it is."""

    chip: str
    address: int
    data: bytes
    device: str = "/dev/i2c-1"  # where a Raspberry Pi has its pins 3 and 5

    def __str__(self) -> str:
        return f"{self.data.hex(' ')} to the {self.chip} at {self.device} {self.address:#04x}"


OFF = {
    "pca9685": Off("PCA9685", 0x40, bytes((0xFD, 0x10))),  # bit 4 of ALL_LED_OFF_H (data sheet 7.3.1.1), as in edge/buses/pca9685.py
    "dofbot_board": Off("DOFBOT board", 0x15, bytes((0x1A, 0x00))),  # torque off (i2c_register_map.xlsx; Arm_Lib 0.0.5)
}


class Plan(NamedTuple):
    """What to write, and a remark; `emulated` when no chip outlives its process, and nothing is to be written."""

    offs: tuple[Off, ...]
    emulated: bool = False
    remark: str = ""


def plan(path: str | None) -> Plan:
    """What the configuration says is plugged in; without one the service's. One that makes no sense must not keep servos powered: then all
    chips that we know."""
    if path is None and os.path.exists(SERVICE):
        path = SERVICE
    try:
        bus = _bus_section(path)
        driver = bus.get("driver", "pca9685")
        if driver == "simulator":
            return Plan((), True, "bus.driver = 'simulator' has no servos to switch off")
        off = _located(OFF[driver], bus.get("board", {}) if driver == "dofbot_board" else bus)
    except Exception as error:  # whatever a damaged file holds
        return Plan(tuple(OFF.values()), remark=f"configuration {path!a} does not say what is plugged in ({_reason(error)}), trying all")
    if bus.get("i2c") == "emulated":
        return Plan((off,), True, f"bus.i2c = 'emulated': the {off.chip} is gone with its process; a real one gets {off}")
    return Plan((off,))


def write_i2c(device: str, address: int, data: bytes) -> None:
    """One transaction on a bus of this machine, given up after 10 ms."""
    file = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(file, I2C_TIMEOUT, TIMEOUT_10_MS)
        fcntl.ioctl(file, I2C_SLAVE_FORCE, address)
        os.write(file, data)
    finally:
        os.close(file)


def switch_off(offs: tuple[Off, ...], write: WriteI2C = write_i2c) -> dict[Off, str]:
    """Write them, 5 times at most; returns for each chip why it failed, empty once it has acknowledged. Never raises."""
    errors = dict.fromkeys(offs, "not tried")
    for attempt in range(ATTEMPTS):
        time.sleep(BETWEEN_ATTEMPTS_S if attempt else 0.0)
        for off in [off for off in offs if errors[off]]:
            try:
                write(off.device, off.address, off.data)
                errors[off] = ""
            except OSError as error:
                errors[off] = _reason(error)
        if not any(errors.values()):
            break
    return errors


def release(path: str | None, as_json: bool = False, write: WriteI2C = write_i2c) -> int:
    """Do it and say so in one line; returns the exit code. Idempotent, never raises."""
    planned = plan(path)
    errors = {} if planned.emulated else switch_off(planned.offs, write)
    # One chip is plugged in: where several were tried, the one that answered is it.
    released = planned.emulated or "" in errors.values()
    with suppress(OSError):  # nobody listens
        print(_as_json(planned, errors, released) if as_json else _as_line(planned, errors, released), flush=True)
    return 0 if released else 1


def main() -> int:
    """The command line; without argparse, which takes as long to import as all else here."""
    path, as_json, rest = None, False, sys.argv[1:]
    while rest:
        option, equals, value = rest.pop(0).partition("=")
        if option == "--json" and not equals:
            as_json = True
        elif option == "--config" and (value or rest):
            path = value or rest.pop(0)
        else:
            print(USAGE, file=sys.stderr)
            return 2
    return release(path, as_json)


def _bus_section(path: str | None) -> dict[str, Any]:
    if path is None:
        return {}
    import tomllib  # 5 ms that the default does not need

    with open(path, "rb") as file:
        return dict(tomllib.load(file).get("bus", {}))


def _located(off: Off, section: dict[str, Any]) -> Off:
    """`off` at the address and on the bus that the section names; raises `ValueError` for impossible ones."""
    address, bus = section.get("address", off.address), section.get("i2c_bus", 1)
    if not (type(address) is int and 0x03 <= address <= 0x77 and type(bus) is int and 0 <= bus <= 99):
        raise ValueError(f"address {address!a} on I2C bus {bus!a}")
    return off._replace(address=address, device=f"/dev/i2c-{bus}")


def _as_line(planned: Plan, errors: dict[Off, str], released: bool) -> str:
    results = [f"{off} failed: {error}" if error else f"wrote {off}: all servos off" for off, error in errors.items()]
    warning = () if released else ("servos may still be powered: cut their supply",)
    after = f" after {_what_ended()}" if _what_ended() else ""
    return f"release{after}: {'; '.join(filter(None, (planned.remark, *results, *warning)))}"


def _as_json(planned: Plan, errors: dict[Off, str], released: bool) -> str:
    import json

    writes = [
        {
            "chip": off.chip,
            "device": off.device,
            "address": off.address,
            "bytes": list(off.data),
            "acknowledged": errors.get(off) == "",
            "error": errors.get(off, ""),
        }
        for off in planned.offs
    ]
    answer = {"released": released, "emulated": planned.emulated, "remark": planned.remark, "after": _what_ended(), "writes": writes}
    return json.dumps(answer)


def _what_ended() -> str:
    """How the service's process ended, where systemd runs us after it (systemd.exec(5)): 'signal KILL', 'watchdog ABRT'; else empty."""
    return " ".join(filter(None, map(os.environ.get, ("SERVICE_RESULT", "EXIT_STATUS"))))


def _reason(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or f"{type(error).__name__} {error}".splitlines()[0]


if __name__ == "__main__":
    sys.exit(main())
