// What the tests of the web page need: the server, a browser, pictures, axe.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { deflateSync } from 'node:zlib';

const { ADIR, CHROMIUM, PACKAGES, PAGE, SHOTS } = process.env;
const packages = createRequire(join(PACKAGES, 'package.json'));
const { chromium } = packages('playwright-core');
const AXE = readFileSync(packages.resolve('axe-core/axe.min.js'), 'utf8');

/** How long a small restoration may take on a busy machine. */
export const PATIENCE = Number(process.env.PATIENCE ?? 180) * 1000;

const ARGUMENTS = ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
  '--disable-background-networking', '--disable-component-update', '--disable-sync'];

export const launch = () => chromium.launch({ executablePath: CHROMIUM, args: ARGUMENTS });

// The server

/** A folder that is removed at the end. */
export function folder() {
  const path = mkdtempSync(join(tmpdir(), 'adir-web-'));
  process.on('exit', () => rmSync(path, { recursive: true, force: true }));
  return path;
}

/** Starts `adir serve`, with all that it keeps in a folder, and waits for the address that it prints. */
export async function serve(home, gallery, { listen = '127.0.0.1:0', more = [] } = {}) {
  const kept = ['--data', join(home, 'data'), '--cache', join(home, 'cache')];
  const options = ['serve', '--listen', listen, ...kept, '--gallery', `pictures=${gallery}`, ...more];
  const child = spawn(ADIR, options, { stdio: ['ignore', 'pipe', 'pipe'] });
  let said = '';
  const ended = new Promise((done) => child.once('exit', done));
  const address = await new Promise((found, failed) => {
    const hear = (text) => {
      said += text;
      const match = /http:\/\/127\.0\.0\.1:\d+\/\S*/.exec(said);
      if (match) found(match[0]);
    };
    child.stdout.setEncoding('utf8').on('data', hear);
    child.stderr.setEncoding('utf8').on('data', (text) => (said += text));
    child.once('error', failed);
    ended.then((code) => failed(new Error(`the server ended with ${code}: ${said}`)));
  });
  const stop = async (signal) => {
    child.kill(signal);
    await ended;
  };
  process.on('exit', () => child.kill('SIGKILL'));
  return { address, origin: new URL(address).origin, stop };
}

// Pictures

/** A picture file. @param {(x: number, y: number) => number[]} colour  red, green, blue of a pixel */
export function png(width, height, colour) {
  const rows = Buffer.alloc(height * (1 + 3 * width));
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) rows.set(colour(x, y), y * (1 + 3 * width) + 1 + 3 * x);
  }
  const header = Buffer.alloc(13);
  header.writeUInt32BE(width, 0);
  header.writeUInt32BE(height, 4);
  header.set([8, 2, 0, 0, 0], 8);
  const signature = Buffer.from([0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a]);
  return Buffer.concat([signature, chunk('IHDR', header), chunk('IDAT', deflateSync(rows)), chunk('IEND', Buffer.alloc(0))]);
}

function chunk(type, content) {
  const body = Buffer.concat([Buffer.from(type, 'latin1'), content]);
  const ends = Buffer.alloc(8);
  ends.writeUInt32BE(content.length, 0);
  ends.writeUInt32BE(crc(body), 4);
  return Buffer.concat([ends.subarray(0, 4), body, ends.subarray(4)]);
}

function crc(bytes) {
  let sum = 0xffffffff;
  for (const byte of bytes) {
    sum ^= byte;
    for (let bit = 0; bit < 8; bit++) sum = sum & 1 ? (sum >>> 1) ^ 0xedb88320 : sum >>> 1;
  }
  return (sum ^ 0xffffffff) >>> 0;
}

const wave = (phase) => (x, y) => [128 + 100 * Math.sin(x / 5 + phase), 4 * y % 256, 128 + 100 * Math.cos((x + y) / 9)].map(Math.floor);

/** A picture with something in it, as a file for the file chooser. */
export const photo = (name, phase = 0, side = 64) => ({ name, mimeType: 'image/png', buffer: png(side, side, wave(phase)) });

// The page

/** Opens the page in a window of its own. What the page must never do is noted and checked by `close`. */
export async function open(browser, server, { hash = '', ...options } = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, acceptDownloads: true, ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(Math.min(20_000, PATIENCE));
  if (PAGE) await page.route(/\/[a-z]*(\.(js|css|svg))?$/, substitute);
  const faults = [];
  page.on('pageerror', (error) => faults.push(`error: ${error.message}`));
  page.on('console', (message) => {
    const expected = /^Failed to load resource/.test(message.text());
    if (message.type() === 'error' && !expected) faults.push(`console: ${message.text()}`);
  });
  page.on('request', (request) => {
    const url = new URL(request.url());
    if (url.origin !== server.origin && url.protocol !== 'blob:') faults.push(`request elsewhere: ${url}`);
  });
  await page.goto(server.address + hash);
  await page.waitForFunction(() => document.querySelector('#task option'));
  const close = async () => {
    await context.close();
    assert.deepEqual(faults, []);
  };
  return { page, context, close };
}

/** Answers with a file of the folder PAGE in place of that in the program. */
async function substitute(route) {
  const { pathname } = new URL(route.request().url());
  if (pathname.startsWith('/api/')) return route.fallback();
  const response = await route.fetch();
  return route.fulfill({ response, body: readFileSync(join(PAGE, pathname === '/' ? 'index.html' : pathname)) });
}

/** Uploads pictures by the file chooser, and waits until they are listed. */
export async function upload(page, ...files) {
  const before = await page.locator('.picture').count();
  await page.setInputFiles('#files', files);
  await page.waitForFunction((many) => document.querySelectorAll('.picture').length === many, before + files.length);
}

/** Waits for a plan without error, whose facts are told. */
export const planned = (page) =>
  page.waitForFunction(() => document.querySelector('#plan dt') && !document.querySelector('#plan[aria-busy]'));

/** Starts one job, and returns its id when its view is shown. */
export async function start(page) {
  await page.click('#start');
  await page.waitForFunction(() => /^#job=/.test(location.hash));
  return (await page.evaluate(() => location.hash)).slice('#job='.length);
}

/** Waits until the job that is shown has ended well. */
export const finished = (page) => page.waitForSelector('#job-verdict strong', { timeout: PATIENCE });

/** Sets a slider as a user does. */
export const slide = (page, selector, value) => page.locator(selector).fill(String(value));

/** Unfolds the further settings. */
export const unfold = (page) => page.click('#settings > details > summary');

/** What the server says to a call. */
export const api = async (page, path) => page.evaluate(async (where) => (await fetch(`/api/v1${where}`)).json(), path);

/** The bytes of an address of the server. */
export async function bytes(page, path) {
  const list = await page.evaluate(async (where) => [...new Uint8Array(await (await fetch(where)).arrayBuffer())], path);
  return Buffer.from(list);
}

/** The pixels of a picture on the server: its sides, and one number of 0 to 255 for each value of red. */
export const redOf = (page, path) =>
  page.evaluate(async (where) => {
    const picture = await createImageBitmap(await (await fetch(where)).blob());
    const canvas = new OffscreenCanvas(picture.width, picture.height);
    const context = canvas.getContext('2d');
    context.drawImage(picture, 0, 0);
    const { data } = context.getImageData(0, 0, picture.width, picture.height);
    return { width: picture.width, height: picture.height, red: [...data].filter((_, at) => at % 4 === 0) };
  }, path);

/** Where a picture lies in the window. */
export const boxOf = (page, selector) => page.locator(selector).boundingBox();

/** What is to be pressed and is less than 24 pixels wide or high. A box to tick counts with its label. */
export const small = (page) =>
  page.evaluate(() => {
    const targets = document.querySelectorAll('a, button, .button, select, summary, input:not(.unseen)');
    const whole = (target) => (target.matches('[type=checkbox], [type=radio]') ? target.closest('label') : target);
    return [...targets]
      .filter((target) => target.checkVisibility() && !target.matches('.skip'))
      .filter((target) => {
        const { width, height } = whole(target).getBoundingClientRect();
        return width < 24 || height < 24;
      })
      .map((target) => target.outerHTML);
  });

/** Serious and critical faults that axe finds. */
export async function faults(page) {
  await page.evaluate(AXE);
  const found = await page.evaluate(async () => {
    // What is in the frame of the report is not of this page.
    const { violations } = await globalThis.axe.run(document, { iframes: false });
    return violations
      .filter(({ impact }) => impact === 'serious' || impact === 'critical')
      .flatMap(({ id, nodes }) => nodes.map((node) => `${id}: ${node.html} ${node.failureSummary}`));
  });
  return found;
}

/** How many pixels the page is wider than the window. */
export const overflow = (page) => page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);

/** Keeps a picture of the whole page, where SHOTS names a folder. */
export async function shot(page, name) {
  if (!SHOTS) return;
  mkdirSync(SHOTS, { recursive: true });
  await page.screenshot({ path: join(SHOTS, `${name}.png`), fullPage: true });
}
