"""The four seams with faults in them, as `edge/simulated/faults.py` says; without an active fault each does what is behind it.

camera, bus and policy are wrapped; the host is what the control loop calls once a tick.
"""

import errno
import math
import os
import signal
import time
from collections import deque
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edge.cameras.camera import DepthCamera
from edge.contract import Contract
from edge.errors import ObservationError, PolicyError
from edge.messages import Float32, Float64, Frame, Intrinsics
from edge.simulated.emulator import GENERAL_CALL_ADDRESS, SOFTWARE_RESET, Buffer, not_acknowledged
from edge.simulated.faults import Faults, Injected

STALL_PROBABILITY = 0.05  # of a tick, for host intermittent
SPOILT = np.array((np.nan, np.inf, -np.inf, -0.2, 65.535), np.float32)  # 65.535: the greatest depth of 16 bits in millimetres
_KEPT_FRAMES, _KEPT_READS = 256, 1024  # 5 s of frames, and of the reads of a tick

Sleep = Callable[[float], None]


class FaultyCamera:
    """Another camera, with the faults of `camera`."""

    def __init__(self, camera: DepthCamera, faults: Faults) -> None:
        self._camera = camera
        self._faults = faults
        self._random = faults.generator("camera")
        self._fault: Injected | None = None
        self._newest: Frame | None = None  # as it came
        self._shown: Frame | None = None  # what became of it
        self._kept: deque[Frame] = deque(maxlen=_KEPT_FRAMES)

    @property
    def serial(self) -> str:
        """The camera's serial number; empty where it has none."""
        return getattr(self._camera, "serial", "")

    def start(self) -> Intrinsics:
        """Wait for a first frame; raises `ObservationError` when none comes, or the camera is off."""
        intrinsics = self._camera.start()
        self.latest()
        return intrinsics

    def latest(self) -> Frame | None:
        """The newest frame, or what the fault makes of it; raises `ObservationError` when the camera is gone or off."""
        frame, fault = self._camera.latest(), self._faults.active("camera")
        if fault is not self._fault:
            self._fault, self._newest = fault, None
            self._kept.clear()
            self._kept.extend([self._shown] if self._shown is not None else [])
        if fault is None:
            self._shown = frame
            return frame
        since_s = self._faults.now_s() - fault.begins_s
        if fault.mode == "off" or (fault.mode == "intermittent" and since_s % fault.value < fault.value / 2.0):
            fault.apply()
            raise ObservationError("the camera is unplugged (injected fault), expected frames; end the fault")
        if fault.mode == "delayed" or frame is not self._newest:
            self._newest = frame
            self._shown = None if frame is None else self._spoil(frame, fault)
        return self._shown

    def close(self) -> None:
        """Close the camera."""
        self._camera.close()

    def _spoil(self, frame: Frame, fault: Injected) -> Frame | None:
        if fault.mode == "intermittent":
            return frame
        if fault.mode == "delayed":
            return self._late(frame, fault)
        if fault.mode == "slow":
            if self._random.random() >= fault.value:
                return frame
            fault.apply()
            return self._shown
        fault.apply()
        if fault.mode == "stuck":
            if not self._kept:
                self._kept.append(frame)
            return frame._replace(depth_m=self._kept[0].depth_m, markers=self._kept[0].markers)
        if fault.mode == "garbage":
            spoilt = self._random.random(frame.depth_m.shape) < fault.value
            depth_m = np.where(spoilt, self._random.choice(SPOILT, frame.depth_m.shape), frame.depth_m)
            return frame._replace(depth_m=depth_m, markers=None if frame.markers is None else ())
        if fault.mode == "moved":
            return _turned(frame, fault.value)
        return _halved(frame) if fault.value == 0.0 else frame._replace(depth_m=frame.depth_m * np.float32(fault.value))

    def _late(self, frame: Frame, fault: Injected) -> Frame | None:
        """The newest frame that is old enough; the one from before the fault until there is one."""
        if not self._kept or frame is not self._kept[-1]:
            self._kept.append(frame)
            fault.apply()
        until_s = self._faults.now_s() - fault.value
        while len(self._kept) > 1 and self._kept[1].captured_at_s <= until_s:
            self._kept.popleft()
        return self._kept[0]


def _halved(frame: Frame) -> Frame:
    """Every second pixel, with the lens that fits: another profile of the same camera."""
    depth_m = np.ascontiguousarray(frame.depth_m[::2, ::2])
    height, width = depth_m.shape
    _, _, fx, fy, cx, cy = frame.intrinsics
    return frame._replace(depth_m=depth_m, intrinsics=Intrinsics(width, height, fx / 2, fy / 2, cx / 2, cy / 2))


def _turned(frame: Frame, turn_rad: float) -> Frame:
    """What the camera would have taken, turned about its own y axis: for a turn the scene need not be known, as it must be for a shift.

    Pixels are the nearest of those that there were; what was out of view before is invalid, and no marker comes into it.
    """
    cos, sin, lens = math.cos(turn_rad), math.sin(turn_rad), frame.intrinsics
    flat, shares = _pixels_before(lens, turn_rad)
    depth_m = (frame.depth_m.ravel()[flat] * shares).reshape(frame.depth_m.shape)
    if frame.markers is None:
        return frame._replace(depth_m=depth_m)
    markers = []
    for marker in frame.markers:
        x, y = marker.rays.T
        ahead = cos + sin * x
        rays = np.column_stack(((cos * x - sin) / ahead, y / ahead))
        if _flat(rays[:, 0], rays[:, 1], lens)[0].all():
            markers.append(marker._replace(rays=rays))
    return frame._replace(depth_m=depth_m, markers=tuple(markers))


@lru_cache(maxsize=2)
def _pixels_before(lens: Intrinsics, turn_rad: float) -> tuple[NDArray[np.intp], Float32]:
    """(h·w,) each: where a pixel of the turned camera was in the image before, and its depth as a share of the depth there; 0: nowhere."""
    x, y = (np.arange(lens.width) - lens.cx) / lens.fx, (np.arange(lens.height) - lens.cy) / lens.fy
    ahead = np.broadcast_to(math.cos(turn_rad) - math.sin(turn_rad) * x, (lens.height, lens.width))
    across = (math.cos(turn_rad) * x + math.sin(turn_rad)) / ahead
    inside, flat = _flat(across, y[:, None] / ahead, lens)
    return flat.ravel(), np.where(inside, 1.0 / ahead, 0.0).astype(np.float32).ravel()


def _flat(x: Float64, y: Float64, lens: Intrinsics) -> tuple[NDArray[np.bool_], NDArray[np.intp]]:
    """Whether rays x/z, y/z of the camera are in its image, and the flat index of the pixel; 0 where they are not."""
    u, v = x * lens.fx + lens.cx, y * lens.fy + lens.cy
    inside = (u > -0.5) & (u < lens.width - 0.5) & (v > -0.5) & (v < lens.height - 0.5)
    return inside, np.where(inside, np.rint(v) * lens.width + np.rint(u), 0.0).astype(np.intp)


class FaultyI2C:
    """Another I2C bus, with the faults of `bus`: the calls of Blinka's `busio.I2C`, emulated or real, below the drivers.

    `reset` is what `wrong` does; without it all chips get the general call's software reset, which a PCA9685 obeys.
    """

    def __init__(self, i2c: Any, faults: Faults, sleep: Sleep = time.sleep, reset: Callable[[], None] | None = None) -> None:
        self._i2c = i2c
        self._faults = faults
        self._sleep = sleep
        self._reset = reset or (lambda: i2c.writeto(GENERAL_CALL_ADDRESS, SOFTWARE_RESET))
        self._random = faults.generator("bus")
        self._last_written: dict[int, bytes] = {}  # a plain read depends on it: the register pointer
        self._reads: dict[tuple[int, bytes], deque[tuple[float, bytes]]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._i2c, name)  # try_lock, unlock, scan, deinit, and an emulator's trace

    def writeto(self, address: int, buffer: Buffer, *, start: int = 0, end: int | None = None) -> None:
        """Write `buffer[start:end]`."""
        self._disturb()
        self._i2c.writeto(address, buffer, start=start, end=end)
        self._last_written[address] = bytes(buffer[start:end][:1])

    def readfrom_into(self, address: int, buffer: bytearray | memoryview, *, start: int = 0, end: int | None = None) -> None:
        """Read into `buffer[start:end]`."""
        fault = self._disturb()
        self._i2c.readfrom_into(address, buffer, start=start, end=end)
        self._spoil(fault, (address, self._last_written.get(address, b"")), buffer, start, end)

    def writeto_then_readfrom(
        self,
        address: int,
        out_buffer: Buffer,
        in_buffer: bytearray | memoryview,
        *,
        out_start: int = 0,
        out_end: int | None = None,
        in_start: int = 0,
        in_end: int | None = None,
    ) -> None:
        """Write, then read after a repeated START."""
        written = bytes(out_buffer[out_start:out_end])
        fault = self._disturb()
        self._i2c.writeto_then_readfrom(
            address, out_buffer, in_buffer, out_start=out_start, out_end=out_end, in_start=in_start, in_end=in_end
        )
        self._spoil(fault, (address, written), in_buffer, in_start, in_end)

    def _disturb(self) -> Injected | None:
        """What a fault does before a transaction; raises `OSError` where it does not take place."""
        fault = self._faults.active("bus")
        if fault is None:
            return None
        if fault.mode == "off" or (fault.mode == "intermittent" and self._random.random() < fault.value):
            fault.apply()
            raise not_acknowledged()
        if fault.mode in ("stuck", "slow"):
            fault.apply()
            self._sleep(fault.value)
            if fault.mode == "stuck":
                raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
        if fault.mode == "wrong" and not fault.applied:
            fault.apply()
            self._reset()
        return fault

    def _spoil(self, fault: Injected | None, what: tuple[int, bytes], buffer: bytearray | memoryview, start: int, end: int | None) -> None:
        """What a fault makes of the bytes that were read."""
        if fault is not None and fault.mode == "garbage":
            for at in range(len(buffer))[start:end]:
                if self._random.random() < fault.value:
                    buffer[at] ^= 1 << int(self._random.integers(8))
                    fault.apply()
        elif fault is not None and fault.mode == "delayed":
            now_s, data = self._faults.now_s(), bytes(buffer[start:end])
            reads = self._reads.setdefault(what, deque(maxlen=_KEPT_READS))
            reads.append((now_s, data))
            while len(reads) > 1 and reads[1][0] <= now_s - fault.value:
                reads.popleft()
            if len(reads[0][1]) == len(data):
                buffer[start : start + len(data)] = reads[0][1]
                fault.apply()


class Decides(Protocol):
    """A policy, as far as the runtime needs one."""

    @property
    def contract(self) -> Contract:
        """What it was made for."""

    def act(self, sight: Float32, proprio: Float32) -> Float32:
        """The action for what it sees; raises `PolicyError`."""


class FaultyPolicy:
    """Another policy, with the faults of `policy`: beyond the checks that a policy makes itself."""

    def __init__(self, policy: Decides, faults: Faults, sleep: Sleep = time.sleep) -> None:
        self.contract = policy.contract
        self._policy = policy
        self._faults = faults
        self._sleep = sleep
        self._random = faults.generator("policy")
        self._before: Float32 | None = None

    def act(self, sight: Float32, proprio: Float32) -> Float32:
        """The action, or what the fault makes of it; raises `PolicyError` when there is none."""
        action, fault = self._policy.act(sight, proprio), self._faults.active("policy")
        before = action if self._before is None else self._before
        if fault is None or fault.mode != "stuck":
            self._before = action
        return action if fault is None else self._spoil(action, before, fault)

    def _spoil(self, action: Float32, before: Float32, fault: Injected) -> Float32:
        if fault.mode == "intermittent" and self._random.random() >= fault.value:
            return action
        fault.apply()
        if fault.mode in ("off", "intermittent"):
            raise PolicyError("the policy gives no action (injected fault), expected one; end the fault")
        if fault.mode == "slow":
            self._sleep(fault.value)
            return action
        if fault.mode == "garbage":
            return np.full_like(action, (np.nan, np.inf, -np.inf)[fault.applied % 3])
        return np.full_like(action, fault.value) if fault.mode == "wrong" else before  # stuck, delayed


class FaultyHost:
    """The machine that we run on, with the faults of `host`; the control loop calls `tick` once a tick."""

    def __init__(self, faults: Faults, sleep: Sleep = time.sleep) -> None:
        self._faults = faults
        self._sleep = sleep
        self._random = faults.generator("host")
        self._taken = bytearray()

    def tick(self) -> None:
        """Do to the calling thread what is injected now; at once without a fault."""
        fault = self._faults.active("host")
        if fault is None:
            self._taken = bytearray()
            return
        once = fault.mode in ("stuck", "garbage") and fault.applied
        if once or (fault.mode == "intermittent" and self._random.random() >= STALL_PROBABILITY):
            return
        fault.apply()
        if fault.mode == "off":
            os.kill(os.getpid(), signal.SIGKILL)
        elif fault.mode == "garbage":
            self._taken = bytearray(b"\xff") * int(fault.value * 1e6)  # written, so that it is really taken
        elif fault.mode == "slow":
            _work(fault.value)
        else:  # stuck, delayed, intermittent
            self._sleep(fault.value)


def _work(duration_s: float) -> None:
    end_s = time.perf_counter() + duration_s
    while time.perf_counter() < end_s:
        pass
