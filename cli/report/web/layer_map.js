// Layers from left to right, roles from top to bottom, a colour per format.
import {bitsOf, bytes, colourOf, draw, explorable, live, make, number, pointIn} from './elements.js';

const tensorText = (tensor) =>
  `${tensor.name}: ${tensor.format}, ${number(bitsOf(tensor), 4)} bits per weight, ${bytes(tensor.bytes)}` +
  (tensor.nmse === undefined ? ', as in the source'
                             : `, relative error ${number(tensor.nmse, 3)}` +
                                 (tensor.error === undefined ? '' : `, sensitivity ${number(tensor.sensitivity, 3)}, ` +
                                                                    `${number(tensor.error, 3)} of the predicted error`));

// Letters that can be read on a cell's colour.
const inkOn = (colour) => {
  const [r, g, b] = colour.match(/\d+/g).map((part) => (part / 255) ** 2.2);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.18 ? '#000000' : '#ffffff';
};

// How cells are coloured: by the bits of their formats. Other shades have the same members: `what` a picture shows,
// `colour`, `says` and, for wide cells, `name` of a tensor, `legend` of all of them; `shows` which tensors have a row.
const byFormat = {
  what: 'Map',
  colour: (tensor) => colourOf(tensor.format, bitsOf(tensor)),
  says: (tensor) => tensorText(tensor),
  name: (tensor) => tensor.format,
  legend: (tensors) => legendOf(tensors),
  shows: (tensor) => tensor.nmse !== undefined || (tensor.kept_because === undefined && tensor.elements > 16384),
};

const legendOf = (tensors) => {
  const formats = new Map();
  for (const tensor of tensors) formats.set(tensor.format, bitsOf(tensor));
  return [...formats].sort((a, b) => a[1] - b[1]).map(([format, bits]) => {
    const swatch = make('i');
    swatch.style.background = colourOf(format, bits);
    return make('li', {}, swatch, `${format}, ${number(bits, 4)}`);
  });
};

// Which cell a tensor has: {tensor, row, column}; `roles` name the rows, the last row is for what is in no layer.
const cellsOf = (tensors, weighs) => {
  const placed = tensors.filter((t) => t.layer !== undefined);
  const outside = tensors.filter((t) => t.layer === undefined && (weighs(t) || t.elements > 4096));
  const roles = [...new Set(placed.filter(weighs).map((t) => t.role))];
  const layers = placed.reduce((most, t) => Math.max(most, t.layer + 1), 0);
  const cells = [];
  for (const tensor of placed) {
    const row = roles.indexOf(tensor.role);
    if (row >= 0) cells.push({tensor, row, column: tensor.layer});
  }
  outside.forEach((tensor, i) => cells.push({tensor, row: roles.length, column: i}));
  return {cells, roles, layers, outside: outside.length};
};

// `tensors` as in an answer's JSON; `width`: pixels there are. Returns null when no tensor has a place, else
// {element, width, update(tensors)}: `update` recolours the same cells, for another answer of the same model.
export const layerMap = (tensors, width, shade = byFormat) => {
  const {cells, roles, layers, outside} = cellsOf(tensors, shade.shows);
  if (cells.length === 0) return null;
  const columns = Math.max(layers, outside), rows = roles.length + (outside ? 1 : 0);
  const label = Math.min(150, 30 + 7 * Math.max(4, ...roles.map((r) => r.length)));
  const size = Math.max(9, Math.min(60, (width - label - 4) / columns));
  const tall = Math.max(18, Math.min(size, 26));
  const named = size >= 48;  // the name of a format fits into a cell
  const svg = draw('svg', {viewBox: `0 0 ${label + columns * size + 2} ${rows * tall + 22}`, width: label + columns * size + 2,
                           height: rows * tall + 22, role: 'img',
                           'aria-label': `${shade.what} of ${roles.length} roles in ${layers} layers; arrow keys walk through it`});
  [...roles, ...(outside ? ['outside'] : [])].forEach((role, i) =>
    svg.append(draw('text', {x: label - 8, y: i * tall + tall / 2 + 4, 'text-anchor': 'end'}, role)));
  const every = [1, 2, 5, 10, 20, 50, 100].find((n) => n * size >= 26) || 100;
  for (let layer = 0; layer < layers; layer += every)
    svg.append(draw('text', {class: 'soft', x: label + (layer + .5) * size, y: rows * tall + 16, 'text-anchor': 'middle'}, layer));
  for (const cell of cells) {
    const x = label + cell.column * size, y = cell.row * tall;
    cell.box = draw('rect', {class: 'cell', x, y, width: size, height: tall, rx: 2});
    svg.append(cell.box);
    if (!named) continue;
    cell.text = draw('text', {class: 'format', x: x + size / 2, y: y + tall / 2 + 3.5, 'text-anchor': 'middle'});
    svg.append(cell.text);
  }
  const says = live();
  const legend = make('ul', {class: 'legend'});
  const paint = () => {
    for (const cell of cells) {
      const colour = shade.colour(cell.tensor);
      cell.box.setAttribute('fill', colour);
      if (!cell.text) continue;
      cell.text.textContent = shade.name(cell.tensor);
      cell.text.style.fill = inkOn(colour);
    }
    legend.replaceChildren(...shade.legend(cells.map((cell) => cell.tensor)));
  };
  paint();

  let marked = null;
  const at = (column, row) => cells.findIndex((c) => c.column === column && c.row === row);
  const nearest = (event) => {
    const [px, py] = pointIn(svg, event);
    const found = at(Math.floor((px - label) / size), Math.floor(py / tall));
    return found < 0 ? walk.at() : found;
  };
  const walk = explorable(svg, says, 0, nearest, (i) => {
    if (marked) marked.classList.remove('at');
    marked = cells[i].box;
    marked.classList.add('at');
    return shade.says(cells[i].tensor);
  });
  svg.addEventListener('keydown', (event) => {
    const move = {ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1]}[event.key];
    if (!move) return;
    event.preventDefault();
    const here = cells[walk.at()];
    // The next cell in that direction, over gaps.
    for (let n = 1; n <= Math.max(columns, rows); ++n) {
      const next = at(here.column + move[0] * n, here.row + move[1] * n);
      if (next >= 0) return walk.go(next);
    }
  });
  const update = (others) => {
    const by_name = new Map(others.map((tensor) => [tensor.name, tensor]));
    for (const cell of cells) cell.tensor = by_name.get(cell.tensor.name) || cell.tensor;
    paint();
  };
  return {element: make('div', {}, make('div', {class: 'scroll'}, svg), legend, says), width: label + columns * size + 2, update};
};
