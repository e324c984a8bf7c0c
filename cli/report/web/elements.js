// Elements, words and pictures to walk through: what every page of quantfit is made of. Foreign text becomes text nodes
// only; no network, no library.

export const put = (parent, ...children) => {
  for (const child of children.flat())
    if (child !== null && child !== undefined) parent.append(child);
  return parent;
};

const element_of = (element, attributes, children) => {
  for (const [key, value] of Object.entries(attributes))
    if (value !== null && value !== undefined) element.setAttribute(key, value);
  return put(element, ...children);
};
// An element of HTML; attributes that are null are left out.
export const make = (name, attributes = {}, ...children) =>
  element_of(document.createElement(name), attributes, children);
// An element of SVG.
export const draw = (name, attributes = {}, ...children) =>
  element_of(document.createElementNS('http://www.w3.org/2000/svg', name), attributes, children);

export const number = (value, digits = 4) =>
  (Number.isFinite(value) ? Number(value.toPrecision(digits)).toString() : '');
export const bytes = (value) => {
  let unit = 'bytes';
  for (const next of ['KiB', 'MiB', 'GiB', 'TiB']) {
    if (value < 1024) break;
    value /= 1024;
    unit = next;
  }
  return (unit === 'bytes' ? value : value.toFixed(2)) + ' ' + unit;
};
export const weights = (count) => (count >= 1e9 ? `${(count / 1e9).toPrecision(3)} billion weights`
                                   : count > 0 ? `${(count / 1e6).toPrecision(3)} million weights` : '');
export const percent = (share) => (100 * share).toFixed(1) + ' %';
export const sum = (items, value) => items.reduce((total, item) => total + value(item), 0);
// Bits per weight of a tensor or of all tensors of a format.
export const bitsOf = (tensor) => (tensor.elements > 0 ? 8 * tensor.bytes / tensor.elements : 0);
// How far an answer is from the original, beside a mixture that people know; `quality` as in an answer's JSON.
export const qualityText = (quality) =>
  (Math.abs((quality.ratio ?? 1) - 1) <= 0.1
    ? `about as far from the original as ${quality.like}`
    : `${number(quality.ratio, 3)} times as far from the original as ${quality.like}`);

// Dark to light, even in brightness and told apart by colour-blind eyes: few bits to many.
const SCALE = [[68, 1, 84], [65, 68, 135], [42, 120, 142], [34, 168, 132], [122, 209, 81], [253, 231, 37]];
export const colourOf = (bits) => {
  const place = Math.min(Math.max((Math.log2(Math.max(bits, 1)) - 0.5) / 3.5, 0), 1) * (SCALE.length - 1);
  const low = Math.min(Math.floor(place), SCALE.length - 2);
  const mix = SCALE[low].map((part, i) => Math.round(part + (SCALE[low + 1][i] - part) * (place - low)));
  return `rgb(${mix.join(',')})`;
};

// A line that says what is under the cursor, to screen readers too.
export const live = () => make('p', {class: 'says', role: 'status', 'aria-live': 'polite'});

// Something to point at, with mouse, touch or arrow keys: `show(i)` marks place i and returns what `says` is to say.
export const explorable = (element, says, start, nearestTo, show) => {
  let at = start;
  const go = (index) => {
    at = index;
    says.textContent = show(at);
  };
  element.setAttribute('tabindex', '0');
  element.addEventListener('pointermove', (event) => go(nearestTo(event)));
  element.addEventListener('pointerdown', (event) => go(nearestTo(event)));
  element.addEventListener('focus', () => go(at));
  return {go, at: () => at};
};
// Where an event is, in the units of the picture's viewBox.
export const pointIn = (svg, event) => {
  const box = svg.getBoundingClientRect();
  const [, , width, height] = svg.getAttribute('viewBox').split(' ').map(Number);
  return [(event.clientX - box.left) / box.width * width, (event.clientY - box.top) / box.height * height];
};
