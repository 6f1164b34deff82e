"""`dofbot doctor`: everything that has to be well before the arm is armed, in one table."""

from pathlib import Path

from edge import config as configuration
from edge.config import Config
from edge.errors import ConfigError
from firmware_tools.check_machine import machine_findings
from firmware_tools.check_software import (
    calibration_finding,
    camera_serials,
    disk_finding,
    glibc_finding,
    package_findings,
    policy_finding,
    python_finding,
)
from firmware_tools.finding import Finding, failed, not_applicable, ok
from firmware_tools.machine import Machine
from firmware_tools.scan import bus_findings
from firmware_tools.usb import camera_findings, cameras, serial_findings
from firmware_tools.wheels import Tried, tried


def examine(machine: Machine, path: Path | None, packages: tuple[Tried, ...] | None = None) -> list[Finding]:
    """Look at everything; nothing moves and nothing is written. `packages` is what importing them came to; None: try it."""
    packages = tried() if packages is None else packages
    config, said = _configuration(path)
    return [
        python_finding(),
        glibc_finding(),
        *package_findings(packages),
        *machine_findings(machine, config),
        disk_finding(machine),
        *_plugged_in(machine, config),
        said,
        policy_finding(config, packages),
        calibration_finding(config, camera_serials() if cameras(machine) else []),
    ]


def _configuration(path: Path | None) -> tuple[Config, Finding]:
    """The configuration; where it is wrong, the rest is looked at by the defaults."""
    if path is None:
        return Config(), ok("configuration", "none given (--config): the defaults")
    try:
        return configuration.load(path), ok("configuration", str(path))
    except ConfigError as error:
        return Config(), failed("configuration", str(error), "correct it; the checks above took the defaults")


def _plugged_in(machine: Machine, config: Config) -> list[Finding]:
    """What `dofbot scan` finds, where there is anything to be plugged into."""
    is_robot = machine.is_pi() or machine.find("/dev/i2c-*") or config.bus.i2c == "emulated"
    buses = bus_findings(machine, config) if is_robot else [not_applicable("I2C", "no I2C bus")]
    seen = camera_findings(machine) if machine.is_pi() or cameras(machine) else [not_applicable("camera", "no Raspberry Pi, no RealSense")]
    return [*buses, *serial_findings(machine), *seen]
