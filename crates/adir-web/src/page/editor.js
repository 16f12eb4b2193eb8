// The mask editor: a canvas over the picture, worked by pointer or keys.

import { byId, setText, show } from './dom.js';

/** Stripes of two colours are seen on any picture. As red, green, blue, opacity. */
const STRIPES = [wordOf(255, 0, 128, 190), wordOf(255, 255, 255, 190)];
/** Stripes across a picture. */
const STRIPES_ACROSS = 48;

export class Editor {
  /** @param {() => void} changed  called when a step has ended */
  constructor(changed) {
    this.changed = changed;
    this.canvas = byId('sheet-marks');
    this.context = this.canvas.getContext('2d');
    this.mask = null;
    this.cursor = { x: 0, y: 0 };
    /** First corner of a box, or the last point of a brush that is down. */
    this.from = null;
    this.corner = null;
    this.listen();
  }

  listen() {
    const { canvas } = this;
    canvas.addEventListener('pointerdown', (event) => this.down(event));
    canvas.addEventListener('pointermove', (event) => this.move(event));
    canvas.addEventListener('pointerup', (event) => this.up(event));
    canvas.addEventListener('pointercancel', () => this.finish());
    canvas.addEventListener('keydown', (event) => this.key(event));
    canvas.addEventListener('focus', () => this.showCursor());
    canvas.addEventListener('blur', () => this.leave());
    byId('brush').addEventListener('input', () => this.showBrush());
    byId('mask-zoom').addEventListener('change', () => this.zoom());
    byId('mask-undo').addEventListener('click', () => this.undo());
    byId('mask-clear').addEventListener('click', () => this.change((mask) => mask.clear()));
    byId('box-fill').addEventListener('click', () => this.fillByNumbers());
    for (const tool of document.getElementsByName('tool')) tool.addEventListener('change', () => this.forgetCorner());
  }

  get tool() {
    return document.querySelector('input[name=tool]:checked').value;
  }

  get value() {
    return byId('erase').checked ? 0 : 1;
  }

  get brush() {
    return Number(byId('brush').value);
  }

  /** Edits another mask, or none. @param {import('./mask.js').Mask | null} mask */
  edit(mask) {
    if (mask === this.mask) return;
    this.finish();
    this.mask = mask;
    show(this.canvas, Boolean(mask));
    if (!mask) return;
    this.setSizes(mask);
    this.cursor = { x: mask.width >> 1, y: mask.height >> 1 };
    this.forgetCorner();
    this.redraw();
  }

  /** Sizes that fit another picture. */
  setSizes({ width, height }) {
    if (this.canvas.width !== width || this.canvas.height !== height) {
      [this.canvas.width, this.canvas.height] = [width, height];
      const most = Math.max(width, height);
      byId('brush').max = Math.max(8, most >> 2);
      byId('brush').value = Math.max(1, Math.round(most / 16));
      byId('mask-zoom').value = '1';
      this.zoom();
    }
    for (const [id, most] of [['left', width - 1], ['top', height - 1], ['width', width], ['height', height]]) {
      byId(`box-${id}`).max = most;
    }
    this.showBrush();
  }

  redraw(rect = this.mask.all) {
    const [width, height] = [rect.right - rect.left, rect.bottom - rect.top];
    if (width > 0 && height > 0) this.context.putImageData(this.marks(rect, width, height), rect.left, rect.top);
    this.showState();
  }

  marks(rect, width, height) {
    const image = new ImageData(width, height);
    const words = new Uint32Array(image.data.buffer);
    const stripe = Math.max(1, Math.round(Math.max(this.mask.width, this.mask.height) / STRIPES_ACROSS));
    for (let y = 0; y < height; y++) {
      const start = (y + rect.top) * this.mask.width + rect.left;
      const across = y + rect.top + rect.left;
      for (let x = 0; x < width; x++) {
        if (this.mask.bits[start + x]) words[y * width + x] = STRIPES[Math.floor((x + across) / stripe) % 2];
      }
    }
    return image;
  }

  showState() {
    const { marked, bits, canUndo } = this.mask;
    const percent = (100 * marked) / bits.length;
    const share = percent > 0 && percent < 1 ? percent.toFixed(2) : Math.round(percent);
    setText(byId('mask-count'), `${marked} of ${bits.length} pixels marked (${share} %)`);
    byId('mask-undo').disabled = !canUndo;
    byId('mask-clear').disabled = marked === 0;
  }

  showBrush() {
    byId('brush-value').textContent = `${this.brush} px`;
    this.showCursor();
  }

  zoom() {
    byId('sheet').style.width = `${100 * Number(byId('mask-zoom').value)}%`;
  }

  // Pointer

  /** The pixel under the pointer, which may lie outside. */
  at(event) {
    const box = this.canvas.getBoundingClientRect();
    return {
      x: Math.floor(((event.clientX - box.left) / box.width) * this.mask.width),
      y: Math.floor(((event.clientY - box.top) / box.height) * this.mask.height),
    };
  }

  down(event) {
    if (event.button !== 0 || !event.isPrimary) return;
    event.preventDefault();
    this.canvas.focus({ preventScroll: true });
    this.canvas.setPointerCapture(event.pointerId);
    this.forgetCorner();
    this.from = this.at(event);
    this.mask.begin();
    if (this.tool === 'brush') this.paint(this.from, this.from);
    else this.showBox(this.from, this.from);
  }

  move(event) {
    const to = this.at(event);
    this.moveCursor(to);
    if (!this.from) return;
    if (this.tool === 'brush') {
      this.paint(this.from, to);
      this.from = to;
    } else {
      this.showBox(this.from, to);
    }
  }

  up(event) {
    if (!this.from) return;
    if (this.tool === 'box') this.fillBox(this.from, this.at(event));
    this.finish();
  }

  /** Ends the step that the pointer is making. */
  finish() {
    if (!this.from) return;
    this.from = null;
    show(byId('sheet-box'), false);
    this.mask.end();
    this.showState();
    this.changed();
  }

  // What is drawn

  paint(from, to) {
    this.redraw(this.mask.line(from, to, this.brush, this.value));
  }

  fillBox(a, b) {
    const rect = boxOf(a, b);
    this.redraw(this.mask.box(rect, this.value));
  }

  /** Changes the mask as one step. @param {(mask: import('./mask.js').Mask) => void} make */
  change(make) {
    if (!this.mask) return;
    this.mask.asStep(() => make(this.mask));
    this.redraw();
    this.changed();
  }

  undo() {
    const rect = this.mask?.undo();
    if (!rect) return;
    this.redraw(rect);
    this.changed();
  }

  fillByNumbers() {
    const fields = ['left', 'top', 'width', 'height'].map((name) => byId(`box-${name}`));
    const wrong = fields.find((field) => !field.checkValidity() || field.value === '');
    setText(byId('mask-error'), wrong ? `Box by numbers: ${wrong.validationMessage || 'a number is missing.'}` : '');
    if (wrong) return wrong.focus();
    const [left, top, width, height] = fields.map((field) => Number(field.value));
    this.change((mask) => mask.box({ left, top, right: left + width, bottom: top + height }, this.value));
  }

  // Keys

  key(event) {
    const step = event.shiftKey ? 10 : 1;
    const { x, y } = this.cursor;
    const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
    const move = moves[event.key];
    if (move) this.moveCursor({ x: x + move[0], y: y + move[1] }, true);
    else if (event.key === ' ') this.press();
    else if (event.key === 'Escape') this.forgetCorner();
    else if (event.key.toLowerCase() === 'z' && (event.ctrlKey || event.metaKey)) this.undo();
    else return;
    event.preventDefault();
  }

  /** Space: paints, or sets a corner of a box. */
  press() {
    if (this.tool === 'brush') {
      this.change((mask) => mask.line(this.cursor, this.cursor, this.brush, this.value));
      this.tellCursor();
    } else if (this.corner) {
      const rect = boxOf(this.corner, this.cursor);
      this.forgetCorner();
      this.change((mask) => mask.box(rect, this.value));
      setText(byId('cursor-state'), 'Box filled');
    } else {
      this.corner = { ...this.cursor };
      this.showBox(this.corner, this.cursor);
      setText(byId('cursor-state'), `First corner at ${this.cursor.x}, ${this.cursor.y}`);
    }
  }

  moveCursor({ x, y }, byKey = false) {
    const clamp = (value, most) => Math.min(most - 1, Math.max(0, value));
    this.cursor = { x: clamp(x, this.mask.width), y: clamp(y, this.mask.height) };
    this.showCursor();
    if (!byKey) return;
    if (this.corner) this.showBox(this.corner, this.cursor);
    byId('sheet-cursor').scrollIntoView({ block: 'nearest', inline: 'nearest' });
    this.tellCursor();
  }

  tellCursor() {
    const { x, y } = this.cursor;
    const marked = this.mask.bits[y * this.mask.width + x] ? 'marked' : 'not marked';
    setText(byId('cursor-state'), `${x}, ${y}: ${marked}`);
  }

  showCursor() {
    const ring = byId('sheet-cursor');
    show(ring, Boolean(this.mask) && document.activeElement === this.canvas);
    if (ring.hidden) return;
    const side = this.tool === 'brush' ? this.brush : 1;
    const [left, top] = [this.cursor.x + 0.5 - side / 2, this.cursor.y + 0.5 - side / 2];
    this.place(ring, { left, top, right: left + side, bottom: top + side });
    ring.classList.toggle('round', this.tool === 'brush');
  }

  showBox(a, b) {
    show(byId('sheet-box'), true);
    this.place(byId('sheet-box'), boxOf(a, b));
  }

  place(element, { left, top, right, bottom }) {
    const { width, height } = this.mask;
    element.style.left = `${(100 * left) / width}%`;
    element.style.top = `${(100 * top) / height}%`;
    element.style.width = `${(100 * (right - left)) / width}%`;
    element.style.height = `${(100 * (bottom - top)) / height}%`;
  }

  leave() {
    this.forgetCorner();
    show(byId('sheet-cursor'), false);
  }

  forgetCorner() {
    this.corner = null;
    if (!this.from) show(byId('sheet-box'), false);
    this.showCursor();
  }
}

/** A pixel of a canvas. */
function wordOf(red, green, blue, alpha) {
  return ((alpha << 24) | (blue << 16) | (green << 8) | red) >>> 0;
}

/** The box with these two pixels in its corners. */
function boxOf(a, b) {
  return {
    left: Math.min(a.x, b.x),
    top: Math.min(a.y, b.y),
    right: Math.max(a.x, b.x) + 1,
    bottom: Math.max(a.y, b.y) + 1,
  };
}
