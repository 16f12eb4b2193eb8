// Queue and history beside the view.

import * as api from './api.js';
import { byId, h, setText, show } from './dom.js';
import { ended, stateText } from './jobs.js';

export class JobList {
  /** @param {import('./jobs.js').Jobs} jobs @param {(task: string) => string} labelOf  the label of a task */
  constructor(jobs, labelOf) {
    this.jobs = jobs;
    this.labelOf = labelOf;
    this.current = null;
    /** @type {Map<string, any>} */
    this.items = new Map();
    jobs.addEventListener('change', ({ detail }) => this.put(detail.job));
    jobs.addEventListener('gone', ({ detail }) => this.drop(detail.id));
    jobs.addEventListener('reset', () => show(byId('older'), jobs.more));
    byId('older').addEventListener('click', () => this.older());
  }

  /** Marks the job that is shown. */
  mark(id) {
    this.current = id;
    for (const [key, { link }] of this.items) setCurrent(link, key === id);
  }

  async older() {
    byId('older').disabled = true;
    await this.jobs.loadOlder().catch(() => {});
    byId('older').disabled = false;
  }

  put(job) {
    const item = this.items.get(job.id) ?? this.make(job);
    setText(item.about, `${this.labelOf(job.task)} · ${job.number}`);
    setText(item.state, stateText(job));
    item.state.className = `state ${stateClass(job)}`;
    const running = job.state === 'running';
    show(item.progress, running);
    if (running) showProgress(item.progress, job.progress);
    const picture = job.files.includes('thumbnail') ? api.fileOf(job.id, 'thumbnail') : api.viewOf(job.restoration.image, 96);
    if (item.picture.getAttribute('src') !== picture) item.picture.src = picture;
    this.place(item.element, job);
    this.count();
  }

  make(job) {
    const item = {
      picture: h('img', { alt: '', width: 48, height: 48 }),
      about: h('span', { className: 'note' }),
      state: h('span'),
      progress: h('progress', { 'aria-label': `Progress of ${job.name}` }),
    };
    const name = h('span', { className: 'name' }, job.name);
    const text = h('span', { className: 'text' }, name, item.about, item.state);
    item.link = h('a', { href: `#job=${job.id}` }, item.picture, text);
    setCurrent(item.link, job.id === this.current);
    item.element = h('li', {}, item.link, item.progress);
    item.element.dataset.number = job.number;
    item.picture.onerror = () => item.picture.classList.add('missing');
    item.picture.onload = () => item.picture.classList.remove('missing');
    this.items.set(job.id, item);
    return item;
  }

  /** Puts a line where it belongs: the queue in the order of work, the history with the newest first. */
  place(element, job) {
    const list = byId(ended(job) ? 'history' : 'queue');
    const number = (line) => Number(line.dataset.number);
    const before = (line) => (ended(job) ? number(line) < job.number : number(line) > job.number);
    const others = [...list.children].filter((line) => line !== element);
    const next = others.find(before) ?? null;
    // A line that is moved loses the focus.
    if (element.parentNode === list && element.nextElementSibling === next) return;
    const focused = element.contains(document.activeElement);
    list.insertBefore(element, next);
    if (focused) element.querySelector('a').focus({ preventScroll: true });
  }

  drop(id) {
    this.items.get(id)?.element.remove();
    this.items.delete(id);
    this.count();
  }

  count() {
    const waiting = byId('queue').children.length;
    show(byId('queue-empty'), waiting === 0);
    show(byId('history-empty'), byId('history').children.length === 0);
    show(byId('unfinished'), waiting > 0);
    setText(byId('unfinished'), `(${waiting} unfinished)`);
  }
}

function setCurrent(link, current) {
  if (current) link.setAttribute('aria-current', 'page');
  else link.removeAttribute('aria-current');
}

function stateClass(job) {
  if (job.state === 'failed') return 'bad';
  if (job.verdict === 'WARN') return 'warn';
  return job.state === 'done' ? 'pass' : '';
}

/** Shows how far it is; a bar that moves by itself where nobody knows. */
export function showProgress(bar, progress) {
  if (progress?.total > 0) {
    bar.max = progress.total;
    bar.value = progress.done;
  } else {
    bar.removeAttribute('value');
  }
}
