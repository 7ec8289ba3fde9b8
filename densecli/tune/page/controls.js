// Sliders, numbers, lists and check boxes, made from what the server says about each key.

import { make } from "./making.js";

// Round figures, a dozen for each power of ten: a slider over areas steps from one to the next.
function stops(max) {
  const found = [0];
  for (let base = 1; base <= max; base *= 10) {
    for (const step of [1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9]) {
      const value = Math.round(base * step);
      if (value <= max && value > found[found.length - 1]) found.push(value);
    }
  }
  if (found[found.length - 1] < max) found.push(max);
  return found;
}

// The step of a number's field: as fine as its value, since browsers take a value between two steps for a mistake.
function stepFor(value, { step, decimals }) {
  const [digits, power = 0] = String(value ?? "").split("e");
  const places = (digits.split(".")[1] || "").length - Number(power);
  return places > decimals ? 10 ** -places : step;
}

class Toggle {
  constructor(about, changed) {
    this.input = make("input", { type: "checkbox", id: `set-${about.key}`, "data-key": about.key });
    this.input.addEventListener("change", () => changed(this.input.checked, true));
    this.element = make("div.control.toggle", { title: about.meaning },
      make("label", { for: this.input.id }, this.input, about.label), make("code", {}, about.key));
  }

  set(value) { this.input.checked = value; }

  allows() { return true; }
}

class Choice {
  constructor(about, changed) {
    this.input = make("select", { id: `set-${about.key}`, "data-key": about.key },
      ...about.choices.map((choice) => make("option", { value: choice }, choice)));
    this.input.addEventListener("change", () => changed(this.input.value, true));
    this.element = make("div.control.choice", { title: about.meaning },
      make("label", { for: this.input.id }, about.label), this.input, make("code", {}, about.key));
  }

  set(value) { this.input.value = value; }

  allows(value) { return this.about.choices.includes(value); }
}

class Figure {
  constructor(about, changed) {
    this.about = about;
    this.stops = about.logarithmic ? stops(about.slider_max) : null;
    const id = `set-${about.key}`;
    const label = make("label", { for: id, id: `${id}-label` }, about.label);
    const range = this.stops ? { min: 0, max: this.stops.length - 1, step: 1 }
      : { min: about.slider_min, max: about.slider_max, step: about.step };
    this.slider = make("input", {
      type: "range", min: range.min, max: range.max, step: range.step, "aria-labelledby": label.id, "data-key": about.key,
    });
    this.number = make("input", {
      type: "number", id, min: about.min, max: about.max, step: about.step,
      placeholder: about.nullable ? "none" : null, "data-key": about.key, required: !about.nullable,
    });
    this.slider.addEventListener("input", () => { this.show(this.read()); changed(this.read(), false); });
    this.slider.addEventListener("change", () => changed(this.read(), true));
    this.number.addEventListener("input", () => {
      const value = this.typed();
      if (value !== undefined) { this.set(value); changed(value, false); }
    });
    this.number.addEventListener("change", () => {
      const value = this.typed();
      // What stood there before, not what the first digits of a mistake happened to say.
      if (value === undefined) this.set(this.before);
      changed(value === undefined ? this.before : value, true);
      this.before = this.value;
    });
    this.number.addEventListener("focus", () => { this.before = this.value; });
    this.element = make("div.control.figure", { title: about.meaning },
      label, make("span.entry", {}, this.number, make("span.unit", {}, about.unit)), make("code", {}, about.key), this.slider);
  }

  read() {
    const at = Number(this.slider.value);
    if (this.about.nullable && at >= Number(this.slider.max)) return null;
    return this.stops ? this.stops[at] : Number(at.toFixed(this.about.decimals));
  }

  // What stands in the number's field, undefined where that is none that is allowed.
  typed() {
    if (this.number.value === "") return this.about.nullable && !this.number.validity.badInput ? null : undefined;
    const value = Number(this.number.value);
    return this.allows(value) ? value : undefined;
  }

  // Whether the key may have this value: the slider has fewer of them.
  allows(value) {
    const { min, max, above_min, integer, nullable } = this.about;
    if (value === null) return nullable;
    if (!Number.isFinite(value) || value < min || (above_min && value === min)) return false;
    return (max === null || value <= max) && (!integer || Number.isInteger(value));
  }

  show(value) {
    this.value = value;
    const text = value === null ? "" : String(value);
    this.number.step = stepFor(value, this.about);
    if (document.activeElement !== this.number || this.typed() !== value) this.number.value = text;
    this.slider.setAttribute("aria-valuetext", value === null ? "none" : `${text} ${this.about.unit}`.trim());
  }

  set(value) {
    this.show(value);
    if (value === null) this.slider.value = this.slider.max;
    else if (!this.stops) this.slider.value = value;
    else if (this.read() !== value) {
      const above = this.stops.findIndex((stop) => stop >= value);
      this.slider.value = above < 0 ? this.slider.max : above;
    }
  }
}

const KINDS = { toggle: Toggle, choice: Choice, number: Figure };

// changed(key, value, settled): settled is false while a slider is being moved.
export function control(about, changed) {
  const made = new KINDS[about.kind](about, (value, settled) => changed(about.key, value, settled));
  made.about = about;
  return made;
}
