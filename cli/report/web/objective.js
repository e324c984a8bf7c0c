// What choices were weighed by and how well it foresaw: weights of tensors, gains of error feedback, predicted beside
// measured divergences.
import {make, number, percent, shadeOf, sum} from './elements.js';
import {layerMap} from './layer_map.js';
import {table} from './tables.js';

// Weights by layer and role as a map, the heavier the darker; the scale is logarithmic and spans what there is, four
// decades at most. `weights`: of the report's objective.
export const weightMap = (weights, unit, width) => {
  const known = weights.filter((weight) => weight.value > 0);
  if (known.length === 0) return null;
  const most = Math.max(...known.map((weight) => weight.value));
  const least = Math.max(Math.min(...known.map((weight) => weight.value)), most / 1e4);
  const total = sum(known, (weight) => weight.value);
  const place = (value) => (most > least ? Math.log(Math.max(value, least) / least) / Math.log(most / least) : 1);
  const colour = (value) => shadeOf(1 - place(value));
  const error = (weight) => (weight.standard_error > 0 ? ` \u00b1 ${number(weight.standard_error, 2)}` : '');
  const map = layerMap(known, width, {
    what: 'Weights',
    colour: (weight) => colour(weight.value),
    says: (weight) => `${weight.tensor}: ${number(weight.value, 3)}${error(weight)}${unit === 'nats' ? ' nats' : ''}, ` +
                      `${percent(weight.value / total)} of all`,
    name: (weight) => number(weight.value, 2),
    legend: () => [0, 1, 2, 3, 4].map((i) => {
      const value = least * (most / least) ** (i / 4);
      const swatch = make('i');
      swatch.style.background = colour(value);
      return make('li', {}, swatch, number(value, 2));
    }),
    shows: () => true,
  });
  return map && map.element;
};

// Bars of ratios below (or above) one: what is left of the error without feedback.
const ratioBars = (items) => {
  const longest = Math.max(1, ...items.map((item) => item.ratio));
  return make('div', {class: 'bars'}, items.flatMap((item) => {
    const bar = make('i', {class: item.ratio > 1 ? 'bias' : ''});
    bar.style.width = 100 * item.ratio / longest + '%';
    return [make('span', {class: 'name'}, item.name), make('span', {class: 'track', 'aria-hidden': 'true'}, bar),
            make('span', {}, number(item.ratio, 3))];
  }));
};
const geometricMean = (items) => Math.exp(sum(items, (item) => Math.log(item.ratio)) / items.length);

// Predicted errors with feedback over those without it, by format and by role.
export const feedbackGains = (objective) => {
  const roles = new Map();
  for (const gain of objective.gains_by_tensor) {
    const role = gain.role || gain.tensor;
    roles.set(role, [...(roles.get(role) || []), gain]);
  }
  const by_role = [...roles].map(([name, gains]) => ({name, ratio: geometricMean(gains)})).sort((a, b) => a.ratio - b.ratio);
  const by_format = objective.gains_by_format.map((gain) => ({name: gain.format, ratio: gain.ratio}));
  return make('div', {class: 'two'}, make('div', {}, make('h3', {}, 'by format'), ratioBars(by_format)),
              make('div', {}, make('h3', {}, 'by role'), ratioBars(by_role)));
};

// Files whose divergence was predicted and measured: {candidate, text, chunks, predicted, measured, error}.
export const foreseen = (evaluations) => {
  const files = new Map();
  for (const one of evaluations) {
    const key = JSON.stringify([one.candidate, one.text, one.chunks]);
    const file = files.get(key) || {candidate: one.candidate, text: one.text, chunks: one.chunks};
    if (one.quantity === 'predicted kl divergence') file.predicted = one.value;
    if (one.quantity === 'mean kl divergence') [file.measured, file.error] = [one.value, one.standard_error];
    files.set(key, file);
  }
  return [...files.values()].filter((file) => file.predicted > 0 && file.measured > 0);
};
const nats = (value) => number(value, 4);
export const foreseenTable = (files) => table(files, [
  {title: 'file', of: (f) => f.candidate, name: true}, {title: 'text', of: (f) => f.text, name: true},
  {title: 'chunks', of: (f) => f.chunks, number: true},
  {title: 'predicted', of: (f) => f.predicted, text: nats, number: true},
  {title: 'measured', of: (f) => f.measured, text: nats, number: true},
  {title: 'standard error', of: (f) => f.error, text: (v) => number(v, 2), number: true},
  {title: 'measured over predicted', of: (f) => f.measured / f.predicted, text: (v) => number(v, 3), number: true}],
  'Predicted and measured divergence').element;

// Recipes that were run for one answer; `candidates` as in an answer's JSON.
export const candidateTable = (candidates) => table(candidates, [
  {title: 'recipe by', of: (c) => c.rule, name: true}, {title: 'kept', of: (c) => (c.kept ? 'yes' : '')},
  {title: 'predicted', of: (c) => c.predicted_error, text: nats, number: true},
  {title: 'measured', of: (c) => c.kl_divergence.mean, text: nats, number: true},
  {title: 'standard error', of: (c) => c.kl_divergence.standard_error_over_chunks, text: (v) => number(v, 2), number: true},
  {title: 'measured over predicted', of: (c) => (c.predicted_error > 0 ? c.kl_divergence.mean / c.predicted_error : undefined),
   text: (v) => number(v, 3), number: true}], 'Recipes that were run').element;

// Files that were tuned, on the text held back: {candidate, text, chunks, before, after, change, error}.
export const tuned = (evaluations) => {
  const files = new Map();
  for (const one of evaluations) {
    const key = JSON.stringify([one.candidate, one.text, one.chunks]);
    const file = files.get(key) || {candidate: one.candidate, text: one.text, chunks: one.chunks};
    if (one.quantity === 'kl divergence before tuning') file.before = one.value;
    if (one.quantity === 'kl divergence after tuning') file.after = one.value;
    if (one.quantity === 'change of kl divergence by tuning') [file.change, file.error] = [one.value, one.standard_error];
    files.set(key, file);
  }
  return [...files.values()].filter((file) => file.before > 0 && file.after !== undefined);
};
export const tunedTable = (files) => table(files, [
  {title: 'file', of: (f) => f.candidate, name: true}, {title: 'text', of: (f) => f.text, name: true},
  {title: 'chunks held back', of: (f) => f.chunks, number: true},
  {title: 'before', of: (f) => f.before, text: nats, number: true},
  {title: 'after', of: (f) => f.after, text: nats, number: true},
  {title: 'after over before', of: (f) => f.after / f.before, text: (v) => number(v, 3), number: true},
  {title: 'change', of: (f) => f.change, text: (v) => number(v, 3), number: true},
  {title: 'standard error', of: (f) => f.error, text: (v) => number(v, 2), number: true}],
  'Divergence before and after tuning').element;
