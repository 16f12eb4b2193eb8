// Two pictures in one frame with a slider between them. They are zoomed and moved together.

import { byId, h, setText, show } from './dom.js';

/** A pixel of the result is at most this large on the screen. */
const MOST_SCALE = 32;
const ZOOM_STEP = 1.25;
const PAN_STEP = 40;

/** @typedef {{label: string, note: string, url: string}} Shown */

export class Viewer {
  /** @param {HTMLElement} root */
  constructor(root) {
    this.root = root;
    this.pictures = { left: [], right: [] };
    this.place = { scale: 1, x: 0, y: 0 };
    this.fitted = true;
    this.divider = 50;
    /** @type {Map<number, {x: number, y: number}>} pointers that are down */
    this.pointers = new Map();
    this.build();
    this.listen();
    this.clear();
  }

  build() {
    const left = h('img', { id: 'view-left', alt: '', draggable: false });
    const right = h('img', { id: 'view-right', alt: '', draggable: false });
    const under = h('div', { className: 'layer' }, left);
    const over = h('div', { className: 'layer' }, right);
    const handle = h('div', { className: 'handle', 'aria-hidden': 'true' });
    const stage = h(
      'div',
      { id: 'stage', className: 'stage', tabIndex: 0, role: 'application', 'aria-roledescription': 'picture comparison',
        'aria-label': 'Pictures', 'aria-describedby': 'stage-help' },
      under, over, handle,
    );
    const button = (text, label, act) => h('button', { type: 'button', 'aria-label': label, onclick: act }, text);
    const slider = h('input', { type: 'range', id: 'divider', min: 0, max: 100, step: 1, value: 50 });
    const tools = h(
      'div', { className: 'row' },
      button('−', 'Zoom out', () => this.zoomBy(1 / ZOOM_STEP)),
      button('+', 'Zoom in', () => this.zoomBy(ZOOM_STEP)),
      button('Fit', 'Fit the frame', () => this.fit()),
      button('1:1', '1:1, one pixel of the result on one of the screen', () => this.zoomTo(this.actual)),
      h('output', { id: 'zoom' }),
      h('label', {}, h('input', { type: 'checkbox', id: 'pixelated', checked: true }), ' Show pixels, do not smooth'),
    );
    const choice = h('fieldset', { id: 'right-choice', className: 'row chips' }, h('legend', {}, 'Right of the slider'));
    const select = h('select', { id: 'left-choice' });
    this.root.replaceChildren(
      h('h3', {}, 'Compare'),
      stage,
      h('label', { className: 'field' }, h('span', { className: 'unseen' }, 'Slider between the pictures'), slider),
      h('div', { className: 'ends', 'aria-hidden': 'true' }, h('span', { id: 'left-name' }), h('span', { id: 'right-name' })),
      h('p', { id: 'view-note', className: 'note', role: 'status' }),
      h('label', { className: 'field inline' }, 'Left of the slider ', select),
      choice,
      tools,
      h('p', { id: 'stage-help', className: 'note' },
        'On the pictures: wheel or + and − zoom, 0 fits, 1 is 1:1, dragging or arrows move, [ and ] flip, < and > move the slider.'),
    );
    Object.assign(this, { left, right, under, over, handle, stage, slider, choice, select });
  }

  listen() {
    const { stage, slider, handle } = this;
    slider.addEventListener('input', () => this.divide(Number(slider.value)));
    byId('pixelated').addEventListener('change', (event) => stage.classList.toggle('smooth', !event.target.checked));
    this.select.addEventListener('change', () => this.showSide('left', this.select.selectedIndex));
    this.choice.addEventListener('change', (event) => this.showSide('right', Number(event.target.value)));
    stage.addEventListener('keydown', (event) => this.key(event));
    stage.addEventListener('wheel', (event) => this.wheel(event), { passive: false });
    stage.addEventListener('pointerdown', (event) => this.down(event));
    stage.addEventListener('pointermove', (event) => this.move(event));
    for (const type of ['pointerup', 'pointercancel']) stage.addEventListener(type, (event) => this.pointers.delete(event.pointerId));
    handle.addEventListener('pointerdown', (event) => {
      event.stopPropagation();
      event.preventDefault();
      handle.setPointerCapture(event.pointerId);
    });
    handle.addEventListener('pointermove', (event) => {
      if (!handle.hasPointerCapture(event.pointerId)) return;
      event.stopPropagation();
      const box = stage.getBoundingClientRect();
      this.divide((100 * (event.clientX - box.left)) / box.width);
    });
    new ResizeObserver(() => this.resized()).observe(stage);
    // Sizes are those of the result where the server does not tell them.
    this.right.addEventListener('load', () => this.size ?? this.setSize(this.right.naturalWidth, this.right.naturalHeight));
  }

  clear() {
    show(this.root, false);
    this.pictures = { left: [], right: [] };
    this.size = null;
    for (const image of [this.left, this.right]) image.removeAttribute('src');
  }

  /** @param {{width?: number, height?: number, left: Shown[], right: Shown[]}} pictures */
  show({ width, height, left, right }) {
    show(this.root, true);
    this.pictures = { left, right };
    this.size = null;
    this.select.replaceChildren(...left.map(({ label }) => h('option', {}, label)));
    const legend = this.choice.querySelector('legend');
    this.choice.replaceChildren(
      legend,
      ...right.map(({ label }, index) =>
        h('label', {}, h('input', { type: 'radio', name: 'right', value: index, checked: index === 0 }), h('span', {}, label))),
    );
    this.showSide('left', 0);
    this.showSide('right', 0);
    this.divide(50);
    if (width && height) this.setSize(width, height);
  }

  setSize(width, height) {
    this.size = { width, height };
    this.stage.style.aspectRatio = `${width} / ${height}`;
    this.fit();
  }

  showSide(side, index) {
    const shown = this.pictures[side][index];
    const image = side === 'left' ? this.left : this.right;
    image.src = shown.url;
    image.alt = shown.label;
    this[`${side}Index`] = index;
    byId(`${side}-name`).textContent = shown.label;
    setText(byId('view-note'), this.pictures.right[this.rightIndex]?.note ?? '');
    if (side === 'right') this.choice.querySelectorAll('input')[index].checked = true;
    this.stage.setAttribute('aria-label', `${byId('left-name').textContent} and ${byId('right-name').textContent}`);
  }

  /** Shows the next picture right of the slider. */
  flip(by) {
    const { length } = this.pictures.right;
    this.showSide('right', (this.rightIndex + by + length) % length);
  }

  /** Puts the slider at so many percent of the frame. */
  divide(percent) {
    this.divider = Math.min(100, Math.max(0, percent));
    this.slider.value = this.divider;
    this.slider.setAttribute('aria-valuetext', `${Math.round(this.divider)} % ${byId('left-name').textContent}`);
    this.over.style.clipPath = `inset(0 0 0 ${this.divider}%)`;
    this.handle.style.left = `${this.divider}%`;
  }

  // Zoom and place

  /** The scale at which the whole picture is seen. */
  get whole() {
    const { clientWidth, clientHeight } = this.stage;
    return Math.min(clientWidth / this.size.width, clientHeight / this.size.height);
  }

  /** The scale of 1:1. */
  get actual() {
    return 1 / devicePixelRatio;
  }

  fit() {
    this.fitted = true;
    if (this.size && this.stage.clientWidth) this.put({ scale: this.whole, x: 0, y: 0 });
  }

  resized() {
    if (!this.size || !this.stage.clientWidth) return;
    if (this.fitted) this.fit();
    else this.put(this.place);
  }

  zoomBy(factor, at) {
    this.zoomTo(this.place.scale * factor, at);
  }

  /** Zooms; what is at the point `at` of the frame (by default its middle) stays there. */
  zoomTo(wanted, at = { x: this.stage.clientWidth / 2, y: this.stage.clientHeight / 2 }) {
    const least = Math.min(this.whole, this.actual);
    const scale = Math.min(Math.max(MOST_SCALE, this.whole), Math.max(least, wanted));
    const { x, y, scale: before } = this.place;
    const factor = scale / before;
    this.fitted = Math.abs(scale - this.whole) < 1e-6;
    this.put({ scale, x: at.x - (at.x - x) * factor, y: at.y - (at.y - y) * factor });
  }

  panBy(dx, dy) {
    const { scale, x, y } = this.place;
    this.put({ scale, x: x + dx, y: y + dy });
  }

  /** Puts both pictures in the same place. A picture that is larger than the frame fills it, a smaller one is in its middle. */
  put({ scale, x, y }) {
    const { clientWidth, clientHeight } = this.stage;
    const [width, height] = [this.size.width * scale, this.size.height * scale];
    const inside = (at, length, frame) => (length <= frame ? (frame - length) / 2 : Math.min(0, Math.max(frame - length, at)));
    this.place = { scale, x: inside(x, width, clientWidth), y: inside(y, height, clientHeight) };
    for (const image of [this.left, this.right]) {
      image.style.left = `${this.place.x}px`;
      image.style.top = `${this.place.y}px`;
      image.style.width = `${width}px`;
      image.style.height = `${height}px`;
    }
    this.stage.classList.toggle('movable', width > clientWidth + 1 || height > clientHeight + 1);
    setText(byId('zoom'), `${Math.round(100 * scale * devicePixelRatio)} %`);
  }

  // Keys, wheel, pointer

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const acts = {
      '+': () => this.zoomBy(ZOOM_STEP),
      '=': () => this.zoomBy(ZOOM_STEP),
      '-': () => this.zoomBy(1 / ZOOM_STEP),
      0: () => this.fit(),
      1: () => this.zoomTo(this.actual),
      ArrowLeft: () => this.panBy(PAN_STEP, 0),
      ArrowRight: () => this.panBy(-PAN_STEP, 0),
      ArrowUp: () => this.panBy(0, PAN_STEP),
      ArrowDown: () => this.panBy(0, -PAN_STEP),
      '[': () => this.flip(-1),
      ']': () => this.flip(1),
      '<': () => this.divide(this.divider - 5),
      '>': () => this.divide(this.divider + 5),
    };
    if (!acts[event.key]) return;
    acts[event.key]();
    event.preventDefault();
  }

  wheel(event) {
    const out = event.deltaY > 0;
    // The page scrolls where there is nothing to zoom out of.
    if (!this.size || (out && this.fitted && this.whole <= this.actual)) return;
    event.preventDefault();
    this.zoomBy(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.002)), this.inside(event));
  }

  inside(point) {
    const box = this.stage.getBoundingClientRect();
    return { x: point.clientX - box.left, y: point.clientY - box.top };
  }

  down(event) {
    if (event.button !== 0) return;
    this.stage.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, this.inside(event));
  }

  move(event) {
    const before = this.pointers.get(event.pointerId);
    if (!before) return;
    const now = this.inside(event);
    const other = [...this.pointers].find(([id]) => id !== event.pointerId)?.[1];
    this.pointers.set(event.pointerId, now);
    if (other) this.pinch(before, now, other);
    else this.panBy(now.x - before.x, now.y - before.y);
  }

  /** Two fingers: one stays at `other`, one goes from `before` to `now`. */
  pinch(before, now, other) {
    const distance = (a) => Math.max(1, Math.hypot(a.x - other.x, a.y - other.y));
    this.zoomBy(distance(now) / distance(before), { x: (now.x + other.x) / 2, y: (now.y + other.y) / 2 });
    this.panBy((now.x - before.x) / 2, (now.y - before.y) / 2);
  }
}
