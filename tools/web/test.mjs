// The flows of the web page, in a browser, with a server that restores: see tools/test_web.sh.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { readFileSync } from 'node:fs';
import { PATIENCE, api, boxOf, bytes, faults, finished, folder, launch, open, overflow, photo, planned, png, redOf, serve, shot, slide,
  small, start, unfold, upload } from './harness.mjs';

const GALLERY = process.env.GALLERY;

let browser;
let server;

before(async () => {
  browser = await launch();
  server = await serve(folder(), GALLERY);
});

after(async () => {
  await browser?.close();
  await server?.stop('SIGTERM');
});

/** A test with a page of its own. */
function flow(name, run, options = {}) {
  test(name, { timeout: 2 * PATIENCE }, async () => {
    const { page, context, close } = await open(browser, server, options);
    await run(page, context).catch(async (error) => {
      await context.close();
      throw error;
    });
    await close();
  });
}

/** Restores a small picture, and shows what came out. */
async function restore(page, { samples = 1, name = 'photo.png' } = {}) {
  await upload(page, photo(name));
  await page.selectOption('#task', 'sr2');
  await page.fill('#samples', String(samples));
  await planned(page);
  const id = await start(page);
  await finished(page);
  return id;
}

/** A job of so many steps that there is time to do something to it. */
async function startLong(page) {
  await upload(page, photo('long.png'));
  await page.selectOption('#task', 'sr2');
  await page.fill('#samples', '16');
  await unfold(page);
  await page.fill('#steps', '25');
  await planned(page);
  return start(page);
}

const stateOf = async (page, id) => (await api(page, `/jobs/${id}`)).state;

/** Waits until a picture is there and seen. */
const loaded = (page, selector) =>
  page.waitForFunction((which) => {
    const image = document.querySelector(which);
    return image.complete && image.naturalWidth > 0 && image.checkVisibility();
  }, selector);

// Upload to result

flow('a picture is uploaded, planned, restored, and told of', async (page) => {
  await upload(page, photo('photo.png'));
  await page.selectOption('#task', 'sr2');
  await planned(page);
  const plan = await page.textContent('#plan');
  assert.match(plan, /Time(about|not known)/);
  assert.match(plan, /Memoryat most \d/);
  assert.match(plan, /Result128 × 128 pixels/);
  assert.ok((await page.locator('#plan-table tr').count()) > 3);
  await loaded(page, '#preview-picture');
  const id = await start(page);
  await finished(page);
  assert.match(await page.textContent('#job-verdict'), /^(PASS|WARN) /);
  assert.equal(await page.textContent('#job-title'), 'photo.png');
  assert.match(await page.title(), /photo\.png: done/);
  await page.waitForSelector(`#history a[href="#job=${id}"]`);
  await loaded(page, `#history a[href="#job=${id}"] img`);
  await page.waitForFunction(() => /photo\.png: done/.test(document.getElementById('live').textContent));
});

flow('the address names the view: reload and back', async (page) => {
  const id = await restore(page);
  await page.reload();
  await finished(page);
  assert.equal(await page.evaluate(() => location.hash), `#job=${id}`);
  await page.click('#to-new');
  await page.waitForSelector('#new:not([hidden])');
  assert.ok(await page.isHidden('#job'));
  await page.goBack();
  await page.waitForSelector('#job:not([hidden])');
  assert.equal(await page.textContent('#job-title'), 'photo.png');
});

flow('pictures come by drop and by paste', async (page) => {
  const send = (type, name, file) =>
    page.evaluate(([kind, called, content]) => {
      const data = new DataTransfer();
      data.items.add(new File([new Uint8Array(content)], called, { type: 'image/png' }));
      const event = kind === 'paste'
        ? new ClipboardEvent('paste', { clipboardData: data, bubbles: true, cancelable: true })
        : new DragEvent('drop', { dataTransfer: data, bubbles: true, cancelable: true });
      document.getElementById('drop').dispatchEvent(event);
    }, [type, name, [...file]]);
  await send('drop', 'dropped.png', photo('', 1).buffer);
  await page.waitForSelector('.picture:has-text("dropped.png")');
  await send('paste', 'pasted.png', photo('', 2).buffer);
  await page.waitForSelector('.picture:has-text("pasted.png")');
  await loaded(page, '.picture:last-child img');
  assert.equal(await page.locator('.picture').count(), 2);
});

flow('a file that is no picture is named with the reason', async (page) => {
  const text = { name: 'letter.txt', mimeType: 'text/plain', buffer: Buffer.from('Dear Sir') };
  await page.setInputFiles('#files', [text, photo('good.png')]);
  await page.waitForSelector('.picture:has-text("good.png")');
  assert.match(await page.textContent('#upload-errors'), /^letter\.txt: .{5,}/);
  assert.equal(await page.locator('.picture').count(), 1);
});

flow('names are shown as text', async (page) => {
  const name = '<img src=x onerror=alert(1)>.png';
  const id = await restore(page, { name });
  const shown = (await api(page, `/jobs/${id}`)).name;
  assert.equal(await page.textContent('#job-title'), shown);
  assert.equal(await page.locator('img[src="x"]').count(), 0);
});

flow('settings are sent as they were chosen', async (page) => {
  const asked = async (act) => {
    const sent = page.waitForRequest((request) => request.url().endsWith('/api/v1/plan'));
    await act();
    return (await sent).postDataJSON();
  };
  await upload(page, photo('photo.png'));
  await planned(page);
  await page.selectOption('#task', 'deblur');
  await page.selectOption('#kernel', 'gaussian');
  await page.selectOption('#boundary', 'constant');
  await page.fill('#constant', '12');
  await page.selectOption('#noise', 'level');
  await page.fill('#sigma', '7.5');
  await slide(page, '#aim', 0.5);
  await page.fill('#seed', '42');
  await page.selectOption('#gallery', 'pictures');
  await page.fill('#neighbours', '3');
  await unfold(page);
  await page.selectOption('#method', 'few-step');
  await page.selectOption('#format', 'tif');
  await page.check('#linear-light');
  const body = await asked(() => page.fill('#steps', '9'));
  assert.deepEqual({ ...body, image: '' }, {
    image: '', task: 'deblur', kernel: 'gaussian:11:1.6', kernel_image: null, boundary: 'constant:12', sigma: 7.5, gain: null,
    linear_light: true, aim: 0.5, samples: 1, seed: 42, steps: 9, method: 'few-step', gallery: 'pictures', neighbours: 3,
    adapt_minutes: null, model: null, page: null, format: 'tif', mask: null, ignore: null,
  });
  const enlarged = await asked(() => page.selectOption('#task', 'sr2'));
  assert.equal(enlarged.kernel, null, 'the kernel of another task is not kept');
  await page.selectOption('#task', 'deblur');
  const drawn = await asked(() => page.check('#seed-drawn'));
  assert.equal(drawn.seed, -1);
  const usual = await asked(() => page.check('#aim-default'));
  assert.equal(usual.aim, null);
  await page.selectOption('#kernel', 'motion');
  await page.fill('#motion-length', '7');
  const motion = await asked(() => page.fill('#motion-angle', '30'));
  assert.equal(motion.kernel, 'motion:7:30');
  await page.selectOption('#kernel', 'picture');
  const point = png(5, 5, (x, y) => (x === 2 || y === 2 ? [255, 255, 255] : [0, 0, 0]));
  const pictured = await asked(() => page.setInputFiles('#kernel-file', { name: 'psf.png', mimeType: 'image/png', buffer: point }));
  assert.match(pictured.kernel_image ?? '', /^[0-9a-f]{32}$/);
  assert.match(await page.textContent('#kernel-name'), /psf\.png, 5 × 5/);
});

// The result

flow('the slider divides, zoom and pan move both pictures in step', async (page) => {
  await restore(page);
  for (const side of ['left', 'right']) await loaded(page, `#view-${side}`);
  const sides = async () => [await boxOf(page, '#view-left'), await boxOf(page, '#view-right')];
  const clip = () => page.locator('.layer:nth-child(2)').evaluate((layer) => layer.style.clipPath);

  await slide(page, '#divider', 20);
  assert.match(await clip(), /20%/);
  await page.locator('#stage').scrollIntoViewIfNeeded();
  const stage = await boxOf(page, '#stage');
  await page.mouse.move(stage.x + 0.2 * stage.width, stage.y + 30);
  await page.mouse.down();
  await page.mouse.move(stage.x + 0.7 * stage.width, stage.y + 30, { steps: 4 });
  await page.mouse.up();
  assert.ok(Math.abs(Number(await page.inputValue('#divider')) - 70) <= 1);
  assert.match(await clip(), /(69|70)(\.\d+)?%/);

  const [before] = await sides();
  assert.ok(before.width <= stage.width + 1 && before.height <= stage.height + 1, 'the whole picture is seen at first');
  await page.click('button[aria-label="Zoom in"]');
  await page.mouse.move(stage.x + stage.width / 4, stage.y + stage.height / 2);
  await page.mouse.wheel(0, -500);
  await page.waitForFunction((width) => document.getElementById('view-left').offsetWidth > 1.9 * width, before.width);
  const [left, right] = await sides();
  assert.deepEqual(left, right);

  await page.focus('#stage');
  await page.keyboard.press('ArrowRight');
  const [moved, other] = await sides();
  assert.deepEqual(moved, other);
  assert.ok(Math.abs(left.x - moved.x - 40) < 1, `moved by ${left.x - moved.x}`);

  await page.mouse.down();
  await page.mouse.move(stage.x + stage.width / 4 + 25, stage.y + stage.height / 2 + 10, { steps: 5 });
  await page.mouse.up();
  const [dragged, also] = await sides();
  assert.deepEqual(dragged, also);
  assert.ok(Math.abs(dragged.x - moved.x - 25) < 1 && Math.abs(dragged.y - moved.y - 10) < 1);

  await page.focus('#stage');
  await page.keyboard.press('+');
  assert.ok((await sides())[0].width > dragged.width);
  await page.keyboard.press('1');
  assert.ok(Math.abs((await sides())[0].width - 128) < 0.5, '1:1 shows a pixel as a pixel');
  await page.keyboard.press('0');
  assert.deepEqual((await sides())[0], before);

  const rendering = () => page.locator('#view-left').evaluate((image) => getComputedStyle(image).imageRendering);
  assert.equal(await rendering(), 'pixelated');
  await page.uncheck('#pixelated');
  assert.equal(await rendering(), 'auto');
});

flow('samples and the deviation map are flipped through', async (page) => {
  const id = await restore(page, { samples: 3 });
  const names = await page.locator('#right-choice label').allTextContents();
  assert.deepEqual(names, ['Result', 'Sample 1', 'Sample 2', 'Sample 3', 'Where samples differ', 'Deviation']);
  const files = ['image', 'sample-1', 'sample-2', 'sample-3', 'heat', 'deviation'];
  for (const [index, file] of files.entries()) {
    await page.locator('#right-choice input').nth(index).check();
    assert.ok((await page.getAttribute('#view-right', 'src')).startsWith(`/api/v1/jobs/${id}/files/${file}?view=1`));
    await loaded(page, '#view-right');
  }
  await page.focus('#stage');
  await page.keyboard.press(']');
  assert.ok(await page.locator('#right-choice input').first().isChecked());
  await page.keyboard.press('[');
  assert.ok(await page.locator('#right-choice input').last().isChecked());
  assert.match(await page.textContent('#view-note'), /deviation/);
  await page.selectOption('#left-choice', { label: 'Sample 2' });
  assert.match(await page.getAttribute('#view-left', 'src'), /sample-2/);
  assert.equal(await page.textContent('#left-name'), 'Sample 2');
});

flow('image, record and report are downloaded; the report is read', async (page) => {
  const id = await restore(page);
  for (const [label, file] of [['Image', 'image'], ['Record', 'record'], ['Report', 'report']]) {
    const [download] = await Promise.all([page.waitForEvent('download'), page.click(`text="Download ${label}"`)]);
    const saved = readFileSync(await download.path());
    assert.ok(saved.equals(await bytes(page, `/api/v1/jobs/${id}/files/${file}`)), `${label} differs from the server's`);
    if (file === 'record') JSON.parse(saved.toString());
  }
  await page.click('#job-report > summary');
  const frame = page.frameLocator('#job-report iframe');
  await frame.locator('h1').first().waitFor();
  const [tab] = await Promise.all([page.context().waitForEvent('page'), page.click('text="Open the report in a new tab"')]);
  await tab.waitForSelector('h1');
  await tab.close();
});

flow('a job is deleted only when that is confirmed', async (page) => {
  const id = await restore(page);
  await page.click('#job-delete');
  await page.click('#confirm-no');
  assert.equal(await stateOf(page, id), 'done');
  await page.click('#job-delete');
  await page.click('#confirm-yes');
  await page.waitForSelector('#new:not([hidden])');
  assert.equal(await page.locator(`a[href="#job=${id}"]`).count(), 0);
  assert.equal(await page.evaluate(async (which) => (await fetch(`/api/v1/jobs/${which}`)).status, id), 404);
  await page.evaluate((which) => { location.hash = `job=${which}`; }, id);
  await page.waitForFunction(() => document.getElementById('job-error').textContent !== '');
});

// Masks

/** Draws on the mask with the mouse, from pixel to pixel. */
async function drag(page, from, to) {
  const sheet = await boxOf(page, '#sheet-marks');
  const at = ([x, y]) => [sheet.x + ((x + 0.5) * sheet.width) / 64, sheet.y + ((y + 0.5) * sheet.height) / 64];
  await page.mouse.move(...at(from));
  await page.mouse.down();
  await page.mouse.move(...at(to), { steps: 6 });
  await page.mouse.up();
}

const marked = async (page) => Number(/^\d+/.exec(await page.textContent('#mask-count'))[0]);

async function openMask(page) {
  await upload(page, photo('hole.png'));
  await page.selectOption('#task', 'inpaint');
  await page.waitForSelector('#sheet-marks:not([hidden])');
  await loaded(page, '#sheet-picture');
}

/** Starts, waits, and returns the mask as the server has it. */
async function sentMask(page) {
  await planned(page);
  const id = await start(page);
  await finished(page);
  const { mask } = (await api(page, `/jobs/${id}`)).restoration;
  return redOf(page, `/api/v1/images/${mask}/view`);
}

flow('a mask is drawn with brush and box, erased, taken back, and sent to the pixel', async (page) => {
  await openMask(page);
  await page.check('input[name=tool][value=box]');
  await drag(page, [8, 10], [19, 15]);
  assert.equal(await marked(page), 72);
  await page.check('input[name=tool][value=brush]');
  await slide(page, '#brush', 3);
  await drag(page, [30, 40], [50, 40]);
  const both = await marked(page);
  assert.equal(both, 72 + 23 * 3, 'a brush of 3 paints 3 x 3 pixels around each of the 21 pixels of the line');
  await page.click('#mask-undo');
  assert.equal(await marked(page), 72);
  await page.check('#erase');
  await page.check('input[name=tool][value=box]');
  await drag(page, [8, 10], [9, 15]);
  assert.equal(await marked(page), 60);
  const { width, height, red } = await sentMask(page);
  assert.deepEqual([width, height], [64, 64]);
  const expected = Array.from({ length: 64 * 64 }, (_, at) => {
    const [x, y] = [at % 64, Math.floor(at / 64)];
    return x >= 10 && x <= 19 && y >= 10 && y <= 15 ? 255 : 0;
  });
  assert.deepEqual(red, expected);
  await page.selectOption('#left-choice', { label: 'Mask' });
  await loaded(page, '#view-left');
  await page.click('#job-again');
  await page.waitForSelector('#new:not([hidden])');
  await page.waitForFunction(() => /^60 /.test(document.getElementById('mask-count').textContent));
  assert.equal(await page.inputValue('#task'), 'inpaint');
  await page.click('#mask-clear');
  assert.equal(await marked(page), 0);
});

flow('a mask is drawn with keys alone, and by numbers', async (page) => {
  await openMask(page);
  await page.focus('#brush');
  await page.keyboard.press('Home');
  assert.equal(await page.inputValue('#brush'), '1');
  await page.focus('#sheet-marks');
  await page.keyboard.press('Shift+ArrowLeft');
  await page.keyboard.press('ArrowUp');
  await page.keyboard.press(' ');
  assert.match(await page.textContent('#cursor-state'), /^22, 31: marked/);
  assert.equal(await marked(page), 1);
  await page.focus('input[name=tool][value=brush]');
  await page.keyboard.press('ArrowRight');
  assert.ok(await page.isChecked('input[name=tool][value=box]'));
  await page.focus('#sheet-marks');
  await page.keyboard.press(' ');
  for (const key of ['ArrowRight', 'ArrowRight', 'ArrowDown']) await page.keyboard.press(key);
  await page.keyboard.press(' ');
  assert.equal(await marked(page), 6);
  await page.keyboard.press('Control+z');
  assert.equal(await marked(page), 1);
  for (const [id, value] of [['left', 60], ['top', 0], ['width', 10], ['height', 2]]) await page.fill(`#box-${id}`, String(value));
  await page.click('#box-fill');
  assert.equal(await marked(page), 1 + 4 * 2, 'what lies outside is cut off');
  const { red } = await sentMask(page);
  assert.equal(red.filter((value) => value === 255).length, 9);
  assert.equal(red[31 * 64 + 22], 255);
});

flow('a mask is loaded from a file, and refused if its size is another', async (page) => {
  await openMask(page);
  const file = (side) => ({ name: 'mask.png', mimeType: 'image/png', buffer: png(side, side, (x, y) => (x < 5 && y < 4 ? [255, 255, 255] : [0, 0, 0])) });
  await page.setInputFiles('#mask-file', file(32));
  await page.waitForFunction(() => /32 × 32.*64 × 64/.test(document.getElementById('mask-error').textContent));
  await page.setInputFiles('#mask-file', file(64));
  await page.waitForFunction(() => /^20 /.test(document.getElementById('mask-count').textContent));
  const { red } = await sentMask(page);
  assert.equal(red.filter((value) => value === 255).length, 20);
});

flow('pixels to ignore are marked for any task', async (page) => {
  await upload(page, photo('dust.png'));
  await page.selectOption('#task', 'sr2');
  await unfold(page);
  await page.check('#use-ignore');
  await page.click('#box-fill');
  await planned(page);
  const id = await start(page);
  await finished(page);
  const { ignore, mask } = (await api(page, `/jobs/${id}`)).restoration;
  assert.equal(mask, null);
  const { red } = await redOf(page, `/api/v1/images/${ignore}/view`);
  assert.equal(red.filter((value) => value === 255).length, 64);
});

// Plans that cannot be

flow('an error of the plan stands beside the button, and goes when it is put right', async (page) => {
  await openMask(page);
  await page.waitForFunction(() => /mask/.test(document.getElementById('plan-error').textContent));
  assert.equal(await page.locator('#plan dt').count(), 0);
  await page.click('#start');
  assert.match(await page.textContent('#plan-error'), /hole\.png has no mask/);
  assert.equal(await page.evaluate(() => location.hash), '');
  await page.click('#box-fill');
  await planned(page);
  assert.equal(await page.textContent('#plan-error'), '');

  await page.fill('#samples', '99');
  await page.waitForFunction(() => /^Samples: /.test(document.getElementById('plan-error').textContent));
  assert.equal(await page.getAttribute('#samples', 'aria-invalid'), 'true');
  await page.click('#start');
  assert.equal(await page.evaluate(() => document.activeElement.id), 'samples');
});

// Jobs

flow('a running job shows how far it is, and is cancelled', async (page) => {
  const id = await startLong(page);
  await page.waitForFunction(() => document.getElementById('job-progress').value > 0, null, { timeout: PATIENCE });
  await page.waitForSelector('#job-preview:not([hidden])', { timeout: PATIENCE });
  await loaded(page, '#job-preview-picture');
  assert.ok(await page.getByRole('progressbar', { name: 'Progress of the job' }).isVisible());
  await shot(page, 'running-1280');
  assert.deepEqual(await faults(page), []);
  await page.click('#job-cancel');
  await page.waitForFunction(() => /cancelled/.test(document.getElementById('job-about').textContent), null, { timeout: PATIENCE });
  assert.equal(await stateOf(page, id), 'cancelled');
  assert.ok(await page.isHidden('#job-cancel'));
  await page.waitForSelector(`#history a[href="#job=${id}"]`);
});

flow('two jobs run in order', async (page) => {
  await upload(page, photo('first.png'));
  await page.selectOption('#task', 'sr2');
  await page.fill('#samples', '4');
  await planned(page);
  const first = await start(page);
  await page.click('#to-new');
  await page.fill('#samples', '1');
  await planned(page);
  const second = await start(page);
  const [one, two] = [await api(page, `/jobs/${first}`), await api(page, `/jobs/${second}`)];
  assert.ok(one.number < two.number);
  if (one.state !== 'done') {
    const queue = await page.locator('#queue a').evaluateAll((links) => links.map(({ hash }) => hash));
    assert.deepEqual(queue, [`#job=${first}`, `#job=${second}`]);
  }
  await finished(page);
  const [a, b] = [await api(page, `/jobs/${first}`), await api(page, `/jobs/${second}`)];
  assert.deepEqual([a.state, b.state], ['done', 'done']);
  assert.ok(a.finished <= b.started, 'the first ends before the second starts');
  const history = await page.locator('#history a').evaluateAll((links) => links.map(({ hash }) => hash));
  assert.deepEqual(history.slice(0, 2), [`#job=${second}`, `#job=${first}`], 'the newest comes first');
});

flow('several pictures make a job each', async (page) => {
  const names = ['a.png', 'b.png', 'c.png'];
  await upload(page, ...names.map((name, phase) => photo(name, phase)));
  await page.selectOption('#task', 'sr2');
  await page.waitForFunction(() => document.getElementById('start').textContent === 'Start 3 jobs');
  await page.click('button[aria-label="Remove b.png"]');
  await page.waitForFunction(() => document.querySelectorAll('.picture').length === 2);
  await page.waitForFunction(() => document.getElementById('start').textContent === 'Start 2 jobs');
  await page.click('#start');
  await page.waitForFunction(() => document.getElementById('start-state').textContent === '2 jobs started.');
  await page.waitForFunction(() => document.querySelectorAll('#queue li').length === 0, null, { timeout: PATIENCE });
  const { jobs } = await api(page, '/jobs?limit=2');
  assert.deepEqual(jobs.map(({ name, state }) => [name, state]), [['c.png', 'done'], ['a.png', 'done']]);
});

flow('a mask is copied to pictures of the same size', async (page) => {
  await upload(page, photo('a.png'), photo('b.png', 1), photo('c.png', 2, 48));
  await page.selectOption('#task', 'inpaint');
  await page.check('.picture:has-text("a.png") input');
  await page.click('#box-fill');
  await page.click('#mask-copy');
  await page.check('.picture:has-text("b.png") input');
  await page.waitForFunction(() => /^64 of 4096/.test(document.getElementById('mask-count').textContent));
  await page.check('.picture:has-text("c.png") input');
  await page.waitForFunction(() => /^0 of 2304/.test(document.getElementById('mask-count').textContent));
});

test('the server is killed in the middle of a job and started again: the job ends', { timeout: 3 * PATIENCE }, async (t) => {
  const home = folder();
  const first = await serve(home, GALLERY);
  t.after(() => first.stop('SIGKILL'));
  const { page, close } = await open(browser, first);
  const id = await startLong(page);
  await page.waitForFunction(() => document.getElementById('job-progress').value > 0, null, { timeout: PATIENCE });
  assert.equal(await stateOf(page, id), 'running');
  await first.stop('SIGKILL');
  await page.waitForSelector('#banner:not([hidden])');
  assert.match(await page.textContent('#banner'), /does not answer/);
  const second = await serve(home, GALLERY, { listen: new URL(first.origin).host });
  t.after(() => second.stop('SIGTERM'));
  await page.waitForSelector('#banner[hidden]', { state: 'attached' });
  await finished(page);
  assert.equal(await stateOf(page, id), 'done');
  await loaded(page, '#view-right');
  await close();
});

test('a browser that does not know the token is told where to get it, and goes on when it does', { timeout: PATIENCE }, async (t) => {
  const guarded = await serve(folder(), GALLERY, { more: ['--require-token'] });
  t.after(() => guarded.stop('SIGTERM'));
  const { page, context, close } = await open(browser, guarded);
  assert.match(guarded.address, /token=/);
  assert.doesNotMatch(page.url(), /token=/);
  const cookies = await context.cookies();
  await context.clearCookies();
  await page.setInputFiles('#files', [photo('photo.png')]);
  await page.waitForSelector('#banner:not([hidden])');
  assert.match(await page.textContent('#banner'), /Open the address that the server printed/);
  await context.addCookies(cookies);
  await page.reload();
  await upload(page, photo('photo.png'));
  assert.ok(await page.isHidden('#banner'));
  await close();
});

// For everybody

flow('everything from upload to result goes by keyboard', async (page) => {
  const focused = () => page.evaluate(() => document.activeElement.id);
  /** Presses Tab until the focus is there. */
  const tabTo = async (id) => {
    for (let presses = 0; presses < 80; presses++) {
      if ((await focused()) === id) return;
      await page.keyboard.press('Tab');
    }
    assert.fail(`Tab does not come to ${id}`);
  };
  await tabTo('files');
  const outline = await page.locator('label[for=files]').evaluate((label) => getComputedStyle(label).outlineStyle);
  assert.equal(outline, 'solid', 'the focus is seen');
  const [chooser] = await Promise.all([page.waitForEvent('filechooser'), page.keyboard.press(' ')]);
  await chooser.setFiles([photo('keys.png')]);
  await page.waitForSelector('.picture');
  await tabTo('task');
  await page.keyboard.press('Home');
  assert.equal(await page.inputValue('#task'), await page.locator('#task option').first().getAttribute('value'));
  await planned(page);
  await tabTo('start');
  await page.keyboard.press('Enter');
  await page.waitForFunction(() => /^#job=/.test(location.hash));
  assert.equal(await focused(), 'job-title');
  await finished(page);
  await tabTo('stage');
  const before = await boxOf(page, '#view-left');
  await page.keyboard.press('+');
  assert.ok((await boxOf(page, '#view-left')).width > before.width);
  await tabTo('divider');
  await page.keyboard.press('ArrowLeft');
  assert.equal(await page.inputValue('#divider'), '49');
});

/**
 * Presses what lies below a frame until `shown` is there. Right after it has scrolled, Chromium can still send a press to where
 * the frame was.
 */
async function pressBelowFrame(page, selector, shown) {
  for (let press = 0; press < 5; press++) {
    await page.click(selector);
    const seen = page.waitForSelector(shown, { timeout: 2000 });
    if (await seen.then(() => true, () => false)) return;
  }
  assert.fail(`pressing ${selector} does not show ${shown}`);
}

/** Goes through the views; `look` is called with the name of each. */
async function everyView(page, look) {
  await look('empty');
  await openMask(page);
  await page.click('#box-fill');
  await page.selectOption('#gallery', 'pictures');
  await unfold(page);
  await page.check('#use-ignore');
  await planned(page);
  await look('mask');
  await page.uncheck('#use-ignore');
  await page.selectOption('#task', 'deblur');
  await page.fill('#samples', '99');
  await page.waitForFunction(() => document.getElementById('plan-error').textContent !== '');
  await look('error');
  await page.selectOption('#gallery', '');
  await page.selectOption('#task', 'sr2');
  await page.fill('#samples', '2');
  await planned(page);
  await page.click('#plan-settings > summary');
  await loaded(page, '#preview-picture');
  await look('plan');
  await start(page);
  await finished(page);
  await loaded(page, '#view-right');
  await look('result');
  await page.click('#job-report > summary');
  await page.frameLocator('#job-report iframe').locator('h1').first().waitFor();
  await pressBelowFrame(page, '#job-delete', '#confirm[open]');
  await look('dialog');
  await page.click('#confirm-no');
  await page.evaluate(() => { location.hash = `job=${'0'.repeat(32)}`; });
  await page.waitForFunction(() => document.getElementById('job-error').textContent !== '');
  await look('missing');
}

for (const [name, options] of [
  ['1280', {}],
  ['1280-dark', { colorScheme: 'dark' }],
  ['360', { viewport: { width: 360, height: 740 }, hasTouch: true }],
  ['360-dark', { viewport: { width: 360, height: 740 }, colorScheme: 'dark' }],
]) {
  flow(`axe finds no serious fault, and nothing is too wide or too small: ${name}`, async (page) => {
    await everyView(page, async (view) => {
      await shot(page, `${view}-${name}`);
      assert.deepEqual(await faults(page), [], view);
      assert.deepEqual(await small(page), [], view);
      assert.ok((await overflow(page)) <= 0, `${view} is wider than the window by ${await overflow(page)} pixels`);
    });
    const [red] = (await page.evaluate(() => getComputedStyle(document.body).backgroundColor)).match(/\d+/g).map(Number);
    assert.equal(red < 64, options.colorScheme === 'dark');
  }, options);
}
