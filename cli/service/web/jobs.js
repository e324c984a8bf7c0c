// Jobs: what they are at, and what can be done about them.
import {bytes, make, number, percent} from './elements.js';
import {follow, get, newKey, post, remove, resultAddress} from './api.js';
import {addressOf, nameOf} from './models.js';
import {problemText} from './problems.js';
import {copyButton} from './copy.js';

const UNFINISHED = ['queued', 'running'];
const MOST_STREAMS = 3;  // browsers allow six connections to a host
const WORDS = {queued: 'waiting', running: 'running', done: 'done', failed: 'failed', cancelled: 'stopped'};
// In the order in which they are shown.
const RESULT_WORDS = {model: 'File', recipe: 'Recipe', report: 'Report', imatrix: 'Importance matrix', other: '', answer: 'JSON'};

const duration = (seconds) => {
  if (seconds < 60) return `${Math.max(Math.round(seconds), 1)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.round(seconds % 60)} s`;
  return `${Math.floor(seconds / 3600)} h ${Math.round(seconds % 3600 / 60)} min`;
};
const targetOf = (options) => {
  if (options['target-bpw'] !== undefined) return `${[options['target-bpw']].flat().join(', ')} bits per weight`;
  if (options['target-size'] !== undefined) return [options['target-size']].flat().join(', ');
  if (options['target-vram'] !== undefined) return `card of ${options['target-vram']}`;
  return options.preset ?? (options.recipe ? nameOf(options.recipe) : '');
};
const titleOf = (job) => {
  const model = nameOf(job.options.model ?? '').replace(/\.gguf$/, '');
  switch (job.command) {
    case 'measure':
    case 'plan': return `${model}: measuring`;
    case 'calibrate': return `${model}: importance matrix`;
    case 'publish': return `${model}: ${[job.options.sizes].flat().join(', ')}`;
    case 'tune': return `${nameOf(job.options.quantized).replace(/\.gguf$/, '')}: tuning`;
    case 'evaluate': return `${[job.options.files ?? job.options.base].flat().map((file) => nameOf(file).replace(/\.gguf$/, '')).join(', ')}: divergence`;
    default: return `${model}, ${targetOf(job.options)}`;
  }
};
// What a name leads to: the same options once more, or the model.
const addressOfJob = ({command, options}) =>
  addressOf(['quantize', 'plan', 'measure'].includes(command) ? options : {model: options.model ?? options.original ?? options.base});
// What a job found out, from the document that its command printed.
const findingsOf = ({kind, files, divergence, level}) => {
  if (kind === 'evaluate')
    return files.map((one) => `${nameOf(one.file)}: KL divergence ${number(one.kl_divergence.mean, 3)} \u00b1 ` +
                              `${number(one.kl_divergence.standard_error_over_chunks, 2)} nats, same first word ${percent(one.same_top_token.value)}`);
  if (kind === 'tune')
    return [`KL divergence ${number(divergence.before, 3)} before, ${number(divergence.after, 3)} after, on text held back (${level})`];
  return [];
};
const speed = (progress) => {
  if (!(progress.per_second > 0)) return '';
  if (progress.unit !== 'weights') return `${number(progress.per_second, 3)} ${progress.unit}/s`;
  return progress.per_second >= 1e6 ? `${number(progress.per_second / 1e6, 3)} M weights/s` : `${number(progress.per_second / 1e3, 3)} k weights/s`;
};

const statusText = (job) => {
  if (job.stopping) return 'stopping';
  if (job.status === 'queued') return job.position > 1 ? `waiting, number ${job.position}` : 'waiting, next';
  const took = job.started && job.finished ? (new Date(job.finished) - new Date(job.started)) / 1000 : null;
  return WORDS[job.status] + (job.status === 'done' && took !== null ? ` in ${duration(took)}` : '');
};

// One job. `act(job, what)` does what a button says; `start(body)` begins another.
const jobCard = (act, start) => {
  const title = make('a', {class: 'name'}), status = make('span', {class: 'status'});
  const bar = make('progress', {max: 1}), figures = make('p', {class: 'figures'}), place = make('div');
  const buttons = make('div', {class: 'buttons'}), results = make('ul', {class: 'results', 'aria-label': 'results'});
  const line = make('code', {tabindex: '0'}), findings = make('div', {class: 'findings'}), further = make('div');
  const shell = make('details', {}, make('summary', {}, 'Command line'), make('div', {class: 'copied'}, line, copyButton(() => line.textContent)));
  const card = make('li', {class: 'job'}, make('h3', {}, title), bar, figures, place, findings, results, further,
                    make('div', {class: 'row'}, status, buttons), shell);
  let job = null, shown = '';

  const button = (text, what, label) => {
    const one = make('button', {type: 'button', 'data-act': what, 'aria-label': `${label ?? text}: ${titleOf(job)}`}, text);
    one.addEventListener('click', () => (what === 'ask' ? confirm() : what === 'keep' ? drawButtons() : act(job, what)));
    return one;
  };
  const drawButtons = () => {
    const focused = buttons.contains(document.activeElement);
    buttons.replaceChildren(...(UNFINISHED.includes(job.status) ? (job.stopping ? [] : [button('Stop', 'cancel')])
                                : [...(job.status === 'done' ? [] : [button('Resume', 'retry')]), button('Delete', 'ask')]));
    if (focused) (buttons.querySelector('button') ?? title).focus();
  };
  const confirm = () => {
    const size = (job.results ?? []).reduce((all, one) => all + (one.kind === 'answer' ? 0 : one.bytes), 0);
    const keep = button('Keep', 'keep');
    buttons.replaceChildren(make('span', {role: 'alert'}, size > 0 ? `Delete it and its files (${bytes(size)})?` : 'Delete it from the list?'),
                            button('Delete', 'remove', 'Really delete'), keep);
    keep.focus();
  };
  // With a finished file: tune it, or measure it on a text.
  const showFurther = () => {
    const made = job.status === 'done' && job.command !== 'publish' ? (job.results ?? []).find((one) => one.kind === 'model') : undefined;
    if (!made) return further.replaceChildren();
    const original = job.options.model ?? job.options.original;
    const tune = make('button', {type: 'button', 'aria-label': `Tune: ${titleOf(job)}`}, 'Tune it');
    tune.addEventListener('click', () => begin({command: 'tune', options: {original, quantized: made.file, ...(job.options.text ? {text: job.options.text} : {})}}, tune));
    const evaluate = make('button', {type: 'button', 'aria-label': `Evaluate: ${titleOf(job)}`}, 'Evaluate it');
    evaluate.addEventListener('click', async () => {
      try {
        const {files} = await get('/files?kind=text');
        if (files.length === 0)
          return further.replaceChildren(make('p', {class: 'soft'}, 'A text is needed that the file was not made with: put one (.txt) beneath a folder of the service.'));
        const text = make('select', {}, files.map((one) => make('option', {value: one.file}, one.file)));
        const go = make('button', {type: 'button'}, 'Evaluate'), leave = make('button', {type: 'button'}, 'Not now');
        go.addEventListener('click', () => begin({command: 'evaluate', options: {base: original, files: [made.file], text: [text.value],
                                                                                       ...(job.state ? {state: job.state} : {})}}, go));
        leave.addEventListener('click', showFurther);
        further.replaceChildren(make('label', {}, 'on this text', text), make('div', {class: 'buttons'}, go, leave));
        text.focus();
      } catch (problem) {
        place.replaceChildren(problemText(problem));
      }
    });
    further.replaceChildren(make('div', {class: 'buttons'}, evaluate, ...(job.command === 'tune' ? [] : [tune])));
  };
  const showFindings = async () => {
    findings.replaceChildren();
    if (job.status !== 'done' || !['tune', 'evaluate'].includes(job.command)) return;
    try {
      findings.replaceChildren(...findingsOf(await get(`/jobs/${job.id}/results/answer.json`)).map((text) => make('p', {}, text)));
    } catch (problem) {
      findings.replaceChildren(problemText(problem));
    }
  };
  const begin = async (body, from) => {
    from.disabled = true;
    try {
      await start(body);
      showFurther();
    } catch (problem) {
      from.disabled = false;
      place.replaceChildren(problemText(problem));
    }
  };
  const showProgress = (progress) => {
    const running = job.status === 'running';
    bar.hidden = !running;
    figures.hidden = !running || !progress;
    if (!running) return;
    if (!progress || !(progress.total > 0)) {
      bar.removeAttribute('value');
      bar.setAttribute('aria-label', 'working');
      return;
    }
    const share = Math.min(progress.done / progress.total, 1);
    bar.value = share;
    bar.setAttribute('aria-label', progress.phase);
    figures.replaceChildren(make('strong', {}, `${Math.floor(100 * share)} %`), ' ' + [progress.phase, speed(progress),
      progress.seconds_left > 0 ? `about ${duration(progress.seconds_left)} left` : '',
      progress.tensors_saved > 0 ? `${progress.tensors_saved} tensors saved` : '', progress.tensor].filter(Boolean).join(' \u00b7 '));
  };

  return {
    element: card,
    progress: showProgress,
    job: () => job,
    update: (next) => {
      job = next;
      status.textContent = statusText(job);  // a waiting job moves up
      showProgress(job.progress);
      const key = JSON.stringify([job.status, job.stopping, job.results, job.problem]);
      if (key === shown) return;  // a question that is being answered stays
      shown = key;
      card.dataset.status = job.status;
      title.textContent = titleOf(job);
      title.setAttribute('href', addressOfJob(job));
      line.textContent = job.command_line;
      place.replaceChildren(...(job.status === 'failed' && job.problem
        ? [problemText({message: job.problem.detail, hint: job.problem.hint ?? ''})] : []));
      const rank = (one) => Object.keys(RESULT_WORDS).indexOf(one.kind);
      results.replaceChildren(...(job.results ?? []).toSorted((a, b) => rank(a) - rank(b)).map((one) =>
        make('li', {}, make('a', one.kind === 'report' ? {href: resultAddress(job, one.name), target: '_blank', rel: 'noopener'}
                                 : {href: resultAddress(job, one.name), download: one.name}, RESULT_WORDS[one.kind] || one.name),
             one.kind === 'model' ? ` ${bytes(one.bytes)}` : null)));
      results.hidden = results.children.length === 0;
      drawButtons();
      showFurther();
      showFindings();
    },
    fail: (problem) => place.replaceChildren(problemText(problem)),
  };
};

const emptyText = () => make('li', {class: 'soft'}, 'None yet. A job measures a model and makes a file of the size you chose; it goes on ' +
                                                    'when this page is closed, and after the program was stopped.');

// `root`: a list; `spoken`: where changes are said; `counted(running, waiting)`; `finished(job)`: a job ended.
export const jobList = (root, {spoken, counted, finished}) => {
  const cards = new Map(), streams = new Map(), seen = new Map();  // seen: the last event of each job
  let changes = 0;  // by this page; a list that was asked for before one of them is out of date

  const act = async (job, what) => {
    const card = cards.get(job.id);
    ++changes;
    try {
      if (what === 'remove') {
        await remove(`/jobs/${job.id}`);
        forget(job.id);
        draw();
        (root.querySelector('a') ?? root.closest('section')).focus();
      } else {
        take(await post(`/jobs/${job.id}/${what}`));
      }
      ++changes;
    } catch (problem) {
      card.fail(problem);
    }
  };
  const start = async (body) => {
    ++changes;
    take(await post('/jobs', body, {headers: {'Idempotency-Key': newKey()}}));
    ++changes;
  };
  const forget = (id) => {
    streams.get(id)?.abort();
    streams.delete(id);
    cards.get(id)?.element.remove();
    cards.delete(id);
    seen.delete(id);
  };
  const watch = (job) => {
    if (job.status !== 'running' || streams.has(job.id) || streams.size >= MOST_STREAMS) return;
    const controller = new AbortController();
    streams.set(job.id, controller);
    follow(`/jobs/${job.id}/events`, {signal: controller.signal, last: seen.get(job.id),
      over: () => !UNFINISHED.includes(cards.get(job.id)?.job().status),
      onEvent: ({id, event, data}) => {
        seen.set(job.id, id);
        if (event === 'progress') cards.get(job.id)?.progress(JSON.parse(data));
        if (event === 'job') take(JSON.parse(data));
      }}).catch((problem) => cards.get(job.id)?.fail(problem)).finally(() => {
      if (streams.get(job.id) === controller) streams.delete(job.id);
    });
  };
  const draw = () => {
    // What is at work comes first, then the queue in its order, then what ended, the newest first.
    const place = (job) => (job.status === 'running' ? -1 : job.status === 'queued' ? job.position ?? 0 : Infinity);
    const all = [...cards.values()].sort((a, b) =>
      place(a.job()) === place(b.job()) ? (a.job().created < b.job().created ? 1 : -1) : place(a.job()) - place(b.job()));
    // Cards stay where they are unless one comes or goes, so that nothing loses the focus.
    if (all.length === 0) root.replaceChildren(emptyText());
    else if (all.some((card, i) => root.children[i] !== card.element) || root.children.length !== all.length)
      root.replaceChildren(...all.map((card) => card.element));
    const count = (status) => all.filter((card) => card.job().status === status).length;
    counted(count('running'), count('queued'));
  };
  const take = (job, quiet = false) => {
    const known = cards.get(job.id)?.job(), before = known?.status;
    // News that are older than what is known: streams begin with what was, lists are made before they arrive.
    if (known && (job.attempts < known.attempts ||
                  (job.attempts === known.attempts && job.status === 'running' && !UNFINISHED.includes(before)))) return;
    if (!cards.has(job.id)) cards.set(job.id, jobCard(act, start));
    cards.get(job.id).update(job);
    watch(job);
    if (!quiet) draw();
    if (before !== undefined && before !== job.status) {
      spoken.textContent = `${titleOf(job)}: ${WORDS[job.status]}`;
      if (!UNFINISHED.includes(job.status)) finished(job);
    }
  };
  return {
    add: (job) => {
      ++changes;
      take(job);
    },
    refresh: async () => {
      const before = changes;
      const {jobs} = await get('/jobs?limit=50');
      if (before !== changes) return;
      const known = new Set(jobs.map((job) => job.id));
      for (const id of [...cards.keys()]) if (!known.has(id)) forget(id);
      for (const job of jobs) take(job, true);
      draw();
    },
    busy: () => [...cards.values()].some((card) => UNFINISHED.includes(card.job().status)),
    of: (file) => [...cards.values()].map((card) => card.job()).find((job) => job.options.model === file && UNFINISHED.includes(job.status)),
  };
};
