// The first question: which policy? Of the runs that may be compared with the baseline.
"use strict";

const WITHIN = 0.5; // dB of the baseline that count as its quality

/** The best of `runs` by a column, and what is known of the order: whether the next one might be as good. */
function winner(runs, column) {
  const ranked = runs.filter((run) => mean(run, column.key) !== null).sort((a, b) => column.better * (mean(b, column.key) - mean(a, column.key)) || a.name.localeCompare(b.name));
  const [run, next] = ranked;
  if (!run) return null;
  const p = next && pValue(differences(run, next, column.key));
  const unsure = next && (p === null || p >= LEVEL);
  return { run, next, unsure: unsure ? `n=${paired(run, next, column.key)?.n ?? 0}: order uncertain, ${next.name} may be as good` : "" };
}

/** Question, winner and why, for what these runs can answer. */
function answers() {
  const home = homeGroup(), quality = COLUMN.get(QUALITY[0]);
  const runs = RUNS.filter((run) => run.group === (Number.isFinite(home) ? home : 0));
  const base = runs.find((run) => run.label === state.baseline);
  const value = (run, column) => `${column.heading} ${show(column, mean(run, column.key))}${column.unit ? ` ${column.unit}` : ""}`;
  const found = [];
  const best = quality && winner(runs, quality);
  if (best) found.push({ question: "Best quality", ...best, why: [value(best.run, quality), best.run !== base && base ? against(best.run, base, quality) : ""] });
  const stored = COLUMN.get("cost/stored_bytes");
  if (base && stored && mean(base, stored.key) !== null && quality?.unit === "dB") {
    const close = runs.filter((run) => mean(run, quality.key) !== null && mean(run, quality.key) >= mean(base, quality.key) - WITHIN);
    const cheapest = winner(close, stored);
    const d = cheapest && cheapest.run !== base && paired(cheapest.run, base, quality.key);
    const unsure = d && (d.low === null || d.low < -WITHIN) ? `n=${d.n}: order uncertain, it may be more than ${WITHIN} dB below` : "";
    if (cheapest) found.push({ question: `Cheapest within ${WITHIN} dB of ${base.label}`, run: cheapest.run, unsure, why: [`${value(cheapest.run, stored)}, ${share(cheapest.run, base, stored)}`, d ? against(cheapest.run, base, quality) : "nothing cheaper comes that close"] });
  }
  const fps = COLUMN.get("cost/fps_mean");
  const devices = new Set(runs.map((run) => run.device)).size;
  const busy = runs.some((run) => run.busy);
  const fastest = fps && devices === 1 && !busy && winner(runs, fps);
  if (fastest) found.push({ question: "Fastest", ...fastest, why: [value(fastest.run, fps), quality ? value(fastest.run, quality) : ""] });
  return { found, base, speed: fps && (devices > 1 || busy) ? `Fastest is left open: ${devices > 1 ? `these runs were made on ${devices} devices` : "other work ran on the machine"}.` : "" };
}

function against(run, base, column) {
  const d = paired(run, base, column.key);
  return d ? `${show(column, d.mean, true)}${d.low === null ? "" : ` [${show(column, d.low, true)}, ${show(column, d.high, true)}]`} ${column.unit} to ${base.label}` : "";
}

const share = (run, base, column) => (run === base ? "the baseline itself" : `${Math.round((100 * mean(run, column.key)) / mean(base, column.key))} % of ${base.label}'s`);

function drawAnswer() {
  const { found, base, speed } = answers();
  const box = ({ question, run, why, unsure }) => make("article", { class: "answer", "data-run": run.id },
    make("h3", {}, question),
    make("p", { class: "who" }, mark(run), make("a", { href: "#runs", onclick: (event) => { event.preventDefault(); showRow(run.id); } }, run.name)),
    run.about ? make("p", { class: "does" }, run.about) : null,
    ...why.filter(Boolean).map((text) => make("p", { class: "why" }, text)),
    unsure ? make("p", { class: "doubt" }, unsure) : null);
  $("answers").replaceChildren(...found.map(box));
  $("answer-note").textContent = [base ? "" : `No run is called ${state.baseline}.`, speed].filter(Boolean).join(" ");
  $("answer").hidden = RUNS.length < 2;
}
