// A report of quantfit: drawReport(root, data). `data` is the document of the kind "report"
// (docs/schema/report.schema.json).
import {bytes, make, number, percent, put, qualityText, sum, weights} from './elements.js';
import {curvePicture} from './curve.js';
import {layerMap} from './layer_map.js';
import {candidateTable, feedbackGains, foreseen, foreseenTable, tuned, tunedTable, weightMap} from './objective.js';
import {bars, formatTable, gainTable, memoryTable, mixtureTable, table, tensorTable} from './tables.js';

const heading = (root, id, title, text) =>
  put(root, make('h2', {id}, title), text ? make('p', {class: 'soft'}, text) : null);
const widthOf = (root) => root.clientWidth || 900;

const drawCurve = (root, data, answer) => {
  const picture = curvePicture({curve: data.curve, statics: answer ? answer.static_recipes : data.static_recipes,
                                answers: data.answers, chosen: answer, nats: data.error_unit === 'nats',
                                width: Math.max(320, Math.min(1068, widthOf(root)))});
  if (!picture) return;
  heading(root, 'curve', 'Size against error',
          'Every point of the line is the best that its size allows. Diamonds are llama.cpp\u2019s mixtures, circles ' +
          'are answers. The scale of errors is logarithmic.');
  put(root, picture.element);
};

const drawMap = (root, answer) => {
  const map = layerMap(answer.tensors, widthOf(root));
  if (!map) return;
  heading(root, 'map', 'Where the bits went', 'A column per layer, a row per role; a hue per family of formats, and the darker, the fewer bits.');
  put(root, map.element);
};

// Which roles and layers the error comes from; of each, how much is a shift of the mean.
const drawSources = (root, answer) => {
  const known = answer.tensors.filter((t) => t.error > 0);
  if (known.length === 0) return;
  const total = sum(known, (t) => t.error);
  const biased = sum(known, (t) => t.error * (t.bias_share || 0));
  heading(root, 'sources', 'Where the error comes from',
          `Scatter of the outputs makes ${percent(1 - biased / total)} of it, a shift of their mean ${percent(biased / total)} (the second colour).`);
  const grouped = (key) => {
    const groups = new Map();
    for (const tensor of known) {
      const name = key(tensor);
      const [error, bias] = groups.get(name) || [0, 0];
      groups.set(name, [error + tensor.error, bias + tensor.error * (tensor.bias_share || 0)]);
    }
    return [...groups].map(([name, [error, bias]]) => [name, error, bias]);
  };
  const scale = (items) => ({sum: total, longest: Math.max(...items.map((item) => item[1]))});
  const roles = grouped((t) => t.role || t.name).sort((a, b) => b[1] - a[1]).slice(0, 16);
  const depths = grouped((t) => (t.layer === undefined ? 'outside the layers' : t.layer));
  const layers = Math.max(...depths.map(([name]) => (typeof name === 'number' ? name : -1))) + 1;
  const merged = layers <= 24 ? depths : (() => {  // as many bars as a screen holds
    const width = Math.ceil(layers / 24), rest = new Map();
    for (const [name, error, bias] of depths) {
      const key = typeof name === 'number' ? Math.floor(name / width) : name;
      const old = rest.get(key) || [0, 0];
      rest.set(key, [old[0] + error, old[1] + bias]);
    }
    return [...rest].map(([key, [error, bias]]) =>
      [typeof key === 'number' ? `${key * width} to ${Math.min((key + 1) * width, layers) - 1}` : key, error, bias]);
  })();
  const place = (name) => (typeof name === 'number' ? name : parseInt(name, 10) >= 0 ? parseInt(name, 10) : 1e9);
  merged.sort((a, b) => place(a[0]) - place(b[0]));
  put(root, make('div', {class: 'two'},
                 make('div', {}, make('h3', {}, 'by role'), bars(roles, scale(roles))),
                 make('div', {}, make('h3', {}, 'by depth'),
                      bars(merged.map(([n, e, b]) => [typeof n === 'number' ? `layer ${n}` : /^\d/.test(n) ? `layers ${n}` : n, e, b]),
                           scale(merged)))));
};

// What an error of every tensor costs, where that is known from, and what error feedback gained.
const drawObjective = (root, objective) => {
  if (!objective) return;
  const map = weightMap(objective.weights, objective.unit, widthOf(root));
  if (map) {
    heading(root, 'weights', 'What an error costs',
            `Of every tensor the ${objective.unit === 'nats' ? 'nats of KL divergence' : 'predicted error'} that its whole ` +
            `output being lost would cost to first order; the darker, the more. Known from: ${objective.source}.`);
    put(root, map);
  }
  if (!objective.gains_by_format) return;
  heading(root, 'feedback', 'What error feedback gains',
          'Predicted errors of encoders that make up for errors in later columns, over those of encoders that do not: ' +
          'geometric means over all that was measured both ways.');
  put(root, feedbackGains(objective));
};

const drawPlain = (root, id, title, rows, tableOf) => {
  if (!rows || rows.length === 0) return;
  heading(root, id, title);
  put(root, make('div', {class: 'scroll'}, tableOf(rows)));
};

const drawFacts = (root, data, answer) => {
  const facts = [['target', answer.target.text], ['file', answer.file_bytes > 0 ? bytes(answer.file_bytes) : undefined],
                 ['tensor data', `${bytes(answer.tensor_bytes)}, ${number(answer.bpw, 5)} bits per weight`]];
  if (answer.predicted_error !== undefined)
    facts.push(['predicted error', number(answer.predicted_error) + (data.error_unit === 'nats' ? ' nats' : ' (relative)')]);
  if (answer.quality) facts.push(['beside llama.cpp\u2019s mixtures', qualityText(answer.quality)]);
  if (answer.allocation)
    facts.push(['proof', answer.allocation.termination === 'optimal' ? 'optimal' : `at most ${number(answer.allocation.gap, 3)} above the optimum`]);
  put(root, make('dl', {class: 'facts'}, facts.filter((fact) => fact[1]).map(([name, text]) => make('div', {}, make('dt', {}, name), make('dd', {}, text)))));
  for (const note of [...(answer.limits || []), ...(answer.notes || [])]) put(root, make('p', {class: 'soft'}, note));
};

const evaluationTable = (evaluations) => table(evaluations, [
  {title: 'file', of: (e) => e.candidate, name: true}, {title: 'text', of: (e) => e.text, name: true},
  {title: 'chunks', of: (e) => e.chunks, number: true}, {title: 'quantity', of: (e) => e.quantity},
  {title: 'value', of: (e) => e.value, text: (v) => number(v, 6), number: true},
  {title: 'standard error', of: (e) => e.standard_error, text: (v) => number(v, 2), number: true}], 'Measured on text').element;

const show = (root, data, index) => {
  root.replaceChildren();
  const answer = data.answers[index];
  put(root, make('h1', {}, data.model.name), make('p', {class: 'soft'},
      [data.model.architecture, weights(data.model.elements),
       data.model.bytes ? `made from ${bytes(data.model.bytes)}` : ''].filter(Boolean).join(', ')));
  if (data.answers.length > 1) {
    const choice = make('select', {id: 'target'}, data.answers.map((one, i) =>
      make('option', {value: i, selected: i === index ? '' : null}, `${one.target.text} (${number(one.bpw, 5)} bits per weight)`)));
    choice.addEventListener('change', () => {
      show(root, data, Number(choice.value));
      root.querySelector('#target').focus();
    });
    put(root, make('div', {class: 'controls'}, make('label', {for: 'target'}, 'answer', choice)));
  }
  if (answer) drawFacts(root, data, answer);
  if (answer && answer.run_command)
    put(root, make('p', {class: 'soft'}, `${answer.output} runs with`), make('code', {}, answer.run_text));
  drawPlain(root, 'foreseen', 'Predicted and measured', foreseen(data.evaluations), foreseenTable);
  drawPlain(root, 'tuned', 'Tuned: before and after', tuned(data.evaluations), tunedTable);
  if (answer) drawPlain(root, 'candidates', 'Recipes that were run', answer.candidates, candidateTable);
  drawCurve(root, data, answer);
  if (answer) {
    drawMap(root, answer);
    drawSources(root, answer);
  }
  drawObjective(root, data.objective);
  if (answer) {
    drawPlain(root, 'formats', 'Formats', answer.formats, formatTable);
    drawPlain(root, 'memory', 'Memory besides weights', answer.memory && answer.memory.items, memoryTable);
    drawPlain(root, 'gains', 'Where more bytes would help most', (answer.gains || []).slice(0, 10), gainTable);
  }
  drawPlain(root, 'statics', 'llama.cpp\u2019s mixtures', answer ? answer.static_recipes : data.static_recipes, mixtureTable);
  drawPlain(root, 'evaluations', 'Measured on text', data.evaluations, evaluationTable);
  if (answer) {
    heading(root, 'tensors', 'All tensors');
    put(root, tensorTable(answer.tensors));
  }
  heading(root, 'origin', 'Origin');
  put(root, make('div', {class: 'scroll'}, make('table', {}, make('tbody', {}, data.provenance.map(([name, text]) =>
    make('tr', {}, make('th', {scope: 'row'}, name), make('td', {class: 'name'}, text)))))));
};

export const drawReport = (root, data) => show(root, data, Math.max(data.answers.length - 1, 0));
