// Tables that sort and filter, and bars.
import {bitsOf, bytes, make, number, percent, put} from './elements.js';

const grouped_digits = (value) => value.toLocaleString('en');
const scientific = (value) => value.toExponential(2);

// Columns: {title, of: row -> value, text: value -> string, number: bool, name: bool}. `lines`: {row, element} each.
export const table = (rows, columns, caption) => {
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

// Every tensor of an answer, with a field that filters.
export const tensorTable = (tensors) => {
  const {element, lines} = table(tensors, [
    {title: 'tensor', of: (t) => t.name, name: true},
    {title: 'from', of: (t) => t.from},
    {title: 'format', of: (t) => t.format},
    {title: 'bits', of: bitsOf, text: (v) => number(v, 5), number: true},
    {title: 'bytes', of: (t) => t.bytes, text: grouped_digits, number: true},
    {title: 'relative error', of: (t) => t.nmse, text: scientific, number: true},
    {title: 'sensitivity', of: (t) => t.sensitivity, text: (v) => number(v, 3), number: true},
    {title: 'part of the error', of: (t) => t.error, text: scientific, number: true},
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
  return make('div', {}, make('div', {class: 'controls'}, make('label', {for: 'filter'}, 'only those with', filter), count),
              make('div', {class: 'tall', tabindex: '0', role: 'region', 'aria-label': 'Table of tensors'}, element));
};

// How many tensors and bytes have which format; `formats` as in an answer's JSON.
export const formatTable = (formats) => table(formats, [
  {title: 'format', of: (f) => f.format},
  {title: 'tensors', of: (f) => f.tensors, number: true},
  {title: 'weights', of: (f) => f.elements, text: grouped_digits, number: true},
  {title: 'size', of: (f) => f.bytes, text: bytes, number: true},
  {title: 'bits', of: bitsOf, text: (v) => number(v, 5), number: true}], 'Formats').element;

// What memory holds besides weights; `items` as in an answer's JSON.
export const memoryTable = (items) => table(items, [
  {title: 'what', of: (m) => m.what, name: true}, {title: 'on', of: (m) => m.device},
  {title: 'size', of: (m) => m.bytes, text: bytes, number: true}, {title: 'how', of: (m) => m.how, name: true}],
  'Memory besides weights').element;

export const gainTable = (gains) => table(gains, [
  {title: 'tensor', of: (g) => g.tensor, name: true}, {title: 'from', of: (g) => g.from}, {title: 'to', of: (g) => g.to},
  {title: 'more bytes', of: (g) => g.more_bytes, text: grouped_digits, number: true},
  {title: 'less error', of: (g) => g.saved_error, text: scientific, number: true}],
  'Where more bytes would help most').element;

// llama.cpp's mixtures beside the best recipe of their size.
export const mixtureTable = (statics) => table(statics, [
  {title: 'mixture', of: (s) => s.name}, {title: 'bits', of: (s) => s.bpw, text: (v) => number(v, 5), number: true},
  {title: 'size', of: (s) => s.tensor_bytes, text: bytes, number: true},
  {title: 'its error', of: (s) => s.predicted_error, text: (v) => number(v), number: true},
  {title: 'ours at its size', of: (s) => s.optimized_error, text: (v) => number(v), number: true}],
  'llama.cpp\u2019s mixtures').element;

// [name, value, part of it in the second colour] each; `total`: sum of all, and the longest.
export const bars = (items, total) =>
  make('div', {class: 'bars'}, items.flatMap(([name, value, second]) => {
    const track = make('span', {class: 'track', 'aria-hidden': 'true'});
    const part = (share, kind) => {
      const bar = make('i', {class: kind});
      bar.style.width = 100 * share + '%';
      return bar;
    };
    put(track, part((value - second) / total.longest), part(second / total.longest, 'bias'));
    return [make('span', {class: 'name'}, name), track, make('span', {}, percent(value / total.sum))];
  }));
