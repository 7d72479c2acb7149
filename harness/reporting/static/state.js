// What the page shows now, who is told when it changes, and the arithmetic that depends on the chosen baseline.
"use strict";

const FOLLOW_AT_MOST = 6;
const RUNS = REPORT.runs;
const BY_ID = new Map(RUNS.map((run) => [run.id, run]));
const COLUMN = new Map(REPORT.columns.map((column) => [column.key, column]));
const QUALITY = REPORT.columns.filter((c) => c.group === "quality" && c.better).sort((a, b) => a.rank - b.rank).map((c) => c.key); // the leading one first
const QUALITIES = QUALITY.filter((key) => key.endsWith("_revisit")); // those that single revisits have
const COSTS = REPORT.columns.filter((c) => c.group !== "quality" && c.better).sort((a, b) => a.rank - b.rank || b.key.includes("stored") - a.key.includes("stored")).map((c) => c.key);
const QUIET = new Set(REPORT.columns.filter((c) => c.rank >= 5).map((c) => c.key)); // not in the table at first
const PAIRED = new Map(); // differences that were computed before

const state = {
  baseline: REPORT.baseline, group: "", filter: "", sort: { key: "name", down: false },
  followed: [], focus: null, film: null, frame: 0, against: "first",
  cost: "", colour: "policy", quality: "", second: "", hidden: new Set(),
};
const listeners = [];

/** Call `draw` whenever one of the state's `keys` changes. */
function when(keys, draw) { listeners.push([new Set(keys), draw]); }

/** Change the state and tell who listens. */
function set(changes) {
  const keys = Object.keys(changes).filter((key) => state[key] !== changes[key]);
  Object.assign(state, changes);
  for (const [wanted, draw] of listeners) if (keys.some((key) => wanted.has(key))) draw();
  if (keys.some((key) => ["baseline", "followed", "film", "frame", "filter", "sort"].includes(key))) remember();
}

/** Follow a run through plots and videos, or stop to. Of too many the oldest goes. */
function follow(id, on = !state.followed.includes(id)) {
  const others = state.followed.filter((other) => other !== id);
  const followed = on ? [...others, id].slice(-FOLLOW_AT_MOST) : others;
  set({ followed, focus: on ? id : followed.includes(state.focus) ? state.focus : followed[0] ?? null });
}

/** The view in the address, so that a link or a reload brings it back. */
let pending = 0;
function remember() {
  clearTimeout(pending);
  pending = setTimeout(() => {
    const view = new URLSearchParams({ runs: state.followed.join(","), film: state.film ?? "", frame: state.frame, baseline: state.baseline, filter: state.filter, sort: `${state.sort.down ? "-" : ""}${state.sort.key}` });
    history.replaceState(null, "", `#${view}`);
  }, 300);
}

function recalled() {
  const view = new URLSearchParams(location.hash.slice(1));
  const followed = (view.get("runs") ?? "").split(",").filter((id) => BY_ID.has(id));
  if (RUNS.some((run) => run.label === view.get("baseline"))) state.baseline = view.get("baseline");
  state.filter = view.get("filter") ?? "";
  const sort = view.get("sort");
  if (QUALITY.length) state.sort = { key: QUALITY[0], down: COLUMN.get(QUALITY[0]).better > 0 };
  if (sort) state.sort = { key: sort.replace(/^-/, ""), down: sort.startsWith("-") };
  return { followed, film: view.get("film"), frame: Number(view.get("frame")) || 0 };
}

/** A run's mean of a column, or null. */
const ends = (run, key) => (run.cells[key]?.length === 4 ? run.cells[key].slice(1, 3) : [null, null]); // of the interval, where there is one
function mean(run, key) { return run.cells[key]?.[0] ?? null; }

function show(column, value, sign = false) {
  const text = (value * column.factor).toFixed(column.decimals);
  return sign && value >= 0 ? `+${text}` : text;
}

/** The run of the baseline's name with the same world, seed and noise as `run`, if there is one. */
function baselineOf(run) { return RUNS.find((other) => other.group === run.group && other.label === state.baseline); }

/** The group that is compared first: the chosen one, or the largest that has the baseline. */
function homeGroup() {
  if (state.group !== "") return Number(state.group);
  return RUNS.filter((run) => run.label === state.baseline).reduce((least, run) => Math.min(least, run.group), Infinity);
}

/** Mean, 95 % bootstrap interval (null of one trajectory) and count of run - base over the trajectories of both; null without any. */
function paired(run, base, key) {
  const name = `${run.id} ${base.id} ${key}`;
  if (!PAIRED.has(name)) PAIRED.set(name, interval(differences(run, base, key)));
  return PAIRED.get(name);
}

function differences(run, base, key) {
  const other = base.values[key] ?? [];
  return (run.values[key] ?? []).map((value, i) => (value === null || other[i] == null ? null : value - other[i])).filter((d) => d !== null);
}

function interval(x) {
  const n = x.length;
  if (!n) return null;
  if (n === 1) return { mean: x[0], low: null, high: null, n }; // one trajectory has no interval
  const picks = resamples(n);
  const means = new Float64Array(picks.length / n);
  for (let i = 0, at = 0; i < means.length; i++) {
    let total = 0;
    for (let j = 0; j < n; j++) total += x[picks[at++]];
    means[i] = total / n;
  }
  means.sort();
  return { mean: x.reduce((a, b) => a + b, 0) / n, low: percentile(means, 2.5), high: percentile(means, 97.5), n };
}

function percentile(sorted, percent) {
  const at = ((sorted.length - 1) * percent) / 100;
  const low = Math.floor(at);
  return sorted[low] + (at - low) * (sorted[Math.min(low + 1, sorted.length - 1)] - sorted[low]);
}

/** The very resamples of the Python side where it sent them; else (some trajectories failed) our own, seeded. */
const drawn = new Map();
function resamples(n) {
  if (!drawn.has(n)) {
    const sent = REPORT.picks[n];
    if (sent) {
      const bytes = Uint8Array.from(atob(sent), (letter) => letter.charCodeAt(0));
      drawn.set(n, n <= 256 ? bytes : new Uint16Array(bytes.buffer));
    } else {
      let seed = 1;
      const next = () => (seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0) / 2 ** 32;
      drawn.set(n, Uint32Array.from({ length: 2000 * n }, () => Math.floor(next() * n)));
    }
  }
  return drawn.get(n);
}

/** An element with attributes, text and children. */
function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

const $ = (id) => document.getElementById(id);

/** Fill a select with [value, text] pairs and bind it to a key of the state. */
function bind(id, options, key) {
  $(id).replaceChildren(...options.map(([value, text]) => make("option", { value }, text)));
  $(id).value = state[key];
  $(id).addEventListener("change", () => set({ [key]: $(id).value }));
}
