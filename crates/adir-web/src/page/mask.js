// A mask: which pixels of a picture are marked. Every pixel is marked or not, there is nothing between.

/** Steps that can be taken back. */
const MOST_STEPS = 100;

/** @typedef {{left: number, top: number, right: number, bottom: number}} Rect  right and bottom are outside */

export class Mask {
  constructor(width, height) {
    this.width = width;
    this.height = height;
    this.bits = new Uint8Array(width * height);
    this.marked = 0;
    /** Counts changes, so that others know whether they have seen the newest. */
    this.revision = 0;
    this.steps = [];
    this.step = null;
  }

  get canUndo() {
    return this.steps.length > 0;
  }

  /** Starts a step, which `undo` takes back as one. */
  begin() {
    this.step ??= { before: this.bits.slice(), rect: null };
  }

  /** Ends a step. */
  end() {
    const { before, rect } = this.step ?? {};
    this.step = null;
    if (!rect) return;
    this.steps.push({ rect, bits: this.cut(before, rect) });
    if (this.steps.length > MOST_STEPS) this.steps.shift();
  }

  /** Marks (or erases) all pixels within `size / 2` of the line between two pixels. @returns {Rect} what may have changed */
  line(from, to, size, value) {
    const radius = size / 2;
    const rect = this.within({
      left: Math.floor(Math.min(from.x, to.x) - radius),
      top: Math.floor(Math.min(from.y, to.y) - radius),
      right: Math.ceil(Math.max(from.x, to.x) + radius) + 1,
      bottom: Math.ceil(Math.max(from.y, to.y) + radius) + 1,
    });
    const [dx, dy] = [to.x - from.x, to.y - from.y];
    const squared = dx * dx + dy * dy;
    return this.fill(rect, value, (x, y) => {
      const along = squared ? ((x - from.x) * dx + (y - from.y) * dy) / squared : 0;
      const t = Math.min(1, Math.max(0, along));
      return (x - from.x - t * dx) ** 2 + (y - from.y - t * dy) ** 2 <= radius * radius;
    });
  }

  /** Marks (or erases) a box. @param {Rect} rect @returns {Rect} */
  box(rect, value) {
    return this.fill(this.within(rect), value, () => true);
  }

  /** Erases all. */
  clear() {
    this.asStep(() => this.box(this.all, 0));
  }

  /** Takes over other bits, from a file. @param {Uint8Array} bits */
  load(bits) {
    this.asStep(() => {
      this.box(this.all, 0);
      this.fill(this.all, 1, (x, y) => bits[y * this.width + x]);
    });
  }

  /** Takes back the newest step. @returns {Rect | null} what has changed */
  undo() {
    const step = this.steps.pop();
    if (!step) return null;
    const { rect, bits } = step;
    const width = rect.right - rect.left;
    this.fill(rect, 1, (x, y) => bits[(y - rect.top) * width + x - rect.left]);
    this.fill(rect, 0, (x, y) => !bits[(y - rect.top) * width + x - rect.left]);
    return rect;
  }

  /** A PNG: white where marked, black elsewhere. @returns {Promise<Blob>} */
  async png() {
    const canvas = new OffscreenCanvas(this.width, this.height);
    const context = canvas.getContext('2d', { alpha: false });
    const image = context.createImageData(this.width, this.height);
    const words = new Uint32Array(image.data.buffer);
    this.bits.forEach((bit, at) => {
      words[at] = bit ? 0xffffffff : 0xff000000;
    });
    context.putImageData(image, 0, 0);
    return canvas.convertToBlob({ type: 'image/png' });
  }

  get all() {
    return { left: 0, top: 0, right: this.width, bottom: this.height };
  }

  /** @param {() => void} change */
  asStep(change) {
    this.begin();
    change();
    this.end();
  }

  fill(rect, value, inside) {
    let changed = 0;
    for (let y = rect.top; y < rect.bottom; y++) {
      for (let x = rect.left; x < rect.right; x++) {
        const at = y * this.width + x;
        if (this.bits[at] !== value && inside(x, y)) {
          this.bits[at] = value;
          changed++;
        }
      }
    }
    if (changed) {
      this.marked += value ? changed : -changed;
      this.revision++;
      if (this.step) this.step.rect = joined(this.step.rect, rect);
    }
    return rect;
  }

  within({ left, top, right, bottom }) {
    const clamp = (value, most) => Math.min(most, Math.max(0, value));
    return {
      left: clamp(left, this.width),
      top: clamp(top, this.height),
      right: clamp(right, this.width),
      bottom: clamp(bottom, this.height),
    };
  }

  cut(bits, rect) {
    const width = rect.right - rect.left;
    const part = new Uint8Array(width * (rect.bottom - rect.top));
    for (let y = rect.top; y < rect.bottom; y++) {
      const start = y * this.width + rect.left;
      part.set(bits.subarray(start, start + width), (y - rect.top) * width);
    }
    return part;
  }
}

/** @returns {Rect} the smallest that holds both */
function joined(a, b) {
  if (!a) return b;
  return {
    left: Math.min(a.left, b.left),
    top: Math.min(a.top, b.top),
    right: Math.max(a.right, b.right),
    bottom: Math.max(a.bottom, b.bottom),
  };
}

/**
 * Reads a mask picture as `adir --mask` does: white is marked, or of two colours the one that is not black, or what is opaque where
 * all colours are alike.
 * @param {ImageBitmap} picture
 * @returns {Uint8Array}
 */
export function bitsOf(picture) {
  const canvas = new OffscreenCanvas(picture.width, picture.height);
  const context = canvas.getContext('2d', { willReadFrequently: true });
  context.drawImage(picture, 0, 0);
  const { data } = context.getImageData(0, 0, picture.width, picture.height);
  const marked = byAlpha(data)
    ? (at) => data[at + 3] >= 128
    : (at) => Math.max(data[at], data[at + 1], data[at + 2]) >= 128;
  return Uint8Array.from({ length: data.length / 4 }, (_, index) => Number(marked(4 * index)));
}

/** Whether only the opacity tells pixels apart. */
function byAlpha(data) {
  let [first, varies] = [-1, false];
  for (let at = 0; at < data.length; at += 4) {
    if (data[at + 3] < 255) varies = true;
    if (data[at + 3] < 128) continue;
    if (first < 0) first = at;
    else if ([0, 1, 2].some((channel) => Math.abs(data[at + channel] - data[first + channel]) > 2)) return false;
  }
  return varies;
}
