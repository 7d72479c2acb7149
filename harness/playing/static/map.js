// From above: the rooms, the path, the past chunks by what became of them, and the camera. Uses STATES of the report's trace.js.
"use strict";

class WalkMap {
  constructor(canvas) { this.canvas = canvas; }

  /** camera: x, z, heading of every video frame. before: state and middle frame of each past chunk. plan: rooms and what stands in them, or null. */
  draw(camera, before, plan, fov) {
    const side = Math.max(200, Math.round(this.canvas.clientWidth * (window.devicePixelRatio || 1)));
    if (this.canvas.width !== side) this.canvas.width = this.canvas.height = side;
    const pen = this.canvas.getContext("2d");
    const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
    pen.clearRect(0, 0, side, side);
    if (!camera.length) return;
    const place = this.scale(camera, plan, side);
    const unit = side / 260; // a line's width
    for (const [x0, z0, x1, z1] of plan?.open ?? []) this.box(pen, place(x0, z1), place(x1, z0), colour("--panel"), colour("--stored"), unit);
    for (const [x0, z0, x1, z1] of plan?.solid ?? []) this.box(pen, place(x0, z1), place(x1, z0), colour("--line"), colour("--stored"), unit);
    pen.strokeStyle = colour("--soft");
    pen.lineWidth = 1.5 * unit;
    pen.beginPath();
    for (const [x, z] of camera) pen.lineTo(...place(x, z));
    pen.stroke();
    for (const letter of "?USAR") for (const { state, at } of before) if (state === letter) this.chunk(pen, place, camera[at], letter, colour(STATES[letter][1]), unit);
    this.eye(pen, place, camera.at(-1), fov, colour("--ink"), unit);
  }

  /** World to canvas: all of the path and, of a plan, the rooms that are near it. */
  scale(camera, plan, side) {
    const rooms = (plan?.open ?? []).filter((r) => camera.some(([x, z]) => x > r[0] - 0.5 && x < r[2] + 0.5 && z > r[1] - 0.5 && z < r[3] + 0.5));
    const xs = [...camera.map((c) => c[0]), ...rooms.flatMap((r) => [r[0], r[2]])];
    const zs = [...camera.map((c) => c[1]), ...rooms.flatMap((r) => [r[1], r[3]])];
    const [x0, x1, z0, z1] = [Math.min(...xs), Math.max(...xs), Math.min(...zs), Math.max(...zs)];
    const size = Math.max(x1 - x0, z1 - z0, 1.5) * 1.12;
    const [mx, mz] = [(x0 + x1) / 2, (z0 + z1) / 2];
    return (x, z) => [((x - mx) / size + 0.5) * side, ((mz - z) / size + 0.5) * side];
  }

  box(pen, [x0, y0], [x1, y1], fill, line, unit) {
    pen.fillStyle = fill;
    pen.strokeStyle = line;
    pen.lineWidth = unit;
    pen.fillRect(x0, y0, x1 - x0, y1 - y0);
    pen.strokeRect(x0, y0, x1 - x0, y1 - y0);
  }

  /** A past chunk: a line where it looked to, filled if it is attended to, a cross if it is gone. */
  chunk(pen, place, [x, z, heading], letter, colour, unit) {
    const [px, py] = place(x, z);
    const angle = (heading * Math.PI) / 180;
    const reach = ("AR".includes(letter) ? 20 : 14) * unit;
    const [tx, ty] = [px + reach * Math.sin(angle), py - reach * Math.cos(angle)];
    pen.strokeStyle = pen.fillStyle = colour;
    pen.lineWidth = ("AR".includes(letter) ? 2.5 : 1.2) * unit;
    pen.beginPath();
    pen.moveTo(px, py);
    pen.lineTo(tx, ty);
    pen.stroke();
    pen.beginPath();
    if (letter === "U") for (const s of [-1, 1]) { pen.moveTo(tx - 3 * unit, ty - 3 * unit * s); pen.lineTo(tx + 3 * unit, ty + 3 * unit * s); }
    else pen.arc(tx, ty, (letter === "R" ? 5 : 3.5) * unit, 0, 7);
    "AR".includes(letter) ? pen.fill() : pen.stroke();
  }

  eye(pen, place, [x, z, heading], fov, colour, unit) {
    const [px, py] = place(x, z);
    const [low, high] = [-1, 1].map((s) => ((heading + (s * fov) / 2 - 90) * Math.PI) / 180);
    pen.fillStyle = pen.strokeStyle = colour;
    pen.globalAlpha = 0.14;
    pen.beginPath();
    pen.moveTo(px, py);
    pen.arc(px, py, 46 * unit, low, high);
    pen.fill();
    pen.globalAlpha = 1;
    pen.beginPath();
    pen.arc(px, py, 5 * unit, 0, 7);
    pen.fill();
    const angle = ((heading - 90) * Math.PI) / 180;
    pen.lineWidth = 2.5 * unit;
    pen.beginPath();
    pen.moveTo(px, py);
    pen.lineTo(px + 16 * unit * Math.cos(angle), py + 16 * unit * Math.sin(angle));
    pen.stroke();
  }
}
