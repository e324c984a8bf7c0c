// One model: its target, what comes out of it, and the start of a job. The address of the page holds every option, so that a
// reload, a bookmark or the way back show the same.
import {make} from './elements.js';
import {get, newKey, post, Problem} from './api.js';
import {targetControl} from './target.js';
import {accepted, commandLine, optionFields} from './options.js';
import {modelFacts, outcomeText, outcomeView} from './outcome.js';
import {clearProblems, optionOf, problemText, showProblem} from './problems.js';
import {addressOf, nameOf} from './models.js';
import {copyButton} from './copy.js';

const TYPING = 250, SPEAKING = 900;  // milliseconds of quiet after which a text is sent, and an outcome said

const folderOf = (file) => file.slice(0, file.lastIndexOf('/'));

// The importance matrix that is probably of this model: alone in its folder, or with the longest name in common.
const likelyMatrix = (model, files) => {
  const common = (name) => {
    let i = 0;
    while (i < name.length && name[i] === nameOf(model)[i]) ++i;
    return i;
  };
  const near = files.filter((file) => folderOf(file) === folderOf(model));
  const best = near.toSorted((a, b) => common(nameOf(b)) - common(nameOf(a)))[0];
  return best !== undefined && (near.length === 1 || common(nameOf(best)) >= 4) ? best : '';
};

const choices = (select, pairs, value) => {
  select.replaceChildren(...pairs.map(([one, text]) => make('option', {value: one}, text)));
  if (!pairs.some(([one]) => one === value)) select.append(make('option', {value}, value));
  select.value = value;
};

// `schemas`: of the request bodies, by command; `jobs`: the list of jobs. Returns {open(options), again(file)}.
export const workbench = (schemas, jobs) => {
  const find = (id) => document.getElementById(id);
  const form = find('form'), spoken = find('spoken');
  const field = (option) => form.querySelector(`[data-option="${option}"]`);
  let model = null, files = [], opening = null, timer = 0, saying = 0;

  const target = targetControl(form, schemas.quantize.properties.preset.examples ?? [], (soon) => changed(soon ? 0 : TYPING));
  const more = optionFields(find('option-fields'), schemas.quantize, () => changed(TYPING));
  const view = outcomeView(find('outcome'), find('details'), (bits) => target.take(bits));

  // All that is set, as the command line's options.
  const options = () => {
    const all = {model: model.file};
    if (field('imatrix').value !== '') all.imatrix = field('imatrix').value;
    if (field('text').value !== '') all.text = field('text').value.split('\n');
    const aim = target.options();
    const rest = more.options('target-vram' in aim);
    const set = Object.keys(rest).length;
    find('options-count').textContent = set ? ` (${set} set)` : '';
    return {...all, ...aim, ...rest};
  };
  const withOutput = (all) => (find('output').value.trim() === '' ? all : {...all, output: find('output').value.trim()});
  const withoutTarget = (all) => Object.fromEntries(Object.entries(all).filter(([name]) => !name.startsWith('target-') && name !== 'preset'));

  const say = (text) => {
    clearTimeout(saying);
    saying = setTimeout(() => { spoken.textContent = text; }, SPEAKING);
  };

  let without = null;  // what stands instead of an answer; it stays while it is still true, with the focus in it
  const notMeasured = () => {
    const running = jobs.of(model.file) !== undefined;
    if (without?.running === running && without.element.isConnected) return;
    const measure = make('button', {type: 'button', class: 'primary'}, 'Measure it');
    measure.addEventListener('click', () => start('plan', options(), measure));
    without = {running, element: make('div', {class: 'empty'}, make('h2', {}, running ? 'Being measured' : 'Not measured yet'),
      make('p', {}, 'To predict what a format costs, every tensor is tried in every format once, and a text runs through the model. ' +
                    'The state file beside the model remembers: from then on every target is answered while you move the slider.'),
      running ? make('p', {class: 'soft'}, 'A job is at it; answers come here as soon as it is done.') : measure,
      running ? null : make('p', {class: 'soft'}, 'Making the file measures what is needed, too.'))};
    say(running ? 'Being measured.' : 'Not measured yet.');
    view.instead(without.element);
  };

  const showTrouble = (problem) => {
    find('outcome').classList.add('stale');
    if (problem.code === 'not-measured') {
      find('outcome').classList.remove('stale');
      find('glance').textContent = '';
      clearProblems(form);
      return notMeasured();
    }
    const name = optionOf(problem);
    const at = name === '' ? null : field(name);
    for (let box = at?.closest('details'); box; box = box.parentElement.closest('details')) box.open = true;
    if (at?.closest('[hidden]')) return showProblem(problem, null, find('form-problem'));
    showProblem(problem, at, find('form-problem'));
  };

  // One request at a time; while it runs only the newest wish waits. A reply that is about another model or other options
  // than now is dropped; one about an earlier place of the slider is shown until the newer one comes.
  let running = false, waiting = false, asked_curve = '';
  const ask = async () => {
    if (running) {
      waiting = true;
      return;
    }
    const trouble = target.trouble();
    if (trouble) return showTrouble(new Problem(0, {detail: trouble}));
    running = true;
    const all = options(), signal = opening.signal;
    const scope = JSON.stringify(withoutTarget(all));
    const current = () => !signal.aborted && JSON.stringify(withoutTarget(options())) === scope;
    try {
      const {answers} = await post('/plan', accepted(all, schemas.plan), {signal}), [answer] = answers;
      if (current()) {
        clearProblems(form);
        find('outcome').classList.remove('stale');
        target.learn(answer);
        view.show(answer, answers);
        say(find('glance').textContent = outcomeText(answer));
        if (asked_curve !== scope && answer.feasible) {
          asked_curve = scope;
          const memory = new Set(['ctx-size', 'cache-type-k', 'cache-type-v']);
          const wanted = Object.fromEntries(Object.entries(accepted(withoutTarget(all), schemas.frontier)).filter(([name]) => !memory.has(name)));
          const frontier = await post('/frontier', {...wanted, ...('points' in schemas.frontier.properties ? {points: 400} : {})}, {signal});
          if (current()) view.frontier(frontier);
        }
      }
    } catch (problem) {
      if (!signal.aborted && current()) showTrouble(problem instanceof Problem ? problem : new Problem(0, {detail: String(problem)}));
    } finally {
      running = false;
      if (waiting) {
        waiting = false;
        ask();
      }
    }
  };

  const changed = (delay) => {
    find('started').textContent = '';
    const all = options();
    history.replaceState(null, '', addressOf(all));
    find('shell-text').textContent = commandLine('quantize', withOutput(all));
    clearTimeout(timer);
    timer = setTimeout(ask, delay);
  };

  let wish = {};  // not granted yet: asked for again after a broken connection it is still one job
  const start = async (command, all, button) => {
    button.disabled = true;
    const body = {command, options: accepted(all, schemas[command])}, text = JSON.stringify(body);
    if (wish.text !== text) wish = {text, key: newKey()};
    try {
      jobs.add(await post('/jobs', body, {headers: {'Idempotency-Key': wish.key}}));
      wish = {};
      find('started').textContent = 'In the queue; the list of jobs shows how it goes.';
      if (command === 'plan') notMeasured();
    } catch (problem) {
      showTrouble(problem);
    } finally {
      button.disabled = false;
    }
  };
  form.addEventListener('submit', (event) => {
    event.preventDefault();
    const trouble = target.trouble();
    if (trouble) return showTrouble(new Problem(0, {detail: trouble}));
    if (model) start('quantize', withOutput(options()), find('start'));
  });
  for (const name of ['imatrix', 'text']) field(name).addEventListener('input', () => changed(0));
  find('output').addEventListener('input', () => changed(TYPING));
  copyButton(() => find('shell-text').textContent, find('shell-copy'));

  return {
    // Shows the model and the options of a Map; lists stand in it with line breaks.
    open: async (wanted) => {
      opening?.abort();
      const controller = opening = new AbortController();
      const file = wanted.get('model');
      clearTimeout(timer);
      clearProblems(form);
      find('model-trouble').replaceChildren();
      try {
        const [inspected, list] = await Promise.all([get(`/models/inspect?file=${encodeURIComponent(file)}`, controller.signal),
                                                     get('/files', controller.signal)]);
        if (controller.signal.aborted) return;
        model = {...inspected, file};
        files = list.files;
      } catch (problem) {
        if (controller.signal.aborted) return;
        model = null;
        find('model').hidden = false;
        find('model-name').textContent = nameOf(file);
        find('model-facts').textContent = '';
        find('model-trouble').replaceChildren(problemText(problem));
        form.hidden = true;
        find('outcome').replaceChildren();
        find('details').replaceChildren();
        return;
      }
      form.hidden = false;
      find('model').hidden = false;
      find('model-name').textContent = nameOf(file).replace(/\.gguf$/, '');
      find('model-facts').textContent = modelFacts(model);
      document.title = `${nameOf(file)}, quantfit`;
      const of_kind = (kind) => files.filter((one) => one.kind === kind).map((one) => one.file);
      choices(field('imatrix'), [['', 'make one from the text'], ...of_kind('imatrix').map((one) => [one, one]), ['none', 'none: do without']],
              wanted.get('imatrix') ?? likelyMatrix(file, of_kind('imatrix')));
      choices(field('text'), [['', 'the text that comes with quantfit'], ...of_kind('text').map((one) => [one, one])], wanted.get('text') ?? '');
      target.open(model.elements, wanted);
      more.open(wanted);
      find('output').value = wanted.get('output') ?? '';
      find('options').open = false;
      find('glance').textContent = '';
      asked_curve = '';
      view.open(model);
      running = waiting = false;
      changed(0);
    },
    // Something about a model changed: asks once more.
    again: (file) => {
      if (model?.file !== file) return;
      find('started').textContent = '';
      asked_curve = '';
      ask();
    },
  };
};
