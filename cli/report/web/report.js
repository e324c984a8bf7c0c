// Draws a report of quantfit into an element: quantfitReport(root, data). `data` is the document of the kind
// "report" (docs/schema/report.schema.json). No network, no library; foreign text becomes text nodes only.
'use strict';

const quantfitReport = (() => {
  const SVG = 'http://www.w3.org/2000/svg';
  // Dark to light, even in brightness and told apart by colour-blind eyes: few bits to many.
  const SCALE = [[68, 1, 84], [65, 68, 135], [42, 120, 142], [34, 168, 132], [122, 209, 81], [253, 231, 37]];

  const put = (parent, ...children) => {
    for (const child of children.flat())
      if (child !== null && child !== undefined) parent.append(child);
    return parent;
  };
  const make = (name, attributes = {}, ...children) => {
    const element = document.createElement(name);
    for (const [key, value] of Object.entries(attributes))
      if (value !== null && value !== undefined) element.setAttribute(key, value);
    return put(element, ...children);
  };
  const draw = (name, attributes = {}, ...children) => {
    const element = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    return put(element, ...children);
  };

  const number = (value, digits = 4) => (Number.isFinite(value) ? Number(value.toPrecision(digits)).toString() : '');
  const bytes = (value) => {
    let unit = 'bytes';
    for (const next of ['KiB', 'MiB', 'GiB', 'TiB']) {
      if (value < 1024) break;
      value /= 1024;
      unit = next;
    }
    return (unit === 'bytes' ? value : value.toFixed(2)) + ' ' + unit;
  };
  const weights = (count) => (count >= 1e9 ? `${(count / 1e9).toPrecision(3)} billion weights`
                              : count > 0 ? `${(count / 1e6).toPrecision(3)} million weights` : '');
  const percent = (share) => (100 * share).toFixed(1) + ' %';
  const bitsOf = (tensor) => (tensor.elements > 0 ? 8 * tensor.bytes / tensor.elements : 0);
  const sum = (items, value) => items.reduce((total, item) => total + value(item), 0);

  const colourOf = (bits) => {
    const place = Math.min(Math.max((Math.log2(Math.max(bits, 1)) - 0.5) / 3.5, 0), 1) * (SCALE.length - 1);
    const low = Math.min(Math.floor(place), SCALE.length - 2);
    const mix = SCALE[low].map((part, i) => Math.round(part + (SCALE[low + 1][i] - part) * (place - low)));
    return `rgb(${mix.join(',')})`;
  };

  // Something to point at, with mouse, touch or arrow keys; `tell` says what is under the cursor.
  const explorable = (element, says, count, start, nearestTo, show) => {
    let at = start;
    const go = (index) => {
      at = Math.min(Math.max(index, 0), count - 1);
      says.textContent = show(at);
    };
    element.setAttribute('tabindex', '0');
    element.addEventListener('pointermove', (event) => go(nearestTo(event)));
    element.addEventListener('pointerdown', (event) => go(nearestTo(event)));
    element.addEventListener('focus', () => go(at));
    return {go, at: () => at};
  };
  const pointIn = (svg, event) => {
    const box = svg.getBoundingClientRect();
    const [, , width, height] = svg.getAttribute('viewBox').split(' ').map(Number);
    return [(event.clientX - box.left) / box.width * width, (event.clientY - box.top) / box.height * height];
  };
  const heading = (root, id, title, text) =>
    put(root, make('h2', {id}, title), text ? make('p', {class: 'soft'}, text) : null);
  const live = () => make('p', {class: 'says', role: 'status', 'aria-live': 'polite'});

  // Size against error: the optimum for every size, llama.cpp's mixtures, and the answer.
  const drawCurve = (root, data, answer) => {
    const statics = (answer ? answer.static_recipes : data.static_recipes).filter((one) => one.predicted_error > 0);
    const others = data.answers.filter((one) => one.predicted_error > 0);
    // Beyond what anybody compares with the curve is flat, and would only press the rest together.
    const widest = Math.max(0, ...[...statics, ...others].map((p) => p.bpw)) + 1;
    const curve = data.curve.filter((p) => p.predicted_error > 0 && (widest < 2 || p.bpw <= widest));
    const all = [...curve, ...statics, ...others];
    if (all.length < 2) return;
    heading(root, 'curve', 'Size against error',
            'Every point of the line is the best that its size allows. Diamonds are llama.cpp\u2019s mixtures, circles ' +
            'are answers. The scale of errors is logarithmic.');
    const width = Math.max(320, Math.min(1068, root.clientWidth || 900)), height = width < 600 ? 300 : 400;
    const left = 64, right = 14, top = 14, bottom = 44;
    const low = Math.min(...all.map((p) => p.bpw)), high = Math.max(...all.map((p) => p.bpw));
    const least = Math.log10(Math.min(...all.map((p) => p.predicted_error)));
    const most = Math.log10(Math.max(...all.map((p) => p.predicted_error)));
    const x = (bpw) => left + (bpw - low) / (high - low || 1) * (width - left - right);
    const y = (error) => top + (most - Math.log10(error)) / (most - least || 1) * (height - top - bottom);
    const svg = draw('svg', {viewBox: `0 0 ${width} ${height}`, width: '100%', role: 'img',
                             'aria-label': 'Curve of size against predicted error; arrow keys walk along it'});
    const step = [0.5, 1, 2, 4, 8].find((s) => (high - low) / s <= width / 70) || 8;
    for (let bpw = Math.ceil(low / step) * step; bpw <= high; bpw += step)
      put(svg, draw('line', {class: 'axis', x1: x(bpw), x2: x(bpw), y1: top, y2: height - bottom}),
          draw('text', {class: 'soft', x: x(bpw), y: height - bottom + 17, 'text-anchor': 'middle'}, number(bpw)));
    for (let power = Math.ceil(least); power <= most; ++power) {
      const error = 10 ** power;
      put(svg, draw('line', {class: 'axis', x1: left, x2: width - right, y1: y(error), y2: y(error)}),
          draw('text', {class: 'soft', x: left - 6, y: y(error) + 4, 'text-anchor': 'end'}, number(error)));
    }
    put(svg, draw('text', {class: 'soft', x: (left + width - right) / 2, y: height - 6, 'text-anchor': 'middle'},
                  'bits per weight'));
    const unit = data.error_unit === 'nats' ? 'nats of KL divergence' : 'predicted error (relative)';
    put(svg, draw('text', {class: 'soft', x: 14, y: (top + height - bottom) / 2, 'text-anchor': 'middle',
                           transform: `rotate(-90 14 ${(top + height - bottom) / 2})`}, unit));
    if (curve.length > 1)
      put(svg, draw('path', {class: 'curve', d: curve.map((p, i) => (i ? 'L' : 'M') + x(p.bpw).toFixed(1) + ' ' +
                                                                    y(p.predicted_error).toFixed(1)).join('')}));
    const taken = [...statics, ...others].map((p) => {
      const [px, py] = [x(p.bpw), y(p.predicted_error)];
      return [px - 5, py - 5, px + 5, py + 5];
    });
    for (const one of statics) {
      const px = x(one.bpw), py = y(one.predicted_error);
      put(svg, draw('path', {class: 'static', d: `M${px} ${py - 5}L${px + 5} ${py}L${px} ${py + 5}L${px - 5} ${py}Z`}));
      // A label where no other one is yet.
      const wide = 7 * one.name.length;
      const box = [px + 8, py - 6, px + 8 + wide, py + 6];
      if (box[2] < width && !taken.some((o) => box[0] < o[2] && o[0] < box[2] && box[1] < o[3] && o[1] < box[3])) {
        taken.push(box);
        put(svg, draw('text', {x: box[0], y: py + 4}, one.name));
      }
    }
    for (const one of others)
      put(svg, draw('circle', {class: 'chosen', r: one === answer ? 7 : 4, cx: x(one.bpw), cy: y(one.predicted_error)}));
    const cursor = draw('circle', {class: 'cursor', r: 9, cx: -20, cy: -20});
    put(svg, cursor);
    const says = live();
    const places = [...curve.map((p) => ({...p, what: 'the best of its size'})),
                    ...statics.map((p) => ({...p, what: p.name})),
                    ...others.map((p) => ({...p, what: p.target.text}))].sort((a, b) => a.bpw - b.bpw);
    const nearest = (event) => {
      const [px, py] = pointIn(svg, event);
      let best = 0, distance = Infinity;
      places.forEach((p, i) => {
        const d = (x(p.bpw) - px) ** 2 + (y(p.predicted_error) - py) ** 2;
        if (d < distance) [best, distance] = [i, d];
      });
      return best;
    };
    const walk = explorable(svg, says, places.length, 0, nearest, (i) => {
      const p = places[i];
      cursor.setAttribute('cx', x(p.bpw));
      cursor.setAttribute('cy', y(p.predicted_error));
      return `${p.what}: ${number(p.bpw, 5)} bits per weight, ${bytes(p.tensor_bytes)}, error ${number(p.predicted_error)}` +
             (p.changed ? `; ${p.changed} became ${p.to}` : '');
    });
    svg.addEventListener('keydown', (event) => {
      const stride = {ArrowRight: 1, ArrowLeft: -1, PageDown: 20, PageUp: -20, Home: -1e9, End: 1e9}[event.key];
      if (!stride) return;
      event.preventDefault();
      walk.go(walk.at() + stride);
    });
    put(root, make('figure', {}, svg), says);
  };

  const tensorText = (tensor) =>
    `${tensor.name}: ${tensor.format}, ${number(bitsOf(tensor), 4)} bits per weight, ${bytes(tensor.bytes)}` +
    (tensor.nmse === undefined ? ', as in the source'
                               : `, relative error ${number(tensor.nmse, 3)}` +
                                   (tensor.error === undefined ? '' : `, sensitivity ${number(tensor.sensitivity, 3)}, ` +
                                                                      `${number(tensor.error, 3)} of the predicted error`));

  // Layers from left to right, roles from top to bottom, a colour per format.
  const drawMap = (root, answer) => {
    const placed = answer.tensors.filter((t) => t.layer !== undefined);
    const rest = answer.tensors.filter((t) => t.layer === undefined);
    heading(root, 'map', 'Where the bits went', 'A column per layer, a row per role; the darker, the fewer bits.');
    const roles = [...new Set(placed.filter((t) => t.nmse !== undefined).map((t) => t.role))];
    const layers = placed.length ? Math.max(...placed.map((t) => t.layer)) + 1 : 0;
    const cells = [];
    const label = Math.min(150, 30 + 7 * Math.max(4, ...roles.map((r) => r.length)));
    const size = Math.max(9, Math.min(26, ((root.clientWidth || 900) - label) / Math.max(layers, rest.length, 1)));
    const tall = Math.max(size, 18);
    for (const tensor of placed) {
      const row = roles.indexOf(tensor.role);
      if (row >= 0) cells.push({tensor, row, column: tensor.layer});
    }
    const outside = rest.filter((t) => t.elements > 4096 || t.nmse !== undefined);
    outside.forEach((tensor, i) => cells.push({tensor, row: roles.length, column: i}));
    if (cells.length === 0) return;
    const columns = Math.max(layers, outside.length), rows = roles.length + (outside.length ? 1 : 0);
    const width = label + columns * size + 2, height = rows * tall + 22;
    const svg = draw('svg', {viewBox: `0 0 ${width} ${height}`, width, height, role: 'img',
                             'aria-label': `Map of ${roles.length} roles in ${layers} layers; arrow keys walk through it`});
    roles.forEach((role, i) => put(svg, draw('text', {x: label - 8, y: i * tall + tall / 2 + 4, 'text-anchor': 'end'}, role)));
    if (outside.length)
      put(svg, draw('text', {x: label - 8, y: roles.length * tall + tall / 2 + 4, 'text-anchor': 'end'}, 'outside'));
    const every = [1, 2, 5, 10, 20, 50, 100].find((n) => n * size >= 26) || 100;
    for (let layer = 0; layer < layers; layer += every)
      put(svg, draw('text', {class: 'soft', x: label + (layer + .5) * size, y: height - 6, 'text-anchor': 'middle'}, layer));
    for (const cell of cells) {
      cell.box = draw('rect', {class: 'cell', x: label + cell.column * size, y: cell.row * tall, width: size, height: tall,
                               rx: 2, fill: colourOf(bitsOf(cell.tensor))});
      put(svg, cell.box);
    }
    const says = live();
    let marked = null;
    const at = (column, row) => cells.findIndex((c) => c.column === column && c.row === row);
    const nearest = (event) => {
      const [px, py] = pointIn(svg, event);
      const found = at(Math.floor((px - label) / size), Math.floor(py / tall));
      return found < 0 ? walk.at() : found;
    };
    const walk = explorable(svg, says, cells.length, 0, nearest, (i) => {
      if (marked) marked.classList.remove('at');
      marked = cells[i].box;
      marked.classList.add('at');
      return tensorText(cells[i].tensor);
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
    const formats = new Map();
    for (const {tensor} of cells) formats.set(tensor.format, bitsOf(tensor));
    put(root, make('div', {class: 'scroll'}, svg), says,
        make('ul', {class: 'legend'}, [...formats].sort((a, b) => a[1] - b[1]).map(([format, bits]) => {
          const swatch = make('i');
          swatch.style.background = colourOf(bits);
          return make('li', {}, swatch, `${format}, ${number(bits, 4)}`);
        })));
  };

  const bars = (items, total) =>
    make('div', {class: 'bars'}, items.flatMap(([name, value, bias]) => {
      const track = make('span', {class: 'track', 'aria-hidden': 'true'});
      const part = (share, kind) => {
        const bar = make('i', kind ? {class: kind} : {});
        bar.style.width = 100 * share + '%';
        return bar;
      };
      put(track, part((value - bias) / total.longest), part(bias / total.longest, 'bias'));
      return [make('span', {class: 'name'}, name), track, make('span', {}, percent(value / total.sum))];
    }));

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

  // Columns: {title, of: row -> value, text: value -> string, number: bool}.
  const table = (rows, columns, caption) => {
    const body = make('tbody');
    const heads = columns.map((column) => {
      const button = make('button', {type: 'button'}, column.title);
      const head = make('th', {scope: 'col', class: column.number ? 'number' : null}, button);
      button.addEventListener('click', () => {
        const descending = head.getAttribute('aria-sort') === (column.number ? 'descending' : 'ascending') ? !column.number
                                                                                                         : column.number;
        for (const other of heads) other.removeAttribute('aria-sort');
        head.setAttribute('aria-sort', descending ? 'descending' : 'ascending');
        lines.sort((a, b) => {
          const [p, q] = [column.of(a.row), column.of(b.row)];
          const order = column.number ? (p ?? -Infinity) - (q ?? -Infinity) : String(p).localeCompare(String(q), 'en', {numeric: true});
          return (descending ? -order : order) || a.place - b.place;
        });
        body.replaceChildren(...lines.map((line) => line.element));
      });
      return head;
    });
    const lines = rows.map((row, place) => ({row, place, element: make('tr', {}, columns.map((column) => {
      const value = column.of(row);
      return make('td', {class: column.number ? 'number' : column.name ? 'name' : null},
                  value === undefined ? '' : column.text ? column.text(value) : String(value));
    }))}));
    put(body, lines.map((line) => line.element));
    const element = make('table', {}, make('caption', {class: 'soft', hidden: ''}, caption),
                         make('thead', {}, make('tr', {}, heads)), body);
    return {element, lines};
  };

  const drawTensors = (root, answer) => {
    heading(root, 'tensors', 'All tensors');
    const {element, lines} = table(answer.tensors, [
      {title: 'tensor', of: (t) => t.name, name: true},
      {title: 'from', of: (t) => t.from},
      {title: 'format', of: (t) => t.format},
      {title: 'bits', of: bitsOf, text: (v) => number(v, 5), number: true},
      {title: 'bytes', of: (t) => t.bytes, text: (v) => v.toLocaleString('en'), number: true},
      {title: 'relative error', of: (t) => t.nmse, text: (v) => v.toExponential(2), number: true},
      {title: 'sensitivity', of: (t) => t.sensitivity, text: (v) => number(v, 3), number: true},
      {title: 'part of the error', of: (t) => t.error, text: (v) => v.toExponential(2), number: true},
    ], 'All tensors');
    const filter = make('input', {type: 'search', id: 'filter', placeholder: 'ffn_down, Q4_K, ...'});
    const count = make('span', {class: 'soft', role: 'status'}, `${lines.length} tensors`);
    filter.addEventListener('input', () => {
      const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
      let shown = 0;
      for (const {row, element: line} of lines) {
        const text = `${row.name} ${row.format} ${row.from} ${row.role || ''}`.toLowerCase();
        line.hidden = !words.every((word) => text.includes(word));
        shown += line.hidden ? 0 : 1;
      }
      count.textContent = `${shown} tensors`;
    });
    put(root, make('div', {class: 'controls'}, make('label', {for: 'filter'}, 'only those with', filter), count),
        make('div', {class: 'tall', tabindex: '0', role: 'region', 'aria-label': 'Table of tensors'}, element));
  };

  const drawPlain = (root, id, title, rows, columns, text) => {
    if (!rows || rows.length === 0) return;
    heading(root, id, title, text);
    put(root, make('div', {class: 'scroll'}, table(rows, columns, title).element));
  };

  const drawFacts = (root, data, answer) => {
    const facts = [['target', answer.target.text], ['file', answer.file_bytes > 0 ? bytes(answer.file_bytes) : undefined],
                   ['tensor data', `${bytes(answer.tensor_bytes)}, ${number(answer.bpw, 5)} bits per weight`]];
    if (answer.predicted_error !== undefined)
      facts.push(['predicted error', number(answer.predicted_error) + (data.error_unit === 'nats' ? ' nats' : ' (relative)')]);
    if (answer.quality)
      facts.push(['beside llama.cpp\u2019s mixtures',
                  Math.abs((answer.quality.ratio ?? 1) - 1) <= 0.1
                    ? `about as far from the original as ${answer.quality.like}`
                    : `${number(answer.quality.ratio, 3)} times as far from the original as ${answer.quality.like}`]);
    if (answer.allocation)
      facts.push(['proof', answer.allocation.termination === 'optimal' ? 'optimal' : `at most ${number(answer.allocation.gap, 3)} above the optimum`]);
    put(root, make('dl', {class: 'facts'}, facts.filter((fact) => fact[1]).map(([name, text]) => make('div', {}, make('dt', {}, name), make('dd', {}, text)))));
    for (const note of [...(answer.limits || []), ...(answer.notes || [])]) put(root, make('p', {class: 'soft'}, note));
  };

  return (root, data) => {
    const show = (index) => {
      root.replaceChildren();
      const answer = data.answers[index];
      put(root, make('h1', {}, data.model.name), make('p', {class: 'soft'},
          [data.model.architecture, weights(data.model.elements),
           data.model.bytes ? `made from ${bytes(data.model.bytes)}` : ''].filter(Boolean).join(', ')));
      if (data.answers.length > 1) {
        const choice = make('select', {id: 'target'}, data.answers.map((one, i) =>
          make('option', {value: i, selected: i === index ? '' : null}, `${one.target.text} (${number(one.bpw, 5)} bits per weight)`)));
        choice.addEventListener('change', () => {
          show(Number(choice.value));
          root.querySelector('#target').focus();
        });
        put(root, make('div', {class: 'controls'}, make('label', {for: 'target'}, 'answer', choice)));
      }
      if (answer) drawFacts(root, data, answer);
      if (answer && answer.run_command)
        put(root, make('p', {class: 'soft'}, `${answer.output} runs with`), make('code', {}, answer.run_text));
      drawCurve(root, data, answer);
      if (answer) {
        drawMap(root, answer);
        drawSources(root, answer);
        drawPlain(root, 'formats', 'Formats', answer.formats, [
          {title: 'format', of: (f) => f.format},
          {title: 'tensors', of: (f) => f.tensors, number: true},
          {title: 'weights', of: (f) => f.elements, text: (v) => v.toLocaleString('en'), number: true},
          {title: 'size', of: (f) => f.bytes, text: bytes, number: true},
          {title: 'bits', of: bitsOf, text: (v) => number(v, 5), number: true}]);
        drawPlain(root, 'memory', 'Memory besides weights', answer.memory && answer.memory.items, [
          {title: 'what', of: (m) => m.what, name: true}, {title: 'on', of: (m) => m.device},
          {title: 'size', of: (m) => m.bytes, text: bytes, number: true}, {title: 'how', of: (m) => m.how, name: true}]);
        drawPlain(root, 'gains', 'Where more bytes would help most', (answer.gains || []).slice(0, 10), [
          {title: 'tensor', of: (g) => g.tensor, name: true}, {title: 'from', of: (g) => g.from}, {title: 'to', of: (g) => g.to},
          {title: 'more bytes', of: (g) => g.more_bytes, text: (v) => v.toLocaleString('en'), number: true},
          {title: 'less error', of: (g) => g.saved_error, text: (v) => v.toExponential(2), number: true}]);
      }
      drawPlain(root, 'statics', 'llama.cpp\u2019s mixtures', answer ? answer.static_recipes : data.static_recipes, [
        {title: 'mixture', of: (s) => s.name}, {title: 'bits', of: (s) => s.bpw, text: (v) => number(v, 5), number: true},
        {title: 'size', of: (s) => s.tensor_bytes, text: bytes, number: true},
        {title: 'its error', of: (s) => s.predicted_error, text: (v) => number(v), number: true},
        {title: 'ours at its size', of: (s) => s.optimized_error, text: (v) => number(v), number: true}]);
      drawPlain(root, 'evaluations', 'Measured on text', data.evaluations, [
        {title: 'file', of: (e) => e.candidate, name: true}, {title: 'text', of: (e) => e.text, name: true},
        {title: 'chunks', of: (e) => e.chunks, number: true}, {title: 'quantity', of: (e) => e.quantity},
        {title: 'value', of: (e) => e.value, text: (v) => number(v, 6), number: true},
        {title: 'standard error', of: (e) => e.standard_error, text: (v) => number(v, 2), number: true}]);
      if (answer) drawTensors(root, answer);
      heading(root, 'origin', 'Origin');
      put(root, make('div', {class: 'scroll'}, make('table', {}, make('tbody', {}, data.provenance.map(([name, text]) =>
        make('tr', {}, make('th', {scope: 'row'}, name), make('td', {class: 'name'}, text)))))));
    };
    show(Math.max(data.answers.length - 1, 0));
  };
})();
