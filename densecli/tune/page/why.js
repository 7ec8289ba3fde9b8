// The candidates at a pixel: which are masks, and why the others are not.

import { byId, make, number, plural, score, swatch } from "./making.js";

export class Why {
  // pin(candidate): show its shape; letIn(key, value): move a threshold; canLetIn(key, value): whether it can be moved.
  constructor(pin, letIn, canLetIn) {
    Object.assign(this, { pin, letIn, canLetIn });
    this.panel = byId("why");
    this.list = byId("why-list");
    byId("why-close").addEventListener("click", () => this.close());
    this.panel.addEventListener("keydown", (event) => { if (event.key === "Escape") this.close(); });
  }

  get place() { return this.panel.hidden ? null : this.shown; }

  show(answer, colors) {
    const same = this.place && this.place[0] === answer.x && this.place[1] === answer.y;
    const focused = document.activeElement?.closest("#why-list li")?.dataset.candidate;
    this.shown = [answer.x, answer.y];
    this.panel.hidden = false;
    byId("why-title").textContent = `Pixel ${answer.x}, ${answer.y}: ${answer.more ? "more than " : ""}${plural(answer.candidates.length, "candidate")}`;
    const kept = answer.candidates.filter((c) => c.mask !== null).length;
    byId("why-note").textContent = !answer.candidates.length ? "Nothing was proposed here above what was kept: a denser grid may find more."
      : `${kept ? `${number(kept)} of them ${kept === 1 ? "is a mask" : "are masks"}` : "None of them is a mask"}` +
        "; duplicates come last.";
    this.list.replaceChildren(...answer.candidates.map((candidate) => this.row(candidate, colors)));
    if (!same) this.list.scrollTop = 0;
    if (focused === undefined) return;
    // The focus stays with its candidate, wherever that stands now.
    const row = this.list.querySelector(`[data-candidate="${focused}"]`) || this.list.firstElementChild;
    this.pin(null);
    (row || byId("why-close")).focus();
  }

  row(candidate, colors) {
    const head = candidate.mask === null ? make("b", {}, candidate.why)
      : make("b", {}, swatch(colors.get(candidate.mask) || "transparent"), `mask ${candidate.mask}`);
    const scores = make("span.scores", {}, [`predicted IoU ${score(candidate.predicted_iou)}`,
      `stability ${score(candidate.stability)}`, `${number(candidate.area)} px`]
      .map((figure) => figure.replaceAll(" ", "\u00a0")).join("\u00a0· "));  // breaks between figures only
    const row = make(candidate.mask === null ? "li.dropped" : "li.kept", {
      tabindex: 0, "data-candidate": candidate.candidate, "data-filter": candidate.filter,
    }, make("div", {}, head, scores));
    const way = candidate.let_in;
    if (way && this.canLetIn(way.key, way.value)) {
      const value = way.value === null ? "none" : way.value;
      const button = make("button", { type: "button", title: `${way.key} = ${value}` }, "Let it pass");
      button.addEventListener("click", () => this.letIn(way.key, way.value));
      row.append(button);
    }
    for (const begin of ["pointerenter", "focusin"]) row.addEventListener(begin, () => this.pin(candidate));
    for (const end of ["pointerleave", "focusout"]) row.addEventListener(end, () => this.pin(null));
    return row;
  }

  close() {
    if (this.panel.contains(document.activeElement)) byId("stage").focus();
    this.panel.hidden = true;
    this.list.replaceChildren();
    this.pin(null);
  }
}
