// Videos of the followed runs under one slider: first visit, now, difference, true view.
"use strict";

const cards = new Map(); // run id -> Card
const filmOf = (run) => run.films.find((film) => film.name === state.film);
const lengthOf = (film) => film.frames_px.reduce((a, b) => a + b, 0);
const followedRuns = () => state.followed.map((id) => BY_ID.get(id));

/** One video that is asked for frames, faster than it can give them: it always ends at the last one asked for. */
class FrameBuffer {
  constructor(film, drawn) {
    this.frames = lengthOf(film);
    this.drawn = drawn;
    this.wanted = null;
    this.busy = false;
    this.video = make("video", { src: film.video, preload: "auto", playsinline: true });
    this.video.muted = true;
    this.video.addEventListener("loadeddata", () => { this.ready = true; this.step(); });
    this.video.addEventListener("seeked", () => { this.busy = false; this.at = this.asked; this.drawn(); this.step(); });
    this.video.addEventListener("error", () => { this.broken = true; this.drawn(); });
  }

  go(frame) { this.wanted = Math.min(frame, this.frames - 1); this.step(); }

  step() {
    if (!this.ready || this.busy || this.wanted === null || this.wanted === this.at) return;
    this.busy = true;
    this.asked = this.wanted;
    this.video.currentTime = ((this.asked + 0.5) / this.frames) * this.video.duration;
  }
}

class Card {
  constructor(run, film) {
    this.run = run;
    this.film = film;
    this.canvas = {};
    this.score = make("p", { class: "score" });
    const focus = make("button", { class: "chip", type: "button", "aria-label": `show the map of ${run.name}`, onclick: () => set({ focus: run.id }) }, "map");
    const close = make("button", { class: "chip", type: "button", "aria-label": `stop to follow ${run.name}`, onclick: () => follow(run.id, false) }, "✕");
    this.node = make("article", { class: "card", "data-run": run.id }, make("header", {}, mark(run), make("h3", {}, make("a", { href: "#runs", title: "show its row", onclick: (event) => { event.preventDefault(); showRow(run.id); } }, run.name)), focus, close), this.score);
    if (!film) {
      this.node.append(make("p", { class: "hint" }, "This run has no video of this trajectory (videos=N films the first N)."));
      return;
    }
    const views = make("div", { class: "views" });
    for (const [name, caption] of [["first", "first visit"], ["now", "now"], ["difference", "difference ×4"], ["truth", "true view"]]) {
      if (name === "truth" && !film.truth) continue;
      this.canvas[name] = make("canvas", { role: "img", "aria-label": `${caption}, ${run.name}` });
      const large = make("button", { class: "picture", type: "button", title: "enlarge", "aria-label": `enlarge: ${caption}, ${run.name}`, onclick: () => enlarge(this, name, `${caption}, ${run.name}`) }, this.canvas[name]);
      views.append(make("figure", {}, large, make("figcaption", {}, caption)));
    }
    this.strip = new Strip(run, film);
    this.node.append(views, this.strip.node);
    this.now = new FrameBuffer(film, () => this.draw());
    this.first = new FrameBuffer(film, () => this.draw());
  }

  seek(frame) {
    if (!this.film) return;
    this.pair = pairAt(this.film, frame);
    this.now.go(frame);
    if (this.pair) this.first.go(this.pair[0]);
    this.strip.show(frame);
    this.score.textContent = this.pair ? `revisit of frame ${this.pair[0]}: ${this.film.metrics.map((key, i) => `${COLUMN.get(key).heading.replace(" revisit", "")} ${show(COLUMN.get(key), this.pair[i + 2])}`).join(", ")}` : "not a revisit";
    this.draw();
  }

  paint() {
    const { video } = this.now;
    if (this.now.broken) { this.score.textContent = "This browser does not play the video (H.264)."; return; }
    if (!video.videoWidth) return;
    const width = this.film.truth ? video.videoWidth / 2 : video.videoWidth;
    for (const canvas of Object.values(this.canvas)) {
      if (canvas.width !== width || canvas.height !== video.videoHeight) { canvas.width = width; canvas.height = video.videoHeight; }
    }
    const paint = (name, reel, half = 0, how = "copy") => {
      const context = this.canvas[name].getContext("2d");
      context.globalCompositeOperation = how;
      context.drawImage(reel.video, half * width, 0, width, video.videoHeight, 0, 0, width, video.videoHeight);
    };
    paint("now", this.now);
    if (this.canvas.truth) paint("truth", this.now, 1);
    const blank = (name) => this.canvas[name].getContext("2d").clearRect(0, 0, width, video.videoHeight);
    const paired = this.pair && this.first.at === this.pair[0];
    paired ? paint("first", this.first) : blank("first");
    const truth = state.against === "truth" && this.film.truth;
    if (!truth && !paired) return blank("difference");
    paint("difference", this.now);
    paint("difference", truth ? this.now : this.first, truth ? 1 : 0, "difference");
    const context = this.canvas.difference.getContext("2d");
    context.globalCompositeOperation = "lighter"; // twice doubled: four times
    for (let i = 0; i < 2; i++) context.drawImage(this.canvas.difference, 0, 0);
  }

  /** Draw, and again where the picture is shown large. */
  draw() { this.paint(); if (enlarged?.card === this) copyLarge(); }
}

let enlarged = null; // which picture is shown large

function enlarge(card, name, caption) {
  enlarged = { card, name };
  $("large-caption").textContent = `${caption} (n and p: next and previous revisit)`;
  $("large").showModal();
  copyLarge();
}

function copyLarge() {
  const source = enlarged.card.canvas[enlarged.name], target = $("large-picture");
  Object.assign(target, { width: source.width, height: source.height });
  target.getContext("2d").drawImage(source, 0, 0);
}

/** Trajectory and frame of the revisit at which the followed runs differ most, by the leading quality. */
function telling(runs) {
  let most = { spread: -1, film: null, frame: 0 };
  for (const name of new Set(runs.flatMap((run) => run.films.map((film) => film.name)))) {
    const scores = new Map(); // revisit -> what each run scores there
    for (const film of runs.flatMap((run) => run.films.filter((f) => f.name === name))) {
      const at = film.metrics.indexOf(QUALITIES[0]);
      if (at >= 0) for (const pair of film.pairs) scores.set(pair[1], [...(scores.get(pair[1]) ?? []), pair[at + 2]]);
    }
    for (const [frame, values] of scores) {
      const spread = Math.max(...values) - Math.min(...values);
      if (spread > most.spread) most = { spread, film: name, frame };
    }
  }
  return most;
}

/** The revisit pair at a video frame: the last one that began within the frame's latent frame. */
function pairAt(film, frame) {
  const stride = Math.max(1, Math.round(film.frames_px[film.frames_px.length - 1] / film.latent));
  return film.pairs.findLast((pair) => pair[1] <= frame && frame < pair[1] + stride);
}

/** Chunk of a video frame, and the first video frame of a chunk. */
function chunkAt(film, frame) {
  let end = 0;
  const at = film.frames_px.findIndex((count) => (end += count) > frame);
  return at < 0 ? film.frames_px.length - 1 : at;
}
const firstFrame = (film, chunk) => film.frames_px.slice(0, chunk).reduce((a, b) => a + b, 0);

/** The film that the slider is marked by: the focused run's, or any. */
function leading() {
  const runs = [BY_ID.get(state.focus), ...followedRuns()].filter(Boolean);
  return runs.map(filmOf).find(Boolean);
}

function drawFilms() {
  const runs = followedRuns();
  const names = [...new Set((runs.length ? runs : RUNS).flatMap((run) => run.films.map((film) => film.name)))].sort();
  $("film").replaceChildren(...names.map((name) => make("option", { value: name }, name)));
  if (!names.includes(state.film)) { set({ film: names[0] ?? null, frame: 0 }); if (names.length) return; }
  $("film").value = state.film ?? "";
  for (const [id, card] of cards) if (!state.followed.includes(id) || card.film !== filmOf(card.run)) cards.delete(id);
  for (const run of runs) if (!cards.has(run.id)) cards.set(run.id, new Card(run, filmOf(run)));
  $("cards").replaceChildren(...runs.map((run) => cards.get(run.id).node));
  if (!runs.length) $("cards").append(make("p", { class: "hint" }, "Tick runs in the table, or click points in the plots, to see their videos here."));
  $("followed").replaceChildren(...runs.map((run) => make("button", { class: "chip", type: "button", "aria-label": `stop to follow ${run.name}`, onclick: () => follow(run.id, false) }, mark(run), ` ${run.name} ✕`)));
  drawTicks();
  drawFrame();
}

/** Under the slider: what was given as context (grey), and where revisits are (lines). */
function drawTicks() {
  const film = leading();
  for (const id of ["slider", "play", "next", "previous"]) $(id).disabled = !film;
  if (!film) return $("ticks").replaceChildren();
  const length = lengthOf(film);
  $("slider").max = length - 1;
  const place = (frame) => `${(100 * frame) / length}%`;
  const given = firstFrame(film, film.forced.lastIndexOf("1") + 1);
  const ticks = film.pairs.map((pair) => { const line = make("b"); line.style.left = place(pair[1] + 0.5); return line; });
  const context = make("i");
  context.style.width = place(given);
  $("ticks").replaceChildren(context, ...ticks);
}

function drawFrame() {
  const film = leading();
  for (const [id, card] of cards) {
    card.node.classList.toggle("focus", id === state.focus && cards.size > 1);
    card.seek(state.frame);
  }
  if (!film) { $("where").textContent = ""; return; }
  $("slider").value = state.frame;
  const chunk = chunkAt(film, state.frame);
  const kind = film.forced[chunk] === "1" ? "given" : pairAt(film, state.frame) ? "revisit" : "generated";
  $("where").textContent = `frame ${state.frame}/${lengthOf(film) - 1}, chunk ${chunk}, ${kind}`;
  $("slider").setAttribute("aria-valuetext", $("where").textContent);
}

function jump(direction) {
  const frames = (leading()?.pairs ?? []).map((pair) => pair[1]);
  const found = direction > 0 ? frames.find((frame) => frame > state.frame) : frames.findLast((frame) => frame < state.frame);
  if (found !== undefined) set({ frame: found });
}

let playing = 0;
function play() {
  const film = leading();
  if (playing || !film) { clearInterval(playing); playing = 0; } else {
    const length = lengthOf(film);
    playing = setInterval(() => {
      if ([...cards.values()].some((card) => card.now?.busy)) return; // nobody is left behind
      set({ frame: (state.frame + 1) % length });
    }, 90);
  }
  $("play").textContent = playing ? "⏸" : "▶";
  $("play").setAttribute("aria-label", playing ? "Pause" : "Play");
}
