"""Brings a policy to a robot, and has it tried and switched there, with the means of `firmware_tools.deploy`."""

import shlex
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge.errors import PolicyError
from edge.policies.signature import SUFFIX
from firmware_tools import deploy

Say = Callable[[str], None]
INCOMING = ".cache/dofbot-grasp/policy"
INSTALLER = f"{deploy.PYTHON} -m firmware_tools.policy_install"
FILE = "policy.onnx"  # what it is called on the way


def push(host: str, path: Path, force: bool, say: Say) -> Any:
    """Copy a policy and the signature beside it, and go over to it; returns the robot's answer. Raises `InstallError` or `PolicyError`."""
    deploy.check_host(host)
    with tempfile.TemporaryDirectory() as temporary:
        try:
            shutil.copyfile(path, Path(temporary) / FILE)
            signed = path.with_name(path.name + SUFFIX)
            if signed.exists():
                shutil.copyfile(signed, Path(temporary) / (FILE + SUFFIX))
        except OSError as error:
            raise PolicyError(f"{path} cannot be read ({error.strerror}), expected what dofbot export wrote; give another file") from None
        deploy.reach(host, INCOMING, path.stat().st_size)
        deploy.copy(Path(temporary), host, INCOMING, say)
    return deploy.on_robot(host, f"{INSTALLER} push {INCOMING}/{FILE}{' --force' if force else ''}", say)


def ask(host: str, verb: list[str], say: Say) -> Any:
    """Another verb of the robot's part: list, rollback, activate NAME."""
    deploy.check_host(host)
    return deploy.on_robot(host, f"{INSTALLER} {shlex.join(verb)}", say)
