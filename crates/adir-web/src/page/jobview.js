// The view of one job: how far it is, what came out, its files.

import * as api from './api.js';
import { byId, duration, h, pixels, setText, show } from './dom.js';
import { showProgress } from './joblist.js';
import { ended, phaseText, stateText } from './jobs.js';
import { Viewer } from './viewer.js';

/** Pictures are not asked for larger than this. */
const MOST_SIDE = 8192;

export class JobView {
  /**
   * @param {import('./jobs.js').Jobs} jobs
   * @param {(task: string) => string} labelOf  the label of a task
   * @param {(job: any) => void} again  uses the settings of a job
   */
  constructor(jobs, labelOf, again) {
    this.jobs = jobs;
    this.labelOf = labelOf;
    this.again = again;
    this.id = null;
    this.job = null;
    this.viewer = new Viewer(byId('viewer'));
    this.forgetPreview();
    jobs.addEventListener('change', ({ detail }) => detail.job.id === this.id && this.show(detail.job));
    jobs.addEventListener('gone', ({ detail }) => detail.id === this.id && this.showGone());
    byId('job-cancel').addEventListener('click', () => this.cancel());
    byId('job-again').addEventListener('click', () => this.again(this.job));
    byId('job-delete').addEventListener('click', () => this.askDelete());
    byId('confirm-yes').addEventListener('click', () => this.delete());
    byId('confirm-no').addEventListener('click', () => byId('confirm').close());
    byId('job-report').addEventListener('toggle', () => this.showReport());
  }

  /** Shows the job of that id, or none. */
  async open(id) {
    if (this.id === id) return;
    this.id = id;
    this.job = null;
    this.forgetPreview();
    this.viewer.clear();
    byId('job-report').open = false;
    this.showReport();
    byId('confirm').close();
    if (!id) return;
    this.blank('Job', '');
    try {
      const job = await this.jobs.get(id);
      if (this.id === id) this.show(job);
    } catch (error) {
      if (this.id === id) this.blank('Job', api.errorText(error));
    }
  }

  showGone() {
    this.job = null;
    byId('confirm').close();
    this.viewer.clear();
    this.blank('Job', 'This job was deleted.');
  }

  /** Nothing but a title and an error. */
  blank(title, error) {
    setText(byId('job-title'), title);
    setText(byId('job-about'), '');
    setText(byId('job-error'), error);
    for (const id of ['running', 'outcome', 'warnings', 'files', 'cancel', 'again', 'delete']) show(byId(`job-${id}`), false);
    byId('job-settings').closest('section').hidden = true;
  }

  show(job) {
    const first = this.job === null;
    const over = ended(job) && !(this.job && ended(this.job));
    this.job = job;
    setText(byId('job-title'), job.name);
    document.title = `${job.name}: ${stateText(job)} - adir`;
    setText(byId('job-about'), aboutOf(job, this.labelOf(job.task)));
    setText(byId('job-error'), job.error ? errorOf(job.error) : '');
    show(byId('job-cancel'), !ended(job));
    for (const id of ['job-again', 'job-delete']) show(byId(id), true);
    this.showRunning(job);
    showWarnings(job.warnings ?? []);
    if (first) this.showSettings(job);
    if (over) this.showOutcome(job);
    else if (first) for (const id of ['job-outcome', 'job-files']) show(byId(id), false);
  }

  showRunning(job) {
    show(byId('job-running'), !ended(job));
    if (ended(job)) return this.forgetPreview();
    const { progress } = job;
    const left = progress?.seconds_left;
    const rest = left === null || left === undefined ? '' : `, about ${duration(left)} left`;
    setText(byId('job-phase'), progress ? phaseText(progress) + rest : stateText(job));
    showProgress(byId('job-progress'), progress);
    if (progress?.previews > this.previews) this.showPreview(job.id, progress.previews);
  }

  async showPreview(id, number) {
    this.previews = number;
    try {
      const picture = await api.jobPreview(id);
      if (this.id !== id || this.previews !== number || ended(this.job)) return;
      if (this.address) URL.revokeObjectURL(this.address);
      this.address = URL.createObjectURL(picture);
      byId('job-preview-picture').src = this.address;
      show(byId('job-preview'), true);
    } catch {
      // The next one will do.
    }
  }

  forgetPreview() {
    this.previews = 0;
    if (this.address) URL.revokeObjectURL(this.address);
    this.address = null;
    show(byId('job-preview'), false);
  }

  showOutcome(job) {
    const { verdict, summary } = job;
    show(byId('job-outcome'), Boolean(verdict));
    byId('job-verdict').className = `verdict ${verdict === 'WARN' ? 'warn' : 'pass'}`;
    byId('job-verdict').replaceChildren(h('strong', {}, verdict ?? ''), ` ${summary ?? ''}`);
    const result = job.files.includes('image');
    if (result) this.viewer.show(picturesOf(job));
    const links = downloadsOf(job);
    show(byId('job-files'), links.length > 0);
    byId('job-downloads').replaceChildren(...links.map((link) => h('li', {}, link)));
    show(byId('job-report'), job.files.includes('report'));
  }

  /** The report stands in a frame while it is unfolded. */
  showReport() {
    const fold = byId('job-report');
    fold.querySelector('iframe')?.remove();
    if (!fold.open || !this.job) return;
    fold.append(h('iframe', { src: api.fileOf(this.id, 'report'), title: `Report of ${this.job.name}`, className: 'report' }));
  }

  showSettings(job) {
    byId('job-settings').closest('section').hidden = false;
    const facts = settingsOf(job.restoration, this.labelOf);
    byId('job-settings').replaceChildren(...facts.flatMap(([name, value]) => [h('dt', {}, name), h('dd', {}, value)]));
  }

  async cancel() {
    await this.act(async () => this.jobs.put(await api.cancelJob(this.id)));
    byId('job-title').focus();
  }

  askDelete() {
    const { name, number } = this.job;
    setText(byId('confirm-text'), `${name}, job ${number}: its result, record and report are removed from the server.`);
    byId('confirm').showModal();
    byId('confirm-no').focus();
  }

  async delete() {
    const { id } = this;
    byId('confirm').close();
    await this.act(async () => {
      await api.deleteJob(id);
      this.jobs.forget(id);
      location.hash = '';
    });
  }

  async act(call) {
    try {
      await call();
    } catch (error) {
      setText(byId('job-error'), api.errorText(error));
    }
  }
}

const errorOf = ({ message, hint }) => (hint ? `${message} Hint: ${hint}` : message);

function aboutOf(job, task) {
  const parts = [task, `job ${job.number}`, stateText(job)];
  if (job.result) parts.push(pixels(job.result));
  if (job.seconds) parts.push(`took ${duration(job.seconds)}`);
  parts.push(new Date(1000 * job.created).toLocaleString());
  return parts.join(' · ');
}

function showWarnings(warnings) {
  const list = byId('job-warnings');
  show(list, warnings.length > 0);
  if (list.children.length !== warnings.length) list.replaceChildren(...warnings.map((text) => h('li', {}, text)));
}

/** What the viewer shows of a job. */
function picturesOf(job) {
  const side = job.result ? Math.min(MOST_SIDE, Math.max(job.result.width, job.result.height)) : null;
  const picture = (file, label, note = '') => ({ label, note, url: api.fileView(job.id, file, side) });
  const has = (file) => job.files.includes(file);
  const samples = job.files
    .filter((file) => file.startsWith('sample-'))
    .map((file) => picture(file, `Sample ${file.slice('sample-'.length)}`));
  const result = picture('image', 'Result', samples.length ? 'The mean of the samples.' : '');
  const deviations = [
    has('heat') && picture('heat', 'Where samples differ', 'The mean in grey; colour where the samples differ.'),
    has('deviation') && picture('deviation', 'Deviation', 'Standard deviation of the samples: black where they agree.'),
  ];
  const left = [has('observation') && picture('observation', 'Observation'), has('mask') && picture('mask', 'Mask')];
  return {
    ...job.result,
    left: [...left, result, ...samples].filter(Boolean),
    right: [result, ...samples, ...deviations].filter(Boolean),
  };
}

function downloadsOf(job) {
  const names = { image: 'Image', record: 'Record', report: 'Report', deviation: 'Deviation map' };
  const label = (file) => names[file] ?? (file.startsWith('sample-') ? `Sample ${file.slice('sample-'.length)}` : null);
  const links = job.files
    .filter(label)
    .map((file) => h('a', { className: 'button', href: api.fileDownload(job.id, file), download: '' }, `Download ${label(file)}`));
  if (job.files.includes('report')) {
    const open = { className: 'button', href: api.fileOf(job.id, 'report'), target: '_blank', rel: 'noopener' };
    links.push(h('a', open, 'Open the report in a new tab'));
  }
  return links;
}

/** What was asked for, in words; what was left to the defaults is left out. */
function settingsOf(asked, labelOf) {
  const drawn = asked.seed === -1 ? 'drawn' : asked.seed;
  const facts = [
    ['Task', labelOf(asked.task)],
    ['Kernel', asked.kernel ?? (asked.kernel_image ? 'a picture' : null)],
    ['Border', asked.boundary],
    ['Mask', asked.mask && 'drawn or loaded'],
    ['Pixels to ignore', asked.ignore && 'marked'],
    ['Noise', asked.sigma === 'auto' ? 'estimated' : asked.sigma],
    ['Gain', asked.gain],
    ['Linear light', asked.linear_light ? 'yes' : null],
    ['Aim', asked.aim],
    ['Samples', asked.samples],
    ['Seed', drawn],
    ['Steps', asked.steps],
    ['Method', asked.method],
    ['Gallery', asked.gallery],
    ['Nearest pictures', asked.neighbours],
    ['Minutes to adapt', asked.adapt_minutes],
    ['Model', asked.model],
    ['Page', asked.page],
    ['Format', asked.format],
  ];
  return facts.filter(([, value]) => value !== null && value !== undefined && value !== false).map(([name, value]) => [name, String(value)]);
}
