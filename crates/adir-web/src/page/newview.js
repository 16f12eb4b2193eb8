// The view "New restoration": pictures, settings, marks, plan, start.

import * as api from './api.js';
import { byId, count, debounce, h, setText, show } from './dom.js';
import { Editor } from './editor.js';
import { bitsOf } from './mask.js';
import { Pictures, factsOf } from './pictures.js';
import { Planner } from './plan.js';
import { FieldError, Settings } from './settings.js';

export class NewView {
  /** @param {any} info @param {(jobs: any[]) => void} started */
  constructor(info, started) {
    this.started = started;
    this.starting = false;
    this.planner = new Planner();
    const later = debounce(() => this.plan(), 350);
    this.settings = new Settings(info, () => {
      this.showPicture();
      later();
    });
    this.editor = new Editor(later);
    this.pictures = new Pictures(info.limits, () => {
      this.showPicture();
      later();
    });
    this.later = later;
    this.listen();
    this.showPicture();
    this.plan();
  }

  listen() {
    byId('settings').addEventListener('submit', (event) => {
      event.preventDefault();
      this.start();
    });
    byId('mask-kind').addEventListener('change', () => this.showPicture());
    byId('mask-copy').addEventListener('click', () => this.copyMask());
    onFile('mask-file', (file) => this.loadMask(file));
    onFile('kernel-file', (file) => this.loadKernel(file));
  }

  // The selected picture and its marks

  /** The kinds of masks that the settings ask for. */
  get kinds() {
    return [this.settings.task.mask && 'missing', this.settings.ignores && 'ignore'].filter(Boolean);
  }

  /** The kind that is drawn now. */
  get kind() {
    const { kinds } = this;
    const chosen = document.querySelector('input[name=kind]:checked').value;
    return kinds.includes(chosen) ? chosen : kinds[0];
  }

  showPicture() {
    const picture = this.pictures.selected;
    const { kind, kinds } = this;
    show(byId('editor'), Boolean(picture));
    if (!picture) return this.editor.edit(null);
    this.showSheet(picture);
    const masked = kind ? this.pictures.maskOf(picture, kind) : null;
    show(byId('mask-kind'), kinds.length > 1);
    for (const id of ['mask-tools', 'mask-actions']) show(byId(id), Boolean(masked));
    show(byId('mask-copy'), this.sameSize(picture).length > 0);
    byId('sheet-marks').setAttribute('aria-label', `Mask of ${picture.name}`);
    this.editor.edit(masked?.mask ?? null);
    setText(byId('mask-error'), '');
    setText(byId('editor-title'), kind ? titles[kind] : 'Selected picture');
    setText(byId('mask-purpose'), kind ? purposes[kind] : '');
  }

  showSheet(picture) {
    const image = byId('sheet-picture');
    const address = api.viewOf(picture.id);
    if (image.getAttribute('src') !== address) image.src = address;
    image.alt = picture.name;
    // The box is right before the picture is there.
    image.style.aspectRatio = `${picture.width} / ${picture.height}`;
    byId('board').style.setProperty('--ratio', picture.width / picture.height);
    setText(byId('picture-facts'), `${picture.name}: ${factsOf(picture)}`);
  }

  sameSize({ id, width, height }) {
    return this.pictures.all.filter((other) => other.id !== id && other.width === width && other.height === height);
  }

  copyMask() {
    const { kind, pictures } = this;
    const { mask } = pictures.maskOf(pictures.selected, kind);
    const others = this.sameSize(pictures.selected);
    for (const other of others) pictures.maskOf(other, kind).mask.load(mask.bits);
    setText(byId('mask-count'), `Copied to ${count(others.length, 'picture')} of the same size`);
  }

  async loadMask(file) {
    setText(byId('mask-error'), '');
    try {
      const { mask } = this.editor;
      const picture = await decode(file, Math.max(mask.width, mask.height));
      if (picture.width !== mask.width || picture.height !== mask.height) {
        const [has, needs] = [picture, mask].map(({ width, height }) => `${width} × ${height}`);
        throw new Error(`the mask has ${has} pixels, the picture ${needs}.`);
      }
      const bits = bitsOf(picture);
      this.editor.change(() => mask.load(bits));
    } catch (error) {
      setText(byId('mask-error'), `${file.name}: ${api.errorText(error)}`);
    }
  }

  async loadKernel(file) {
    setText(byId('kernel-name'), `Uploading ${file.name}`);
    try {
      this.settings.setKernelPicture(await api.upload(file, file.name));
      this.showKernel();
    } catch (error) {
      setText(byId('kernel-name'), `${file.name}: ${api.errorText(error)}`);
    }
    this.later();
  }

  showKernel() {
    const kernel = this.settings.kernelPicture;
    show(byId('kernel-picture'), Boolean(kernel));
    if (kernel) byId('kernel-picture').src = api.viewOf(kernel.id, 160);
    const sides = kernel?.width ? `, ${kernel.width} × ${kernel.height}` : '';
    setText(byId('kernel-name'), kernel ? `${kernel.name}${sides}` : 'none chosen');
  }

  // Plan and start

  /** What is sent for a picture. Throws a FieldError. */
  async restoration(picture, signal) {
    const asked = this.settings.read();
    const idOf = (kind) => this.pictures.maskOf(picture, kind)?.upload(signal) ?? null;
    return {
      image: picture.id,
      ...asked,
      mask: this.settings.task.mask ? await idOf('missing') : null,
      ignore: this.settings.ignores ? await idOf('ignore') : null,
    };
  }

  async plan() {
    const picture = this.pictures.selected;
    setText(byId('start-state'), '');
    if (!picture) return this.planner.none('Add a picture to see the plan.');
    const several = this.pictures.all.length > 1;
    const about = several ? `For ${picture.name}. Each of the ${this.pictures.all.length} pictures makes a job.` : '';
    await this.planner.plan((signal) => this.restoration(picture, signal), about);
    setText(byId('start'), several ? `Start ${this.pictures.all.length} jobs` : 'Start');
  }

  async start() {
    if (this.starting) return;
    this.starting = true;
    byId('start').setAttribute('aria-disabled', 'true');
    setText(byId('plan-error'), '');
    const jobs = [];
    try {
      this.checkStart();
      // What cannot be sent is told before the first job is started.
      const asked = [];
      for (const picture of this.pictures.all) asked.push([picture, await this.restoration(picture)]);
      for (const [picture, restoration] of asked) jobs.push(await startOne(picture, restoration, asked.length > 1));
    } catch (error) {
      setText(byId('plan-error'), api.errorText(error));
      if (error instanceof FieldError) reveal(error.field);
    }
    this.starting = false;
    byId('start').removeAttribute('aria-disabled');
    if (jobs.length) setText(byId('start-state'), `${count(jobs.length, 'job')} started.`);
    this.started(jobs);
  }

  checkStart() {
    const { all } = this.pictures;
    if (all.length === 0) throw new Error('Add a picture first.');
    if (!this.settings.task.mask) return;
    const bare = all.find((picture) => !this.pictures.maskOf(picture, 'missing')?.mask.marked);
    if (bare) throw new Error(`${bare.name} has no mask: select it and mark the missing pixels.`);
  }

  // Again

  /** Takes over picture, masks and settings of a job. */
  async again(job) {
    const asked = job.restoration;
    this.settings.fill(asked);
    this.showKernel();
    this.pictures.clear();
    this.pictures.select(null);
    try {
      this.pictures.put({ id: asked.image, name: job.name, ...(await observedSize(job)) });
      await this.maskAgain('missing', asked.mask, api.fileOf(job.id, 'mask'));
      await this.maskAgain('ignore', asked.ignore);
      this.showPicture();
      setText(byId('upload-state'), `Picture and settings of job ${job.number}.`);
    } catch (error) {
      const text = `Not all of job ${job.number} can be used again: ${api.errorText(error)}`;
      byId('upload-errors').replaceChildren(h('p', { className: 'error' }, text));
    }
    this.later();
  }

  /** @param {string} kind @param {string | null} id @param {string} [original]  address of its file as it was sent */
  async maskAgain(kind, id, original) {
    if (!id) return;
    const view = () => imageAt(api.viewOf(id, ANY_SIDE));
    const picture = await (original ? imageAt(original).catch(view) : view());
    const of = this.pictures.maskOf(this.pictures.selected, kind);
    if (!of || picture.width !== of.mask.width || picture.height !== of.mask.height) {
      throw new Error('its mask is too large to be shown, load it from a file.');
    }
    of.mask.load(bitsOf(picture));
    of.sent = { revision: of.mask.revision, id };
    if (this.editor.mask === of.mask) this.editor.redraw();
  }
}

/** The server shrinks to this or to its own limit. */
const ANY_SIDE = 65535;

/** The size of the observation of a job: that of the result, divided by the factor of the task. */
async function observedSize({ result, restoration }) {
  const { width, height } = result ?? (await api.plan(restoration)).result;
  const factor = Number(/^sr(\d+)$/.exec(restoration.task)?.[1] ?? 1);
  const seen = await imageAt(api.viewOf(restoration.image, 160));
  seen.close();
  return { width: width / factor, height: height / factor };
}

const titles = { missing: 'Missing pixels', ignore: 'Pixels to ignore' };
const purposes = {
  missing: 'Mark what is to be filled.',
  ignore: 'Mark what was not measured: dust, dead pixels, a time stamp.',
};

async function startOne(picture, restoration, named) {
  try {
    return await api.startJob(restoration);
  } catch (error) {
    if (named) error.message = `${picture.name}: ${error.message}`;
    throw error;
  }
}

/** Calls with the file that was chosen. */
function onFile(id, use) {
  byId(id).addEventListener('change', (event) => {
    const [file] = event.target.files;
    event.target.value = '';
    if (file) use(file);
  });
}

/** Shows a field that may be folded away, and goes there. */
function reveal(field) {
  const folded = field.closest('details');
  if (folded) folded.open = true;
  field.focus();
}

/** A picture file as pixels: by the browser, or by the server where the browser cannot read it. */
async function decode(file, side) {
  try {
    return await createImageBitmap(file, { premultiplyAlpha: 'none', colorSpaceConversion: 'none' });
  } catch {
    const { id } = await api.upload(file, file.name);
    return imageAt(api.viewOf(id, side));
  }
}

/** @param {string} address @returns {Promise<ImageBitmap>} */
async function imageAt(address) {
  const response = await fetch(address);
  if (!response.ok) throw new Error(`the server answered with status ${response.status}.`);
  return createImageBitmap(await response.blob());
}
