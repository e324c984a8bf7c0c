// Opens reports in Chromium. usage: report_test.mjs QUANTFIT DATA_FOLDER MODELS_FOLDER [SCREENSHOTS_FOLDER]
// MODELS_FOLDER may be missing; it adds a mixture of experts. Exit status 77 without playwright-core or Chromium.
import {execFileSync} from 'node:child_process';
import {existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join} from 'node:path';

import {expect, failures, finish, launched} from './browser.mjs';

const [binary, data, models, screenshots] = process.argv.slice(2);
const browser = await launched();
const folder = mkdtempSync(join(tmpdir(), 'quantfit-report-'));
const run = (...words) => execFileSync(binary, words, {stdio: ['ignore', 'ignore', 'pipe']});
const page_of = (name) => join(folder, name + '.html');

const common = ['--effort', 'fast', '-q', '--objective', 'prior', '--error-feedback', 'off'];
run('plan', join(data, 'tale-dense-F16.gguf'), '--imatrix', join(data, 'tale-dense.imatrix.gguf'), ...common, '--target-bpw',
    '3,4.5', '--state', join(folder, 's.qfstate'), '--report', page_of('dense'));
run('report', join(folder, 's.qfstate'), '-q', '-o', page_of('state'));
const reports = ['dense', 'state'];
if (models && existsSync(join(models, 'tale-moe-F16.gguf'))) {
  run('plan', join(models, 'tale-moe-F16.gguf'), '--imatrix', join(models, 'tale-moe.imatrix.gguf'), ...common, '--target-bpw',
      '4', '--report', page_of('moe'));
  reports.push('moe');
}

// A real page with other data.
const split = (html) => html.split(/(?<=<script id="data" type="application\/json">)|(?=<\/script>\n<script type="module">)/);
const real = split(readFileSync(page_of('dense'), 'utf8'));
expect('the page has one place for data', real.length === 3);
const document_ = JSON.parse(real[1]);
const with_answer = (change) => {
  const copy = structuredClone(document_);
  change(copy, copy.answers.at(-1));
  return real[0] + JSON.stringify(copy).replaceAll('<', '\\u003c') + real[2];
};
// As many tensors as the largest mixtures of experts have.
writeFileSync(page_of('large'), with_answer((_, answer) => {
  const one = answer.tensors.filter((tensor) => tensor.layer === 0);
  answer.tensors = Array.from({length: 1500}, (_, i) => {
    const tensor = structuredClone(one[i % one.length]);
    tensor.layer = Math.floor(i / one.length);
    tensor.name = tensor.name.replace('blk.0.', `blk.${tensor.layer}.`);
    return tensor;
  });
}));
reports.push('large');
// With what only runs of the model add.
const add_measured = (copy, answer, name) => {
  const value = (quantity, number) => ({candidate: name, text: name, chunks: 8, quantity, value: number, standard_error: 1e-4});
  copy.evaluations.push(value('predicted kl divergence', 0.02), value('mean kl divergence', 0.021),
                        value('kl divergence before tuning', 0.03), value('kl divergence after tuning', 0.02),
                        value('change of kl divergence by tuning', -0.01));
  answer.candidates = [0.02, 0.03].map((mean, i) => ({rule: name, file_bytes: 1, predicted_error: 0.02, kept: i === 0,
                                                      kl_divergence: {mean, standard_error_over_chunks: 1e-4}}));
  copy.objective.gains_by_format = [{format: 'Q4_K', tensors: 2, ratio: 0.7}];
  copy.objective.gains_by_tensor = [{tensor: name, role: name, layer: 0, formats: 1, ratio: 0.7},
                                    {tensor: name + '2', role: name, formats: 1, ratio: 1.1}];
};
writeFileSync(page_of('measured'), with_answer((copy, answer) => add_measured(copy, answer, 'tale')));
reports.push('measured');
const hostile = '</script><img src=x onerror="document.title=1"><b>';
writeFileSync(page_of('hostile'), with_answer((copy, answer) => {
  copy.model.name = copy.model.architecture = hostile;
  for (const tensor of answer.tensors) tensor.name = tensor.role = hostile + tensor.name;
  for (const weight of copy.objective.weights) weight.tensor = weight.role = hostile + weight.tensor;
  copy.objective.source = hostile;
  add_measured(copy, answer, hostile);
  for (const recipe of answer.static_recipes) recipe.name = hostile;
  answer.notes = [hostile];
  answer.target.text = hostile;
  copy.provenance = [[hostile, hostile]];
}));
reports.push('hostile');

let fastest = Infinity;  // of several openings: other programs may be at work
for (const name of reports)
  for (const colorScheme of ['light', 'dark'])
    for (const width of [390, 1280]) {
      const here = `${name}, ${colorScheme}, ${width} pixels`;
      const page = await browser.newPage({viewport: {width, height: 900}, colorScheme});
      page.on('console', (message) => failures.push(`${here}: console: ${message.text()}`));
      page.on('pageerror', (error) => failures.push(`${here}: ${error.message}`));
      page.on('request', (request) => {
        if (!/^(file|data):/.test(request.url())) failures.push(`${here}: asks for ${request.url()}`);
      });
      await page.goto('file://' + page_of(name));
      await page.evaluate(() => new Promise((done) => requestAnimationFrame(() => setTimeout(done))));
      const took = await page.evaluate(() => performance.now());
      if (name === 'large') fastest = Math.min(fastest, took);
      const look = await page.evaluate(() => {
        const style = getComputedStyle(document.body);
        const luma = (colour) => {
          const [r, g, b] = colour.match(/\d+/g).map(Number);
          return 0.2126 * r + 0.7152 * g + 0.0722 * b;
        };
        return {wide: document.documentElement.scrollWidth, paper: luma(style.backgroundColor), ink: luma(style.color),
                headings: [...document.querySelectorAll('h2')].map((h) => h.id), rows: document.querySelectorAll('.tall tbody tr').length,
                cells: document.querySelectorAll('rect.cell').length, images: document.images.length, title: document.title,
                bold: document.querySelectorAll('b').length};
      });
      expect(`${here}: the page is ${look.wide} pixels wide`, look.wide <= width);
      expect(`${here}: ink and paper`, colorScheme === 'dark' ? look.paper < 60 && look.ink > 200 : look.paper > 240 && look.ink < 60);
      for (const id of ['map', 'tensors', 'origin', 'curve', 'sources', 'weights', ...(name === 'state' ? [] : ['statics']),
                        ...(name === 'measured' || name === 'hostile' ? ['foreseen', 'tuned', 'candidates', 'feedback'] : [])])
        expect(`${here}: no section ${id}`, look.headings.includes(id));
      expect(`${here}: ${look.cells} cells`, look.cells >= 24);
      expect(`${here}: markup from a name`, look.images === 0 && look.bold === 0 && look.title !== '1');
      if (screenshots) await page.screenshot({path: join(screenshots, `${name}-${width}-${colorScheme}.png`), fullPage: true});

      // Keyboard: pictures say where one is.
      for (const picture of await page.$$('svg[tabindex]')) {
        await picture.focus();
        const says = () => picture.evaluate((svg) => {
          let element = svg.closest('figure, .scroll');
          while (!element.classList.contains('says')) element = element.nextElementSibling;
          return element.textContent;
        });
        const first = await says();
        await page.keyboard.press('ArrowRight');
        if ((await says()) === first) await page.keyboard.press('ArrowDown');
        expect(`${here}: an arrow key changes nothing`, first !== '' && (await says()) !== first);
      }
      // The table sorts by what it shows, and filters.
      const texts = () => page.$$eval('.tall tbody tr:not([hidden])', (rows) => rows.map((row) => row.cells[4].textContent));
      const button = page.locator('.tall th button', {hasText: 'bytes'});
      await button.focus();
      await page.keyboard.press('Enter');
      const sizes = (await texts()).map((text) => Number(text.replaceAll(',', '')));
      expect(`${here}: largest first`, sizes.every((size, i) => i === 0 || size <= sizes[i - 1]) && sizes[0] > sizes.at(-1));
      await page.keyboard.press('Enter');
      expect(`${here}: smallest first`, Number((await texts())[0].replaceAll(',', '')) === sizes.at(-1));
      await page.fill('#filter', 'ffn_down');
      const left = (await texts()).length;
      expect(`${here}: ${left} of ${look.rows} rows after filtering`, left > 0 && left < look.rows);
      // Print: everything on paper, in dark ink.
      await page.fill('#filter', '');
      await page.emulateMedia({media: 'print'});
      const print = await page.evaluate(() => ({paper: getComputedStyle(document.body).backgroundColor,
        cut: getComputedStyle(document.querySelector('.tall')).maxHeight, controls: getComputedStyle(document.querySelector('.controls')).display}));
      expect(`${here}: print`, print.paper === 'rgb(255, 255, 255)' && print.cut === 'none' && print.controls === 'none');
      await page.close();
    }
const page = await browser.newPage();
await page.goto('file://' + page_of('dense'));
const before = await page.textContent('.facts');
await page.selectOption('#target', '0');
expect('another answer shows other facts', (await page.textContent('.facts')) !== before);
const pdf = await page.pdf();
expect('printing makes a document', pdf.length > 20000);
expect(`1,500 tensors opened after ${fastest} ms`, fastest < 1000);
await browser.close();
rmSync(folder, {recursive: true});
finish(`${reports.length} reports, 1,500 tensors opened in ${Math.round(fastest)} ms`);
