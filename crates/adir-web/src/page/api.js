// Calls of the server.

const BASE = '/api/v1';

/** An error that the server told, or that it did not answer (status 0). */
export class ApiError extends Error {
  /** @param {number} status @param {{fault: string, message: string, hint?: string | null}} error */
  constructor(status, error) {
    super(error.message);
    this.status = status;
    this.fault = error.fault;
    this.hint = error.hint ?? null;
  }

  /** Message and hint as one text. */
  get text() {
    return this.hint ? `${this.message} Hint: ${this.hint}` : this.message;
  }
}

/** What to tell of any error. */
export const errorText = (error) => (error instanceof ApiError ? error.text : String(error?.message ?? error));

/** Whether a call was given up by ourselves. */
export const isAbort = (error) => error?.name === 'AbortError';

let onUnauthorised = () => {};

/** What to do when the server does not know us. */
export function whenUnauthorised(call) {
  onUnauthorised = call;
}

/** @returns {Promise<Response>} */
async function call(method, path, { body, type, signal } = {}) {
  let response;
  try {
    const headers = type ? { 'Content-Type': type } : {};
    response = await fetch(BASE + path, { method, body, headers, signal, cache: 'no-store' });
  } catch (error) {
    if (isAbort(error)) throw error;
    throw new ApiError(0, { fault: 'io', message: 'The server does not answer.' });
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

async function refusal(response) {
  if (response.status === 401) onUnauthorised();
  try {
    return new ApiError(response.status, (await response.json()).error);
  } catch {
    return new ApiError(response.status, { fault: 'io', message: `The server answered with status ${response.status}.` });
  }
}

const get = async (path, signal) => (await call('GET', path, { signal })).json();
const post = (path, value, signal) =>
  call('POST', path, { body: JSON.stringify(value ?? {}), type: 'application/json', signal });

export const info = () => get('/info');

/** @param {Blob} file */
export const upload = async (file, name, signal) =>
  (await call('POST', `/images?name=${encodeURIComponent(name)}`, { body: file, type: 'application/octet-stream', signal })).json();

/** Address of a picture as a browser can show it. */
export const viewOf = (image, side) => `${BASE}/images/${image}/view${side ? `?side=${side}` : ''}`;

export const plan = async (restoration, signal) => (await post('/plan', restoration, signal)).json();
export const preview = async (restoration, signal) => (await post('/preview', restoration, signal)).blob();

export const startJob = async (restoration) => (await post('/jobs', restoration)).json();
export const listJobs = (before) => get(`/jobs?limit=50${before === undefined ? '' : `&before=${before}`}`);
export const job = (id) => get(`/jobs/${id}`);
export const cancelJob = async (id) => (await post(`/jobs/${id}/cancel`)).json();
export const deleteJob = (id) => call('DELETE', `/jobs/${id}`);

/** Address of a file of a job, as it is. */
export const fileOf = (job, name) => `${BASE}/jobs/${job}/files/${name}`;
/** Address of a picture of a job as a browser can show it. */
export const fileView = (job, name, side) => `${fileOf(job, name)}?view=1${side ? `&side=${side}` : ''}`;
/** Address of a file of a job, to be saved. */
export const fileDownload = (job, name) => `${fileOf(job, name)}?download=1`;

/** The newest preview of a running job. The address is always the same, so caches are passed by. */
export const jobPreview = async (id, signal) => (await call('GET', `/jobs/${id}/files/preview?view=1`, { signal })).blob();

export const events = () => new EventSource(`${BASE}/events`);
