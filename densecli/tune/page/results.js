// How many masks there are, how much they cover, and what each filter left.

import { byId, make, number, percent, plural } from "./making.js";

const STEPS = {
  points: "points that were asked", candidates: "candidates", after_pred_iou: "after predicted IoU", after_stability: "after stability",
  after_crop_edge: "not cut off by a crop", after_nms: "without duplicates", after_area: "after clean-up",
  after_parts: "after parts", masks: "masks",
};

// Screen readers are told when a slider rests, and not of each step on its way.
const REST = 800;
let resting = 0;

export function showResults(answer, coverage) {
  byId("count").textContent = number(answer.masks.length);
  byId("count-word").textContent = answer.masks.length === 1 ? "mask" : "masks";
  byId("coverage").textContent = percent(coverage);
  clearTimeout(resting);
  resting = setTimeout(() => {
    byId("result-said").textContent = `${plural(answer.masks.length, "mask")}, ${percent(coverage)} covered`;
  }, REST);
  const { funnel } = answer, most = Math.log(1 + Math.max(1, funnel.candidates));
  const rows = Object.entries(STEPS).filter(([key]) => key in funnel && (key !== "masks" || funnel.masks !== funnel.after_parts)).map(([key, word]) => {
    const bar = make("i.step", { "aria-hidden": "true" });
    bar.style.width = `${100 * Math.log(1 + funnel[key]) / most}%`;
    return make("li", { "data-step": key }, make("span", {}, word), make("b", {}, number(funnel[key])), bar);
  });
  byId("funnel").replaceChildren(...rows);
  const notes = [...(answer.advice ? [answer.advice] : []), ...answer.warnings];
  byId("notes").replaceChildren(...notes.map((note) => make("p", {}, note)));
}
