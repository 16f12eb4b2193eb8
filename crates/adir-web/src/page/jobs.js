// All jobs that are known, kept up to date by one stream of events.

import * as api from './api.js';

const FIRST_WAIT = 1000;
const MOST_WAIT = 5000;

const ENDED = ['done', 'failed', 'cancelled'];

/** Whether nothing more happens to it. */
export const ended = (job) => ENDED.includes(job.state);

/** Emits `change` (detail: {job, before}), `gone` (detail: {id}), `reset`, `lost` and `found`. */
export class Jobs extends EventTarget {
  constructor() {
    super();
    /** @type {Map<string, any>} */
    this.known = new Map();
    this.more = false;
    this.wait = FIRST_WAIT;
    this.lost = false;
  }

  /** Newest first. */
  get all() {
    return [...this.known.values()].sort((a, b) => b.number - a.number);
  }

  /** Listens to the server, now and after every interruption. */
  connect() {
    // Browsers open six connections to a server: tabs that nobody sees must not hold them.
    if (document.hidden) return document.addEventListener('visibilitychange', () => this.connect(), { once: true });
    const source = api.events();
    const end = () => {
      source.close();
      document.removeEventListener('visibilitychange', hidden);
    };
    const hidden = () => {
      end();
      this.connect();
    };
    document.addEventListener('visibilitychange', hidden);
    source.onopen = () => this.reload();
    source.onerror = () => {
      end();
      this.again();
    };
    source.addEventListener('job', ({ data }) => this.put(JSON.parse(data)));
    source.addEventListener('gone', ({ data }) => this.forget(JSON.parse(data).id));
  }

  again() {
    if (!this.lost) {
      this.lost = true;
      this.emit('lost', {});
    }
    setTimeout(() => this.retry(), this.wait);
    this.wait = Math.min(MOST_WAIT, 1.5 * this.wait);
  }

  /** An ordinary call first: a stream does not tell why it failed. */
  async retry() {
    try {
      await api.listJobs();
      this.connect();
    } catch {
      this.again();
    }
  }

  /** Takes over what the server has; events that were missed are in it. */
  async reload() {
    try {
      const { jobs } = await api.listJobs();
      this.wait = FIRST_WAIT;
      const listed = new Set(jobs.map(({ id }) => id));
      const oldest = Math.min(...jobs.map(({ number }) => number));
      for (const { id, number } of this.all) if (!listed.has(id) && !(number < oldest)) this.forget(id);
      this.more ||= jobs.length === 50;
      jobs.forEach((job) => this.put(job));
      this.emit('reset', {});
      if (this.lost) this.emit('found', {});
      this.lost = false;
    } catch {
      // The stream will break as well.
    }
  }

  async loadOlder() {
    const oldest = this.all.at(-1)?.number;
    const { jobs } = await api.listJobs(oldest);
    this.more = jobs.length === 50;
    jobs.forEach((job) => this.put(job));
    this.emit('reset', {});
  }

  /** The job of that id, from the server if need be. */
  async get(id) {
    if (!this.known.has(id)) this.put(await api.job(id));
    return this.known.get(id);
  }

  put(job) {
    const before = this.known.get(job.id) ?? null;
    // An answer can be older than an event that overtook it.
    if (before && ended(before) && !ended(job)) return;
    this.known.set(job.id, job);
    this.emit('change', { job, before });
  }

  forget(id) {
    if (this.known.delete(id)) this.emit('gone', { id });
  }

  emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

/** The state of a job in words. */
export function stateText(job) {
  switch (job.state) {
    case 'queued':
      return job.position ? `waiting, ${job.position} before it` : 'waiting, next';
    case 'running':
      return 'running';
    case 'done':
      return job.verdict ? `done, ${job.verdict}` : 'done';
    default:
      return job.state;
  }
}

/** What a running job does. */
export const phaseText = (progress) => [progress.phase, progress.text].filter(Boolean).join(': ');
