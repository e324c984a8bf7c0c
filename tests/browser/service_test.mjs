// The page of the service in Chromium, from the choice of a model to a file that the real client loads.
// usage: service_test.mjs QUANTFIT DATA_FOLDER [LLAMA_EVAL [SCREENSHOTS_FOLDER]]
// Exit status 77 without playwright-core or Chromium. Without llama.cpp's library the file is compared with the command
// line's alone.
import {execFileSync, spawn, spawnSync} from 'node:child_process';
import {copyFileSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join} from 'node:path';

import {basicsOf} from './basics.mjs';
import {expect, failures, finish, launched} from './browser.mjs';

const [binary, data, llama_eval, screenshots] = process.argv.slice(2);
const browser = await launched();
const folder = mkdtempSync(join(tmpdir(), 'quantfit-service-'));
const root = join(folder, 'models');
mkdirSync(root);
const MODEL = 'tale-dense-F16.gguf', MATRIX = 'tale-dense.imatrix.gguf';
// Options that make a job quick; as fields of the page, in its address, and on the command line.
const QUICK = {objective: 'prior', 'error-feedback': 'off', effort: 'fast'};
const words = (options) => Object.entries(options).flatMap(([name, value]) => [`--${name}`, value]);
const address = (options) => '#' + new URLSearchParams(options);

// The service, once it says where it is. One thread: a job is to last for long enough to be interrupted.
const serve = (...more) => new Promise((resolve, reject) => {
  const service = spawn(binary, ['serve', '--root', root, '--threads', '1', ...more], {stdio: ['ignore', 'pipe', 'pipe']});
  let said = '', trouble = '';
  service.stderr.on('data', (text) => { trouble += text; });
  service.stdout.on('data', (text) => {
    said += text;
    const found = /http:\/\/127\.0\.0\.1:(\d+)\//.exec(said);
    if (found) resolve({service, url: found[0], port: found[1]});
  });
  service.on('exit', (status) => reject(new Error(`quantfit serve ended with ${status}: ${trouble}`)));
});
const stopped = ({service}, signal) => new Promise((resolve) => {
  if (service.exitCode !== null || service.signalCode !== null) return resolve();
  service.removeAllListeners('exit');
  service.on('exit', resolve);
  service.kill(signal);
});

let running = await serve('--listen', '127.0.0.1:0');
const context = await browser.newContext({viewport: {width: 1280, height: 900}, reducedMotion: 'reduce', acceptDownloads: true});
context.setDefaultTimeout(30000);
// Nothing is asked for elsewhere, and nothing goes wrong; refusals that the page shows are no trouble.
let expected = /status of (401|404|409|422|400)/;
const watched = (page, here) => {
  page.on('console', (message) => {
    if (message.type() === 'error' && !expected.test(message.text())) failures.push(`${here}: console: ${message.text()}`);
  });
  page.on('pageerror', (error) => failures.push(`${here}: ${error.stack}`));
  page.on('request', (request) => {
    if (!request.url().startsWith(running.url) && !/^(data|blob):/.test(request.url())) failures.push(`${here}: asks for ${request.url()}`);
  });
  return page;
};
const page = watched(await context.newPage(), 'page');
const text = (selector) => page.textContent(selector);
const shot = async (name) => {
  if (screenshots) await page.screenshot({path: join(screenshots, `service-${name}.png`), fullPage: true});
};
const look = async (here) => {
  for (const wrong of await basicsOf(page)) failures.push(`${here}: ${wrong}`);
};
const job = (status) => page.locator(`.job[data-status=${status}]`);

let client = 'no client';
const walk = async () => {
  // No models: what to do is said. Then one appears by itself, and is opened.
  await page.goto(running.url);
  await page.getByRole('heading', {name: 'No models here yet'}).waitFor();
  expect('the folder is named', (await text('#nothing')).includes('models'));
  await look('without models');
  await shot('empty');
  copyFileSync(join(data, MATRIX), join(root, MATRIX));
  copyFileSync(join(data, MODEL), join(root, MODEL));
  writeFileSync(join(root, '<img src=x onerror="document.title=1">.gguf'), 'no model');
  await page.locator('#model-name', {hasText: 'tale-dense-F16'}).waitFor();
  expect('names are no markup', (await page.$$('img')).length === 0 && (await text('#model-list')).includes('<img src=x'));

  // Parts that no eye sees: streams cut anywhere, words for a shell.
  const parts = await page.evaluate(async () => {
    const {eventParser} = await import('/api.js');
    const {commandLine} = await import('/options.js');
    const {colourOf} = await import('/elements.js');
    const stream = ': still here\r\n\r\nid: 7\nevent: progress\ndata: {"a":\ndata: 1}\n\ndata: last\n\nid: 9\n\n';
    const whole = [];
    for (let cut = 0; cut <= stream.length; ++cut) {
      const events = [];
      const take = eventParser((event) => events.push(event));
      take(stream.slice(0, cut));
      take(stream.slice(cut));
      whole.push(JSON.stringify(events));
    }
    const formats = ['IQ1_S', 'IQ1_M', 'IQ2_XXS', 'IQ2_XS', 'IQ2_S', 'IQ3_XXS', 'IQ3_S', 'IQ4_XS', 'IQ4_NL', 'Q2_K', 'Q3_K', 'Q4_K', 'Q5_K', 'Q6_K',
                     'Q4_0', 'Q4_1', 'Q5_0', 'Q5_1', 'Q8_0', 'F16', 'BF16', 'F32', 'MXFP4', 'NVFP4', 'TQ1_0', 'TQ2_0'];
    const colours = new Set(formats.map((format) => colourOf(format, 4)));
    return {streams: [...new Set(whole)], colours: colours.size === formats.length && /^rgb\(\d+,\d+,\d+\)$/.test(colourOf('ANY', 3)), line: commandLine('quantize', {model: 'a b.gguf', 'leave-output-tensor': true, 'tensor-type': ["o'f=Q8_0", '$(x)=F16']})};
  });
  expect(`events ${parts.streams}`, parts.streams.length === 1 && parts.streams[0] ===
         JSON.stringify([{id: '7', event: 'progress', data: '{"a":\n1}'}, {event: 'message', data: 'last'}]));
  expect('a colour for every format', parts.colours);
  expect(`words ${parts.line}`, execFileSync('bash', ['-c', `quantfit() { printf '%s|' "$@"; }; ${parts.line}`], {encoding: 'utf8'}) ===
         "quantize|a b.gguf|--leave-output-tensor|--tensor-type|o'f=Q8_0|--tensor-type|$(x)=F16|");

  // With the keyboard alone: to the model, to the options, to the button that measures.
  await page.locator('#outcome h2', {hasText: 'Not measured yet'}).waitFor();
  expect('a map of the source', (await page.$$('rect.cell')).length >= 24);
  await look('not measured');
  await shot('not-measured');
  await page.keyboard.press('Tab');
  expect('the first stop leads to the model', (await page.evaluate(() => document.activeElement.className)) === 'skip');
  await page.keyboard.press('Enter');
  expect('and goes there', (await page.evaluate(() => document.activeElement.id)) === 'work');
  await page.focus('#options > summary');
  await page.keyboard.press('Enter');
  for (const [name, value] of Object.entries(QUICK)) {
    const field = page.locator(`#option-fields [data-option="${name}"]`);
    await field.evaluate((element) => { element.closest('details').open = true; });
    await field.selectOption(value);
  }
  expect('options are in the address', Object.entries(QUICK).every(([name, value]) => page.url().includes(`${name}=${value}`)));
  await look('all options');
  await shot('options');
  await page.focus('#outcome button');
  await page.keyboard.press('Enter');
  await job('done').waitFor();
  await page.locator('#outcome .facts dd').first().waitFor();
  await page.locator('path.curve').waitFor();

  // The slider, moved by keys, says what comes out; it is what the command line says.
  const answerOf = async () => {
    await page.waitForFunction(() => !document.querySelector('#outcome.stale'));
    return page.$$eval('#outcome .facts > div', (tiles) => Object.fromEntries(tiles.map((tile) => [tile.children[0].textContent, tile.children[1].textContent])));
  };
  await page.focus('#slider');
  const before = await answerOf();
  const moved = page.waitForResponse((response) => response.url().endsWith('/plan'));
  await page.keyboard.press('PageUp');
  await moved;
  await page.waitForFunction((old) => document.querySelector('#outcome .facts dd')?.textContent !== old, before.file);
  const amount = await page.inputValue('#amount');
  expect(`the slider's text ${amount}`, Number(amount) > 4.5 && (await page.getAttribute('#slider', 'aria-valuetext')).includes('bits per weight'));
  const plan = (...target) => JSON.parse(execFileSync(binary, ['plan', join(root, MODEL), '--imatrix', join(root, MATRIX), ...words(QUICK), '--state',
    join(folder, 'own.qfstate'), ...target, '--json', '-q'], {stdio: ['ignore', 'pipe', 'ignore']})).answers[0];
  const same = plan('--target-bpw', amount);
  expect('bits per weight are the command line\u2019s', Math.abs(Number((await answerOf())['bits per weight']) - same.bpw) < 1e-3);
  expect('sizes are the command line\u2019s', (await answerOf()).file === `${(same.file_bytes / 1024 ** 2).toFixed(2)} MiB`);
  await page.locator('#details summary', {hasText: 'All tensors'}).click();
  await page.waitForFunction((count) => document.querySelectorAll('.tall tbody tr').length === count, same.tensors.length);  // made when opened
  const formats = await page.$$eval('.tall tbody tr', (rows) => rows.map((row) => row.cells[2].textContent));
  expect('formats are the command line\u2019s', formats.join() === same.tensors.map((tensor) => tensor.format).join());
  await page.locator('#spoken', {hasText: 'bits per weight'}).waitFor({state: 'attached'});
  await look('an answer');
  // A fast hand: of many places the last one counts.
  for (let i = 0; i < 30; ++i) await page.keyboard.press('ArrowLeft');
  const last = await page.inputValue('#amount');
  await page.waitForFunction((bits) => Math.abs(Number(document.querySelectorAll('#outcome .facts dd:nth-child(2)')[1].textContent) - bits) < 0.02, Number(last));
  // The curve is walked along with keys, and gives a target.
  await page.focus('#outcome svg');
  await page.keyboard.press('End');
  await page.keyboard.press('ArrowLeft');
  await page.keyboard.press('Enter');
  await page.waitForFunction((old) => document.querySelector('#amount').value !== old, last);
  // A mistake is explained at the field.
  await page.fill('#amount', '4,5');
  await page.locator('#amount-problem .problem', {hasText: 'comma'}).waitFor();
  expect('the field is marked', (await page.getAttribute('#amount', 'aria-invalid')) === 'true');
  await look('a mistake');
  await page.fill('#amount', '1');
  await page.locator('#outcome .problem', {hasText: 'cannot be reached'}).waitFor();
  expect('the mark is gone', (await page.getAttribute('#amount', 'aria-invalid')) === null);
  // Other kinds of targets.
  await page.getByRole('radio', {name: 'File size'}).check();
  await page.fill('#amount', '3.5MiB');
  await page.waitForFunction(() => document.querySelector('#outcome .facts dd')?.textContent.startsWith('3.5'));
  await page.getByRole('radio', {name: 'Memory of a card'}).check();
  await page.getByRole('button', {name: '8 GiB', exact: true}).click();
  await page.locator('.card-bar', {hasText: 'weights'}).waitFor();
  await page.locator('[data-option="cache-type-k"]').selectOption('q8_0');
  await page.locator('#details', {hasText: 'K Q8_0'}).waitFor();
  await look('a card');
  await shot('card');

  // A mixture, and several targets side by side.
  await page.getByRole('radio', {name: 'A mixture'}).check();
  await page.locator('#mixture').selectOption('Q4_K_M');
  await page.locator('#outcome .facts', {hasText: '4.97'}).waitFor();
  expect('no amount beside a mixture', await page.isHidden('#amount') && await page.isHidden('#slider'));
  await look('a mixture');
  await page.getByRole('radio', {name: 'Bits per weight'}).check();
  await page.fill('#amount', '4.5');
  await page.getByRole('button', {name: 'Also this one'}).click();
  await page.fill('#amount', '4');
  const side_by_side = page.locator('#outcome table', {hasText: 'All targets'});
  await side_by_side.waitFor();
  expect('two targets', (await side_by_side.locator('tbody tr').count()) === 2 && /--target-bpw 4 --target-bpw 4.5/.test(await text('#shell-text')));
  await look('two targets');
  await page.reload();
  await side_by_side.waitFor();
  await page.getByRole('button', {name: 'Leave out 4.5'}).click();
  await side_by_side.waitFor({state: 'detached'});

  // Phones and the other scheme.
  await page.fill('#amount', '4.5');
  await page.locator('#outcome .beside').waitFor();
  for (const colorScheme of ['light', 'dark'])
    for (const width of [390, 1280]) {
      await page.setViewportSize({width, height: 900});
      await page.emulateMedia({colorScheme, reducedMotion: 'reduce'});
      await page.waitForTimeout(100);
      await look(`${colorScheme}, ${width} pixels`);
      await shot(`${width}-${colorScheme}`);
    }
  await page.emulateMedia({colorScheme: 'light'});

  // A job that takes long enough to be interrupted; the page is loaded again in its middle.
  const SLOW = {...QUICK, effort: 'max', 'sample-rows': '100000'};
  const TARGET = '4.25';
  await page.goto(running.url + address({model: `models/${MODEL}`, imatrix: `models/${MATRIX}`, 'target-bpw': TARGET, ...SLOW}));
  await page.locator('#outcome h2', {hasText: 'Not measured yet'}).waitFor();
  await page.locator('#shell summary').click();
  expect('a command line', /quantfit quantize .*--target-bpw 4.25/.test(await text('#shell-text')));
  await page.click('#start');
  await page.locator('.job[data-status=running] .figures strong').waitFor();
  await page.reload();
  await page.locator('.job[data-status=running] .figures strong').waitFor();
  await page.locator('#model-name', {hasText: 'tale-dense'}).waitFor();
  expect('options are there after a reload', (await page.inputValue('#amount')) === TARGET &&
                                             (await page.inputValue('[data-option="sample-rows"]')) === '100000');
  // Another one waits behind it.
  await page.fill('#amount', '5');
  await page.click('#start');
  await job('queued').locator('.status', {hasText: 'waiting'}).waitFor();
  expect('both are counted', (await text('#to-jobs')).includes('1 running, 1 waiting'));
  await look('a job at work');
  await shot('running');
  await job('queued').getByRole('button', {name: 'Stop'}).click();
  await job('cancelled').getByRole('button', {name: 'Delete'}).click();
  await page.getByRole('button', {name: 'Really delete'}).click();
  await job('cancelled').waitFor({state: 'detached'});
  await job('running').getByRole('button', {name: 'Stop'}).click();
  await job('cancelled').waitFor();
  expect('it is said', (await text('#jobs-spoken')).includes('stopped'));
  await shot('stopped');
  expect('no file of a stopped job', (await job('cancelled').locator('.results li').count()) === 0);
  await job('cancelled').getByRole('button', {name: 'Resume'}).click();
  await page.locator('.job[data-status=running] .figures strong').waitFor();
  // kill -9, and a new start at the same place: the page finds it again and the job goes on.
  expected = /status of|Failed to load resource|ERR_/;
  await stopped(running, 'SIGKILL');
  await page.locator('#link', {hasText: 'does not answer'}).waitFor();
  running = await serve('--listen', `127.0.0.1:${running.port}`);
  await page.locator('#link', {hasText: 'at a time'}).waitFor();
  const made = page.locator('.job[data-status=done]', {hasText: TARGET});
  await made.waitFor({timeout: 240000});
  await shot('done');
  await look('a job that is done');

  // The file is the one that the command line makes, and the real client loads it.
  const download = page.waitForEvent('download');
  await made.getByRole('link', {name: 'File'}).click();
  const file = join(folder, 'downloaded.gguf');
  await (await download).saveAs(file);
  execFileSync(binary, ['quantize', join(root, MODEL), '--imatrix', join(root, MATRIX), ...words(SLOW), '--target-bpw', TARGET, '-q',
                        '-o', join(folder, 'own.gguf')], {stdio: ['ignore', 'ignore', 'inherit']});
  expect('the same bytes as the command line\u2019s', readFileSync(file).equals(readFileSync(join(folder, 'own.gguf'))));
  if (llama_eval && existsSync(llama_eval)) {
    writeFileSync(join(folder, 'text'), readFileSync(join(data, 'eval-books.txt'), 'utf8').slice(0, 6000));
    const scored = spawnSync(llama_eval, [join(root, MODEL), file, '-f', join(folder, 'text'), '-n', '1', '-c', '256', '--json', '-q'], {encoding: 'utf8'});
    if (scored.status !== 77) {
      client = 'loaded by llama.cpp';
      expect(`llama.cpp: ${scored.stderr}`, scored.status === 0 && JSON.parse(scored.stdout).candidates[0].kld < 1);
    }
  }
  const recipe = await context.request.get(new URL(await made.getByRole('link', {name: 'Recipe'}).getAttribute('href'), running.url).href);
  expect('the recipe', recipe.ok() && (await recipe.text()).includes('attn_q'));
  const opened = context.waitForEvent('page');
  await made.getByRole('link', {name: 'Report'}).click();
  const report = watched(await opened, 'report');
  await report.locator('#map').waitFor();
  await report.close();

  // The file is measured on a text; tuning it is offered.
  expect('tuning is offered', await made.getByRole('button', {name: 'Tune'}).isVisible());
  await made.getByRole('button', {name: 'Evaluate'}).click();
  await made.locator('.soft', {hasText: 'A text is needed'}).waitFor();
  writeFileSync(join(root, 'held-out.txt'), readFileSync(join(data, 'eval-books.txt'), 'utf8').slice(0, 6000));
  await page.reload();
  await made.getByRole('button', {name: 'Evaluate'}).click();
  await made.getByRole('button', {name: 'Evaluate', exact: true}).click();
  const evaluated = page.locator('.job[data-status=done]', {hasText: 'divergence'});
  await evaluated.locator('.findings', {hasText: 'KL divergence'}).waitFor();
  await look('an evaluation');
  await shot('evaluated');
  await evaluated.getByRole('button', {name: 'Delete'}).click();
  await page.getByRole('button', {name: 'Really delete'}).click();
  await evaluated.waitFor({state: 'detached'});

  // Delete: asked once, gone, and its file with it.
  await made.getByRole('button', {name: 'Delete'}).click();
  expect('a question first, with the way out at hand', (await page.evaluate(() => document.activeElement.textContent)) === 'Keep');
  await made.getByRole('button', {name: 'Really delete'}).click();
  await made.waitFor({state: 'detached'});
  // What cannot be read says why.
  await page.locator('#model-list a', {hasText: '<img'}).click();
  await page.locator('#model-trouble .problem').waitFor();
  expect('no form for it', await page.isHidden('#form'));
  await page.goto('about:blank');
  await stopped(running, 'SIGTERM');

  // With a token: asked once, also over a reload and a new start of the service.
  const tokens = join(folder, 'tokens');
  writeFileSync(tokens, 'a-token-of-the-test-0123456789abcdef\n', {mode: 0o600});
  running = await serve('--listen', '127.0.0.1:0', '--token-file', tokens);
  await page.goto(running.url);
  await page.fill('#token-text', 'wrong');
  await page.keyboard.press('Enter');
  await page.locator('#token-problem', {hasText: 'not the token'}).waitFor();
  await page.fill('#token-text', 'a-token-of-the-test-0123456789abcdef');
  await page.keyboard.press('Enter');
  await page.locator('#model-name', {hasText: 'tale-dense'}).waitFor();
  await page.reload();
  await page.locator('#model-name', {hasText: 'tale-dense'}).waitFor();
  await page.goto('about:blank');
  await stopped(running, 'SIGTERM');
  running = await serve('--listen', `127.0.0.1:${running.port}`, '--token-file', tokens);
  await page.goto(running.url);
  await page.locator('#model-name', {hasText: 'tale-dense'}).waitFor();
  expect('nobody is asked again', (await page.locator('dialog[open]').count()) === 0);
};

try {
  await walk();
} catch (error) {
  failures.push(error.stack);
  await shot('failure');
}
await browser.close();
await stopped(running, 'SIGTERM');
rmSync(folder, {recursive: true});
finish(`the page of the service, ${client}`);
