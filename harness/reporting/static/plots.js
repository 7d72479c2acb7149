// Plots by plotly: what is drawn, never how. Colours are Okabe and Ito's, told apart also by shape.
"use strict";

const COLOURS = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8C8C8C", "#B8A800"];
const SHAPES = [["circle", "●"], ["square", "■"], ["diamond", "◆"], ["triangle-up", "▲"], ["triangle-down", "▼"], ["pentagon", "⬟"], ["cross", "✚"], ["star", "★"]];
const CONFIG = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d", "zoomIn2d", "zoomOut2d"] };

const title = (column) => (column.unit ? `${column.heading} (${column.unit})` : column.heading);
const token = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const clipped = (name) => (name.length > 26 ? `${name.slice(0, 25)}…` : name);

/** A name without the words that all runs share: short enough to stand beside a point. */
function brief(run) {
  const own = run.name.split(" ").filter((word) => RUNS.some((other) => !other.name.split(" ").includes(word)));
  return clipped(own.map((word) => word.split(".").slice(word.includes("=") ? word.split("=")[0].split(".").length - 1 : 0).join(".")).join(" ") || run.name);
}
const followedOnly = (run) => state.followed.includes(run.id);

const capital = (text) => text[0].toUpperCase() + text.slice(1);

/** The values of the setting that colours stand for, in order. */
function kinds() {
  const values = [...new Set(RUNS.map((run) => run.settings[state.colour] ?? run[state.colour] ?? "–"))];
  return values.sort((a, b) => (typeof a === "number" && typeof b === "number" ? a - b : 0) || String(a).localeCompare(String(b), undefined, { numeric: true }));
}

function look(run) {
  const all = kinds();
  const at = all.indexOf(run.settings[state.colour] ?? run[state.colour] ?? "–");
  const [symbol, glyph] = SHAPES[(at + Math.floor(at / COLOURS.length)) % SHAPES.length];
  return { colour: COLOURS[at % COLOURS.length], symbol, glyph };
}

/** Draw with the page's colours; `extra` is the plot's own layout. */
function plot(id, traces, extra) {
  const axis = { gridcolor: token("--line"), zerolinecolor: token("--line"), linecolor: token("--line"), automargin: true, title: { standoff: 8 } };
  const layout = {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: token("--ink"), size: 12, family: getComputedStyle(document.body).fontFamily },
    margin: { l: 58, r: 14, t: 34, b: 48 }, hovermode: "closest", dragmode: "zoom", showlegend: false,
    hoverlabel: { bgcolor: token("--panel"), bordercolor: token("--line"), font: { color: token("--ink") } }, ...extra,
  };
  layout.xaxis = { ...axis, ...extra.xaxis, title: { ...axis.title, ...extra.xaxis?.title } };
  layout.yaxis = { ...axis, ...extra.yaxis, title: { ...axis.title, ...extra.yaxis?.title } };
  const node = $(id);
  node.classList.remove("empty");
  return Plotly.react(node, traces, layout, CONFIG).then(() => {
    if (node.linked) return;
    node.linked = true;
    node.on("plotly_click", ({ points }) => { const id = points[0].customdata; if (BY_ID.has(id)) follow(id); });
  });
}

function nothing(id, text) {
  const node = $(id);
  if (node.linked) { Plotly.purge(node); node.linked = false; }
  node.className = "plot empty";
  node.textContent = text;
}

/** The points that no other point beats in both: sorted by cost. */
function front(points, lessCost, moreQuality) {
  const cheap = (p) => (lessCost ? p.x : -p.x);
  const good = (p) => (moreQuality ? p.y : -p.y);
  const ordered = [...points].sort((a, b) => cheap(a) - cheap(b) || good(b) - good(a));
  let best = -Infinity;
  return ordered.filter((p) => good(p) > best && ((best = good(p)), true));
}

/** Which points get their name, and on which side: the first side, of those wanted, where it hides no other name or point. */
function labelled(id, points, wanted) {
  const { clientWidth: width, clientHeight: height } = $(id);
  const extent = (values, least) => { const low = Math.min(...values, least); return [low, Math.max(...values) - low || 1]; };
  const [x0, dx] = extent(points.map((p) => p.x), 0);
  const [y0, dy] = extent(points.flatMap((p) => p.bar), Infinity);
  const at = (p) => [58 + ((p.x - x0) / dx) * (width - 90), 50 + (1 - (p.y - y0) / dy) * (height - 130)];
  const taken = points.map((p) => { const [x, y] = at(p); return { p, l: x - 7, r: x + 7, t: y - 8, b: y + 8 }; });
  const found = new Map();
  for (const p of new Set(wanted)) {
    const [x, y] = at(p);
    const w = brief(p.run).length * 6.4;
    for (const [side, l, t] of [["top center", x - w / 2, y - 24], ["bottom center", x - w / 2, y + 9], ["middle right", x + 10, y - 7], ["middle left", x - w - 10, y - 7], ["top left", x - w - 4, y - 22], ["bottom left", x - w - 4, y + 8], ["top right", x + 4, y - 22], ["bottom right", x + 4, y + 8]]) {
      const box = { p, l, r: l + w, t, b: t + 15 };
      if (l < 48 || box.r > width - 4 || taken.some((o) => o.p !== p && o.l < box.r && box.l < o.r && o.t < box.b && box.t < o.b)) continue;
      found.set(p, side);
      taken.push({ ...box, p: null });
      break;
    }
  }
  return found;
}

/** The followed runs' marks and names, above plots without a legend. */
function drawKeys() {
  const runs = followedRuns();
  for (const node of document.querySelectorAll(".key")) node.replaceChildren(...runs.map((run) => make("span", {}, mark(run), run.name)));
  const all = kinds();
  const like = (kind) => RUNS.find((run) => (run.settings[state.colour] ?? run[state.colour] ?? "–") === kind);
  $("kinds").replaceChildren(...(all.length > 24 ? [] : all.map((kind) => make("span", {}, mark(like(kind)), String(kind)))));
}

function drawPareto() {
  ["pareto-a", "pareto-b"].forEach((id, i) => { const key = [QUALITY[0], state.second][i]; key && state.cost ? pareto(id, COLUMN.get(key)) : nothing(id, "These runs have no second quality."); });
}

/** The range in which runs compete: what lies farther from the best than three times the middle run does is not in it. */
function competitive(points) {
  const order = points.map((p) => p.good).sort((a, b) => b - a);
  const [best, middle] = [order[0], order[Math.floor(order.length / 2)]];
  return best - 3 * (best - middle);
}

function pareto(id, quality) {
  const cost = COLUMN.get(state.cost);
  const home = homeGroup();
  const points = visible().filter((run) => mean(run, cost.key) !== null && mean(run, quality.key) !== null)
    .map((run) => ({ run, x: mean(run, cost.key) * cost.factor, y: mean(run, quality.key) * quality.factor, bar: ends(run, quality.key).map((v) => (v ?? mean(run, quality.key)) * quality.factor), home: run.group === home || !Number.isFinite(home) }));
  for (const p of points) p.good = p.y * quality.better;
  const limit = competitive(points), inside = points.filter((p) => p.good >= limit), outside = points.filter((p) => p.good < limit);
  const bars = inside.flatMap((p) => [...p.bar, p.y]), margin = 0.12 * (Math.max(...bars) - Math.min(...bars)) || 1;
  const range = [Math.min(...bars) - margin, Math.max(...bars) + margin]; // outliers stand at its worse end, as arrows
  const edge = quality.better > 0 ? range[0] + margin / 3 : range[1] - margin / 3;
  const widest = Math.max(...points.map((p) => p.x)), step = 0.4 * margin * quality.better; // labels of neighbours stand above one another
  let level = 0, last = -Infinity;
  for (const p of [...outside].sort((a, b) => a.x - b.x)) {
    level = p.x - last < 0.25 * widest ? (level + 1) % 8 : 0;
    last = p.x;
    Object.assign(p, { y: edge + level * step, bar: [edge, edge] });
  }
  const best = front(inside.filter((p) => p.home), cost.better < 0, quality.better > 0);
  const labels = labelled(id, points, [...points.filter((p) => followedOnly(p.run)), ...best, ...outside.slice(0, 8)]);
  const named = (p) => `${brief(p.run)}${outside.includes(p) ? ` ${show(quality, mean(p.run, quality.key))}` : ""}`;
  const traces = [{ x: best.map((p) => p.x), y: best.map((p) => p.y), mode: "lines", line: { color: token("--soft"), width: 1.5, dash: "dot", shape: (cost.better < 0) ? "hv" : "vh" }, hoverinfo: "skip", name: "front" }];
  const few = points.length <= 60;
  traces.push({
    x: points.map((p) => p.x), y: points.map((p) => p.y), customdata: points.map((p) => p.run.id), mode: "markers+text",
    text: points.map((p) => (labels.has(p) ? named(p) : "")), textposition: points.map((p) => (outside.includes(p) ? "middle right" : labels.get(p) ?? "top center")), textfont: { size: 11, color: token("--ink") }, cliponaxis: false,
    hovertext: points.map((p) => `<b>${p.run.name}</b><br>${quality.heading} ${show(quality, mean(p.run, quality.key))}<br>${cost.heading} ${show(cost, mean(p.run, cost.key))} ${cost.unit}${p.home ? "" : "<br>not comparable with the baseline's runs"}`), hoverinfo: "text",
    marker: { size: few ? 11 : 7, color: points.map((p) => look(p.run).colour), symbol: points.map((p) => (outside.includes(p) ? (quality.better > 0 ? "arrow-down" : "arrow-up") : look(p.run).symbol) + (p.home ? "" : "-open")), opacity: points.map((p) => (p.home ? 1 : 0.5)),
      line: { width: points.map((p) => (followedOnly(p.run) ? 3 : 0.5)), color: points.map((p) => (followedOnly(p.run) ? token("--ink") : token("--paper"))) } },
    error_y: few ? { type: "data", symmetric: false, array: points.map((p) => (outside.includes(p) ? 0 : p.bar[1] - p.y) || 0), arrayminus: points.map((p) => (outside.includes(p) ? 0 : p.y - p.bar[0]) || 0), thickness: 1, width: 3, color: token("--stored") } : undefined,
  });
  const arrow = (column) => (column.better > 0 ? "more is better" : "less is better");
  return plot(id, traces, { title: { text: `${quality.heading} against ${cost.heading}${outside.length ? `; arrows: ${outside.length} outside` : ""}`, font: { size: 13 } }, xaxis: { title: { text: `${title(cost)}, ${arrow(cost)}` }, rangemode: "tozero" }, yaxis: { title: { text: `${title(quality)}, ${arrow(quality)}` }, range } });
}

/** A grid: every pair of swept settings, the mean where runs share a cell. */
function drawGrid() {
  const axes = gridAxes();
  $("grid-part").hidden = axes.length < 2;
  if (axes.length < 2) return;
  const x = axes.includes(state.gridX) ? state.gridX : axes[0];
  const y = axes.includes(state.gridY) && state.gridY !== x ? state.gridY : axes.find((key) => key !== x);
  $("grid-x").value = x;
  $("grid-y").value = y;
  const column = COLUMN.get(state.gridZ);
  if (!column) return nothing("grid", "These runs have no results.");
  const runs = visible().filter((run) => run.settings[x] != null && run.settings[y] != null && mean(run, column.key) !== null);
  const order = (key) => [...new Set(runs.map((run) => run.settings[key]))].sort((a, b) => (typeof a === "number" ? a - b : String(a).localeCompare(String(b))));
  const [xs, ys] = [order(x), order(y)];
  const cells = ys.map((b) => xs.map((a) => runs.filter((run) => run.settings[x] === a && run.settings[y] === b)));
  const value = (found) => (found.length ? (found.reduce((sum, run) => sum + mean(run, column.key), 0) / found.length) * column.factor : null);
  const z = cells.map((line) => line.map(value));
  const text = z.map((line, i) => line.map((v, j) => (v === null ? "" : `${v.toFixed(column.decimals)}${cells[i][j].length > 1 ? `<br>n ${cells[i][j].length}` : ""}`)));
  const trace = { type: "heatmap", x: xs.map(String), y: ys.map(String), z, text, texttemplate: "%{text}", customdata: cells.map((line) => line.map((found) => found[0]?.id ?? "")), colorscale: "Cividis", reversescale: column.better < 0,
    colorbar: { title: { text: title(column), side: "right" }, thickness: 12, outlinewidth: 0 }, hovertemplate: `${x} %{x}<br>${y} %{y}<br>${column.heading} %{z}<extra></extra>`, xgap: 2, ygap: 2 };
  return plot("grid", [trace], { title: { text: `${column.heading}; brighter is better`, font: { size: 13 } }, xaxis: { type: "category", title: { text: x }, showgrid: false }, yaxis: { type: "category", title: { text: y }, showgrid: false }, margin: { l: 70, r: 10, t: 34, b: 48 } });
}

/** Settings that make a grid, numbers first. */
function gridAxes() {
  const axes = REPORT.swept.filter((key) => new Set(RUNS.map((run) => run.settings[key]).filter((v) => v != null)).size > 1);
  const numeric = (key) => RUNS.some((run) => typeof run.settings[key] === "number");
  return axes.sort((a, b) => numeric(b) - numeric(a) || (a === "seed") - (b === "seed"));
}

/** Lines of runs: followed ones strong, others faint when there are many. */
function lines(id, runs, series, extra) {
  const many = runs.length > 12;
  const ordered = [...runs].sort((a, b) => followedOnly(a) - followedOnly(b));
  const traces = ordered.map((run) => {
    const strong = followedOnly(run) || (!many && !state.followed.length);
    const { colour, symbol } = look(run);
    const { x, y, error, n } = series(run);
    return { x, y, name: run.name, mode: "lines+markers", customdata: x.map(() => run.id), opacity: strong ? 1 : many ? 0.18 : 0.45, line: { color: colour, width: strong ? 2.6 : 1.2 }, marker: { symbol, size: strong ? 6 : 3 },
      error_y: error && strong ? { type: "data", array: error, thickness: 1, width: 2 } : undefined, hovertemplate: `<b>${run.name}</b><br>%{x}: %{y}${n ? "<br>%{text} trajectories" : ""}<extra></extra>`, text: n };
  }).filter((trace) => trace.x.length);
  return traces.length ? plot(id, traces, extra) : nothing(id, "These runs have nothing to show here.");
}

function drawRollout() {
  const counts = [...new Set(visible().map((run) => `${run.rollout.n} of ${run.rollout.of}`))].join(", ");
  $("population").textContent = `Generated chunks, median over trajectories: ${counts}, the same at every point, so a curve ends where one of them ends. Followed runs are drawn strong, the others faint.`;
  ["cost/fps_mean", "cost/stored_bytes", "cost/attended_tokens"].forEach((key, i) => {
    const column = COLUMN.get(key);
    if (!column) return nothing(`rollout-${"abc"[i]}`, "Not recorded.");
    const series = (run) => ({ x: run.rollout.frame, y: run.rollout[key].map((value) => value * column.factor), n: run.rollout.frame.map(() => run.rollout.n) });
    lines(`rollout-${"abc"[i]}`, visible(), series, { title: { text: capital(column.heading), font: { size: 13 } }, xaxis: { title: { text: "latent frame" } }, yaxis: { title: { text: column.unit || "tokens" }, rangemode: "tozero" } });
  });
}

/** Recall against the gap and the distance, where runs have probes: to the first visit, or to the true view of probes from beside it. */
function drawRecall() {
  const metric = state.quality?.replace("quality/", "").replace("_revisit", "");
  const all = REPORT.columns.map((column) => column.key).filter((k) => k.startsWith("recall/"));
  const key = [`recall/${metric}`, `recall/${metric}_true`, ...(metric ? [] : all)].find((k) => RUNS.some((run) => run.recall_gap[k]));
  $("recall").hidden = !key;
  if (!key) return;
  const error = key.replace("recall/", "error/");
  const yaxis = { title: { text: title(COLUMN.get(key) ?? COLUMN.get(state.quality)) } };
  for (const [id, part, text] of [["recall-gap", "recall_gap", "chunks since the view was last seen"], ["recall-far", "recall_far", "metres from where the camera was"]]) {
    const series = (run) => ({ x: run[part].x ?? [], y: run[part][key] ?? [], error: run[part][error], n: run[part].n });
    lines(id, visible(), series, { title: { text: part === "recall_gap" ? "Against the gap" : "Against the distance", font: { size: 13 } }, xaxis: { title: { text } }, yaxis });
  }
  const audited = visible().filter((run) => run.audit[key]);
  if (!audited.length) return nothing("recall-audit", "No audit: probes.audit=[wrong,other,mean,none] replaces the pages that probes bring back.");
  lines("recall-audit", audited, (run) => ({ x: run.audit.x, y: run.audit[key], error: run.audit[error], n: run.audit.n }), { title: { text: "Right pages, and others in their place", font: { size: 13 } }, xaxis: { title: { text: "pages brought back" } }, yaxis });
}

function drawRevisits() {
  drawRecall();
  if (!state.quality) { for (const id of ["revisit-gap", "revisit-when", "revisit-length"]) nothing(id, "These runs have no revisit pairs."); return; }
  const column = COLUMN.get(state.quality);
  const error = state.quality.replace("quality/", "error/");
  const yaxis = { title: { text: title(column) } };
  for (const [id, part, text] of [["revisit-gap", "gap", "video frames between the visits"], ["revisit-when", "when", "video frame of the revisit"]]) {
    const series = (run) => ({ x: run[part].x ?? [], y: run[part][state.quality] ?? [], error: run[part][error], n: run[part].n });
    lines(id, visible(), series, { title: { text: part === "gap" ? "Against the revisit gap" : "Against the time in the rollout", font: { size: 13 } }, xaxis: { title: { text } }, yaxis });
  }
  const lengths = new Set(visible().map((run) => mean(run, "frames")));
  if (!lengths.size) { nothing("revisit-length", "No run passes the filter."); return; }
  if (lengths.size < 2) { nothing("revisit-length", `All runs have rollouts of one length (${[...lengths].map((n) => n?.toFixed(0) ?? "unknown")} video frames), so there is no curve over lengths to draw.`); return; }
  const names = [...new Set(visible().map((run) => run.policy))];
  const traces = names.map((name) => {
    const runs = visible().filter((run) => run.policy === name && mean(run, state.quality) !== null).sort((a, b) => mean(a, "frames") - mean(b, "frames"));
    const { colour, symbol } = look(runs[0] ?? RUNS[0]);
    return { x: runs.map((run) => mean(run, "frames")), y: runs.map((run) => mean(run, state.quality)), customdata: runs.map((run) => run.id), name, hovertext: runs.map((run) => run.name), hoverinfo: "text+x+y", mode: "lines+markers", line: { color: colour, width: 1 },
      marker: { symbol, color: colour, size: runs.map((run) => (followedOnly(run) ? 12 : 8)), line: { color: token("--ink"), width: runs.map((run) => (followedOnly(run) ? 2 : 0)) } } };
  });
  plot("revisit-length", traces, { title: { text: "Against the rollout length", font: { size: 13 } }, xaxis: { title: { text: "video frames of a rollout" }, rangemode: "tozero" }, yaxis });
}
