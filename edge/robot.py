"""Facts about the DOFBOT, each with its source. The URDF states the same numbers; a test compares them.

Sources: `VENDOR` is Yahboom's dimension drawing and its `dofbot_info/dofbot.urdf`; `JIM` is
jimdinunzio/dofbot_ros2, one measured arm; `DS` is the DS-SY15A servo data sheet.
"""

import math

JOINT_NAMES = ("joint1", "joint2", "joint3", "joint4", "joint5", "gripper")

BASE_TO_SHOULDER_M = 0.1075  # VENDOR drawing: base plate to joint 2 axis, 107.50 mm
UPPER_ARM_M = 0.08285  # VENDOR drawing: joint 2 to joint 3, 82.85 mm
FOREARM_M = 0.08285  # VENDOR drawing: joint 3 to joint 4, 82.85 mm
WRIST_TO_JOINT5_M = 0.07385  # VENDOR URDF: joint 4 to joint 5, 73.85 mm
WRIST_TO_TOOL_M = 0.1792  # joint 4 to the finger tips when they hold 30 mm: JIM, agrees with VENDOR closed length

# Finger tips move along the tool axis as the gripper opens (JIM; YAS ruler agrees):
# opening in metres against tip position ahead of the tool centre in metres.
TIP_ADVANCE_OPENING_M = (0.0, 0.030, 0.060)
TIP_ADVANCE_M = (0.0091, 0.0, -0.0213)

OPENING_MAX_M = 0.060  # YAH table: 60-64 mm at servo angles 0-57 degrees

# Joint limits. The vendor's API stops joints 1-4 at ±90°; the servos turn 300° (DS). A vertical tool 110 mm over the
# table, hanging from a base that still reaches the furthest block, needs joint 4 at -106°, and all spawns come into
# reach only 11 mm over the table at ±90°, but 42 mm over it at ±110° (urdf/README.md). So joints 3 and 4 have 20°
# more. Whether the brackets of a given arm allow that is for its owner to check before the first motion.
POSITION_MIN_RAD = tuple(math.radians(d) for d in (-90.0, -90.0, -110.0, -110.0, -90.0))
POSITION_MAX_RAD = tuple(math.radians(d) for d in (90.0, 90.0, 110.0, 110.0, 180.0))

# Set-point speed: DS gives 250°/s without load and PRAC drove 140°/s in practice (2.44 rad/s).
VELOCITY_MAX_RAD_S = 2.4
# Stall torque 1.47 N·m (YB-SD15M) over 0.02 kg·m² (0.5 kg of forearm and hand 0.2 m from the shoulder) is 70 rad/s².
ACCELERATION_MAX_RAD_S2 = 60.0
SERVO_LAG_S = 0.04  # how far joints are behind moving set points; not sourced (JIM saw 225 ms in all, at ten commands a second)
OPENING_VELOCITY_MAX_M_S = 0.12
OPENING_ACCELERATION_MAX_M_S2 = 1.2

# Parked: upper arm folded back, tool level and about 0.2 m from the base plate: clear of the table in both mounts.
PARK_RAD = tuple(math.radians(d) for d in (0.0, -30.0, 100.0, 20.0, 0.0))
