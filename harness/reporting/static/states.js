// What became of a past chunk: letters, colours and words, for the report and for the page that one walks in.
"use strict";

const STATES = {
  A: ["in the window", "--attended", "circle", "window"],
  R: ["brought back by retrieval", "--retrieved", "diamond", "retrieved"],
  S: ["stored, not chosen", "--stored", "circle-open", "stored"],
  U: ["unreachable", "--unreachable", "x-thin-open", "lost"],
  "?": ["not recorded", "--line", "circle-open", "?"],
};

/** A strip's cell shows a state. cell: an element whose last child is its caption. percent: of the chunk's rows, null if unknown. */
function showState(cell, chunk, state, percent) {
  cell.dataset.state = state;
  const text = STATES[state]?.[3] ?? { now: "now", later: "" }[state];
  cell.lastChild.textContent = percent === null || percent === 100 || (state === "U" && !percent) ? text : `${percent} %`;
  cell.title = `chunk ${chunk}: ${STATES[state]?.[0] ?? state}${percent === null ? "" : `, ${percent} % of its rows ${"AR".includes(state) ? "attended" : "stored"}`}`;
}

/** A strip in words. before: state and percent of each past chunk. tokens: attended, with the chunk's own. */
function inWords(chunk, before, tokens, remark = "") {
  const of = (state) => before.map((b, i) => (b.state === state ? i : -1)).filter((i) => i >= 0);
  const list = (chunks) => (chunks.length ? ` (${ranges(chunks)})` : "");
  const parts = [`chunk ${chunk} attends to ${of("A").length + of("R").length} of ${before.length} past chunks, ${tokens} tokens with its own`];
  for (const state of "RSU?") if (of(state).length) parts.push(`${of(state).length} ${STATES[state][0]}${list(of(state))}`);
  const squeezed = before.flatMap((b, i) => (b.percent !== null && b.percent > 0 && b.percent < 100 ? [i] : []));
  if (squeezed.length) parts.push(`${squeezed.length} compressed${list(squeezed)}`);
  if (remark) parts.push(remark);
  return `${parts.join("; ")}.`;
}

function ranges(numbers) {
  const spans = [];
  for (const n of numbers) spans.length && spans.at(-1)[1] === n - 1 ? (spans.at(-1)[1] = n) : spans.push([n, n]);
  return spans.map(([a, b]) => (a === b ? a : `${a}–${b}`)).join(", ");
}

/** The meaning of the borders. `make` is the page's own. */
function legend() {
  const items = Object.entries(STATES).filter(([letter]) => letter !== "?").map(([, [text, colour]], i) => {
    const box = make("i");
    box.style.cssText = `border-color:var(${colour});border-style:${["solid", "solid", "dashed", "dotted"][i]}`;
    return make("span", {}, box, text);
  });
  return [...items, make("span", {}, "“25 %”: compressed, this share of its rows is left")];
}
