// The page of `adir serve`: starts everything, and shows the view that the address names.

import * as api from './api.js';
import { announce, byId, setText, show } from './dom.js';
import { JobList } from './joblist.js';
import { Jobs, ended, stateText } from './jobs.js';
import { JobView } from './jobview.js';
import { NewView } from './newview.js';

const UNAUTHORISED = 'This browser is not known to the server. Open the address that the server printed.';
const LOST = 'The server does not answer. The page tries again by itself.';

class App {
  constructor(info) {
    const labels = new Map(info.tasks.map(({ name, label }) => [name, label]));
    const labelOf = (task) => labels.get(task) ?? task;
    this.jobs = new Jobs();
    this.list = new JobList(this.jobs, labelOf);
    this.jobView = new JobView(this.jobs, labelOf, (job) => this.again(job));
    this.newView = new NewView(info, (jobs) => this.started(jobs));
    this.listen();
    this.jobs.connect();
    this.route(false);
  }

  listen() {
    const { jobs } = this;
    jobs.addEventListener('change', ({ detail: { job, before } }) => {
      if (before && !ended(before) && ended(job)) announce(`${job.name}: ${stateText(job)}`);
    });
    jobs.addEventListener('lost', () => banner(LOST));
    jobs.addEventListener('found', () => {
      banner('');
      this.newView.later();
    });
    addEventListener('hashchange', () => this.route(true));
    // The address names the view, not the place on it.
    byId('to-jobs').addEventListener('click', (event) => goTo(event, 'jobs-title'));
    document.querySelector('.skip').addEventListener('click', (event) => goTo(event, 'main'));
  }

  /** Shows what the address names. */
  route(byUser) {
    const id = /^#job=([0-9a-f]{32})$/.exec(location.hash)?.[1] ?? null;
    show(byId('new'), !id);
    show(byId('job'), Boolean(id));
    this.list.mark(id);
    this.jobView.open(id);
    if (id) byId('to-new').removeAttribute('aria-current');
    else byId('to-new').setAttribute('aria-current', 'page');
    if (!id) document.title = 'New restoration - adir';
    if (!byUser) return;
    byId(id ? 'job-title' : 'new-title').focus();
    scrollTo(0, 0);
  }

  started(jobs) {
    jobs.forEach((job) => this.jobs.put(job));
    if (jobs.length === 1) location.hash = `job=${jobs[0].id}`;
    else if (jobs.length) announce(`${jobs.length} jobs started`);
  }

  again(job) {
    location.hash = '';
    this.newView.again(job);
  }
}

function goTo(event, id) {
  event.preventDefault();
  byId(id).focus();
  byId(id).scrollIntoView();
}

/** Tells of the server, above everything. */
function banner(text) {
  setText(byId('banner'), text);
  show(byId('banner'), Boolean(text));
}

/** Asks the server what it offers until it answers. */
async function information() {
  for (;;) {
    try {
      const info = await api.info();
      banner('');
      return info;
    } catch (error) {
      if (error.status === 401) throw error;
      banner(error.status ? error.text : LOST);
      await new Promise((done) => setTimeout(done, 2000));
    }
  }
}

api.whenUnauthorised(() => banner(UNAUTHORISED));
information().then((info) => new App(info), () => {});
