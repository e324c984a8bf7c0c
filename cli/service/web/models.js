// The list of models beneath the roots, and what to do when there is none.
import {bytes, make, number, weights} from './elements.js';

const folderOf = (file) => file.slice(0, Math.max(file.lastIndexOf('/'), 0));
export const nameOf = (file) => file.slice(file.lastIndexOf('/') + 1);
const isMade = (model) => model.file.split('/')[1] === 'results';

export const addressOf = (options) =>
  '#' + new URLSearchParams(Object.entries(options).map(([name, value]) => [name, [value].flat().join('\n')]));

const entry = (model, chosen) => {
  const facts = model.trouble ? model.trouble
                : [model.architecture, weights(model.elements), bytes(model.bytes), model.bpw ? `${number(model.bpw, 3)} bits` : '',
                   model.files > 1 ? `${model.files} files` : ''].filter(Boolean).join(' \u00b7 ');
  return make('li', {}, make('a', {href: addressOf({model: model.file}), 'aria-current': model.file === chosen ? 'true' : null},
    make('span', {class: 'name'}, nameOf(model.file).replace(/\.gguf$/, '')),
    model.state_exists ? make('span', {class: 'badge', title: 'answers come at once'}, 'measured') : null,
    make('span', {class: model.trouble ? 'more trouble' : 'more'}, facts)));
};

// What a new user needs to know first. `roots`: as in the version.
export const noModels = (roots) => {
  const names = roots.map((root) => root.name);
  return [make('h1', {}, 'No models here yet'),
          make('p', {}, names.length === 1 ? 'Put a GGUF file into the folder that was given to ' : 'Put a GGUF file into one of the folders that were given to ',
               make('span', {class: 'mono'}, 'quantfit serve --root'), names.length ? `: ${names.join(', ')}.` : '.'),
          make('p', {}, 'It should be the original in 16 bits (F16 or BF16), as converted from the published weights; of a model in several ' +
                        'files, all of them. If an importance matrix exists (imatrix.gguf or imatrix.dat), put it beside the model.'),
          make('p', {class: 'soft'}, 'This list looks again by itself every few seconds.')];
};

// `root`: where the list goes; `filter`: a field.
export const modelList = (root, filter) => {
  let models = [], chosen = null, shown = '';
  const draw = () => {
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    const wanted = models.filter((model) => words.every((word) => model.file.toLowerCase().includes(word)));
    const key = JSON.stringify([wanted, chosen]);
    if (key === shown) return;  // what has the focus keeps it
    shown = key;
    const folders = new Map();
    for (const model of wanted.filter((one) => !isMade(one)))
      folders.set(folderOf(model.file), [...(folders.get(folderOf(model.file)) ?? []), model]);
    const list = (some) => make('ul', {}, some.map((model) => entry(model, chosen)));
    const made = wanted.filter(isMade);
    const open = root.querySelector('details')?.open || made.some((model) => model.file === chosen);
    const focused = root.contains(document.activeElement) ? document.activeElement.getAttribute('href') : null;
    root.replaceChildren(...[...folders].flatMap(([folder, some]) => [make('h3', {class: 'folder'}, folder || '/'), list(some)]),
                         ...(made.length ? [make('details', {open: open ? '' : null}, make('summary', {}, `Made here (${made.length})`), list(made))] : []),
                         ...(wanted.length === 0 && models.length ? [make('p', {class: 'soft'}, 'None of that name.')] : []));
    if (focused) [...root.querySelectorAll('a')].find((link) => link.getAttribute('href') === focused)?.focus();
  };
  filter.addEventListener('input', draw);
  return {
    show: (next) => {
      models = next;
      filter.closest('label').hidden = models.length < 8;
      draw();
    },
    mark: (file) => {
      chosen = file;
      draw();
    },
    find: (file) => models.find((model) => model.file === file),
    // The one to open when nobody chose: one that answers at once, else the first that can be read.
    first: () => models.find((model) => model.state_exists && !isMade(model)) ?? models.find((model) => !model.trouble && !isMade(model)),
  };
};
