// The form of settings: what is read from it, and how it is filled again.

import { byId, h, show } from './dom.js';

/** A field holds what cannot be used. */
export class FieldError extends Error {
  constructor(field) {
    super(`${labelOf(field)}: ${field.validationMessage}`);
    this.field = field;
  }
}

/** The text of a field's label without what the field itself says. */
function labelOf(field) {
  const label = field.labels[0];
  const text = [...(label?.childNodes ?? [])].filter((node) => node.nodeType === Node.TEXT_NODE);
  return text.map((node) => node.textContent).join(' ').replace(/\s+/g, ' ').trim();
}

export class Settings {
  /**
   * @param {any} info  what the server offers
   * @param {(restoration: any) => void} changed
   */
  constructor(info, changed) {
    this.info = info;
    this.form = byId('settings');
    /** The picture of the kernel, as uploaded. */
    this.kernelPicture = null;
    this.offer();
    this.form.addEventListener('input', (event) => {
      if (event.target.type === 'file') return;
      if (event.target.id === 'aim') byId('aim-default').checked = false;
      // A kernel that one task needs is not meant for the next one.
      if (event.target.id === 'task') byId('kernel').value = '';
      this.refresh();
      changed();
    });
    this.refresh();
  }

  /** Fills the lists with what the server has. */
  offer() {
    const { tasks, models, galleries, limits } = this.info;
    byId('task').replaceChildren(...tasks.map(({ name, label }) => h('option', { value: name }, label)));
    byId('model').replaceChildren(
      ...models.map(({ name }, index) => h('option', { value: index ? name : '' }, index ? name : `${name} (default)`)),
    );
    byId('gallery').append(...galleries.map(({ name }) => h('option', { value: name }, name)));
    byId('gallery').disabled = galleries.length === 0;
    show(byId('no-gallery'), galleries.length === 0);
    byId('samples').max = limits.samples;
  }

  get task() {
    return this.info.tasks.find(({ name }) => name === byId('task').value);
  }

  /** Whether pixels to ignore are marked. */
  get ignores() {
    return byId('use-ignore').checked;
  }

  /** @param {any} image  of the server */
  setKernelPicture(image) {
    this.kernelPicture = image;
  }

  /** Shows the fields that mean something now. */
  refresh() {
    const kernel = byId('kernel');
    const { task } = this;
    show(byId('kernel-fields'), task.kernel !== 'none');
    kernel.options[0].disabled = task.kernel === 'required';
    if (task.kernel === 'required' && kernel.value === '') kernel.value = 'box';
    for (const row of this.form.querySelectorAll('[data-kernel]')) show(row, row.dataset.kernel === kernel.value);
    show(byId('constant-field'), byId('boundary').value === 'constant');
    show(byId('sigma-field'), byId('noise').value === 'level');
    show(byId('gallery-fields'), byId('gallery').value !== '');
    byId('seed').disabled = byId('seed-drawn').checked;
    this.showAim();
  }

  showAim() {
    const aim = byId('aim');
    const words = { 0: 'faithful', 0.5: 'balanced', 1: 'detailed' };
    const text = byId('aim-default').checked ? 'default' : [aim.value, words[aim.value]].filter(Boolean).join(', ');
    aim.setAttribute('aria-valuetext', text);
    aim.classList.toggle('idle', byId('aim-default').checked);
    byId('aim-value').textContent = text;
  }

  /** What is asked for, but for pictures and masks. Throws a FieldError. */
  read() {
    this.check();
    return {
      task: this.task.name,
      ...this.blur(),
      sigma: this.noise(),
      gain: number('gain'),
      linear_light: byId('linear-light').checked,
      aim: byId('aim-default').checked ? null : Number(byId('aim').value),
      samples: number('samples'),
      seed: byId('seed-drawn').checked ? -1 : number('seed'),
      steps: number('steps'),
      method: byId('method').value || null,
      ...this.adaptation(),
      model: byId('model').value || null,
      page: number('page'),
      format: byId('format').value,
    };
  }

  /** Fields that are seen must hold what they ask for. */
  check() {
    let wrong = null;
    for (const field of this.form.querySelectorAll('input[type=number]')) {
      const used = !field.disabled && !field.closest('[hidden]');
      const valid = !used || field.checkValidity();
      if (valid) field.removeAttribute('aria-invalid');
      else field.setAttribute('aria-invalid', 'true');
      if (!valid) wrong ??= field;
    }
    if (wrong) throw new FieldError(wrong);
  }

  blur() {
    const none = { kernel: null, kernel_image: null, boundary: null };
    if (this.task.kernel === 'none' || byId('kernel').value === '') return none;
    const boundary = byId('boundary').value;
    return {
      kernel: this.kernelName(),
      kernel_image: byId('kernel').value === 'picture' ? this.kernelPicture?.id ?? null : null,
      boundary: boundary === 'constant' ? `constant:${number('constant')}` : boundary || null,
    };
  }

  kernelName() {
    switch (byId('kernel').value) {
      case 'box':
        return `box:${number('box-side')}`;
      case 'gaussian': {
        const sigma = number('gaussian-sigma');
        return `gaussian:${number('gaussian-side') ?? sideOf(sigma)}:${sigma}`;
      }
      case 'motion':
        return `motion:${number('motion-length')}:${number('motion-angle')}`;
      default:
        return null;
    }
  }

  noise() {
    return { '': null, auto: 'auto', none: 0, level: number('sigma') }[byId('noise').value];
  }

  adaptation() {
    const gallery = byId('gallery').value || null;
    return {
      gallery,
      neighbours: gallery && number('neighbours'),
      adapt_minutes: gallery && number('adapt-minutes'),
    };
  }

  /** Fills the form as it was for a job. @param {any} asked  its restoration */
  fill(asked) {
    byId('task').value = asked.task;
    this.fillBlur(asked);
    this.fillNoise(asked.sigma ?? null);
    put('gain', asked.gain);
    byId('linear-light').checked = asked.linear_light ?? false;
    byId('aim-default').checked = (asked.aim ?? null) === null;
    byId('aim').value = asked.aim ?? 0;
    put('samples', asked.samples ?? 1);
    byId('seed-drawn').checked = asked.seed === -1;
    put('seed', Math.max(0, asked.seed ?? 0));
    put('steps', asked.steps);
    byId('method').value = asked.method ?? '';
    byId('gallery').value = asked.gallery ?? '';
    put('neighbours', asked.neighbours);
    put('adapt-minutes', asked.adapt_minutes);
    byId('model').value = asked.model === this.info.models[0]?.name ? '' : asked.model ?? '';
    put('page', asked.page);
    byId('format').value = asked.format ?? 'png';
    byId('use-ignore').checked = Boolean(asked.ignore);
    this.refresh();
  }

  fillBlur({ kernel, kernel_image: picture, boundary }) {
    const [shape, first, second] = (kernel ?? '').split(':');
    byId('kernel').value = picture ? 'picture' : shape;
    this.setKernelPicture(picture ? { id: picture, name: 'the same picture' } : null);
    if (shape === 'box') put('box-side', first);
    if (shape === 'gaussian') {
      put('gaussian-sigma', second);
      put('gaussian-side', Number(first) === sideOf(Number(second)) ? null : first);
    }
    if (shape === 'motion') {
      put('motion-length', first);
      put('motion-angle', second);
    }
    const [border, level] = (boundary ?? '').split(':');
    byId('boundary').value = border;
    if (level !== undefined) put('constant', level);
  }

  fillNoise(sigma) {
    const choice = { null: '', auto: 'auto', 0: 'none' }[sigma];
    byId('noise').value = choice ?? 'level';
    if (choice === undefined) put('sigma', sigma);
  }
}

/** A side that holds a Gaussian: six standard deviations, and odd. */
function sideOf(sigma) {
  return 2 * Math.ceil(3 * sigma) + 1;
}

const number = (id) => (byId(id).value === '' ? null : Number(byId(id).value));

function put(id, value) {
  byId(id).value = value ?? '';
}
