// The pictures to restore: uploaded by chooser, drop or paste, listed, selected, each with its masks.

import * as api from './api.js';
import { byId, count, h, pixels, setText, show, size } from './dom.js';
import { Mask } from './mask.js';

/** Larger ones cannot be drawn on in every browser. */
const MOST_PIXELS = 1 << 27;

/**
 * A picture on the server, as POST /images tells of it, and its masks.
 * @typedef {{id: string, name: string, width: number, height: number, channels: number, bits: number, pages: number,
 *   warnings: string[], masks: Record<string, MaskOfPicture>}} Picture
 */

/** A mask of a picture, uploaded when it is needed. */
export class MaskOfPicture {
  constructor(picture, kind) {
    this.name = `${kind} of ${picture.name}.png`;
    this.mask = new Mask(picture.width, picture.height);
    this.sent = { revision: -1, id: null };
  }

  /** The id of the mask on the server, or null if nothing is marked. */
  async upload(signal) {
    const { mask } = this;
    if (mask.marked === 0) return null;
    const { revision } = mask;
    if (this.sent.revision !== revision) {
      const { id } = await api.upload(await mask.png(), this.name, signal);
      this.sent = { revision, id };
    }
    return this.sent.id;
  }
}

export class Pictures {
  /** @param {any} limits @param {() => void} changed  called when another picture is selected, or none */
  constructor(limits, changed) {
    this.limits = limits;
    this.changed = changed;
    /** @type {Picture[]} */
    this.all = [];
    this.selected = null;
    this.uploading = Promise.resolve();
    this.listen();
  }

  listen() {
    byId('files').addEventListener('change', (event) => {
      this.add([...event.target.files]);
      event.target.value = '';
    });
    document.addEventListener('paste', (event) => {
      const files = [...(event.clipboardData?.files ?? [])];
      if (files.length) event.preventDefault();
      this.add(files);
    });
    const drop = byId('drop');
    const dragged = (event) => [...(event.dataTransfer?.types ?? [])].includes('Files');
    document.addEventListener('dragover', (event) => {
      if (!dragged(event)) return;
      event.preventDefault();
      drop.classList.add('over');
    });
    document.addEventListener('dragleave', (event) => {
      if (!event.relatedTarget) drop.classList.remove('over');
    });
    document.addEventListener('drop', (event) => {
      drop.classList.remove('over');
      if (!dragged(event)) return;
      event.preventDefault();
      this.add([...event.dataTransfer.files]);
    });
    byId('pictures').addEventListener('change', (event) => this.select(this.all.find(({ id }) => id === event.target.value)));
  }

  /** Uploads files, one after the other. @param {File[]} files */
  add(files) {
    if (files.length === 0) return;
    byId('upload-errors').replaceChildren();
    this.uploading = this.uploading.then(() => this.uploadAll(files));
  }

  async uploadAll(files) {
    let added = 0;
    for (const [index, file] of files.entries()) {
      setText(byId('upload-state'), `Uploading ${index + 1} of ${files.length}: ${file.name}`);
      try {
        this.put(await this.upload(file));
        added++;
      } catch (error) {
        byId('upload-errors').append(h('p', { className: 'error' }, `${file.name}: ${api.errorText(error)}`));
      }
    }
    setText(byId('upload-state'), added ? `${count(added, 'picture')} added.` : '');
  }

  async upload(file) {
    const most = this.limits.upload_bytes;
    if (file.size > most) throw new Error(`It has ${size(file.size)}, the server takes up to ${size(most)}.`);
    return api.upload(file, file.name);
  }

  /** Adds a picture that is on the server, and selects it. */
  put(image) {
    const picture = { ...image, masks: {} };
    const known = this.all.findIndex(({ id }) => id === image.id);
    if (known >= 0) this.all[known] = picture;
    else this.all.push(picture);
    this.select(picture);
  }

  select(picture) {
    this.selected = picture ?? null;
    this.list();
    this.changed();
  }

  remove(picture) {
    const at = this.all.indexOf(picture);
    this.all.splice(at, 1);
    this.select(picture === this.selected ? this.all[Math.min(at, this.all.length - 1)] : this.selected);
    setText(byId('upload-state'), `${picture.name} removed.`);
    const next = byId('pictures').querySelector('input:checked');
    (next ?? byId('files')).focus();
  }

  /** Forgets all pictures. */
  clear() {
    this.all = [];
    byId('upload-errors').replaceChildren();
  }

  /** The mask of that kind, made when first asked for; null where the picture is too large to draw on. */
  maskOf(picture, kind) {
    if (picture.width * picture.height > MOST_PIXELS) return null;
    picture.masks[kind] ??= new MaskOfPicture(picture, kind);
    return picture.masks[kind];
  }

  list() {
    const list = byId('pictures');
    show(list, this.all.length > 0);
    const focused = list.contains(document.activeElement);
    const legend = list.querySelector('legend');
    list.replaceChildren(legend, ...this.all.map((picture) => this.item(picture)));
    if (focused) list.querySelector('input:checked')?.focus();
  }

  item(picture) {
    const { id, name } = picture;
    const checked = picture === this.selected;
    return h(
      'div',
      { className: 'picture' },
      h(
        'label',
        {},
        h('input', { type: 'radio', name: 'picture', value: id, checked }),
        h('img', { src: api.viewOf(id, 160), alt: '', width: 64, height: 64 }),
        h('span', {}, name),
      ),
      h('button', { type: 'button', 'aria-label': `Remove ${name}`, onclick: () => this.remove(picture) }, '×'),
    );
  }
}

/** "64 × 48 pixels, colour, 8 bits". */
export function factsOf(picture) {
  const { channels, bits, pages, warnings } = picture;
  const colours = channels ? (channels < 3 ? 'grey' : 'colour') : null;
  const more = pages > 1 ? `${pages} pages (choose one in the further settings)` : null;
  return [pixels(picture), colours, bits && `${bits} bits`, more, ...(warnings ?? [])].filter(Boolean).join(', ');
}
