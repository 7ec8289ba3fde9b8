// The gallery of report.html: filters, sorting, cards made only where they are seen, masks under the pointer.
"use strict";
(() => {
  const ID = 0, NAME = 1, STATUS = 2, MASKS = 3, COVERAGE = 4, SECONDS = 5, KEY = 6, ERROR = 7;
  const DONE = 0, FAILED = 1, STATUSES = ["done", "failed", "skipped"];
  const ROWS_A_BLOCK = 4;
  const byId = (id) => document.getElementById(id);
  const folder = JSON.parse(byId("place").textContent).pictures;
  const rows = [];
  for (const chunk of document.querySelectorAll("script.rows")) {
    rows.push(...JSON.parse(chunk.textContent));
    chunk.remove();
  }
  const whole = new Intl.NumberFormat("en");
  const gallery = byId("gallery");

  function make(tag, className, text) {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text !== undefined) element.textContent = text;
    return element;
  }

  function percent(fraction) {
    return (100 * fraction).toFixed(fraction >= 0.1 || fraction === 0 ? 0 : 1) + " %";
  }

  function secondsText(seconds) {
    return (seconds < 10 ? seconds.toFixed(2) : whole.format(Math.round(seconds))) + " s";
  }

  function plural(count, word) {
    return `${whole.format(count)} ${word}${count === 1 ? "" : "s"}`;
  }

  function factsOf(row, short) {
    const facts = [];
    if (row[STATUS] !== DONE) facts.push(STATUSES[row[STATUS]]);
    if (row[MASKS] !== null) facts.push(plural(row[MASKS], "mask"));
    if (row[COVERAGE] !== null) facts.push(percent(row[COVERAGE]) + (short ? "" : " covered"));
    if (row[SECONDS] !== null) facts.push(secondsText(row[SECONDS]));
    return facts.join(" · ");
  }

  // --- the masks of one picture: a script file, for a page on disk may load nothing else ---------------------------

  const waiting = new Map();  // key -> function that takes the data
  const loaded = new Map();  // key -> promise of a Picture or null; the oldest are forgotten
  const MOST_LOADED = 200;

  window.densecliPicture = (key, data) => {
    const take = waiting.get(key);
    if (take) take(data);
  };

  function load(key) {
    if (key === null) return Promise.resolve(null);
    if (!loaded.has(key)) {
      loaded.set(key, new Promise((resolve) => {
        const script = make("script");
        const finish = (data) => {
          waiting.delete(key);
          script.remove();
          resolve(data && new Picture(data));
        };
        waiting.set(key, finish);
        script.onload = script.onerror = () => finish(null);
        script.src = `./${folder}/${key}.js`;
        document.head.append(script);
      }));
      if (loaded.size > MOST_LOADED) loaded.delete(loaded.keys().next().value);
    }
    return loaded.get(key);
  }

  class Picture {
    constructor(data) {
      Object.assign(this, data);
      [this.width, this.height] = data.size;
      this.masks = (data.masks || []).map(([id, area, iou, stability, parent, color, counts]) =>
        ({ id, area, iou, stability, parent, color, counts }));
      this.known = data.masks !== null;
    }

    // The topmost mask at a place, 0 to 1 of width and height, or null.
    at(x, y) {
      if (!this.top) {
        this.top = new Uint16Array(this.width * this.height);
        this.masks.forEach((mask, index) => this.eachPixel(mask, (place) => { this.top[place] = index + 1; }));
      }
      const column = Math.floor(x * this.width), row = Math.floor(y * this.height);
      if (column < 0 || row < 0 || column >= this.width || row >= this.height) return null;
      return this.masks[this.top[row * this.width + column] - 1] || null;
    }

    // COCO's run lengths, five bits a character, in column order.
    eachPixel(mask, visit) {
      const { width, height } = this;
      const counts = [];
      let start = 0, inside = false;
      for (let i = 0; i < mask.counts.length;) {
        let value = 0, shift = 0, code;
        do {
          code = mask.counts.charCodeAt(i++) - 48;
          value |= (code & 31) << shift;
          shift += 5;
        } while (code & 32);
        if (code & 16) value |= -1 << shift;
        if (counts.length > 2) value += counts[counts.length - 2];
        counts.push(value);
        const end = Math.min(start + value, width * height);
        if (inside) {
          for (let p = start; p < end; p++) visit((p % height) * width + Math.floor(p / height));
        }
        start = end;
        inside = !inside;
      }
    }

    // The mask stays clear with a bright edge, the rest goes dim.
    draw(canvas, mask) {
      if (canvas.width !== this.width || canvas.height !== this.height) {
        canvas.width = this.width;
        canvas.height = this.height;
      }
      const context = canvas.getContext("2d");
      context.clearRect(0, 0, this.width, this.height);
      canvas.dataset.mask = mask ? mask.id : "";
      if (!mask) return;
      const { width, height } = this;
      const on = new Uint8Array(width * height);
      this.eachPixel(mask, (place) => { on[place] = 1; });
      const image = context.createImageData(width, height);
      const pixels = new Uint32Array(image.data.buffer);
      const dim = 0xa0000000, edge = 0xffffffff;
      for (let y = 0, p = 0; y < height; y++) {
        for (let x = 0; x < width; x++, p++) {
          if (!on[p]) pixels[p] = dim;
          else if (x === 0 || y === 0 || x === width - 1 || y === height - 1 ||
                   !on[p - 1] || !on[p + 1] || !on[p - width] || !on[p + width]) pixels[p] = edge;
        }
      }
      context.putImageData(image, 0, 0);
    }
  }

  function maskText(mask) {
    const part = mask.parent === null ? "" : ` · part of ${mask.parent}`;
    return `mask ${mask.id} · ${whole.format(mask.area)} px · IoU ${mask.iou.toFixed(3)} · ` +
      `stability ${mask.stability.toFixed(3)}${part}`;
  }

  // --- what is under the pointer ----------------------------------------------------------------------------------

  const tip = byId("tip");

  function showTip(mask, x, y) {
    if (tip.dataset.mask !== String(mask.id) || tip.hidden) {
      const swatch = make("i");
      swatch.style.background = mask.color;
      tip.replaceChildren(swatch, maskText(mask));
      tip.dataset.mask = mask.id;
      tip.hidden = false;
    }
    const { offsetWidth, offsetHeight } = tip;
    const left = Math.max(4, Math.min(x + 14, innerWidth - offsetWidth - 4));
    const above = y + 18 + offsetHeight > innerHeight;
    tip.style.transform = `translate(${left}px, ${above ? y - offsetHeight - 10 : y + 18}px)`;
  }

  function hideTip() { tip.hidden = true; }

  // Highlight masks of `canvas`, which lies over `area`; `pictureOf` gives a promise; `lit` is told of each change.
  function follow(area, canvas, pictureOf, lit) {
    let last = null, current = null, picture = null;
    function clear() {
      last = null;
      if (current && picture) picture.draw(canvas, null);
      if (current && lit) lit(null);
      current = null;
      hideTip();
    }
    function update() {
      if (!last || !picture) return;
      const box = area.getBoundingClientRect();
      const scale = Math.min(box.width / picture.width, box.height / picture.height);
      const x = (last[0] - box.left - (box.width - picture.width * scale) / 2) / (picture.width * scale);
      const y = (last[1] - box.top - (box.height - picture.height * scale) / 2) / (picture.height * scale);
      const mask = picture.at(x, y);
      if (mask !== current) {
        picture.draw(canvas, mask);
        if (lit) lit(mask);
        current = mask;
      }
      if (mask) showTip(mask, ...last);
      else hideTip();
    }
    area.addEventListener("pointermove", (event) => {
      const entering = last === null;
      last = [event.clientX, event.clientY];
      if (!entering) { update(); return; }
      const asked = pictureOf();
      asked.then((found) => {
        if (asked !== pictureOf()) return;
        if (picture !== found) current = null;
        picture = found;
        update();
      });
    });
    area.addEventListener("pointerleave", clear);
    return clear;
  }

  // --- cards, in blocks of a few rows, of which only those near the window are filled -----------------------------

  let shown = [];
  let columns = 0;
  const observer = new IntersectionObserver((changes) => {
    for (const change of changes) {
      if (change.isIntersecting) fill(change.target);
      else if (!change.target.contains(document.activeElement)) change.target.replaceChildren();
    }
  }, { rootMargin: "1000px 0px" });

  function card(row, index) {
    const element = make("article", "card");
    element.setAttribute("role", "listitem");
    const button = make("button", "picture");
    button.type = "button";
    button.dataset.index = index;
    button.setAttribute("aria-label", `${row[NAME]}, ${factsOf(row)}${row[ERROR] ? ", " + row[ERROR] : ""}`);
    if (row[KEY] !== null) {
      const image = make("img");
      image.alt = "";
      image.decoding = "async";
      image.src = `./${folder}/${row[KEY]}.jpg`;
      const canvas = make("canvas");
      canvas.setAttribute("aria-hidden", "true");
      button.append(image, canvas);
      let picture = null;
      follow(button, canvas, () => picture ??= load(row[KEY]));
    } else {
      const mild = row[STATUS] === FAILED ? "" : " mild";
      button.append(make("span", `reason${mild}`, row[ERROR] || missing(row)));
    }
    const caption = make("div", "caption");
    const name = make("div", "name path");
    showPath(name, row[NAME]);
    const line = make("div", "line", factsOf(row, true));
    line.title = factsOf(row);
    caption.append(name, line);
    element.append(button, caption);
    return element;
  }

  // As in the lists: the file apart, so that its letters' direction leaves the folder where it is.
  function showPath(element, name) {
    const cut = name.lastIndexOf("/") + 1, path = make("bdi", "", name.slice(0, cut));
    path.append(make("bdi", "", name.slice(cut)));
    element.replaceChildren(path);
    element.title = name;
  }

  function missing(row) {
    return row[STATUS] === DONE ? "no picture: neither overlay nor summary can be read" : STATUSES[row[STATUS]];
  }

  function fill(block) {
    if (block.childElementCount) return;
    const first = Number(block.dataset.first);
    block.append(...shown.slice(first, first + columns * ROWS_A_BLOCK).map((row, i) => card(row, first + i)));
  }

  function columnsThatFit() {
    const rem = parseFloat(getComputedStyle(document.documentElement).fontSize);
    return Math.max(1, Math.floor((gallery.clientWidth + 0.75 * rem) / (14.75 * rem)));
  }

  function lay() {
    columns = columnsThatFit();
    observer.disconnect();
    const blocks = [];
    for (let first = 0; first < shown.length; first += columns * ROWS_A_BLOCK) {
      const block = make("div", "block");
      block.setAttribute("role", "presentation");
      block.dataset.first = first;
      block.style.setProperty("--columns", columns);
      block.style.setProperty("--rows", Math.min(ROWS_A_BLOCK, Math.ceil((shown.length - first) / columns)));
      blocks.push(block);
    }
    gallery.replaceChildren(...blocks);
    blocks.forEach((block) => observer.observe(block));
  }

  new ResizeObserver(() => { if (columnsThatFit() !== columns) lay(); }).observe(gallery);

  gallery.addEventListener("click", (event) => {
    const button = event.target.closest(".picture");
    if (button) open(Number(button.dataset.index));
  });

  function focusCard(index) {
    const block = gallery.children[Math.floor(index / (columns * ROWS_A_BLOCK))];
    if (!block) return;
    fill(block);
    const button = block.querySelector(`[data-index="${index}"]`);
    button.focus({ preventScroll: true });
    // The controls stick to the top and would cover it.
    const box = button.parentElement.getBoundingClientRect();
    const covered = document.querySelector(".bar-of-controls").offsetHeight + 8;
    if (box.top < covered) scrollBy(0, box.top - covered);
    else if (box.bottom > innerHeight - 8) scrollBy(0, box.bottom - innerHeight + 8);
  }

  gallery.addEventListener("keydown", (event) => {
    const button = event.target.closest(".picture");
    if (!button || event.ctrlKey || event.metaKey || event.altKey) return;
    const at = Number(button.dataset.index), last = shown.length - 1;
    const to = {
      ArrowLeft: at - 1, ArrowRight: at + 1, ArrowUp: at - columns, ArrowDown: at + columns, Home: 0, End: last,
    }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    if (to >= 0 && to <= last) focusCard(to);
  });

  // --- filters and sorting ----------------------------------------------------------------------------------------

  const controls = byId("controls");
  const collator = new Intl.Collator("en", { numeric: true });
  const absentLast = (column, sign) => (a, b) =>
    a[column] === b[column] ? 0 : a[column] === null ? 1 : b[column] === null ? -1 : sign * (a[column] - b[column]);
  const ORDERS = {
    run: null,
    name: (a, b) => collator.compare(a[NAME], b[NAME]),
    most: absentLast(MASKS, -1), fewest: absentLast(MASKS, 1),
    fullest: absentLast(COVERAGE, -1), emptiest: absentLast(COVERAGE, 1),
    slowest: absentLast(SECONDS, -1), fastest: absentLast(SECONDS, 1),
  };

  function limit(id) {
    const text = byId(id).value;
    return text === "" ? null : Number(text);
  }

  function apply() {
    const part = byId("filter-name").value.trim().toLowerCase();
    const status = byId("filter-status").value;
    const from = limit("filter-from"), to = limit("filter-to");
    shown = rows.filter((row) =>
      (!part || row[NAME].toLowerCase().includes(part)) &&
      (status === "" || row[STATUS] === Number(status)) &&
      (from === null || (row[MASKS] !== null && row[MASKS] >= from)) &&
      (to === null || (row[MASKS] !== null && row[MASKS] <= to)));
    const order = ORDERS[byId("sort").value];
    if (order) shown.sort(order);
    byId("shown").textContent = shown.length === rows.length
      ? plural(rows.length, "input") : `${whole.format(shown.length)} of ${plural(rows.length, "input")}`;
    byId("none").hidden = shown.length > 0;
    byId("none").textContent = rows.length ? "No image matches the filters." : "The manifest names no input yet.";
    hideTip();
    lay();
  }

  controls.addEventListener("input", apply);
  controls.addEventListener("reset", () => setTimeout(apply));
  controls.addEventListener("submit", (event) => event.preventDefault());

  for (const bar of document.querySelectorAll(".bar[tabindex]")) {
    const choose = () => {
      controls.reset();
      byId("filter-from").value = bar.dataset.first;
      byId("filter-to").value = bar.dataset.last;
      setTimeout(() => {
        apply();
        document.querySelector(".gallery").scrollIntoView();
      });
    };
    bar.addEventListener("click", choose);
    bar.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") { event.preventDefault(); choose(); }
    });
  }

  // --- one image, large -------------------------------------------------------------------------------------------

  const viewer = byId("viewer");
  const stage = viewer.querySelector(".stage");
  const [big, veil, nothing] = [stage.querySelector("img"), stage.querySelector("canvas"), stage.querySelector("p")];
  const table = byId("viewer-masks");
  let at = -1;  // index in `shown`, or -1 for a row that the filters hide
  let viewedRow = null, asked = null;

  const clearStage = follow(stage, veil, () => asked, (mask) => light(mask));

  function light(mask) {
    for (const row of table.querySelectorAll(".lit")) row.classList.remove("lit");
    const row = mask && table.tBodies[0].querySelector(`[data-mask="${mask.id}"]`);
    if (!row) return;
    row.classList.add("lit");
    row.scrollIntoView({ block: "nearest" });
  }

  function open(index) { show(shown[index], index); }

  function show(row, index) {
    at = index;
    viewedRow = row;
    clearStage();
    const lost = !viewer.open || table.contains(document.activeElement);
    showPath(byId("viewer-name"), row[NAME]);
    byId("viewer-facts").textContent = factsOf(row);
    byId("viewer-links").replaceChildren();
    byId("viewer-warnings").replaceChildren();
    table.hidden = true;
    table.tBodies[0].replaceChildren();
    veil.getContext("2d").clearRect(0, 0, veil.width, veil.height);
    big.hidden = row[KEY] === null;
    big.onerror = null;
    if (row[KEY] === null) big.removeAttribute("src");
    else big.src = `./${folder}/${row[KEY]}.jpg`;
    nothing.hidden = row[KEY] !== null;
    nothing.textContent = row[ERROR] || missing(row);
    byId("viewer-previous").disabled = at <= 0;
    byId("viewer-next").disabled = at < 0 || at >= shown.length - 1;
    viewer.append(tip);  // nothing outside an open dialog is seen above it
    if (!viewer.open) viewer.showModal();
    if (lost) byId("viewer-name").focus();
    const mine = asked = load(row[KEY]);
    mine.then((picture) => { if (picture && mine === asked && row === viewedRow) describe(picture, row); });
  }

  function describe(picture, row) {
    if (picture.overlay) {
      // The small picture stands in where the overlay has been moved away.
      big.onerror = () => { big.onerror = null; big.src = `./${folder}/${row[KEY]}.jpg`; };
      big.src = picture.overlay;
    }
    const facts = [factsOf(row)];
    if (picture.image) {
      facts.push(`${picture.image.map((n) => whole.format(n)).join(" × ")} px · ${picture.model} · ${picture.preset}`);
      facts.push(Object.entries(picture.seconds).filter(([stage]) => stage !== "total")
        .map(([stage, seconds]) => `${stage} ${secondsText(seconds)}`).join(" · "));
      facts.push("candidates to masks: " + Object.values(picture.funnel).map((n) => whole.format(n)).join(" → "));
      for (const warning of picture.warnings) byId("viewer-warnings").append(make("li", "", warning));
    }
    byId("viewer-facts").textContent = facts.join("\n");
    for (const [text, link] of [["overlay", picture.overlay], ["summary (JSON)", picture.summary]]) {
      if (!link) continue;
      const anchor = make("a", "", text);
      anchor.href = link;
      if (byId("viewer-links").childNodes.length) byId("viewer-links").append(" · ");
      byId("viewer-links").append(anchor);
    }
    if (!picture.known) return;
    table.hidden = false;
    table.tBodies[0].replaceChildren(...picture.masks.map((mask, i) => {
      const line = make("tr");
      line.dataset.mask = mask.id;
      line.tabIndex = i === 0 ? 0 : -1;
      const head = make("td");
      const swatch = make("i");
      swatch.style.background = mask.color;
      head.append(swatch, String(mask.id));
      line.append(head, make("td", "", whole.format(mask.area)), make("td", "", mask.iou.toFixed(3)),
        make("td", "", mask.stability.toFixed(3)), make("td", "", mask.parent === null ? "" : String(mask.parent)));
      const choose = () => { picture.draw(veil, mask); light(mask); };
      line.addEventListener("pointerenter", choose);
      line.addEventListener("focus", choose);
      line.addEventListener("pointerleave", () => { picture.draw(veil, null); light(null); });
      line.addEventListener("blur", () => { picture.draw(veil, null); light(null); });
      return line;
    }));
  }

  function step(by) {
    if (at >= 0 && at + by >= 0 && at + by < shown.length) open(at + by);
  }

  byId("viewer-previous").addEventListener("click", () => step(-1));
  byId("viewer-next").addEventListener("click", () => step(1));
  byId("viewer-close").addEventListener("click", () => viewer.close());
  viewer.addEventListener("click", (event) => { if (event.target === viewer) viewer.close(); });
  viewer.addEventListener("close", () => {
    clearStage();
    document.body.append(tip);
    asked = null;
    if (at >= 0) focusCard(at);
  });
  viewer.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") step(-1);
    else if (event.key === "ArrowRight") step(1);
    else if ((event.key === "ArrowDown" || event.key === "ArrowUp") && !table.hidden) {
      const lines = [...table.tBodies[0].rows];
      const now = lines.indexOf(document.activeElement);
      const next = lines[event.key === "ArrowDown" ? now + 1 : Math.max(0, now - 1)];
      if (next) { next.tabIndex = 0; next.focus(); }
    } else return;
    event.preventDefault();
  });

  const indexOf = new Map(rows.map((row, index) => [row[ID], index]));
  for (const button of document.querySelectorAll(".list .open")) {
    const row = rows[indexOf.get(Number(button.dataset.id))];
    // Beyond the part of the run that the gallery holds.
    if (!row) { button.disabled = true; continue; }
    button.addEventListener("click", () => show(row, shown.indexOf(row)));
  }

  apply();
})();
