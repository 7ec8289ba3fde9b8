// The photo with the masks over it: painting, zooming, what the pointer or the cross is over.

import { byId, number, score, swatch } from "./making.js";
import { Labels, Scale, spotlight } from "./masks.js";

const MOST_ZOOM = 32, WHEEL = 0.0015, CLICK_TOLERANCE = 4, MARGIN = 24;

export function maskText(mask) {
  const part = mask.parent ? ` · part of ${mask.parent}` : "";
  return `mask ${mask.id} · ${number(mask.area)} px · predicted IoU ${score(mask.predicted_iou)} · ` +
    `stability ${score(mask.stability)}${part}`;
}

class Layer {
  constructor(canvas, width, height) {
    canvas.width = width;
    canvas.height = height;
    this.context = canvas.getContext("2d");
    this.image = this.context.createImageData(width, height);
    this.pixels = new Uint32Array(this.image.data.buffer);
  }

  put() { this.context.putImageData(this.image, 0, 0); }
}

export class Stage {
  // asked(x, y): a pixel of the photo was clicked.
  constructor(photo, asked) {
    this.photo = photo;
    this.asked = asked;
    this.area = byId("stage");
    this.scene = byId("scene");
    this.tip = byId("tip");
    this.said = byId("said");
    const [width, height] = photo.shown;
    this.scale = new Scale([photo.width, photo.height], photo.shown);
    this.labels = new Labels(this.scale);
    this.overlay = new Layer(byId("overlay"), width, height);
    this.light = new Layer(byId("light"), width, height);
    this.scene.style.width = `${width}px`;
    this.scene.style.height = `${height}px`;
    this.lit = null;
    this.pinned = null;
    this.pointer = null;
    this.cross = null;
    this.keyed = false;  // whether the cross was moved by keys, and so stands for the pointer
    this.view = { zoom: 1, x: 0, y: 0, fitted: true };
    this.listen();
    new ResizeObserver(() => { if (this.view.fitted) this.fit(); else this.place(); }).observe(this.area);
  }

  paint(masks) {
    this.labels.paint(masks);
    this.labels.color(this.overlay.pixels);
    this.overlay.put();
    this.drawn = undefined;  // another mask may have the same id now
    this.look();
  }

  get coverage() { return this.labels.coverage; }

  // Show one mask or candidate whatever the pointer is over; null: no longer.
  pin(mask) {
    this.pinned = mask;
    this.spot(mask || this.lit);
  }

  spot(mask) {
    if (mask === this.drawn) return;
    this.drawn = mask;
    const canvas = this.light.context.canvas;
    canvas.dataset.mask = mask ? mask.id || `candidate ${mask.candidate}` : "";
    canvas.hidden = !mask;
    if (!mask) return;
    spotlight(mask, this.scale, this.light.pixels, Math.max(1, Math.round(1.2 / this.view.zoom)));
    this.light.put();
  }

  // What lies at a place of the window: pixel of the picture.
  pixelAt(clientX, clientY) {
    const box = this.area.getBoundingClientRect();
    return [
      Math.floor((clientX - box.left - this.view.x) / this.view.zoom),
      Math.floor((clientY - box.top - this.view.y) / this.view.zoom),
    ];
  }

  within(clientX, clientY) {
    const box = this.area.getBoundingClientRect();
    return clientX >= box.left && clientX < box.right && clientY >= box.top && clientY < box.bottom;
  }

  look() {
    const at = this.pointer ? this.within(...this.pointer) && this.pixelAt(...this.pointer) : this.keyed && this.cross;
    this.lit = at ? this.labels.at(...at) : null;
    this.spot(this.pinned || this.lit);
    if (!this.lit || !this.pointer) { this.tip.hidden = true; return; }
    const mask = this.lit;
    if (this.tip.hidden || this.tip.dataset.mask !== String(mask.id) || this.tip.mask !== mask) {
      this.tip.replaceChildren(swatch(mask.color), maskText(mask));
      this.tip.dataset.mask = mask.id;
      this.tip.mask = mask;
      this.tip.hidden = false;
    }
    const { offsetWidth, offsetHeight } = this.tip, [x, y] = this.pointer;
    const left = Math.max(4, Math.min(x + 14, document.documentElement.clientWidth - offsetWidth - 4));
    const top = y + 18 + offsetHeight > innerHeight ? y - offsetHeight - 10 : y + 18;
    this.tip.style.transform = `translate(${left}px, ${top}px)`;
  }

  ask([column, row]) {
    const [width, height] = this.photo.shown;
    if (column < 0 || row < 0 || column >= width || row >= height) return;
    this.cross = [column, row];
    this.drawCross();
    this.asked(Math.floor((column + 0.5) * this.photo.width / width), Math.floor((row + 0.5) * this.photo.height / height));
  }

  drawCross() {
    const cross = byId("cross");
    cross.hidden = !this.cross;
    if (!this.cross) return;
    const { zoom, x, y } = this.view;
    cross.style.transform = `translate(${x + (this.cross[0] + 0.5) * zoom}px, ${y + (this.cross[1] + 0.5) * zoom}px)`;
  }

  // --- zoom ------------------------------------------------------------------------------------------------------

  get fittingZoom() {
    const [width, height] = this.photo.shown;
    return Math.min(this.area.clientWidth / width, this.area.clientHeight / height);
  }

  fit() {
    this.view.zoom = this.fittingZoom;
    this.view.fitted = true;
    this.place();
  }

  // Zoom by a factor; a place of the stage, in its own pixels, stays where it is.
  zoomBy(factor, atX = this.area.clientWidth / 2, atY = this.area.clientHeight / 2) {
    const view = this.view, least = this.fittingZoom;
    const zoom = Math.min(Math.max(least, MOST_ZOOM, 1), Math.max(least, view.zoom * factor));
    view.x = atX - (atX - view.x) * zoom / view.zoom;
    view.y = atY - (atY - view.y) * zoom / view.zoom;
    view.zoom = zoom;
    view.fitted = zoom === least;
    this.place();
  }

  place() {
    const view = this.view, [width, height] = this.photo.shown;
    const within = (at, room, size) => size <= room ? (room - size) / 2 : Math.min(0, Math.max(room - size, at));
    view.x = within(view.x, this.area.clientWidth, width * view.zoom);
    view.y = within(view.y, this.area.clientHeight, height * view.zoom);
    this.scene.style.transform = `translate(${view.x}px, ${view.y}px) scale(${view.zoom})`;
    this.scene.classList.toggle("large", view.zoom >= 3);
    byId("zoom").textContent = `${Math.round(100 * view.zoom * this.photo.shown[0] / this.photo.width)} %`;
    this.drawCross();
    this.look();  // something else may be under the pointer now
  }

  // --- pointer and keys ------------------------------------------------------------------------------------------

  listen() {
    const area = this.area;
    let down = null;
    area.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      down = { x: event.clientX, y: event.clientY, viewX: this.view.x, viewY: this.view.y, moved: false };
      area.setPointerCapture(event.pointerId);
    });
    area.addEventListener("pointermove", (event) => {
      this.pointer = [event.clientX, event.clientY];
      this.keyed = false;
      if (down) {
        const dx = event.clientX - down.x, dy = event.clientY - down.y;
        down.moved ||= Math.hypot(dx, dy) > CLICK_TOLERANCE;
        if (down.moved) {
          this.view.x = down.viewX + dx;
          this.view.y = down.viewY + dy;
          this.place();
        }
      }
      this.look();
    });
    area.addEventListener("pointerup", (event) => {
      if (down && !down.moved) this.ask(this.pixelAt(event.clientX, event.clientY));
      down = null;
    });
    area.addEventListener("pointercancel", () => { down = null; });
    area.addEventListener("pointerleave", () => {
      this.pointer = null;
      this.lit = null;
      this.tip.hidden = true;
      this.spot(this.pinned);
    });
    area.addEventListener("wheel", (event) => {
      event.preventDefault();
      const box = area.getBoundingClientRect();
      this.zoomBy(Math.exp(-event.deltaY * WHEEL), event.clientX - box.left, event.clientY - box.top);
      this.look();
    }, { passive: false });
    area.addEventListener("keydown", (event) => this.key(event));
    area.addEventListener("blur", () => { this.keyed = false; this.look(); });
    byId("zoom-in").addEventListener("click", () => this.zoomBy(1.5));
    byId("zoom-out").addEventListener("click", () => this.zoomBy(1 / 1.5));
    byId("zoom-fit").addEventListener("click", () => this.fit());
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const [width, height] = this.photo.shown, step = event.shiftKey ? 1 : Math.max(1, Math.round(width / 60));
    const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
    const zooms = { "+": 1.5, "=": 1.5, "-": 1 / 1.5 };
    if (moves[event.key]) {
      const [x, y] = this.cross || [Math.floor(width / 2), Math.floor(height / 2)];
      const [dx, dy] = this.cross ? moves[event.key] : [0, 0];
      this.cross = [Math.min(width - 1, Math.max(0, x + dx)), Math.min(height - 1, Math.max(0, y + dy))];
      this.pointer = null;
      this.keyed = true;
      this.follow();
      this.drawCross();
      this.look();
      this.said.textContent = this.lit ? maskText(this.lit) : "no mask here";
    } else if (zooms[event.key]) {
      this.zoomBy(zooms[event.key], ...this.crossPlace());
    } else if (event.key === "0") {
      this.fit();
    } else if (event.key === "Enter" && this.cross) {
      this.ask(this.cross);
    } else {
      return;
    }
    event.preventDefault();
  }

  // Move the view so that the cross is in it, with some room around.
  follow() {
    const rooms = [this.area.clientWidth, this.area.clientHeight];
    const [dx, dy] = this.crossPlace().map((at, i) => Math.min(0, rooms[i] - MARGIN - at) + Math.max(0, MARGIN - at));
    if (!dx && !dy) return;
    this.view.x += dx;
    this.view.y += dy;
    this.place();
  }

  crossPlace() {
    if (!this.cross) return [];
    const { zoom, x, y } = this.view;
    return [x + this.cross[0] * zoom, y + this.cross[1] * zoom];
  }
}
