"""Camera poses written in every format that the world reads."""

import json

import numpy as np
from scipy.spatial.transform import Rotation

from harness.worlds.poses import pinhole

GL = np.diag([1.0, -1.0, -1.0, 1.0])


SIZE = (480, 832)


def lines(rows, head=""):
    return head + "".join(" ".join(f"{v:.9f}" if isinstance(v, float) else str(v) for v in row) + "\n" for row in rows)


def intrinsics(frames=1):
    return pinhole(80.0, SIZE, frames).double().numpy()


def write_realestate(folder, c2w):
    w2c, k = np.linalg.inv(c2w)[:, :3].reshape(-1, 12), intrinsics()[0] / [832, 480, 832, 480]
    rows = [[i * 33333, *map(float, k), 0.0, 0.0, *map(float, row)] for i, row in enumerate(w2c)]
    (folder / "0a1b2c.txt").write_text(lines(rows, "https://www.youtube.com/watch?v=abc\n"))


def write_tum(folder, c2w):
    rows = [[i / 30, *map(float, p[:3, 3]), *map(float, Rotation.from_matrix(p[:3, :3]).as_quat())] for i, p in enumerate(c2w)]
    (folder / "CameraTrajectory.txt").write_text(lines(rows, "# timestamp tx ty tz qx qy qz qw\n"))
    np.save(folder / "intrinsics.npy", intrinsics())


def write_kitti(folder, c2w):
    (folder / "poses.txt").write_text(lines([list(map(float, p[:3].flatten())) for p in c2w]))
    k = intrinsics()[0]
    (folder / "calib.txt").write_text(f"P0: {k[0]} 0 {k[2]} 0 0 {k[1]} {k[3]} 0 0 0 1 0\nTr: 1 0 0 0 0 1 0 0 0 0 1 0\n")
    (folder / "times.txt").write_text(lines([[i / 10] for i in range(len(c2w))]))


def write_colmap(folder, c2w, place="sparse/0"):
    (folder / place).mkdir(parents=True, exist_ok=True)
    text = "# Image list\n"
    for i in reversed(range(len(c2w))):  # in no order
        w2c = np.linalg.inv(c2w[i])
        x, y, z, w = Rotation.from_matrix(w2c[:3, :3]).as_quat()
        text += f"{i + 1} {w:.9f} {x:.9f} {y:.9f} {z:.9f} {w2c[0, 3]:.9f} {w2c[1, 3]:.9f} {w2c[2, 3]:.9f} 1 a view/{i:04d}.png\n" + (
            "1.0 2.0 -1\n" if i % 2 else "\n"
        )
    (folder / place / "images.txt").write_text(text)
    k = intrinsics()[0]
    (folder / place / "cameras.txt").write_text(f"# Camera list\n1 OPENCV 832 480 {k[0]} {k[1]} {k[2]} {k[3]} 0.01 0 0 0\n")


def write_nerfstudio(folder, c2w):
    """A world whose z points up, as Blender's and nerfstudio's; frames in no order, and no leading zeros."""
    up = np.array([[1, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1.0]])
    frames = [{"file_path": f"images/frame_{i}.png", "transform_matrix": (up @ p @ GL).tolist()} for i, p in enumerate(c2w)]
    k = intrinsics()[0]
    about = {"w": 832, "h": 480, "fl_x": k[0], "fl_y": k[1], "cx": k[2], "cy": k[3], "frames": frames[::-1]}
    (folder / "transforms.json").write_text(json.dumps(about), encoding="utf-8-sig")


def write_instant_ngp(folder, c2w):
    frames = [{"file_path": f"./{i:03d}", "transform_matrix": (GL @ p @ GL).tolist()} for i, p in enumerate(c2w)]
    (folder / "transforms.json").write_text(json.dumps({"camera_angle_x": np.radians(80.0), "w": 832, "h": 480, "frames": frames}))


def write_nerf_synthetic(folder, c2w):
    """Of the picture only the angle is known."""
    frames = [{"file_path": f"./{i:03d}", "transform_matrix": (GL @ p @ GL).tolist()} for i, p in enumerate(c2w)]
    (folder / "transforms.json").write_text(json.dumps({"camera_angle_x": np.radians(80.0), "frames": frames}))


def write_npz(folder, c2w):
    np.savez(
        folder / "scene_poses.npz",
        cam_c2w=c2w,
        intrinsic=np.tile(np.array([[495.8, 0, 416], [0, 495.8, 240], [0, 0, 1]]), (len(c2w), 1, 1)),
        names=np.array(["a"]),
    )


def write_npz_inverse(folder, c2w):
    np.savez(folder / "poses.npz", w2c=np.linalg.inv(c2w)[:, :3], K=intrinsics()[0])


def write_three_rows(folder, c2w):
    np.save(folder / "poses.npy", c2w[:, :3].astype(">f8"))
    np.save(folder / "intrinsics.npy", intrinsics()[0].astype(np.longdouble))


def write_flat(folder, c2w):
    np.save(folder / "poses.npy", c2w.reshape(-1, 16))
    np.save(folder / "intrinsics.npy", intrinsics())


WRITERS = (
    write_flat,
    write_realestate, write_tum, write_kitti, write_colmap, write_nerfstudio, write_instant_ngp, write_nerf_synthetic,
    write_npz, write_npz_inverse, write_three_rows,
)  # fmt: skip
