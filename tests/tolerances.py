"""Tolerances that several tests share, with their reasons."""

SECOND_ROUTE = 2e-5  # float32 fused attention against float64, over 11 chunks of a 3-layer network whose outputs are O(1)
TEACHER_FORCING = 2e-5  # the same sums in another order: slices of one batch against a cache
RENDER = 2e-5  # float32 ray casting against float64, one ray at a time, away from edges
HALF = 1e-3  # float32 weights against their float16 roundings, relative
SKIMAGE = 2e-4  # SSIM in float32 against float64; borders are cropped alike
COMPILED = 1e-4  # fused float32 kernels sum in another order; measured 3e-7 on frames in [0, 1] over 14 chunks
