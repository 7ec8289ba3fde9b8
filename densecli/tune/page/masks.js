// Masks as the server sends them (COCO run lengths of their box) and the pixels that they cover in the shown picture.

// Where pixels of the photo lie in the picture, which is smaller where the photo is large: each pixel of the picture
// stands for the one of the photo that lies under its middle.
export class Scale {
  constructor(full, shown) {
    [this.width, this.height] = shown;
    this.full = full;
    this.columnOf = new Int32Array(full[0]).fill(-1);
    for (let c = 0; c < shown[0]; c++) this.columnOf[Math.floor((c + 0.5) * full[0] / shown[0])] = c;
    this.firstRow = new Int32Array(full[1] + 1);
    for (let y = 0, r = 0; y <= full[1]; y++) {
      while (r < shown[1] && Math.floor((r + 0.5) * full[1] / shown[1]) < y) r++;
      this.firstRow[y] = r;
    }
  }
}

// COCO's compressed run lengths: five bits a character, from the third on told as differences.
function lengths(counts) {
  const found = [];
  for (let i = 0; i < counts.length;) {
    let value = 0, shift = 0, code;
    do {
      code = counts.charCodeAt(i++) - 48;
      value |= (code & 31) << shift;
      shift += 5;
    } while (code & 32);
    if (code & 16) value |= -1 << shift;
    if (found.length > 2) value += found[found.length - 2];
    found.push(value);
  }
  return found;
}

// Call visit(column, top, bottom) for each vertical run of the mask in the picture.
function eachRun(mask, scale, visit) {
  const [left, top, , height] = mask.bbox;
  const { columnOf, firstRow } = scale;
  let place = 0, inside = false;
  for (const length of lengths(mask.counts)) {
    if (inside) {
      for (let at = place; at < place + length;) {
        const column = Math.floor(at / height), row = at - column * height;
        const end = Math.min(row + place + length - at, height);
        const shown = columnOf[left + column];
        if (shown >= 0) visit(shown, firstRow[top + row], firstRow[top + end]);
        at += end - row;
      }
    }
    place += length;
    inside = !inside;
  }
}

// The topmost mask of each pixel of the picture, column by column: index in `masks` + 1, or 0. Small masks on top.
export class Labels {
  constructor(scale) {
    this.scale = scale;
    this.values = new Uint16Array(scale.width * scale.height);
    this.masks = [];
    this.coverage = 0;
  }

  // masks: by falling area.
  paint(masks) {
    this.masks = masks;
    const { values, scale } = this, { height } = scale;
    values.fill(0);
    masks.forEach((mask, index) => {
      eachRun(mask, scale, (column, top, bottom) => values.fill(index + 1, column * height + top, column * height + bottom));
    });
  }

  at(column, row) {
    const { width, height } = this.scale;
    if (column < 0 || row < 0 || column >= width || row >= height) return null;
    return this.masks[this.values[column * height + row] - 1] || null;
  }

  // Fill `pixels` (RGBA as Uint32, row by row) with the masks' colours, tile by tile to stay in the processor's cache.
  color(pixels) {
    const { values } = this, { width, height } = this.scale, tile = 64;
    const colors = new Uint32Array(this.masks.length + 1);
    this.masks.forEach((mask, index) => { colors[index + 1] = rgba(mask.color); });
    let covered = 0;
    for (let left = 0; left < width; left += tile) {
      const right = Math.min(left + tile, width);
      for (let top = 0; top < height; top += tile) {
        const bottom = Math.min(top + tile, height);
        for (let column = left; column < right; column++) {
          for (let row = top; row < bottom; row++) {
            const label = values[column * height + row];
            if (label) covered++;
            pixels[row * width + column] = colors[label];
          }
        }
      }
    }
    this.coverage = covered / (width * height);
  }
}

function rgba(color) {
  const value = parseInt(color.slice(1), 16);
  return (0xff000000 | (value & 0xff) << 16 | (value & 0xff00) | value >> 16) >>> 0;
}

const DIM = 0x80000000, EDGE = 0xffffffff, CLEAR = 0;

// Fill `pixels` so that the mask stays clear inside a bright edge of `thickness` pixels, and the rest goes dim.
export function spotlight(mask, scale, pixels, thickness) {
  const { width, height } = scale;
  pixels.fill(DIM);
  const on = new Uint8Array(width * height);
  eachRun(mask, scale, (column, top, bottom) => {
    for (let at = top * width + column; at < bottom * width; at += width) on[at] = 1;
  });
  const [left, top, w, h] = mask.bbox;
  const firstColumn = Math.floor(left * width / scale.full[0]);
  const lastColumn = Math.min(width - 1, Math.ceil((left + w) * width / scale.full[0]));
  for (let row = scale.firstRow[top]; row < scale.firstRow[top + h]; row++) {
    for (let column = firstColumn; column <= lastColumn; column++) {
      const at = row * width + column;
      if (!on[at]) continue;
      const within = column >= thickness && column < width - thickness && row >= thickness && row < height - thickness
        && on[at - thickness] && on[at + thickness] && on[at - thickness * width] && on[at + thickness * width];
      pixels[at] = within ? CLEAR : EDGE;
    }
  }
}
