"""What is plugged in: I2C buses, who answers on them, which servo board that is, depth cameras, and whether we may use them."""

from collections.abc import Callable

from edge.config import Config
from edge.errors import BusError, MissingExtraError
from firmware_tools.board import ALL_CALL, Board, bus_of, identify, judge
from firmware_tools.bus_in_use import who_drives
from firmware_tools.finding import Finding, failed, not_applicable, ok, warning
from firmware_tools.machine import Machine
from firmware_tools.usb import camera_findings, serial_findings
from firmware_tools.wires import ENABLE_I2C, JOIN_I2C, Wires, open_wires

# Adapters of mainboards and graphics cards: memory modules and monitors live there, no servos.
NOT_OURS = ("SMBus", "i915", "AMDGPU", "NVIDIA", "nvkm", "Radeon")

Open = Callable[[Machine, str], Wires]


def scan(machine: Machine, config: Config, opening: Open = open_wires) -> list[Finding]:
    """Everything, in the order in which one plugs it in. Writes nothing that could change a device."""
    return [*bus_findings(machine, config, opening), *serial_findings(machine), *camera_findings(machine)]


def bus_findings(machine: Machine, config: Config, opening: Open = open_wires) -> list[Finding]:
    """The I2C buses and the servo board on them."""
    if config.bus.i2c == "emulated":
        return _on_emulated_bus(config)
    driving = who_drives(config)
    if driving:
        return [ok("servo bus", f"not asked, because it belongs to {driving}")]
    paths = machine.find("/dev/i2c-*")
    if not paths:
        elsewhere = "run it on the Raspberry Pi; to try it without hardware, set [bus] i2c = 'emulated'"
        return [failed("I2C", "this machine has no I2C bus (/dev/i2c-*)", ENABLE_I2C if machine.is_pi() else elsewhere)]
    findings, boards = [], []
    for path in sorted(paths, key=lambda path: (len(path), path)):
        finding, found = _on_bus(machine, path, config, opening)
        findings.append(finding)
        boards += found
    return [*findings, judge(boards, config.bus)]


def _on_bus(machine: Machine, path: str, config: Config, opening: Open) -> tuple[Finding, list[Board]]:
    adapter = machine.text(f"/sys/bus/i2c/devices/{path.rpartition('/')[2]}/name")
    if adapter.startswith(NOT_OURS):
        return not_applicable(path, f"{adapter}, which has no servos"), []
    is_ours = path == bus_of(config.bus)
    if not machine.may_use(path):
        found = "you may not read and write it" + ("" if "i2c" in machine.groups else "; you are not in the group i2c")
        return (failed if is_ours else warning)(path, found, JOIN_I2C), []
    try:
        wires = opening(machine, path)
        try:
            addresses = wires.present()
            boards = identify(wires, path, addresses, config.bus)
        finally:
            wires.close()
    except (BusError, MissingExtraError) as error:
        found, _, remedy = str(error).partition("; ")
        return (failed if is_ours else warning)(path, found, remedy), []
    return ok(path, _listed(addresses, boards, adapter)), boards


def _on_emulated_bus(config: Config) -> list[Finding]:
    from firmware_tools import emulated  # numpy.random and more, which a real bus does not need

    wires = Wires(emulated.emulated_arm(config).smbus)
    addresses = wires.present()
    boards = identify(wires, bus_of(config.bus), addresses, config.bus)
    return [ok("emulated bus", _listed(addresses, boards, "software")), judge(boards, config.bus)]


def _listed(addresses: list[int], boards: list[Board], adapter: str) -> str:
    """Who answers, by name where it is known."""
    names = {board.address: board.chip for board in boards}
    if "PCA9685" in names.values():
        names.setdefault(ALL_CALL, "PCA9685's all-call")
    answers = ", ".join(f"{address:#04x} {names.get(address, '(unknown)')}" for address in addresses)
    return f"{adapter + ': ' if adapter else ''}{answers or 'nobody answers'}"
