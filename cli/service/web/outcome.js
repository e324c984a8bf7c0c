// What comes out of a target: figures, the curve with the chosen point, the map of layers by roles, tables.
import {bytes, make, number, percent, qualityText, sum, weights} from './elements.js';
import {curvePicture} from './curve.js';
import {layerMap} from './layer_map.js';
import {formatTable, gainTable, memoryTable, mixtureTable, tensorTable} from './tables.js';

const unit = (answer) => (answer.error_unit === 'nats' ? ' nats' : '');

// One sentence, also for people who hear the page.
export const outcomeText = (answer) =>
  (answer.feasible ? `${bytes(answer.file_bytes)}, ${number(answer.bpw, 4)} bits per weight` +
                       (answer.quality ? `, ${qualityText(answer.quality)}` : '')
                   : unreachable(answer));
const unreachable = (answer) => {
  const [budget] = answer.budgets;
  if (budget.shortfall_bytes > 0)
    return `${answer.target.text} cannot be reached: cache and buffers alone need ${bytes(budget.shortfall_bytes)} more.`;
  return `${answer.target.text} cannot be reached: ${budget.of} can take ${bytes(budget.smallest_bytes)} to ${bytes(budget.largest_bytes)}, ` +
         `${bytes(budget.smallest_bytes - answer.budget_bytes)} more than this leaves.`;
};

const tile = (name, value, more) =>
  make('div', {}, make('dt', {}, name), make('dd', {}, value), more ? make('dd', {class: 'more'}, more) : null);

const qualityTile = ({like, ratio}) =>
  (Math.abs((ratio ?? 1) - 1) <= 0.1 ? tile('quality', `like ${like}`, 'about as far from the original')
   : ratio > 0 ? tile('quality', `${number(ratio, 3)} \u00d7 ${like}`, `times as far from the original as ${like}`)
               : tile('quality', 'as the source', 'nothing is lost'));

const tiles = (answer, model) => {
  const [budget] = answer.budgets;
  const left = budget.budget_bytes === undefined ? 0 : budget.budget_bytes - budget.used_bytes;
  return [
    tile('file', bytes(answer.file_bytes), model.file_bytes > 0 ? `${percent(answer.file_bytes / model.file_bytes)} of the source` : null),
    tile('bits per weight', number(answer.bpw, 5), left > 0 && left < answer.tensor_bytes ? `${bytes(left)} of the budget unused` : null),
    answer.predicted_error === undefined ? null
      : tile(unit(answer) ? 'predicted divergence' : 'predicted error', number(answer.predicted_error, 3) + unit(answer),
             unit(answer) ? null : 'relative: only ratios mean something'),
    answer.quality ? qualityTile(answer.quality) : null,
    answer.allocation ? tile('proof', answer.allocation.termination === 'optimal' ? 'optimal' : `within ${percent(answer.allocation.gap)}`,
                             answer.allocation.termination === 'optimal' ? 'no choice of formats is better' : null) : null,
  ];
};

// The mixtures nearest in size, with the answer among them.
const beside = (answer) => {
  const others = answer.static_recipes.filter((one) => one.predicted_error > 0);
  if (!(answer.predicted_error > 0) || others.length === 0) return null;
  const above = others.findIndex((one) => one.tensor_bytes > answer.tensor_bytes);
  const middle = above < 0 ? others.length : above;
  const near = [...others.slice(Math.max(middle - 3, 0), middle).map((one) => [one.name, one, false]), ['this', answer, true],
                ...others.slice(middle, middle + 3).map((one) => [one.name, one, false])];
  const longest = Math.max(...near.map(([, one]) => one.predicted_error));
  return make('table', {class: 'beside'}, make('caption', {}, 'Beside llama.cpp\u2019s mixtures of about this size'),
    make('thead', {}, make('tr', {}, ['', 'bits', 'size', 'error', ''].map((title, i) =>
      make(title === '' ? 'td' : 'th', {class: i ? 'number' : null, scope: title === '' ? null : 'col'}, title)))),
    make('tbody', {}, near.map(([name, one, own]) => {
      const bar = make('i', {class: own ? null : 'bias'});
      bar.style.width = `${100 * one.predicted_error / longest}%`;
      return make('tr', {class: own ? 'own' : null}, make('th', {scope: 'row'}, name), make('td', {class: 'number'}, number(one.bpw, 4)),
                  make('td', {class: 'number'}, bytes(one.tensor_bytes)), make('td', {class: 'number'}, number(one.predicted_error, 3)),
                  make('td', {class: 'bar', 'aria-hidden': 'true'}, make('span', {class: 'track'}, bar)));
    })));
};

// Several targets of one job, side by side.
const targets = (answers) => (answers.length < 2 ? null
  : make('table', {class: 'beside'}, make('caption', {}, 'All targets of the job'),
         make('thead', {}, make('tr', {}, ['target', 'bits', 'file', 'error'].map((title, i) => make('th', {class: i ? 'number' : null, scope: 'col'}, title)))),
         make('tbody', {}, answers.map((answer, i) => make('tr', {class: i ? null : 'own'}, make('th', {scope: 'row'}, answer.target.text),
           answer.feasible ? [make('td', {class: 'number'}, number(answer.bpw, 4)), make('td', {class: 'number'}, bytes(answer.file_bytes)),
                              make('td', {class: 'number'}, answer.predicted_error === undefined ? '' : number(answer.predicted_error, 3))]
                           : make('td', {colspan: 3}, 'cannot be reached'))))));

// What fills the card: weights, cache and buffers, and what is left.
const cardBar = (answer) => {
  const gpu = answer.budgets.find((one) => one.of === 'GPU');
  const total = answer.target.vram_bytes;
  if (!answer.memory || !gpu || !total) return null;
  const all = [['weights', gpu.used_bytes], ...answer.memory.items.filter((one) => one.device === 'GPU').map((one) => [one.what, one.bytes])];
  const free = total - sum(all, ([, size]) => size);
  // What nobody could see in the bar is one part.
  const tiny = all.filter(([name, size]) => size < total / 200 && name !== 'weights');
  const items = tiny.length < 2 ? all : [...all.filter((one) => !tiny.includes(one)), ['other', sum(tiny, ([, size]) => size)]];
  if (free > 0) items.push(['free', free]);
  const track = make('div', {class: 'stack', 'aria-hidden': 'true'}, items.map(([name, size], i) => {
    const part = make('i', {class: name === 'free' ? 'free' : `part${i % 7}`});
    part.style.width = `${100 * size / total}%`;
    return part;
  }));
  return make('div', {class: 'card-bar'}, make('h3', {}, 'On the card'), track, make('ul', {class: 'legend'}, items.map(([name, size], i) =>
    make('li', {}, make('i', {class: name === 'free' ? 'free' : `part${i % 7}`}), `${name} ${bytes(size)}`))));
};

const section = (title, ...children) => make('section', {}, title ? make('h2', {}, title) : null, children);

// Draws into `root` (figures and curve) and `details` (map and tables). `pick(bits)`: a size was taken from the curve.
export const outcomeView = (root, details, pick) => {
  let model = null, frontier = null, answer = null, curve = null, map = null, map_names = '';
  const figures = make('dl', {class: 'facts'}), notes = make('div'), card = make('div'), near = make('div');
  const curve_place = make('div', {class: 'curve-place'}), map_place = make('div');
  const formats = make('div'), memory = make('div');
  // Long tables are made when somebody looks; a new one is sorted and filtered like the one before.
  const later = (title, what) => {
    const body = make('div', {class: 'scroll'});
    const box = make('details', {}, make('summary', {}, title), body);
    const fill = () => {
      if (!box.open || !answer) return;
      const words = body.querySelector('input')?.value ?? '', writing = body.contains(document.activeElement);
      const sorted = [...body.querySelectorAll('th')].findIndex((head) => head.hasAttribute('aria-sort'));
      const order = body.querySelector('[aria-sort]')?.getAttribute('aria-sort');
      body.replaceChildren(what(answer));
      const head = body.querySelectorAll('th')[sorted];
      for (let i = 0; head && i < 2 && head.getAttribute('aria-sort') !== order; ++i) head.querySelector('button').click();
      const filter = body.querySelector('input');
      if (!filter) return;
      filter.value = words;
      filter.dispatchEvent(new Event('input'));
      if (writing) filter.focus();
    };
    box.addEventListener('toggle', fill);
    let timer = 0;
    const fillSoon = () => {  // a long table cannot follow every step of a slider
      clearTimeout(timer);
      timer = setTimeout(fill, 200);
    };
    return {box, fillSoon};
  };
  const tables = [later('All tensors', (a) => tensorTable(a.tensors)),
                  later('All of llama.cpp\u2019s mixtures', (a) => mixtureTable(a.static_recipes)),
                  later('Where more bytes would help most', (a) => gainTable(a.gains))];

  const drawCurve = () => {
    if (!frontier) return curve_place.replaceChildren();
    curve = curvePicture({curve: frontier.curve, statics: frontier.static_recipes, answers: [], chosen: null,
                          nats: frontier.error_unit === 'nats', width: Math.max(320, Math.min(900, curve_place.clientWidth || 600)),
                          pick: (place) => pick(place.bpw)});
    curve_place.replaceChildren(...(curve ? [curve.element] : []));
    curve?.choose(answer);
  };
  const drawMap = (tensors) => {
    const names = [answer !== null, ...tensors.map((tensor) => tensor.name + (tensor.kept_because === undefined))].join();
    if (map && names === map_names) return map.update(tensors);
    map_names = names;
    map = layerMap(tensors, details.clientWidth || 900);
    map_place.classList.toggle('wide', map !== null && map.width > 0.6 * details.clientWidth);
    map_place.replaceChildren(...(map ? [section(answer ? 'Where the bits go' : 'Where the bits are', make('p', {class: 'soft'},
      'A column per layer, a row per role; a hue per family of formats, and the darker, the fewer bits.'), map.element)] : []));
  };
  let width = 0;
  new ResizeObserver(() => {
    if (details.clientWidth === width) return;
    width = details.clientWidth;
    map_names = '';
    if (answer || model) drawMap((answer ?? model).tensors);
    drawCurve();
  }).observe(details);

  return {
    // A model that nothing was asked about yet: its tensors as they are.
    open: (next) => {
      model = next;
      answer = frontier = curve = null;
      root.replaceChildren();
      details.replaceChildren(map_place);
      map_names = '';
      drawMap(model.tensors);
    },
    // Instead of an answer.
    instead: (element) => {
      answer = frontier = curve = null;
      root.replaceChildren(element);
      details.replaceChildren(map_place);
      drawMap(model.tensors);
    },
    frontier: (document) => {
      frontier = document;
      drawCurve();
    },
    // `all`: the answers to every target of the job; `next` is the one to show.
    show: (next, all) => {
      answer = next;
      if (figures.parentElement !== root) {
        root.replaceChildren(figures, notes, card, curve_place, near);
        details.replaceChildren(make('div', {class: 'two'}, map_place, formats), memory, ...tables.map((table) => table.box));
        drawCurve();
      }
      notes.replaceChildren(...(answer.feasible ? [...answer.limits, ...answer.notes].map((note) => make('p', {class: 'soft'}, note))
                                                : [make('p', {class: 'problem'}, unreachable(answer))]));
      root.classList.toggle('unreachable', !answer.feasible);
      figures.replaceChildren(...(answer.feasible ? tiles(answer, model) : []).filter(Boolean));
      card.replaceChildren(...[answer.feasible ? cardBar(answer) : null].filter(Boolean));
      near.replaceChildren(...[targets(all), beside(answer)].filter(Boolean));
      curve?.choose(answer.feasible ? answer : null);
      drawMap(answer.tensors);
      formats.replaceChildren(...(answer.feasible ? [section('Formats', make('div', {class: 'scroll'}, formatTable(answer.formats)))] : []));
      memory.replaceChildren(...(answer.memory ? [section('Memory besides weights', make('div', {class: 'scroll'}, memoryTable(answer.memory.items)))] : []));
      for (const table of tables) table.fillSoon();
    },
  };
};

export const modelFacts = (model) =>
  [model.architecture, weights(model.elements), bytes(model.file_bytes ?? model.bytes), `${number(model.bpw, 4)} bits per weight`]
    .filter(Boolean).join(' \u00b7 ');
