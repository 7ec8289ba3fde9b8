// How many candidates have which score, and the threshold as a line that can be dragged.

import { number, svg } from "./making.js";

const WIDTH = 320, HEIGHT = 54, INSET = 8, BINS = 50;

export class Histogram {
  // low: the slider's lower end. moved(value), settled(): as the line is dragged, and when it is let go.
  constructor(name, low, moved, settled) {
    Object.assign(this, { name, low, counts: new Uint32Array(BINS), threshold: low });
    this.bars = Array.from({ length: BINS }, () => svg("rect", { class: "bar" }));
    this.line = svg("line", { class: "line", y1: 0, y2: HEIGHT });
    this.grip = svg("rect", { class: "grip", y: 0, width: 6, height: 14, rx: 2 });
    // The slider below it is for the keyboard; this one is for the pointer.
    this.element = svg("svg", {
      class: "histogram", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img",
    }, svg("line", { class: "axis", x1: INSET, x2: WIDTH - INSET, y1: HEIGHT - 0.5, y2: HEIGHT - 0.5 }),
    ...this.bars, this.line, this.grip);
    let dragging = false;
    const follow = (event) => {
      const box = this.element.getBoundingClientRect();
      // As browsers place the knob of a slider: half its own width from the ends.
      const share = (event.clientX - box.left - INSET) / (box.width - 2 * INSET);
      moved(this.low + Math.min(1, Math.max(0, share)) * (1 - this.low));
    };
    this.element.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      dragging = true;
      this.element.setPointerCapture(event.pointerId);
      follow(event);
    });
    this.element.addEventListener("pointermove", (event) => { if (dragging) follow(event); });
    for (const end of ["pointerup", "pointercancel"]) {
      this.element.addEventListener(end, () => { if (dragging) { dragging = false; settled(); } });
    }
    new ResizeObserver(() => this.draw()).observe(this.element);
  }

  // scores: in thousandths; of those with `counted` only.
  show(scores, counted, threshold) {
    this.counts.fill(0);
    for (let i = 0; i < scores.length; i++) {
      if (!counted(i)) continue;
      const bin = Math.floor((scores[i] / 1000 - this.low) / (1 - this.low) * BINS);
      if (bin >= 0) this.counts[Math.min(bin, BINS - 1)]++;
    }
    this.threshold = threshold;
    this.draw();
  }

  draw() {
    // In pixels of the screen, so that the line stands over the slider's knob.
    const width = this.element.clientWidth || WIDTH, plot = width - 2 * INSET;
    this.element.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    this.element.firstChild.setAttribute("x2", width - INSET);
    const most = Math.max(1, ...this.counts);
    const at = INSET + (this.threshold - this.low) / (1 - this.low) * plot;
    let above = 0, all = 0;
    this.bars.forEach((bar, i) => {
      const count = this.counts[i], high = count ? Math.max(1, count / most * (HEIGHT - 4)) : 0;
      const x = INSET + i * plot / BINS, middle = this.low + (i + 0.5) / BINS * (1 - this.low);
      bar.setAttribute("x", x.toFixed(2));
      bar.setAttribute("width", Math.max(0.5, plot / BINS - 1).toFixed(2));
      bar.setAttribute("y", (HEIGHT - high).toFixed(2));
      bar.setAttribute("height", high.toFixed(2));
      bar.classList.toggle("in", middle >= this.threshold);
      all += count;
      if (middle >= this.threshold) above += count;
    });
    this.line.setAttribute("x1", at);
    this.line.setAttribute("x2", at);
    this.grip.setAttribute("x", at - 3);
    const label = `${this.name}: about ${number(above)} of ${number(all)} candidates are above the threshold`;
    this.element.setAttribute("aria-label", label);
  }
}
