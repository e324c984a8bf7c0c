// Fields for every option of the command line that has no control of its own, made from the schema of the request body.
import {make} from './elements.js';

// Options that stand elsewhere on the page, or that the service decides.
const ELSEWHERE = new Set(['model', 'imatrix', 'text', 'state', 'target-bpw', 'target-size', 'target-vram', 'target-ram', 'ctx-size',
                           'cache-type-k', 'cache-type-v', 'output', 'report', 'export-recipe', 'export-tensor-types', 'save-imatrix',
                           'threads', 'preset', 'recipe']);

const kindOf = (schema) => {
  if (schema.anyOf) return 'list';
  if (schema.type === 'boolean') return 'flag';
  if (schema.enum) return 'choice';
  return schema.type === 'integer' || schema.type === 'number' ? 'number' : 'text';
};

const fieldOf = (name, schema) => {
  const kind = kindOf(schema);
  const shown = {'data-option': name, 'data-kind': kind, 'aria-describedby': `about-${name}`};
  const usual = schema['x-default'] ?? '';
  if (kind === 'flag') return make('input', {type: 'checkbox', ...shown});
  if (kind === 'choice')
    return make('select', shown, make('option', {value: ''}, usual === '' ? 'as usual' : `${usual} (as usual)`),
                schema.enum.filter((one) => one !== usual).map((one) => make('option', {value: one}, one)));
  if (kind === 'list') return make('textarea', {...shown, rows: 1, spellcheck: 'false', placeholder: schema['x-placeholder'] ?? 'one a line'});
  const input = make('input', {type: 'text', inputmode: kind === 'number' ? 'decimal' : null, spellcheck: 'false',
                               placeholder: usual || schema['x-placeholder'], ...shown});
  if (!schema.examples) return input;
  const list = `examples-${name}`;
  input.setAttribute('list', list);
  return [input, make('datalist', {id: list}, schema.examples.map((value) => make('option', {value})))];
};

const valueOf = (field) => {
  if (field.dataset.kind === 'flag') return field.checked ? true : undefined;
  const text = field.value.trim();
  if (text === '') return undefined;
  if (field.dataset.kind === 'list') return text.split('\n').map((line) => line.trim()).filter(Boolean);
  return field.dataset.kind === 'number' && Number.isFinite(Number(text)) ? Number(text) : text;
};

// `schema`: of a request body. `changed()` is called after every change. Returns {options, open, about}.
export const optionFields = (root, schema, changed) => {
  const groups = new Map();
  for (const [name, one] of Object.entries(schema.properties)) {
    if (ELSEWHERE.has(name)) continue;
    const title = one['x-group'] || 'Options';
    if (!groups.has(title)) groups.set(title, []);
    const field = fieldOf(name, one);
    const flag = kindOf(one) === 'flag';
    const unit = one['x-unit'] && !one.description.includes(one['x-unit']) ? ` (${one['x-unit']})` : '';
    groups.get(title).push(make('div', {class: 'option'},
      flag ? make('label', {class: 'flag'}, field, make('span', {class: 'mono'}, name))
           : make('label', {}, make('span', {class: 'mono'}, name + unit), field),
      make('p', {class: 'about', id: `about-${name}`}, one.description), make('div', {class: 'problem-place'})));
  }
  root.replaceChildren(...[...groups].map(([title, fields]) =>
    make('details', {'data-group': title}, make('summary', {}, title), make('div', {class: 'fields'}, fields))));
  const fields = [...root.querySelectorAll('[data-option]')];
  for (const field of fields) field.addEventListener('input', changed);
  return {
    // What is set, by name; of the group Memory only where `with_memory`.
    options: (with_memory) => {
      const options = {};
      for (const group of root.children) group.hidden = group.dataset.group === 'Memory' && !with_memory;
      for (const field of fields) {
        const value = field.closest('[data-group]').hidden ? undefined : valueOf(field);
        if (value !== undefined) options[field.dataset.option] = value;
      }
      return options;
    },
    // What a Map says; lists stand in it with line breaks.
    open: (options) => {
      for (const field of fields) {
        const value = options.get(field.dataset.option) ?? '';
        if (field.dataset.kind === 'flag') field.checked = value === 'true';
        else field.value = value;
        if (value !== '') field.closest('[data-group]').open = true;
      }
    },
  };
};

// The options that a command takes.
export const accepted = (options, schema) =>
  Object.fromEntries(Object.entries(options).filter(([name]) => name in schema.properties));

// What a shell would be given.
export const commandLine = (command, options) => {
  const quoted = (value) => {
    const text = String(value);
    return /^[A-Za-z0-9_.,:=@%+/-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
  };
  const {model, ...rest} = options;
  const words = ['quantfit', command, quoted(model)];
  for (const [name, value] of Object.entries(rest))
    for (const one of [value].flat()) words.push(one === true ? `--${name}` : `--${name} ${quoted(one)}`);
  return words.join(' ');
};
