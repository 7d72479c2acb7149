// Start: put everything in its place and connect it.
"use strict";

/** Draw a section only when it comes into view, and again when what it shows has changed. */
const everything = []; // what draws each section, for paper
function lazily(id, keys, draw) {
  let seen = false, stale = true;
  const redraw = () => { if (seen && stale) { stale = false; draw(); } };
  everything.push(() => { seen = true; redraw(); });
  new IntersectionObserver((entries) => { seen = entries.some((entry) => entry.isIntersecting); redraw(); }, { rootMargin: "200px" }).observe($(id));
  when(keys, () => { stale = true; redraw(); });
}

/** On paper nothing scrolls: every section is drawn, and the table is shown whole. */
function paper() { for (const draw of everything) draw(); }

function theme(name) {
  const chosen = name ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  document.documentElement.dataset.theme = chosen;
  $("theme").textContent = chosen === "dark" ? "☀" : "☾";
  set({ theme: chosen });
}

function about() {
  const first = RUNS[0];
  const rows = [
    ["made", REPORT.made],
    ...REPORT.groups.map((group, i) => [REPORT.groups.length > 1 ? `group ${i + 1}` : "evaluation", `${group.title}${Object.keys(group.ends).length ? `; ${Object.entries(group.ends).map(([end, values]) => `${{ floor: "floor (an unrelated view)", ceiling: "bound of the true view (what the autoencoder keeps)" }[end]}: ${Object.entries(values).map(([key, v]) => `${COLUMN.get(key).heading} ${show(COLUMN.get(key), v)}`).join(", ")}`).join("; ")}` : ""}`]),
    ["devices", [...new Set(RUNS.map((run) => run.device))].join("; ")],
    ["commits", [...new Set(RUNS.map((run) => run.commit))].join(", ") + (RUNS.some((run) => run.commit.endsWith("+")) ? " (+: with changes that were not committed)" : "")],
    ["versions", Object.entries(first.versions).map(([k, v]) => `${k} ${v}`).join(", ")],
    ["same in all runs", Object.entries(REPORT.shared).map(([k, v]) => `${k}=${v}`).join(", ")],
    ...[...new Map(RUNS.filter((run) => run.about).map((run) => [run.policy, run.about]))],
    ...REPORT.columns.map((column) => [column.heading, `${column.about}${column.better ? `; ${column.better > 0 ? "more" : "less"} is better` : ""}. Filter with ${column.name}`]),
  ];
  $("about-text").replaceChildren(make("dl", {}, ...rows.flatMap(([term, text]) => [make("dt", {}, term), make("dd", {}, text)])));
}

function notes() {
  const found = REPORT.groups.slice(1).map((_, i) => {
    const runs = RUNS.filter((run) => run.group === i + 1);
    const own = runs.some((run) => run.label === state.baseline);
    return `${runs.length} ${runs.length === 1 ? "run is" : "runs are"} not comparable with the largest group (${REPORT.reasons[i + 1][0].slice(0, 4).join("; ")}): ${own ? `compared with the ${state.baseline} of their own` : `no ${state.baseline} to compare with`}.`;
  });
  found.push(...REPORT.weights.filter(Boolean).map((text) => `${text[0].toUpperCase()}${text.slice(1)}.`));
  const devices = new Set(RUNS.map((run) => run.device));
  if (devices.size > 1) found.push(`Speed was measured on ${devices.size} devices and is not comparable between them.`);
  if (REPORT.unfinished.length) found.push(`Unfinished runs are left out: ${REPORT.unfinished.join(", ")}.`);
  $("notes").replaceChildren(...found.map((text) => make("li", {}, text)));
}

function columnList() {
  const box = (key, text) => {
    const input = make("input", { type: "checkbox", onchange: () => { const hidden = new Set(state.hidden); hidden.has(key) ? hidden.delete(key) : hidden.add(key); set({ hidden }); } });
    input.checked = !state.hidden.has(key);
    return make("label", {}, input, text);
  };
  const groups = [...new Set(REPORT.columns.map((column) => column.group))];
  $("column-list").replaceChildren(
    ...(REPORT.swept.length ? [make("b", {}, "settings"), ...REPORT.swept.map((key) => box(key, key))] : []),
    ...groups.flatMap((group) => [make("b", {}, group), ...REPORT.columns.filter((c) => c.group === group).map((c) => box(c.key, c.heading))]),
  );
}

/** Whom to follow at first: the baseline, the best and the worst that are comparable with it. */
function firstFollowed() {
  const home = homeGroup();
  const runs = RUNS.filter((run) => run.group === (Number.isFinite(home) ? home : 0));
  const ranked = [...runs].sort((a, b) => (COLUMN.get(QUALITY[0])?.better ?? 1) * ((mean(b, QUALITY[0]) ?? 0) - (mean(a, QUALITY[0]) ?? 0)));
  const base = runs.find((run) => run.label === state.baseline);
  const others = ranked.filter((run) => run !== base);
  return [...new Set([base, others[0], others.at(-1)].filter(Boolean).map((run) => run.id))];
}

function keys(event) {
  const typing = event.target.matches("input[type=search], select, textarea");
  if (event.key === "Escape" && event.target.id === "filter") { $("filter").value = ""; set({ filter: "" }); $("filter").blur(); }
  if (event.key === "Escape") $("columns").open = false;
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  const actions = { "/": () => $("filter").focus(), n: () => jump(1), p: () => jump(-1), " ": event.target.id === "slider" ? play : null };
  if (actions[event.key]) { event.preventDefault(); actions[event.key](); }
}

function start() {
  const before = recalled();
  document.title = `${REPORT.experiment}: KV-cache policies`;
  $("title").textContent = REPORT.experiment;
  $("subtitle").textContent = `${RUNS.length} runs; ${REPORT.groups[0].title}`;
  state.hidden = new Set([...REPORT.columns.filter((c) => QUIET.has(c.key)).map((c) => c.key), ...REPORT.swept.slice(4)]);
  state.colour = new Set(RUNS.map((run) => run.policy)).size > 1 || !REPORT.swept.length ? "policy" : REPORT.swept[0];
  Object.assign(state, { gridX: gridAxes()[0], gridY: gridAxes()[1], gridZ: QUALITY[0] ?? REPORT.columns[0]?.key, quality: QUALITIES[0], second: QUALITY[1], cost: COSTS[0] });
  bind("baseline", [...new Set(RUNS.map((run) => run.label))].sort().map((label) => [label, label]), "baseline");
  bind("group", [["", "all groups"], ...REPORT.groups.map((group, i) => [String(i), group.title])], "group");
  $("group-label").hidden = REPORT.groups.length < 2;
  bind("cost", COSTS.map((key) => [key, title(COLUMN.get(key))]), "cost");
  bind("colour", [...new Set(["policy", ...REPORT.settings])].map((key) => [key, key]), "colour");
  bind("second", QUALITY.slice(1).map((key) => [key, title(COLUMN.get(key))]), "second");
  bind("quality", QUALITIES.map((key) => [key, title(COLUMN.get(key))]), "quality");
  bind("grid-x", gridAxes().map((key) => [key, key]), "gridX");
  bind("grid-y", gridAxes().map((key) => [key, key]), "gridY");
  bind("grid-z", REPORT.columns.map((column) => [column.key, title(column)]), "gridZ");
  bind("against", [["first", "first visit"], ["truth", "true view"]], "against");
  $("filter").value = state.filter;
  $("film").addEventListener("change", () => set({ film: $("film").value, frame: 0 }));
  $("filter").addEventListener("input", () => set({ filter: $("filter").value }));
  $("slider").addEventListener("input", () => set({ frame: Number($("slider").value) }));
  $("play").addEventListener("click", play);
  $("next").addEventListener("click", () => jump(1));
  $("previous").addEventListener("click", () => jump(-1));
  $("theme").addEventListener("click", () => theme(state.theme === "dark" ? "light" : "dark"));
  addEventListener("keydown", keys);
  document.addEventListener("click", (event) => { if (!$("columns").contains(event.target)) $("columns").open = false; });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => theme());

  when(["baseline", "hidden", "sort"], drawTable);
  when(["filter", "group", "colour"], drawRows);
  when(["followed"], markRows);
  when(["followed", "colour"], drawKeys);
  when(["baseline"], notes);
  when(["baseline", "group", "colour"], drawAnswer);
  when(["followed", "film"], drawFilms);
  when(["frame", "against", "focus"], drawFrame);
  when(["focus"], drawTicks);
  when(["colour"], () => { cards.clear(); drawFilms(); });
  theme();
  const followed = before.followed.length ? before.followed : firstFollowed();
  Object.assign(state, { followed, focus: followed.find((id) => BY_ID.get(id).policy !== BY_ID.get(followed[0]).policy) ?? followed[0] ?? null });
  const moment = before.film ? before : telling(followedRuns());
  Object.assign(state, { film: moment.film, frame: moment.frame });
  new ResizeObserver(() => document.documentElement.style.setProperty("--top", `${getComputedStyle(document.querySelector(".top")).position === "sticky" ? document.querySelector(".top").offsetHeight : 0}px`)).observe(document.querySelector(".top"));
  addEventListener("beforeprint", paper);
  $("large").addEventListener("click", () => $("large").close());
  $("large").addEventListener("close", () => { enlarged = null; });
  columnList();
  notes();
  drawAnswer();
  drawTable();
  drawLegend();
  drawKeys();
  about();
  document.documentElement.dataset.ready = "table";
  const plotly = make("script", { src: "plotly.min.js", onload: plots }); // 5 MB: after the table is there
  document.head.append(plotly);
}

function plots() {
  const drawing = ["filter", "group", "followed", "colour", "theme"];
  lazily("tradeoffs", [...drawing, "cost", "second", "baseline"], drawPareto);
  lazily("grid-part", ["filter", "group", "theme", "gridX", "gridY", "gridZ"], drawGrid);
  lazily("rollout", drawing, drawRollout);
  lazily("revisits", [...drawing, "quality"], drawRevisits);
  lazily("map", ["focus", "film", "frame", "followed", "theme"], drawMap);
  lazily("whole", ["focus", "film", "frame", "followed", "theme"], drawWhole);
  lazily("films", [], drawFilms);
  const videos = () => setTimeout(drawFilms, 500); // they take a while, and paper may be asked for before anybody has looked
  document.readyState === "complete" ? videos() : addEventListener("load", videos); // they would delay the page's own end of loading
  document.documentElement.dataset.ready = "yes";
  performance.mark("ready");
}

start();
