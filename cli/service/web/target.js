// The target: bits per weight, the size of the file, the memory of a card, or a mixture of llama.cpp. A slider and a text say
// the same; the range of the slider is what the model can reach, learned from answers. Of the first two kinds a job may have
// several: others are kept beside the one that moves.
import {bytes, make, number} from './elements.js';

const CARDS = [8, 12, 16, 24, 32, 48, 80];
const CONTEXTS = [2048, 4096, 8192, 16384, 32768, 65536, 131072, 262144];
const CACHES = ['f16', 'bf16', 'f32', 'q8_0', 'q5_1', 'q5_0', 'q4_1', 'q4_0', 'iq4_nl'];
const POSITIONS = 1000;
const FLAT = 9.5;  // bits per weight from which on more of them gain nothing that anybody could see
const MEBI = 1024 ** 2, GIBI = 1024 ** 3;

// Sizes as the command line takes them, rounded to what a slider can tell apart.
const sizeText = (value) => (value >= GIBI ? `${(value / GIBI).toFixed(2)}GiB` : `${(value / MEBI).toFixed(2)}MiB`);
export const bytesOf = (text) => {
  const [, amount, unit] = /^\s*([0-9.]+)\s*([a-z]*)\s*$/i.exec(text) ?? [];
  const scale = {'': 1, b: 1, k: 1e3, kb: 1e3, m: 1e6, mb: 1e6, g: 1e9, gb: 1e9, kib: 1024, mib: MEBI, gib: GIBI}[(unit ?? '-').toLowerCase()];
  return scale === undefined ? NaN : Number(amount) * scale;
};

// `option`: of the command line; `value` and `text` turn its text into a number and back; `range(answer)` is what can be
// reached, [least, most] as numbers, or null.
const budgetRange = (answer, of) => {
  const budget = answer.budgets.find((one) => one.of === of);
  return budget ? [budget.smallest_bytes, budget.largest_bytes] : null;
};
const KINDS = {
  bpw: {
    option: 'target-bpw', label: 'bits per weight', value: Number, text: (bits) => bits.toFixed(2), start: '4.50',
    say: (bits) => `${number(bits, 4)} bits per weight`,
    range: (answer, elements) => {
      const [least, most] = budgetRange(answer, 'tensor data').map((size) => Math.ceil(800 * size / elements) / 100);
      return [least, Math.min(most, Math.max(least + 1, FLAT))];
    },
  },
  size: {
    option: 'target-size', label: 'size of the whole file', value: bytesOf, text: sizeText, start: '', say: bytes,
    range: (answer) => budgetRange(answer, 'file'),
  },
  card: {
    option: 'target-vram', label: 'memory of the card', value: bytesOf, text: sizeText, start: '24GiB', say: bytes,
    range: (answer) => {
      const weights = budgetRange(answer, 'GPU');
      if (!weights || !answer.memory) return null;
      const rest = answer.memory.items.reduce((total, item) => total + (item.device === 'GPU' ? item.bytes : 0), 0);
      return [rest + weights[0], rest + weights[1]];
    },
  },
  mixture: {option: 'preset', label: 'mixture of llama.cpp', value: () => NaN, text: String, start: '', say: String, range: () => null},
};
const SEVERAL = ['bpw', 'size'];

const choices = (select, pairs) =>
  select.replaceChildren(...pairs.map(([value, text]) => make('option', {value}, text)));

// `form`: the form of the page; `mixtures`: names. `changed(soon)` is called after every change; `soon`: more may follow at
// once.
export const targetControl = (form, mixtures, changed) => {
  const find = (id) => form.querySelector('#' + id);
  const amount = find('amount'), slider = find('slider'), card_fields = find('card-fields'), mixture = find('mixture');
  const memory_fields = [...card_fields.querySelectorAll('[data-option]')];
  const by_option = (name) => card_fields.querySelector(`[data-option="${name}"]`);
  let kind = 'bpw', elements = 0, range = null, last = null, kept = [];

  choices(by_option('ctx-size'), [['', 'as trained'], ...CONTEXTS.map((tokens) => [tokens, `${tokens.toLocaleString('en')} tokens`])]);
  for (const name of ['cache-type-k', 'cache-type-v']) choices(by_option(name), CACHES.map((format) => [format === 'f16' ? '' : format, format]));

  choices(mixture, mixtures.map((name) => [name, name]));
  mixture.addEventListener('input', () => changed(false));

  const also = make('button', {type: 'button', id: 'also'}, 'Also this one');
  const show_kept = () => {
    find('kept').hidden = !SEVERAL.includes(kind);
    find('kept').replaceChildren(...kept.map((text) => {
      const chip = make('button', {type: 'button', 'aria-label': `Leave out ${text}`}, `${text} \u00d7`);
      chip.addEventListener('click', () => {
        kept = kept.filter((one) => one !== text);
        show_kept();
        also.focus();
        changed(false);
      });
      return chip;
    }), also);
  };
  also.addEventListener('click', () => {
    kept = [...new Set([...kept, amount.value.trim()])];
    show_kept();
    also.focus();
    changed(false);
  });

  const chips = CARDS.map((gibi) => {
    const chip = make('button', {type: 'button', 'aria-pressed': 'false'}, `${gibi} GiB`);
    chip.addEventListener('click', () => {
      amount.value = `${gibi}GiB`;
      settle();
      changed(false);
    });
    return chip;
  });
  find('cards').replaceChildren(...chips);

  // Everything that follows from the text.
  const settle = () => {
    const value = KINDS[kind].value(amount.value);
    if (range && value > 0)
      slider.value = Math.round(POSITIONS * Math.min(Math.max((value - range[0]) / (range[1] - range[0] || 1), 0), 1));
    slider.setAttribute('aria-valuetext', value > 0 ? KINDS[kind].say(value) : amount.value);
    CARDS.forEach((gibi, i) => chips[i].setAttribute('aria-pressed', String(value === gibi * GIBI)));
  };
  const show_range = () => {
    const [least, most] = find('amount-range').children;
    slider.hidden = find('amount-range').hidden = range === null;
    least.textContent = range ? KINDS[kind].say(range[0]) : '';
    most.textContent = range ? KINDS[kind].say(range[1]) : '';
  };
  const show_kind = () => {
    form.querySelector(`input[name=kind][value=${kind}]`).checked = true;
    find('amount-label').textContent = KINDS[kind].label;
    find('amount-label').htmlFor = kind === 'mixture' ? 'mixture' : 'amount';
    mixture.hidden = kind !== 'mixture';
    amount.parentElement.hidden = kind === 'mixture';
    show_kept();
    amount.setAttribute('inputmode', kind === 'bpw' ? 'decimal' : 'text');
    card_fields.hidden = kind !== 'card';
    amount.dataset.option = KINDS[kind].option;
    show_range();
    settle();
  };

  slider.addEventListener('input', () => {
    amount.value = KINDS[kind].text(range[0] + slider.value / POSITIONS * (range[1] - range[0]));
    slider.setAttribute('aria-valuetext', KINDS[kind].say(KINDS[kind].value(amount.value)));
    changed(true);
  });
  amount.addEventListener('input', () => {
    settle();
    changed(false);
  });
  for (const field of memory_fields) field.addEventListener('input', () => changed(false));
  for (const radio of form.querySelectorAll('input[name=kind]'))
    radio.addEventListener('change', () => {
      kind = radio.value;
      range = null;
      kept = [];
      // The same answer in the other unit, where there is one.
      if (kind === 'bpw') amount.value = last ? KINDS.bpw.text(last.bpw) : KINDS.bpw.start;
      if (kind === 'size') amount.value = last ? sizeText(last.file_bytes) : sizeText(elements * 4.5 / 8);
      if (kind === 'card') amount.value = KINDS.card.start;
      show_kind();
      changed(false);
    });

  return {
    // The options of the command line that say the same.
    options: () => {
      if (kind === 'mixture') return {preset: mixture.value};
      const all = [...new Set([amount.value.trim(), ...kept])];
      const options = {[KINDS[kind].option]: all.length === 1 ? all[0] : all};
      if (kind === 'card')
        for (const field of memory_fields)
          if (field.value.trim() !== '') options[field.dataset.option] = field.value.trim();
      return options;
    },
    // What is wrong with the text before anybody is asked, or null: on a command line a comma stands between two targets.
    trouble: () => (kind !== 'mixture' && amount.value.includes(',') ? `--${KINDS[kind].option}: '${amount.value.trim()}' has a comma; decimals are written ` +
                                                 `with a point: ${amount.value.trim().replace(',', '.')}` : null),
    // Another model with so many weights, and what `options` (a Map) say of the target.
    open: (weights, options) => {
      elements = weights;
      range = last = null;
      kind = Object.keys(KINDS).find((one) => options.has(KINDS[one].option)) ?? 'bpw';
      const [first, ...others] = (options.get(KINDS[kind].option) ?? KINDS[kind].start).split('\n');
      amount.value = first;
      kept = SEVERAL.includes(kind) ? others : [];
      if (kind === 'mixture') mixture.value = first;
      for (const field of memory_fields) field.value = options.get(field.dataset.option) ?? '';
      show_kind();
    },
    // An answer says what can be reached.
    learn: (answer) => {
      if (answer.feasible) last = answer;
      range = KINDS[kind].range(answer, elements) ?? range;
      show_range();
      settle();
    },
    // Takes a size from the curve.
    take: (bits) => {
      kind = 'bpw';
      range = null;
      amount.value = (Math.ceil(bits * 1e4) / 1e4).toString();
      show_kind();
      changed(false);
    },
  };
};
