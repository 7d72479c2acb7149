// What each policy does with the past at the chunk under the slider: its frames, on a strip and on a map.
"use strict";

const STATES = {
  A: ["in the window", "--attended", "circle", "window"],
  R: ["brought back by retrieval", "--retrieved", "diamond", "retrieved"],
  S: ["stored, not chosen", "--stored", "circle-open", "stored"],
  U: ["unreachable", "--unreachable", "x-thin-open", "lost"],
  "?": ["not recorded", "--line", "circle-open", "?"],
};

/** States and percents of the chunks before `chunk`. */
function past(film, chunk) {
  const { states, shares, levels } = film.memory;
  return [...(states[chunk] ?? "")].map((state, i) => ({ state, percent: shares.length ? levels[shares[chunk].charCodeAt(i) - 48] : null }));
}

class Strip {
  constructor(run, film) {
    this.film = film;
    const [width, height, columns] = film.still;
    const dense = film.frames_px.length > 60;
    const shown = dense ? 20 : 52;
    const scale = shown / width;
    this.cells = film.frames_px.map((_, chunk) => {
      const picture = make("i");
      picture.style.cssText = `height:${height * scale}px;background-image:url("${encodeURI(film.stills)}");background-size:${columns * shown}px auto;background-position:${-(chunk % columns) * shown}px ${-Math.floor(chunk / columns) * height * scale}px`;
      const cell = make("div", { class: "cell", onclick: () => set({ frame: firstFrame(film, chunk) }) }, picture, make("b", {}, ""));
      return cell;
    });
    this.said = make("p", { class: "said" });
    this.node = make("div", {}, make("div", { class: `strip${dense ? " dense" : ""}`, "aria-hidden": "true" }, ...this.cells), this.said);
  }

  show(frame) {
    const chunk = chunkAt(this.film, frame);
    if (chunk === this.chunk) return;
    this.chunk = chunk;
    const before = past(this.film, chunk);
    this.cells.forEach((cell, i) => {
      const { state, percent } = before[i] ?? { state: i === chunk ? "now" : i > chunk ? "later" : "?", percent: null };
      cell.dataset.state = state;
      const text = STATES[state]?.[3] ?? { now: "now", later: "" }[state];
      cell.lastChild.textContent = percent === null || percent === 100 || (state === "U" && !percent) ? text : `${percent} %`;
      cell.title = `chunk ${i}: ${STATES[state]?.[0] ?? state}${percent === null ? "" : `, ${percent} % of its rows ${"AR".includes(state) ? "attended" : "stored"}`}`;
    });
    this.said.textContent = sentence(this.film, chunk, before);
  }
}

/** The strip in words. */
function sentence(film, chunk, before) {
  if (!film.memory.states.length) return "This run folder does not say what was attended.";
  const of = (state) => before.map((b, i) => (b.state === state ? i : -1)).filter((i) => i >= 0);
  const list = (chunks) => (chunks.length ? ` (${ranges(chunks)})` : "");
  const parts = [`chunk ${chunk} attends to ${of("A").length + of("R").length} of ${before.length} past chunks, ${film.tokens[chunk]} tokens with its own`];
  for (const state of "RSU?") if (of(state).length) parts.push(`${of(state).length} ${STATES[state][0]}${list(of(state))}`);
  const squeezed = before.flatMap((b, i) => (b.percent !== null && b.percent > 0 && b.percent < 100 ? [i] : []));
  if (squeezed.length) parts.push(`${squeezed.length} compressed${list(squeezed)}`);
  if (!film.memory.shares.length) parts.push("compression was not recorded by this older run folder");
  return `${parts.join("; ")}.`;
}

function ranges(numbers) {
  const spans = [];
  for (const n of numbers) spans.length && spans.at(-1)[1] === n - 1 ? (spans.at(-1)[1] = n) : spans.push([n, n]);
  return spans.map(([a, b]) => (a === b ? a : `${a}–${b}`)).join(", ");
}

function drawLegend() {
  const items = Object.entries(STATES).filter(([letter]) => letter !== "?").map(([, [text, colour]], i) => {
    const box = make("i");
    box.style.cssText = `border-color:var(${colour});border-style:${["solid", "solid", "dashed", "dotted"][i]}`;
    return make("span", {}, box, text);
  });
  $("legend").replaceChildren(...items, make("span", {}, "“25 %”: compressed, this share of its rows is left"), make("span", {}, "click a still to go there"));
}

/** From above: the path, the chunks before this one by what became of them, and the camera. */
function drawMap() {
  const run = BY_ID.get(state.focus);
  const film = run && filmOf(run);
  if (!film) { nothing("map", "Follow a run to see its map."); $("map-caption").textContent = ""; return; }
  const camera = REPORT.groups[run.group].cameras[film.name];
  if (!camera) { nothing("map", "These run folders hold no camera path: they were made before it was recorded. New runs have it."); $("map-caption").textContent = ""; return; }
  const chunk = chunkAt(film, state.frame);
  const where = past(film, chunk).map((b, i) => ({ ...b, chunk: i, at: camera[Math.min(firstFrame(film, i) + (film.frames_px[i] >> 1), camera.length - 1)] }));
  const [x, z, heading] = camera[Math.min(state.frame, camera.length - 1)];
  const traces = [{ x: camera.map((c) => c[0]), y: camera.map((c) => c[1]), mode: "lines", line: { color: token("--line"), width: 3 }, hoverinfo: "skip", showlegend: false }];
  for (const [letter, [text, colour, symbol]] of Object.entries(STATES)) {
    const here = where.filter((b) => b.state === letter);
    if (!here.length) continue;
    const spread = here.map((b) => headed(b.at, 0.16 * reach(camera)));
    traces.push({ x: here.flatMap((b, i) => [b.at[0], spread[i][0], null]), y: here.flatMap((b, i) => [b.at[1], spread[i][1], null]), mode: "lines", line: { color: token(colour), width: letter === "U" ? 1 : 2.5, dash: letter === "U" ? "dot" : "solid" }, hoverinfo: "skip", showlegend: false });
    traces.push({ x: spread.map((p) => p[0]), y: spread.map((p) => p[1]), mode: "markers+text", name: text, showlegend: true, text: here.map((b) => b.chunk), textposition: "top center", textfont: { size: 10, color: token("--soft") }, marker: { symbol, size: 10, color: token(colour), line: { width: 2, color: token(colour) } }, hovertext: here.map((b) => `chunk ${b.chunk}: ${text}${b.percent === null ? "" : `, ${b.percent} %`}`), hoverinfo: "text" });
  }
  const tip = headed([x, z, heading], 0.3 * reach(camera));
  traces.push({ x: [x, tip[0]], y: [z, tip[1]], mode: "lines+markers", name: "camera now", showlegend: true, line: { color: token("--ink"), width: 3 }, marker: { symbol: ["circle", "arrow"], size: [11, 15], angle: [0, heading], color: token("--ink") }, hoverinfo: "name" });
  plot("map", traces, { title: { text: `Camera path from above: ${run.name}`, font: { size: 13 } }, showlegend: true, legend: { orientation: "h", y: -0.2, font: { size: 11 } }, xaxis: { title: { text: "x" }, zeroline: false }, yaxis: { title: { text: "z" }, scaleanchor: "x", zeroline: false }, margin: { l: 50, r: 14, t: 34, b: 84 }, uirevision: film.name });
  $("map-caption").textContent = `Numbers are chunks, drawn where they look to; the path is ${film.name}.`;
}

const headed = ([x, z, degrees], length) => [x + length * Math.sin((degrees * Math.PI) / 180), z + length * Math.cos((degrees * Math.PI) / 180)];
const reach = (camera) => Math.max(0.5, ...[0, 1].map((axis) => Math.max(...camera.map((c) => c[axis])) - Math.min(...camera.map((c) => c[axis]))));

/** Every chunk of the rollout against every chunk before it. */
function drawWhole() {
  const run = BY_ID.get(state.focus);
  const film = run && filmOf(run);
  if (!film || !film.memory.states.length) { nothing("whole", film ? "This run folder does not say what was attended." : "Follow a run to see its memory."); $("whole-caption").textContent = ""; return; }
  const letters = Object.keys(STATES);
  const count = film.memory.states.length;
  const z = film.memory.states.map((line, chunk) => Array.from({ length: count }, (_, i) => (i < chunk ? letters.indexOf(line[i]) : null)));
  const text = film.memory.states.map((_, chunk) => { const before = past(film, chunk); return Array.from({ length: count }, (__, i) => (before[i] ? `chunk ${chunk}, past chunk ${i}: ${STATES[before[i].state][0]}${before[i].percent === null ? "" : `, ${before[i].percent} %`}` : "")); });
  const colours = letters.map((letter) => (letter === "U" ? token("--panel") : token(STATES[letter][1])));
  const colorscale = colours.flatMap((colour, i) => [[i / letters.length, colour], [(i + 1) / letters.length, colour]]);
  const chunk = chunkAt(film, state.frame);
  const shape = { type: "rect", x0: -0.5, x1: count - 0.5, y0: chunk - 0.5, y1: chunk + 0.5, line: { color: token("--ink"), width: 2 } };
  const lost = film.memory.states.flatMap((line, c) => [...line].flatMap((letter, i) => (letter === "U" ? [[i, c]] : [])));
  const crosses = { x: lost.map((p) => p[0]), y: lost.map((p) => p[1]), mode: "markers", marker: { symbol: "x-thin-open", size: 5, color: token("--unreachable") }, hoverinfo: "skip" };
  plot("whole", [{ type: "heatmap", z, text, hoverinfo: "text", colorscale, zmin: -0.5, zmax: letters.length - 0.5, showscale: false, xgap: 1, ygap: 1 }, ...(lost.length && lost.length < 3000 ? [crosses] : [])],
    { title: { text: `The whole rollout: ${run.name}`, font: { size: 13 } }, xaxis: { title: { text: "past chunk" }, showgrid: false, zeroline: false }, yaxis: { title: { text: "chunk" }, autorange: "reversed", showgrid: false, zeroline: false }, shapes: [shape] }).then(() => {
    if ($("whole").seeks) return;
    $("whole").seeks = true;
    $("whole").on("plotly_click", ({ points }) => set({ frame: firstFrame(filmOf(BY_ID.get(state.focus)), points[0].y) }));
  });
  $("whole-caption").textContent = "Each line is a chunk; colours as above, crosses are unreachable. Click a line to go there.";
}
