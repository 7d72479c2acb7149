"""What cameras of any lens see of probe points, against projecting them one by one."""

import torch

from harness.worlds.poses import integrate
from policies.parts.select.probe_points import blocks, frustums, may_see, probes, sees

FAR = 6.0


def cameras(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Of lenses from wide to long, wider than high and higher than wide, on a walk."""
    dice = torch.Generator().manual_seed(5)
    actions = torch.zeros(count, 6)
    actions[:, 0] = 1.0
    actions[:, 4:] = torch.randn(count, 2, generator=dice) * torch.tensor([40.0, 8.0])
    half = 20 + 40 * torch.rand(count, 2, generator=dice)
    return integrate(actions, 0.4), torch.cat([25 + 60 * torch.rand(count, 2, generator=dice), half], 1)


def test_sees_what_projects_into_the_picture():
    c2w, intrinsics = cameras(30)
    points = probes(c2w, intrinsics, 4, 3, 0.5, FAR).flatten(0, 1)
    seen = sees(points, frustums(c2w, intrinsics, FAR))
    w2c = torch.linalg.inv(c2w.double())
    for i, (fx, fy, cx, cy) in enumerate(intrinsics.double()):
        x, y, z = (w2c[i, :3, :3] @ points.double().T + w2c[i, :3, 3:]).unbind(0)
        u, v = fx * x / z + cx, fy * y / z + cy
        slack = torch.stack([z, FAR - z, u, 2 * cx - u, v, 2 * cy - v]).amin(0)  # above 0 inside
        sure = slack.abs() > 1e-3
        assert torch.equal(seen[i][sure], slack[sure] > 0)
    own = seen.unflatten(1, (30, -1))
    assert own[torch.arange(30), torch.arange(30)].all()
    assert 0.05 < seen.float().mean() < 0.5


def test_blocks_that_a_camera_may_not_see_hold_no_point_that_it_sees():
    c2w, intrinsics = cameras(60)
    points, sides = probes(c2w[:9], intrinsics[:9], 8, 4, 0.5, FAR), frustums(c2w, intrinsics, FAR)
    seen = sees(points.flatten(0, 1), sides).unflatten(1, (9, -1))
    may = may_see(points, sides, 8, 4, FAR).unflatten(1, (9, -1))
    assert may[:, :, blocks(8, 4)[1]][seen].all()
    assert 0.1 < may.float().mean() < 0.9, "blocks are left out, and not all of them"
