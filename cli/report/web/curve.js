// Size against error: the optimum for every size, llama.cpp's mixtures, and answers.
import {bytes, draw, explorable, live, make, number, pointIn} from './elements.js';

const LEFT = 64, RIGHT = 14, TOP = 14, BOTTOM = 44;

// What of the curve is worth a picture: beyond what anybody compares with it the curve is flat, and would only press the
// rest together. Points are {bpw, predicted_error, ...}.
export const comparable = (curve, others) => {
  const widest = Math.max(0, ...others.map((p) => p.bpw)) + 1;
  return curve.filter((p) => p.predicted_error > 0 && (widest < 2 || p.bpw <= widest));
};

const axes = (svg, {low, high, least, most, x, y, width, height}, nats) => {
  const step = [0.5, 1, 2, 4, 8].find((s) => (high - low) / s <= width / 70) || 8;
  for (let bpw = Math.ceil(low / step) * step; bpw <= high; bpw += step)
    svg.append(draw('line', {class: 'axis', x1: x(bpw), x2: x(bpw), y1: TOP, y2: height - BOTTOM}),
               draw('text', {class: 'soft', x: x(bpw), y: height - BOTTOM + 17, 'text-anchor': 'middle'}, number(bpw)));
  for (let power = Math.ceil(least); power <= most; ++power) {
    const error = 10 ** power;
    svg.append(draw('line', {class: 'axis', x1: LEFT, x2: width - RIGHT, y1: y(error), y2: y(error)}),
               draw('text', {class: 'soft', x: LEFT - 6, y: y(error) + 4, 'text-anchor': 'end'}, number(error)));
  }
  const middle = (TOP + height - BOTTOM) / 2;
  svg.append(draw('text', {class: 'soft', x: (LEFT + width - RIGHT) / 2, y: height - 6, 'text-anchor': 'middle'},
                  'bits per weight'),
             draw('text', {class: 'soft', x: 14, y: middle, 'text-anchor': 'middle', transform: `rotate(-90 14 ${middle})`},
                  nats ? 'nats of KL divergence' : 'predicted error (relative)'));
};

// Diamonds with names, where no other name is yet.
const mixtures = (svg, statics, answers, {x, y, width}) => {
  const taken = [...statics, ...answers].map((p) => {
    const [px, py] = [x(p.bpw), y(p.predicted_error)];
    return [px - 5, py - 5, px + 5, py + 5];
  });
  for (const one of statics) {
    const px = x(one.bpw), py = y(one.predicted_error);
    svg.append(draw('path', {class: 'static', d: `M${px} ${py - 5}L${px + 5} ${py}L${px} ${py + 5}L${px - 5} ${py}Z`}));
    const box = [px + 8, py - 6, px + 8 + 7 * one.name.length, py + 6];
    if (box[2] < width && !taken.some((o) => box[0] < o[2] && o[0] < box[2] && box[1] < o[3] && o[1] < box[3])) {
      taken.push(box);
      svg.append(draw('text', {x: box[0], y: py + 4}, one.name));
    }
  }
};

// {curve, static_recipes, answers} as in the documents "frontier" and "plan"; `answers` have target.text. `chosen`: one
// of them, or null. `pick(place)` is called on a click or Enter at a place of the curve. Returns null when there is
// nothing to compare, else {element, choose(answer)}: `choose` moves the large circle.
export const curvePicture = ({curve, statics, answers, chosen, nats, width, pick}) => {
  statics = statics.filter((one) => one.predicted_error > 0);
  answers = answers.filter((one) => one.predicted_error > 0);
  curve = comparable(curve, [...statics, ...answers]);
  const all = [...curve, ...statics, ...answers];
  if (all.length < 2) return null;
  const height = Math.round(Math.min(Math.max(width / 2, 290), 400));
  const low = Math.min(...all.map((p) => p.bpw)), high = Math.max(...all.map((p) => p.bpw));
  const least = Math.log10(Math.min(...all.map((p) => p.predicted_error)));
  const most = Math.log10(Math.max(...all.map((p) => p.predicted_error)));
  const x = (bpw) => LEFT + (bpw - low) / (high - low || 1) * (width - LEFT - RIGHT);
  const y = (error) => TOP + (most - Math.log10(error)) / (most - least || 1) * (height - TOP - BOTTOM);
  const scale = {low, high, least, most, x, y, width, height};

  const svg = draw('svg', {viewBox: `0 0 ${width} ${height}`, width: '100%', role: 'img',
                           'aria-label': 'Curve of size against predicted error; arrow keys walk along it' +
                                         (pick ? ', Enter takes a size as the target' : '')});
  axes(svg, scale, nats);
  if (curve.length > 1)
    svg.append(draw('path', {class: 'curve', d: curve.map((p, i) => (i ? 'L' : 'M') + x(p.bpw).toFixed(1) + ' ' +
                                                                  y(p.predicted_error).toFixed(1)).join('')}));
  mixtures(svg, statics, answers, scale);
  const circle = (r) => draw('circle', {class: 'chosen', r, cx: -20, cy: -20});
  const place = (mark, p) => {
    const inside = p && p.predicted_error > 0 && p.bpw >= low && p.bpw <= high;
    mark.setAttribute('cx', inside ? x(p.bpw) : -20);
    mark.setAttribute('cy', inside ? y(p.predicted_error) : -20);
  };
  for (const one of answers) {
    if (one === chosen) continue;
    const mark = circle(4);
    place(mark, one);
    svg.append(mark);
  }
  const large = circle(7);
  const cursor = draw('circle', {class: 'cursor', r: 9, cx: -20, cy: -20});
  place(large, chosen);
  svg.append(large, cursor);

  const says = live();
  const places = [...curve.map((p) => ({...p, what: 'the best of its size'})),
                  ...statics.map((p) => ({...p, what: p.name})),
                  ...answers.map((p) => ({...p, what: p.target.text}))].sort((a, b) => a.bpw - b.bpw);
  const nearest = (event) => {
    const [px, py] = pointIn(svg, event);
    let best = 0, distance = Infinity;
    places.forEach((p, i) => {
      const d = (x(p.bpw) - px) ** 2 + (y(p.predicted_error) - py) ** 2;
      if (d < distance) [best, distance] = [i, d];
    });
    return best;
  };
  const walk = explorable(svg, says, 0, nearest, (i) => {
    const p = places[i];
    place(cursor, p);
    return `${p.what}: ${number(p.bpw, 5)} bits per weight, ${bytes(p.tensor_bytes)}, error ${number(p.predicted_error)}` +
           (p.changed ? `; ${p.changed} became ${p.to}` : '');
  });
  svg.addEventListener('keydown', (event) => {
    if (pick && event.key === 'Enter') return pick(places[walk.at()]);
    const stride = {ArrowRight: 1, ArrowLeft: -1, PageDown: 20, PageUp: -20, Home: -1e9, End: 1e9}[event.key];
    if (!stride) return;
    event.preventDefault();
    walk.go(Math.min(Math.max(walk.at() + stride, 0), places.length - 1));
  });
  if (pick) svg.addEventListener('click', (event) => pick(places[nearest(event)]));
  return {element: make('div', {}, make('figure', {}, svg), says), choose: (answer) => place(large, answer)};
};
