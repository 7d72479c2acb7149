// The table of runs: sorted, filtered, with differences to the baseline of each run's own group.
"use strict";

/** Runs that the filter and the chosen group leave. Words must occur in name or settings; `short>number` compares. */
function visible() {
  const tests = words().map(test);
  return RUNS.filter((run) => (state.group === "" || run.group === Number(state.group)) && tests.every((passes) => passes(run)));
}

const words = () => state.filter.toLowerCase().split(/\s+/).filter(Boolean);

/** What is wrong with the filter's words: names of columns that there are not, words that no run has. */
function strangers() {
  const names = [...REPORT.columns.map((c) => c.name), ...REPORT.settings.map(short)];
  return words().flatMap((word) => {
    const name = word.match(COMPARED)?.[1];
    if (name && !names.includes(name) && !REPORT.settings.includes(name)) return [`There is no column or setting ${name}; there are ${names.join(", ")}.`];
    return RUNS.some(test(word)) ? [] : [name ? `No run has ${word}.` : `No run has “${word}” in its name or settings.`];
  });
}

const COMPARED = /^([\w.]+)(<=|>=|<|>|=)(-?[\d.]+)$/;

function test(word) {
  const [, name, sign, number] = word.match(COMPARED) ?? [];
  const column = REPORT.columns.find((c) => c.name === name);
  if (column || REPORT.settings.some((key) => short(key) === name || key === name)) {
    return (run) => {
      const key = column ? null : REPORT.settings.find((k) => short(k) === name || k === name);
      const value = column ? (mean(run, column.key) === null ? null : mean(run, column.key) * column.factor) : run.settings[key];
      const limit = Number(number);
      return value !== null && { "<": value < limit, ">": value > limit, "<=": value <= limit, ">=": value >= limit, "=": Number(value) === limit }[sign];
    };
  }
  return (run) => `${run.name} ${run.id} ${Object.entries(run.settings).map(([k, v]) => `${k}=${v}`).join(" ")}`.toLowerCase().includes(word);
}

const short = (key) => key.split(".").slice(-1)[0];
const shownColumns = () => REPORT.columns.filter((column) => !state.hidden.has(column.key));
const shownSettings = () => REPORT.swept.filter((key) => !state.hidden.has(key));

/** What the table sorts by: a column's mean, a difference's, a setting or the name. */
function sortValue(run, key) {
  if (key === "name") return run.name;
  if (key in run.settings) return run.settings[key];
  if (!key.endsWith("/difference")) return mean(run, key);
  const base = baselineOf(run);
  return base ? paired(run, base, key.replace("/difference", ""))?.mean ?? null : null;
}

function sorted(runs) {
  const { key, down } = state.sort;
  const keyed = runs.map((run) => [run, sortValue(run, key)]);
  keyed.sort(([a, x], [b, y]) => {
    if (x == null || y == null) return (x == null) - (y == null);
    const order = typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y), undefined, { numeric: true });
    return (down ? -order : order) || a.name.localeCompare(b.name);
  });
  return keyed.map(([run]) => run);
}

/** For every group and column the best shown value, where one can be named. */
function bestValues() {
  const best = new Map();
  for (const group of REPORT.groups.keys()) {
    const runs = RUNS.filter((run) => run.group === group);
    const devices = new Set(runs.map((run) => run.device)).size;
    for (const column of REPORT.columns) {
      if (!column.better || runs.length < 2 || ((devices > 1 || runs.some((run) => run.busy)) && column.timed)) continue;
      const values = runs.map((run) => mean(run, column.key)).filter((value) => value !== null);
      if (values.length) best.set(`${group} ${column.key}`, show(column, column.better > 0 ? Math.max(...values) : Math.min(...values)));
    }
  }
  return best;
}

function drawTable() {
  const head = [["name", "run", ""], ...shownSettings().map((key) => [key, short(key), key.split(".").slice(1, -1).join(".")])];
  for (const column of shownColumns()) {
    head.push([column.key, column.heading, column.unit, column.about, column.better]);
    if (column.difference) head.push([`${column.key}/difference`, `to ${state.baseline.length > 14 ? "baseline" : state.baseline}`, column.unit, `paired difference to ${state.baseline}`, column.better]);
  }
  document.querySelector("#table thead").replaceChildren(make("tr", {}, ...head.map(headCell)));
  drawRows();
}

function headCell([key, text, unit, about, better]) {
  const active = state.sort.key === key;
  const turn = () => {
    set({ sort: { key, down: active ? !state.sort.down : key !== "name" && better !== -1 } });
    document.querySelector(`#table thead button[data-key="${CSS.escape(key)}"]`)?.focus();
  };
  const arrow = active ? (state.sort.down ? "\u00a0↓" : "\u00a0↑") : "";
  const button = make("button", { type: "button", "data-key": key, title: about || `sort by ${text}`, onclick: turn }, text + arrow);
  return make("th", { scope: "col", "aria-sort": active ? (state.sort.down ? "descending" : "ascending") : "none" }, button, make("small", {}, unit || " "));
}

function drawRows() {
  const runs = sorted(visible());
  const best = bestValues();
  document.querySelector("#table tbody").replaceChildren(...runs.map((run) => row(run, best)));
  $("count").textContent = runs.length === RUNS.length ? `${RUNS.length} runs` : `${runs.length} of ${RUNS.length} runs`;
  $("strangers").textContent = strangers().join(" ");
  if (!runs.length) document.querySelector("#table tbody").append(make("tr", {}, make("th", {}, "No run passes the filter.")));
}

function row(run, best) {
  const home = homeGroup();
  const base = baselineOf(run);
  const why = Number.isFinite(home) ? REPORT.reasons[run.group][home] : [];
  const box = make("input", { type: "checkbox", "aria-label": `follow ${run.name}`, onclick: (event) => { event.stopPropagation(); follow(run.id); } });
  box.checked = state.followed.includes(run.id);
  const name = make("span", { class: "name", title: run.name }, ...shorter(run).split(/(?<=_)/).flatMap((part) => [part, make("wbr")]));
  if (why.length) name.append(make("span", { class: "badge", title: why.join("\n") }, `≠ ${why[0]}${why.length > 1 ? ", …" : ""}`));
  if (base && base.device !== run.device) name.append(make("span", { class: "badge", title: `${run.device}, baseline on ${base.device}` }, "speed on another device"));
  if (Object.keys(run.failed).length) name.append(make("span", { class: "badge", title: Object.values(run.failed).join("\n") }, `${Object.keys(run.failed).length} failed`));
  if (run.about) name.append(make("small", { class: "does", title: run.about }, run.about));
  const opener = make("button", { class: "open", type: "button", title: "its videos", "aria-label": `videos of ${run.name}`, onclick: (event) => { event.stopPropagation(); openFilms(run.id); } }, "▶");
  const cells = shownSettings().map((key) => make("td", { class: typeof run.settings[key] === "number" ? "" : "text" }, String(run.settings[key] ?? "–")));
  for (const column of shownColumns()) {
    cells.push(valueCell(run, column, best));
    if (column.difference) cells.push(differenceCell(run, base, column));
  }
  const head = make("th", { scope: "row" }, make("div", { class: "pick" }, box, mark(run), name, run.films.length ? opener : null));
  const open = () => { follow(run.id); };
  const line = make("tr", { "data-run": run.id, class: [why.length ? "other" : "", box.checked ? "followed" : ""].join(" ").trim(), onclick: open }, head, ...cells);
  return line;
}

/** The run's name without the settings that have a column of their own here. */
function shorter(run) {
  const told = new Set(shownSettings().map(short));
  return run.name.split(" ").filter((word) => !word.includes("=") || !told.has(short(word.split("=")[0]))).join(" ");
}

/** The run's colour and shape in the plots. */
function mark(run) {
  const { colour, glyph } = look(run);
  const span = make("span", { class: "mark", "aria-hidden": "true" }, glyph);
  span.style.color = colour;
  return span;
}

function valueCell(run, column, best) {
  const cell = run.cells[column.key];
  if (!cell) return make("td", { class: "quiet" }, "–");
  const text = show(column, cell[0]);
  const [, low, high, n] = cell.length === 4 ? cell : [null, null, null, cell[1]];
  const title = low === null ? `n = ${n}` : `95 % interval ${show(column, low)} to ${show(column, high)}, n = ${n}`;
  const isBest = best.get(`${run.group} ${column.key}`) === text;
  const node = make("td", { title }, make("span", { class: isBest ? "best" : "" }, text));
  if (column.difference && low !== null) node.append(make("small", {}, `[${show(column, low)}, ${show(column, high)}]`));
  return node;
}

function differenceCell(run, base, column) {
  if (!base) return make("td", { class: "quiet", title: `no ${state.baseline} with the same world, seed and noise` }, "not comparable");
  if (base === run) return make("td", { class: "quiet" }, "baseline");
  const d = paired(run, base, column.key);
  if (!d) return make("td", { class: "quiet" }, "–");
  const verdict = !starred(base, column.key).has(run.id) ? "unsure" : d.mean * column.better > 0 ? "better" : "worse";
  const sign = { unsure: "≈ ", better: "▲ ", worse: "▼ " }[verdict];
  return make("td", {}, make("span", { class: verdict }, sign + show(column, d.mean, true)), make("small", {}, `${d.low === null ? "" : `[${show(column, d.low, true)}, ${show(column, d.high, true)}], `}n ${d.n}`));
}

function openFilms(id) {
  follow(id, true);
  $("films").scrollIntoView();
}

/** Bring a run's row into view, whatever the filter hid. */
function showRow(id) {
  const find = () => document.querySelector(`#table tr[data-run="${CSS.escape(id)}"]`);
  if (!find()) { $("filter").value = ""; $("group").value = ""; set({ filter: "", group: "" }); }
  for (const line of document.querySelectorAll("#table tr.shown")) line.classList.remove("shown");
  find().classList.add("shown");
  find().scrollIntoView({ block: "center" });
  find().querySelector("input").focus({ preventScroll: true });
}

/** Which rows are followed, without drawing the table anew. */
function markRows() {
  for (const line of document.querySelectorAll("#table tbody tr[data-run]")) {
    const on = state.followed.includes(line.dataset.run);
    line.classList.toggle("followed", on);
    line.querySelector("input").checked = on;
  }
}
