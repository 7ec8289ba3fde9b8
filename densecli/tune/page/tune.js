// The page of `densecli tune`: values on the right, what they make of the candidates on the left.

import { control } from "./controls.js";
import { Histogram } from "./histogram.js";
import { History } from "./history.js";
import { allow, byId, hide, make } from "./making.js";
import { Model } from "./model.js";
import { remember, remembered } from "./remembering.js";
import { showResults } from "./results.js";
import { Gone, Latest, Refused, answering, ask } from "./server.js";
import { Stage } from "./stage.js";
import { Why } from "./why.js";

const HISTOGRAMS = { pred_iou_thresh: "predicted_iou", stability_score_thresh: "stability" };

class Page {
  constructor(start) {
    this.start = start;
    this.history = new History({ ...start.values });
    const before = remembered();
    if (before) this.history.resume(before);
    this.values = { ...this.history.values };
    this.scores = new Map();
    this.head();
    this.stage = new Stage(start.photo, (x, y) => this.askWhy(x, y));
    this.why = new Why((mask) => this.stage.pin(mask), (key, value) => this.letIn(key, value),
      (key, value) => this.controls.get(key)?.allows(value));
    this.build();
    this.model = new Model(start, () => this.values, (n) => this.gridAdded(n), () => this.askAgain(), fail);
    this.latest = new Latest("choose", (answer, begin, body) => this.take(answer, begin, body), fail,
      (busy) => this.showBusy(busy));
    this.listen();
    this.showValues();
    this.refresh();
  }

  head() {
    const { photo, model, preset } = this.start;
    const name = photo.name.split(/[\\/]/).pop();
    document.title = `${name} · densecli tune`;
    byId("name").textContent = name;
    byId("name").title = photo.name;
    byId("facts").textContent =
      `${photo.width} × ${photo.height} · ${model.name} on ${model.device} · preset ${preset.name}`;
    byId("facts").title = preset.description;
    byId("photo").src = "photo.jpg";
    byId("stage").setAttribute("aria-label", `${name} with its masks. Arrow keys move a cross, with Shift pixel by ` +
      "pixel; Enter explains the candidates there; plus, minus and 0 zoom.");
    const fixed = this.start.fixed.filter(({ key }) => key !== "points_per_side");
    byId("fixed").replaceChildren(...fixed.map(({ key, value, meaning }) => make("div", { title: meaning },
      make("dt", {}, key), make("dd", {}, typeof value === "number" ? String(Number(value.toFixed(4))) : String(value)))));
  }

  build() {
    this.controls = new Map();
    this.histograms = new Map();
    const places = { generator: byId("generator"), cleanup: byId("cleanup") };
    const lows = this.start.controls.filter((about) => about.floor).map((about) => about.min);
    if (lows.length) {
      byId("floor").textContent = `Candidates below ${lows.join(" and ")} were not kept: there the sliders begin.`;
      byId("floor").hidden = false;
    }
    for (const about of this.start.controls) {
      const made = control(about, (key, value, settled) => this.change(key, value, settled));
      this.controls.set(about.key, made);
      if (HISTOGRAMS[about.key]) {
        const histogram = new Histogram(about.label, about.min, (value) => {
          const rounded = Number(value.toFixed(about.decimals));
          made.set(rounded);
          this.change(about.key, rounded, false);
        }, () => this.settle());
        made.element.insertBefore(histogram.element, made.slider);
        this.histograms.set(about.key, histogram);
      }
      places[about.section].append(made.element);
    }
  }

  listen() {
    byId("undo").addEventListener("click", () => this.go(this.history.undo()));
    byId("redo").addEventListener("click", () => this.go(this.history.redo()));
    byId("reset").addEventListener("click", () => { this.go({ ...this.start.values }); this.settle(); });
    byId("set-points_per_side").addEventListener("change", (event) =>
      this.change("points_per_side", Number(event.target.value), true));
    byId("opacity").addEventListener("input", () => this.showOpacity());
    byId("download").addEventListener("click", () => this.download().catch(fail));
    byId("copy").addEventListener("click", () => this.copy().catch(fail));
    byId("command-close").addEventListener("click", () => hide(byId("command"), byId("copy")));
    document.addEventListener("keydown", (event) => {
      const key = event.key.toLowerCase();
      if (!(event.ctrlKey || event.metaKey) || event.altKey || (key !== "z" && key !== "y")) return;
      event.preventDefault();
      this.settle();  // a number that is being typed
      this.go(key === "y" || event.shiftKey ? this.history.redo() : this.history.undo());
    });
    this.showOpacity();
  }

  // --- values ------------------------------------------------------------------------------------------------------

  change(key, value, settled) {
    this.values = { ...this.values, [key]: value };
    this.outdate();
    if (settled) this.settle();
    this.mark();
    this.refresh();
  }

  settle() {
    if (this.history.settle({ ...this.values })) this.askWhyAgain();
    this.showHistory();
    remember(this.history);
  }

  go(values) {
    this.values = { ...values };
    this.outdate();
    this.showValues();
    this.showHistory();
    remember(this.history);
    this.askAgain();
  }

  letIn(key, value) {
    this.controls.get(key).set(value);
    this.change(key, value, true);
  }

  gridAdded(points) {
    this.newGrid = points;
    this.refresh();
  }

  showValues() {
    for (const [key, made] of this.controls) made.set(this.values[key]);
    byId("set-points_per_side").value = this.values.points_per_side;
    this.mark();
    this.showHistory();
  }

  mark() {
    for (const [key, made] of this.controls) {
      made.element.classList.toggle("changed", this.values[key] !== this.start.values[key]);
      const histogram = this.histograms.get(key);
      if (histogram) this.showHistogram(key, histogram);
    }
    // How many siblings it takes only matters where parts are dropped.
    const siblings = this.controls.get("parts_min_siblings");
    if (siblings) siblings.element.hidden = this.values.parts !== "drop";
  }

  showHistory() {
    allow(byId("undo"), this.history.canUndo);
    allow(byId("redo"), this.history.canRedo);
    allow(byId("reset"), JSON.stringify(this.values) !== JSON.stringify(this.start.values));
  }

  showOpacity() {
    const opacity = byId("opacity").value;
    byId("overlay").style.opacity = opacity / 100;
    byId("opacity").setAttribute("aria-valuetext", `${opacity} %`);
  }

  // --- answers -----------------------------------------------------------------------------------------------------

  refresh() { this.latest.ask({ values: this.values }); }

  // The same values, and something may have changed about what they make.
  askAgain() {
    this.refresh();
    this.askWhyAgain();
  }

  showBusy(busy) {
    byId("results").setAttribute("aria-busy", busy);
    document.body.classList.toggle("busy", busy);
    if (busy) byId("time").textContent = "…";
  }

  take(answer, begin, body) {
    this.masks = answer.masks;
    this.stage.paint(answer.masks);
    showResults(answer, this.stage.coverage);
    if (answer.unfinished) byId("unfinished").hidden = false;
    else hide(byId("unfinished"), byId("results"));
    this.model.offer(answer);
    byId("set-points_per_side").value = this.values.points_per_side;
    this.loadScores();
    wellAgain();
    const taken = performance.now() - begin;
    byId("time").textContent = `${Math.round(taken)} ms`;
    document.body.dataset.shown = JSON.stringify(body.values);
    document.body.dataset.milliseconds = taken.toFixed(1);
    if (this.newGrid) {
      const points = this.newGrid;
      this.newGrid = null;
      byId("set-points_per_side").value = points;
      this.change("points_per_side", points, true);
    }
  }

  async loadScores() {
    const grid = this.values.points_per_side;
    if (this.scores.has(grid)) return;
    this.scores.set(grid, null);
    try {
      this.scores.set(grid, await ask("scores", { values: this.values }));
      this.mark();
    } catch (error) {
      this.scores.delete(grid);
      fail(error);
    }
  }

  showHistogram(key, histogram) {
    const scores = this.scores.get(this.values.points_per_side);
    if (!scores) return;
    const likely = this.values.pred_iou_thresh * 1000;
    // Stability is looked at only where predicted IoU let a candidate pass.
    const counted = key === "pred_iou_thresh" ? () => true : (i) => scores.predicted_iou[i] >= likely;
    histogram.show(scores[HISTOGRAMS[key]], counted, this.values[key]);
  }

  // again: the same pixel, for as long as its explanation is open.
  async askWhy(x, y, again = false) {
    const asked = this.asked = Symbol("why");
    try {
      const answer = await ask("why", { values: this.values, x, y });
      await this.latest.done;  // mask numbers and colours are those of the masks that are shown
      if (asked !== this.asked || (again && !this.why.place)) return;
      this.why.show(answer, new Map((this.masks || []).map((mask) => [mask.id, mask.color])));
    } catch (error) {
      if (asked === this.asked) fail(error);
    }
  }

  askWhyAgain() {
    if (this.why.place) this.askWhy(...this.why.place, true);
  }

  // --- what leaves the page ----------------------------------------------------------------------------------------

  async download() {
    const { name, text, note } = await ask("preset", { values: this.values });
    const link = make("a", { href: URL.createObjectURL(new Blob([text], { type: "application/yaml" })), download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
    byId("download-said").textContent = note;
  }

  async copy() {
    let text, values;
    do {
      values = this.values;
      ({ text } = await ask("command", { values }));
    } while (values !== this.values);  // moved on meanwhile
    byId("command-text").value = text;
    byId("command").hidden = false;
    let said = "Copied:";
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      byId("command-text").select();
      said = "Copy this (Ctrl+C):";
    }
    byId("command-said").textContent = said;
  }

  // What was taken from the page gives these masks no more.
  outdate() {
    hide(byId("command"), byId("copy"));
    byId("download-said").textContent = "";
  }
}

function fail(error) {
  if (!(error instanceof Refused || error instanceof Gone)) reportError(error);
  byId("error").hidden = false;
  byId("error").textContent = error.message;
  const gone = error instanceof Gone;
  document.body.classList.toggle("gone", gone);
  if (!gone || away) return;
  away = true;
  answering().then(back);
}

function wellAgain() {
  byId("error").hidden = true;
  document.body.classList.remove("gone");
}

function back() {
  away = false;
  wellAgain();
  if (page) page.askAgain();
  else open();
}

let page = null;
let away = false;

function open() { ask("start").then((start) => { page = new Page(start); }, fail); }

open();
