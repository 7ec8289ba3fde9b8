// Small helpers that build elements and format figures.

const SVG = "http://www.w3.org/2000/svg";
const whole = new Intl.NumberFormat("en");

export const byId = (id) => document.getElementById(id);

// make("p.note", {title: "…"}, "text", child, …)
export function make(what, attributes = {}, ...children) {
  const [tag, ...classes] = what.split(".");
  const element = document.createElement(tag);
  if (classes.length) element.className = classes.join(" ");
  return fitted(element, attributes, children);
}

export function svg(tag, attributes = {}, ...children) {
  return fitted(document.createElementNS(SVG, tag), attributes, children);
}

function fitted(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

// A button that cannot be used now: unlike one that is disabled, it keeps the focus.
export function allow(button, allowed) { button.setAttribute("aria-disabled", !allowed); }

export function isAllowed(button) { return button.getAttribute("aria-disabled") !== "true"; }

// Hide an element; a focus that is inside goes elsewhere, and not back to the top of the page.
export function hide(element, elsewhere) {
  const focused = element.contains(document.activeElement);
  element.hidden = true;
  if (focused) elsewhere.focus();
}

export function swatch(color) {
  const element = make("i.swatch", { "aria-hidden": "true" });
  element.style.background = color;
  return element;
}

export function number(value, decimals = 0) {
  return decimals ? value.toFixed(decimals) : whole.format(Math.round(value));
}

export function plural(count, word) {
  return `${number(count)} ${word}${count === 1 ? "" : "s"}`;
}

export function percent(fraction) {
  return `${(100 * fraction).toFixed(fraction >= 0.1 || fraction === 0 ? 0 : 1)} %`;
}

export function score(value) {
  return value === null ? "–" : value.toFixed(3);
}
