"""Calibration: from a printed board to millimetres, each number with its σ, or refused with the reason.

The way of a measurement: `boards` is printed, `detect` finds it in an image, `session` in a folder of them. `intrinsics` fits the lens, and
`verdict` judges it. `hand_eye` fits camera and servos by the least squares of `gls`, and `observability` says what the poses do not tell;
`servo_zeros` puts it in the drivers' terms. `grid`, `block`, `depth` and `check` compare the result with the table, blocks, a depth camera,
and later days. None of these imports `live`, `pages`, `simulated` or `commands`.
"""
