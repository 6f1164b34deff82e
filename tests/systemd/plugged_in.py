"""What the RealSense driver finds in the machine: librealsense's software device before a picture, for one process at a time."""

import fcntl
import threading
import time
from typing import Any

import numpy as np

from tests.edge.software_realsense import SoftwareRealSense, flat

PICTURE = "/var/lib/dofbot-grasp/picture.npy"
DRIVER = """
def find_device(rs: Any, serial: str) -> Any:
    from tests.systemd import plugged_in

    return plugged_in.find_device(rs)
"""


def find_device(rs: Any) -> Any:
    """The device, in place of the driver's function of this name; raises what the SDK does where another process has the camera."""
    file = open(PICTURE, "rb")  # noqa: SIM115  (held to the end of the process)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise RuntimeError("xioctl(VIDIOC_S_FMT) failed, errno=16 Last Error: Device or resource busy") from None
    device, grey = SoftwareRealSense(infrared=True), np.load(file)

    def feed() -> None:
        while not file.closed:
            kinds = [profile.stream_type() for profile in device.sensor.get_active_streams()]
            if kinds:
                device.send(flat(1000 + device.sent % 100))
            if rs.stream.infrared in kinds:
                device.send_image(grey)
            time.sleep(1 / 30)

    threading.Thread(target=feed, daemon=True).start()
    return device.device
