// The page that one walks in. Pictures and figures come by a websocket; keys go back by it; nothing here waits for the model.
"use strict";

(() => {
const $ = (id) => document.getElementById(id);
const KEYS = { KeyW: "W", KeyS: "S", KeyA: "A", KeyD: "D", ArrowUp: "W", ArrowDown: "S", ArrowLeft: "left", ArrowRight: "right", Space: "wait" };
const SLOWEST = 150; // milliseconds between two video frames at most, however long a chunk takes
const filming = new URLSearchParams(location.search).has("film"); // frames are shown one by one when a film asks for them

const play = { walk: null, role: null, panes: [], latency: null, messages: 0, saved: null };
window.play = play;
let socket, options, map, held = new Set(), tries = 0;

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name in node && name !== "list") node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

/** Draw a picture into a canvas of its own size. */
async function draw(canvas, source) {
  const bitmap = source instanceof ImageBitmap ? source : await createImageBitmap(source);
  if (canvas.width !== bitmap.width || canvas.height !== bitmap.height) [canvas.width, canvas.height] = [bitmap.width, bitmap.height];
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
}

const frameUrl = (pane, index) => `frame/${play.walk.version}/${pane}/${index}`;
const firstOf = (chunk) => (chunk ? play.walk.frames[0] + (chunk - 1) * play.walk.frames[1] : 0);
const middleOf = (chunk) => firstOf(chunk) + ((chunk ? play.walk.frames[1] : play.walk.frames[0]) >> 1);

/** The pictures of a chunk, one after the other; a newer chunk takes over. */
class Screen {
  constructor(canvas) { this.canvas = canvas; this.turn = 0; }

  async show(blobs, seconds, drawn) {
    const turn = ++this.turn;
    this.ready = Promise.all(blobs.map((blob) => createImageBitmap(blob)));
    this.bitmaps = await this.ready;
    if (filming) return;
    const gap = Math.min(SLOWEST, (1000 * seconds) / blobs.length);
    for (const [i, bitmap] of this.bitmaps.entries()) {
      if (turn !== this.turn) return;
      draw(this.canvas, bitmap);
      if (!i) drawn?.();
      if (i + 1 < blobs.length) await new Promise((done) => setTimeout(done, gap));
    }
  }
}

class Pane {
  constructor(index, about) {
    this.index = index;
    this.about = about;
    this.canvas = make("canvas", { role: "img" });
    this.canvas.setAttribute("aria-label", `picture of ${about.label}`);
    this.screen = new Screen(this.canvas);
    this.first = make("canvas", { role: "img", hidden: true });
    this.first.setAttribute("aria-label", `first visit, ${about.label}`);
    this.firstText = make("figcaption", {}, "no earlier visit of this view");
    this.curve = make("canvas", { className: "curve", width: 300, height: 110, role: "img" });
    this.curve.setAttribute("aria-label", "PSNR against the true view, chunk by chunk");
    this.wait = make("div", { className: "wait", hidden: true });
    this.figures = Object.fromEntries(["fps", "tokens", "stored", "psnr"].map((name) => [name, make("dd", {}, "–")]));
    const names = { fps: "FPS", tokens: "tokens", stored: "stored", psnr: "PSNR, dB" };
    this.strip = make("div", { className: "strip" });
    this.said = make("p", { className: "said" });
    const close = make("button", { className: "chip", type: "button", title: "take this pane away", onclick: () => send({ do: "drop", pane: this.index }) }, "✕");
    this.node = make("article", { className: "pane" },
      make("h2", {}, make("span", {}, about.label + (about.since > 1 ? `, from chunk ${about.since}` : "")), ...(play.walk.panes.length > 1 ? [close] : [])),
      this.menus(),
      make("div", { className: "now" }, this.canvas, this.wait),
      make("dl", { className: "figures" }, ...Object.entries(this.figures).map(([name, dd]) => make("div", {}, make("dt", {}, names[name]), dd))),
      make("div", { className: "below" }, make("figure", { className: "visit" }, this.first, this.firstText), this.curve),
      this.strip, this.said);
  }

  menus() {
    const about = this.about;
    const select = (name, values) => {
      const menu = make("select", { onchange: () => this.choose() }, ...values.map((v) => make("option", { value: v, selected: v === about[name] }, v)));
      menu.setAttribute("aria-label", `${name} of pane ${this.index + 1}`);
      return menu;
    };
    this.policy = select("policy", options.policies);
    this.budget = select("budget", options.budgets);
    this.ratio = make("input", { type: "number", min: 0.05, max: 1, step: 0.05, value: about.keeps ?? "", onchange: () => this.choose() });
    this.ratio.setAttribute("aria-label", `compression ratio of pane ${this.index + 1}`);
    const ratio = make("label", { hidden: about.keeps === null, title: "share of rows that the compressor keeps" }, "ratio", this.ratio);
    this.policy.addEventListener("change", () => { this.ratio.value = ""; }, { capture: true });
    return make("div", { className: "menus" }, this.policy, this.budget, ratio);
  }

  choose() {
    const ratio = this.ratio.value && Number(this.ratio.value) !== this.about.keeps ? Number(this.ratio.value) : this.policy.value === this.about.policy ? this.about.ratio : null;
    send({ do: "choose", pane: this.index, policy: this.policy.value, budget: this.budget.value, ratio });
    document.activeElement?.blur();
  }

  /** A new chunk: its pictures, then what it cost and what it attended to. */
  chunk(message, blobs) {
    this.wait.hidden = true;
    this.screen.show(blobs, message.cost.seconds, () => {
      if (play.role?.walks && message.pressed_at !== null && message.pressed_at !== undefined) latency(performance.now() - message.pressed_at);
    });
    this.about = { ...this.about, cost: message.cost, states: message.states, percents: message.percents };
    this.show(message.chunk);
  }

  show(chunk) {
    const { cost, psnr } = this.about;
    if (cost.fps !== undefined) {
      this.figures.fps.textContent = cost.forced ? "given" : cost.fps.toFixed(1);
      this.figures.tokens.textContent = cost.tokens;
      this.figures.stored.textContent = cost.stored > 1e9 ? `${(cost.stored / 1e9).toFixed(2)} GB` : cost.stored > 1e6 ? `${(cost.stored / 1e6).toFixed(1)} MB` : `${(cost.stored / 1e3).toFixed(0)} kB`;
    }
    const last = psnr.at(-1);
    this.figures.psnr.textContent = last === null || last === undefined ? "–" : last.toFixed(1);
    this.drawStrip(chunk);
    this.drawCurve();
  }

  before() { return [...(this.about.states ?? "")].map((state, i) => ({ state, percent: this.about.percents?.[i] ?? null, at: middleOf(i) })); }

  drawStrip(chunk) {
    const before = this.before();
    while (this.strip.children.length > chunk + 1) this.strip.lastChild.remove();
    while (this.strip.children.length <= chunk) {
      const picture = make("i");
      const i = this.strip.children.length;
      const [height, width] = play.walk.size;
      picture.style.cssText = `height:${(35 * height) / width}px;background-image:url("${frameUrl(this.index, middleOf(i))}")`;
      this.strip.append(make("div", { className: "cell" }, picture, make("b")));
    }
    [...this.strip.children].forEach((cell, i) => {
      const { state, percent } = before[i] ?? { state: "now", percent: null };
      cell.dataset.state = state;
      const part = percent !== null && percent !== 100 && !(state === "U" && !percent);
      cell.lastChild.textContent = state === "now" ? "now" : part ? `${percent} %` : state === "U" ? "✕" : STATES[state][3]; // as on the map; the word is wider than a cell
      cell.title = `chunk ${i}: ${STATES[state]?.[0] ?? "now"}${percent === null ? "" : `, ${percent} % of its rows ${"AR".includes(state) ? "attended" : "stored"}`}`;
    });
    this.strip.scrollTop = this.strip.scrollHeight;
    const count = (letters) => before.filter((b) => letters.includes(b.state)).length;
    const parts = [["R", "brought back"], ["S", "stored, not chosen"], ["U", "unreachable"]].filter(([l]) => count(l)).map(([l, text]) => `${count(l)} ${text}`);
    this.said.textContent = before.length ? `chunk ${chunk} attends to ${count("AR")} of ${before.length} past chunks; ${parts.join(", ")}${parts.length ? "." : "all of them in the window."}` : "the first chunk is given";
  }

  /** PSNR chunk by chunk, from 5 to 40 dB. */
  drawCurve() {
    this.curve.hidden = !play.walk.truth;
    [this.curve.width, this.curve.height] = [this.curve.clientWidth || 300, this.curve.clientHeight || 100];
    const values = this.about.psnr, pen = this.curve.getContext("2d"), { width, height } = this.curve;
    pen.clearRect(0, 0, width, height);
    const style = getComputedStyle(document.documentElement);
    const y = (v) => height - 14 - ((Math.min(40, Math.max(5, v)) - 5) / 35) * (height - 24);
    pen.font = "11px system-ui, sans-serif";
    pen.fillStyle = style.getPropertyValue("--soft");
    pen.strokeStyle = style.getPropertyValue("--line");
    for (const level of [10, 20, 30]) { pen.beginPath(); pen.moveTo(22, y(level)); pen.lineTo(width, y(level)); pen.stroke(); pen.fillText(level, 2, y(level) + 4); }
    pen.fillText("dB against the true view, by chunk", 24, height - 2);
    pen.strokeStyle = style.getPropertyValue("--accent");
    pen.lineWidth = 2;
    pen.beginPath();
    values.forEach((v, i) => v !== null && pen.lineTo(26 + ((width - 32) * i) / Math.max(12, values.length - 1), y(v)));
    pen.stroke();
  }

  /** The first visit of the view that the camera is back at: this pane's own picture of it. */
  visit(visit) {
    this.first.hidden = !visit;
    this.firstText.textContent = visitText(visit, this.index);
    if (visit && this.shownVisit !== frameUrl(this.index, visit.frame)) {
      this.shownVisit = frameUrl(this.index, visit.frame);
      fetched(this.shownVisit).then((blob) => draw(this.first, blob));
    }
  }
}

function visitText(visit, index) {
  if (!visit) return "no earlier visit of this view";
  if (visit.psnr) return `first visit, frame ${visit.frame}: ${visit.psnr[index].toFixed(1)} dB from now`;
  return `seen at frame ${visit.frame}, ${Math.round(visit.metres * 100)} cm and ${Math.round(visit.degrees)}° away`;
}

const fetched = (url) => fetch(url).then((answer) => answer.blob());

function latency(milliseconds) {
  play.latency = milliseconds;
  play.latencies = [...(play.latencies ?? []), milliseconds];
  said();
}

function said(text) {
  if (text !== undefined) play.said = text;
  const walked = play.walk ? `chunk ${play.walk.chunks - 1}` : "";
  $("status").textContent = [play.said, walked, play.latency && !filming ? `key to picture ${Math.round(play.latency)} ms` : ""].filter(Boolean).join(" · ");
}

function complain(text) {
  $("message").hidden = !text;
  $("message").textContent = text;
}

/** All of the walk, at the start and whenever more changed than a chunk. */
function walk(message) {
  play.walk = message;
  if (message.walks) walks(message.walks);
  complain(message.broken);
  said("");
  $("subtitle").textContent = message.name;
  $("panes").style.setProperty("--count", message.panes.length);
  play.panes = message.panes.map((about, i) => new Pane(i, about));
  $("panes").replaceChildren(...play.panes.map((p) => p.node));
  $("true-part").hidden = !message.truth;
  const last = message.camera.length - 1;
  for (const pane of play.panes) {
    pane.show(message.chunks - 1);
    pane.visit(message.visit);
    fetched(frameUrl(pane.index, last)).then((blob) => draw(pane.canvas, blob));
  }
  if (message.truth) fetched(frameUrl("truth", last)).then((blob) => draw($("truth"), blob));
  trueVisit(message.visit);
  $("marks").replaceChildren(...message.marks.map((chunk, i) => make("span", {},
    make("button", { className: "chip", type: "button", title: "go on from here", onclick: () => send({ do: "back", mark: i }) }, ...(message.truth ? [make("img", { src: frameUrl("truth", firstOf(chunk) - 1), alt: "" })] : []), `back to chunk ${chunk - 1}`),
    make("button", { className: "chip", type: "button", title: "forget this place", ariaLabel: `forget the place at chunk ${chunk - 1}`, onclick: () => send({ do: "forget", mark: i }) }, "✕"))));
  const chosen = Number($("map-pane").value) || 0;
  $("map-pane").replaceChildren(...message.panes.map((p, i) => make("option", { value: i, selected: i === chosen }, p.label)));
  if (message.panes.length < options.most) {
    const add = make("button", { type: "button", id: "add", title: "one more policy beside these; it reads the walk so far again", onclick: () => send({ do: "choose", pane: message.panes.length, policy: "full", budget: message.panes[0].budget, ratio: null }) }, "+ pane");
    $("add")?.remove();
    $("status").before(add);
  } else $("add")?.remove();
  drawMap();
  document.documentElement.dataset.ready = "yes";
}

function camera(message, blobs) {
  const w = play.walk;
  w.camera.splice(message.first, Infinity, ...message.camera);
  w.chunks = message.chunk + 1;
  w.visit = message.visit;
  if (blobs.length) truthScreen.show(blobs, Math.max(...play.panes.map((p) => p.about.cost.seconds ?? 0)));
  play.panes.forEach((pane, i) => {
    pane.about.psnr.push(message.psnr[i]);
    pane.show(message.chunk);
    pane.visit(message.visit);
  });
  trueVisit(message.visit);
  drawMap();
  said(message.blocked ? "there is a wall: the camera slides along it" : "");
}

function trueVisit(visit) {
  const shown = Boolean(visit) && play.walk.truth;
  $("true-first").hidden = !shown;
  $("true-first-text").textContent = shown ? "true first visit" : "";
  if (shown) fetched(frameUrl("truth", visit.frame)).then((blob) => draw($("true-first"), blob));
}

function drawMap() {
  const pane = play.panes[Number($("map-pane").value) || 0];
  if (pane) map.draw(play.walk.camera, pane.before(), play.walk.plan, play.walk.fov);
}

function role(message) {
  play.role = message;
  document.body.classList.toggle("watching", !message.walks);
  $("notice").hidden = message.walks;
  $("notice").firstElementChild.textContent = "Another page walks through this model, and this one watches.";
}

function walks(names) {
  $("saved").replaceChildren(...(names.length ? names.map((n) => make("option", { value: n }, n)) : [make("option", { value: "" }, "no saved walk yet")]));
  $("open").disabled = !names.length;
}

function saved(message) {
  play.saved = message;
  walks(message.walks);
  $("saved").value = message.name;
  $("saved-text").textContent = `Saved in ${message.folder}. Compare its panes: python harness/report.py ${message.folder}. Walk it again under any policy: python harness/run.py world=recorded world.folder=${message.folder}/path`;
  said("saved");
}

const handlers = {
  walk, camera, role, saved,
  chunk: (message, blobs) => play.panes[message.pane]?.chunk(message, blobs),
  blocked: () => said("there is a wall: turn, or go another way"),
  busy: (message) => said(message.text),
  refused: (message) => complain(message.text),
  error: (message) => { complain(message.text); for (const pane of play.panes) pane.wait.hidden = true; said(""); },
  reading: (message) => {
    const pane = play.panes[message.pane];
    said(`${message.label} reads the walk: ${message.chunk + 1} of ${message.of}`);
    if (pane) { pane.wait.hidden = false; pane.wait.textContent = `${message.label} reads the walk so far: chunk ${message.chunk + 1} of ${message.of}`; }
  },
};

function received(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const message = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  let at = 4 + length;
  const blobs = message.sizes.map((size) => { const blob = new Blob([new Uint8Array(buffer, at, size)]); at += size; return blob; });
  play.messages += 1;
  if (["chunk", "camera"].includes(message.type) && message.version !== play.walk?.version) return; // of before what is shown now
  handlers[message.type]?.(message, blobs);
}

function send(message) {
  if (message.do !== "keys") complain("");
  if (socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify(message));
}
play.send = send;

function press(key, down) {
  if (held.has(key) === down) return;
  down ? held.add(key) : held.delete(key);
  for (const button of document.querySelectorAll(`[data-key="${key}"]`)) button.classList.toggle("down", down);
  send({ do: "keys", keys: [...held], at: performance.now() });
}

function letGo() { for (const key of [...held]) press(key, false); }

function connect() {
  socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/live${location.search}`);
  socket.binaryType = "arraybuffer";
  socket.onmessage = ({ data }) => { tries = 0; received(data); };
  socket.onclose = () => {
    held.clear();
    said("the server has gone; trying again …");
    if (tries++ < 30) setTimeout(connect, Math.min(5000, 500 * tries));
  };
}

/** For films: frame `i` of the last chunk everywhere. */
play.frame = async (i) => {
  for (const screen of [...play.panes.map((p) => p.screen), truthScreen]) {
    const bitmaps = await screen.ready;
    if (bitmaps?.[i]) await draw(screen.canvas, bitmaps[i]);
  }
};

function theme(name) {
  document.documentElement.dataset.theme = name;
  if (play.walk) { drawMap(); for (const pane of play.panes) pane.drawCurve(); }
}

let truthScreen;
async function start() {
  truthScreen = new Screen($("truth"));
  map = new WalkMap($("map"));
  const dark = matchMedia("(prefers-color-scheme: dark)");
  theme(dark.matches ? "dark" : "light");
  dark.addEventListener("change", () => theme(dark.matches ? "dark" : "light"));
  $("theme").onclick = () => theme(document.documentElement.dataset.theme === "dark" ? "light" : "dark");
  $("smooth").onchange = () => document.body.classList.toggle("smooth", $("smooth").checked);
  $("legend").replaceChildren(...Object.entries(STATES).filter(([l]) => l !== "?").map(([, [text, colour]], i) => {
    const box = make("i");
    box.style.cssText = `border-color:var(${colour});border-style:${["solid", "solid", "dashed", "dotted"][i]}`;
    return make("span", {}, box, text);
  }));
  options = await fetch(`options${location.search}`).then((answer) => answer.json());
  addEventListener("keydown", (event) => {
    const key = KEYS[event.code];
    if (!key || event.ctrlKey || event.metaKey || event.altKey || event.target.closest?.("input, select, textarea")) return;
    if (key === "wait" && event.target.closest?.("button")) return; // space presses a button that has the focus
    event.preventDefault();
    if (!event.repeat) press(key, true);
  });
  addEventListener("keyup", (event) => KEYS[event.code] && press(KEYS[event.code], false));
  addEventListener("blur", letGo);
  document.addEventListener("visibilitychange", () => document.hidden && letGo());
  for (const button of document.querySelectorAll("[data-key]")) {
    button.onpointerdown = (event) => { event.preventDefault(); button.setPointerCapture(event.pointerId); press(button.dataset.key, true); };
    button.onpointerup = button.onpointercancel = button.onlostpointercapture = () => press(button.dataset.key, false);
    button.oncontextmenu = (event) => event.preventDefault();
  }
  $("remember").onclick = () => send({ do: "remember" });
  $("begin").onclick = () => send({ do: "begin" });
  $("save").onclick = () => send({ do: "save", name: $("name").value });
  $("open").onclick = () => send({ do: "open", name: $("saved").value });
  $("take").onclick = () => send({ do: "take" });
  $("map-pane").onchange = drawMap;
  addEventListener("resize", () => { if (play.walk) { drawMap(); for (const pane of play.panes) pane.drawCurve(); } });
  connect();
}

start();
})();
