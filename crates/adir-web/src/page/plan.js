// The plan, and the preview of what the operator does.

import * as api from './api.js';
import { byId, duration, h, pixels, setText, show, size } from './dom.js';
import { FieldError } from './settings.js';

export class Planner {
  constructor() {
    this.running = null;
    this.address = null;
  }

  /** There is nothing to plan. */
  none(why) {
    this.running?.abort();
    this.empty(why);
    setText(byId('plan-error'), '');
  }

  /**
   * Asks for plan and preview, giving up what was asked before.
   * @param {(signal: AbortSignal) => Promise<any>} make  makes the restoration
   * @param {string} about
   */
  async plan(make, about) {
    this.running?.abort();
    const running = new AbortController();
    this.running = running;
    byId('plan').setAttribute('aria-busy', 'true');
    try {
      const restoration = await make(running.signal);
      const preview = this.preview(restoration, running.signal);
      this.tell(await api.plan(restoration, running.signal), about);
      setText(byId('plan-error'), '');
      await preview;
    } catch (error) {
      if (isOver(error, running)) return;
      this.empty('');
      setText(byId('plan-error'), error instanceof FieldError ? error.message : api.errorText(error));
    } finally {
      if (this.running === running) byId('plan').removeAttribute('aria-busy');
    }
  }

  async preview(restoration, signal) {
    try {
      const picture = await api.preview(restoration, signal);
      if (signal.aborted) return;
      if (this.address) URL.revokeObjectURL(this.address);
      this.address = URL.createObjectURL(picture);
      const image = byId('preview-picture');
      image.src = this.address;
      const task = byId('task').selectedOptions[0].textContent;
      image.alt = `Preview of the task "${task}": left the middle of the picture, right what would be measured of it`;
      show(byId('preview'), true);
    } catch (error) {
      // The plan tells what is wrong.
      if (!api.isAbort(error)) show(byId('preview'), false);
    }
  }

  empty(state) {
    byId('plan').replaceChildren();
    for (const id of ['plan-warnings', 'plan-settings', 'preview']) show(byId(id), false);
    setText(byId('plan-state'), state);
  }

  tell(plan, about) {
    byId('plan').replaceChildren(...factsOf(plan).flatMap(([name, value]) => [h('dt', {}, name), h('dd', {}, value)]));
    const warnings = plan.warnings ?? [];
    show(byId('plan-warnings'), warnings.length > 0);
    byId('plan-warnings').replaceChildren(...warnings.map((text) => h('li', {}, text)));
    show(byId('plan-settings'), plan.settings.length > 0);
    byId('plan-table').replaceChildren(...plan.settings.map(row));
    setText(byId('plan-state'), about);
  }
}

/** Whether the error belongs to a plan that was given up. */
const isOver = (error, running) => api.isAbort(error) || running.signal.aborted;

const row = ({ name, value, source }) =>
  h('tr', {}, h('th', { scope: 'row' }, name), h('td', {}, String(value)), h('td', {}, source));

function factsOf(plan) {
  const known = (value) => value !== null && value !== undefined;
  const facts = [
    ['Time', known(plan.seconds) ? `about ${duration(plan.seconds)}` : 'not known yet'],
    ['Time to adapt', known(plan.adaptation_seconds) && `at most ${duration(plan.adaptation_seconds)}, before that`],
    ['Memory', known(plan.memory_bytes) && `at most ${size(plan.memory_bytes)}`],
    ['Result', plan.result && pixels(plan.result)],
    ['Tiles', plan.tiles],
    ['Network evaluations', known(plan.evaluations) && `${plan.evaluations} per sample`],
  ];
  return facts.filter(([, value]) => value);
}
