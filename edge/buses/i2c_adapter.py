"""What is asked of the kernel's I2C adapter: an answer in time."""

from fcntl import ioctl

RETRIES, TIMEOUT = 0x0701, 0x0702  # <linux/i2c-dev.h>; the time-out is in units of 10 ms


def ask_for_haste(fd: int) -> None:
    """A time-out of 10 ms instead of the kernel's 1 s, which is fifty ticks, and no retries: who calls knows how much time is left.

    `fd` is an open /dev/i2c-N; it holds for all who use that adapter. Raises `OSError` where the adapter cannot.
    """
    ioctl(fd, TIMEOUT, 1)
    ioctl(fd, RETRIES, 0)
