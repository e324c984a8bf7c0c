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

// Colours of formats. A family has a range of hues that colour-blind eyes tell from the others' too (red to yellow, blue,
// a greyish green, no colour); the more bits, the lighter, across families as well. Neighbours in a family differ by 0.04
// or more in OKLab, under deuteranopia and protanopia too.
const FAMILIES = [
  {hue: [20, 100], chroma: 0.16, lightness: {IQ1_S: 0.29, IQ1_M: 0.34, IQ2_XXS: 0.39, IQ2_XS: 0.44, IQ2_S: 0.49, IQ3_XXS: 0.54, IQ3_S: 0.6,
                                             IQ4_XS: 0.67, IQ4_NL: 0.73}},
  {hue: [300, 235], chroma: 0.15, lightness: {Q2_K: 0.42, Q3_K: 0.53, Q4_K: 0.63, Q5_K: 0.72, Q6_K: 0.8}},
  {hue: [165, 180], chroma: 0.05, lightness: {Q1_0: 0.3, Q2_0: 0.4, Q4_0: 0.63, Q4_1: 0.68, Q5_0: 0.73, Q5_1: 0.78, Q8_0: 0.87}},
  {hue: [350, 340], chroma: 0.12, lightness: {TQ1_0: 0.33, TQ2_0: 0.41, MXFP4: 0.6, NVFP4: 0.66}},
  {hue: [0, 0], chroma: 0, lightness: {F16: 0.93, BF16: 0.95, F32: 0.98}},
];
const LIGHTNESS_OF_FEW = 0.29, LIGHTNESS_OF_MANY = 0.95;  // 1.5 and 16 bits

// OKLCH (Ottosson, "A perceptual color space for image processing", 2020) as parts of linear sRGB.
const linearOf = (lightness, chroma, hue) => {
  const a = chroma * Math.cos(hue * Math.PI / 180), b = chroma * Math.sin(hue * Math.PI / 180);
  const l = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const s = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3;
  return [4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s, -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
          -0.0041960863 * l - 0.7034186147 * m + 1.7076147010 * s];
};
const rgbOf = (lightness, chroma, hue) => {
  let parts = linearOf(lightness, chroma, hue);
  while (chroma > 0 && parts.some((part) => part < 0 || part > 1)) parts = linearOf(lightness, chroma -= 0.005, hue);
  const encoded = parts.map((part) => Math.min(Math.max(part, 0), 1))
                      .map((part) => (part <= 0.0031308 ? 12.92 * part : 1.055 * part ** (1 / 2.4) - 0.055));
  return `rgb(${encoded.map((part) => Math.round(255 * part)).join(',')})`;
};
const COLOURS = new Map(FAMILIES.flatMap(({hue, chroma, lightness}) => {
  const own = Object.entries(lightness), [first, last] = [own[0][1], own.at(-1)[1]];
  return own.map(([format, light]) =>
    [format, rgbOf(light, chroma, hue[0] + (hue[1] - hue[0]) * (light - first) / (last - first))]);
}));
// Of a format that is none of these: grey, by its bits per weight.
export const colourOf = (format, bits) => {
  const place = Math.min(Math.max(Math.log2(Math.max(bits, 1) / 1.5) / Math.log2(16 / 1.5), 0), 1);
  return COLOURS.get(format) ?? rgbOf(LIGHTNESS_OF_FEW + place * (LIGHTNESS_OF_MANY - LIGHTNESS_OF_FEW), 0, 0);
};
// Of a quantity that is no format: from dark at 0 to light at 1, in one hue.
export const shadeOf = (place) =>
  rgbOf(LIGHTNESS_OF_FEW + place * (LIGHTNESS_OF_MANY - LIGHTNESS_OF_FEW), 0.09 * (1 - place) + 0.03, 250);

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
