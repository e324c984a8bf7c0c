// The page of the service: models, one of them on the workbench, jobs.
import {get, onTokenWanted} from './api.js';
import {jobList} from './jobs.js';
import {addressOf, modelList, noModels} from './models.js';
import {problemText} from './problems.js';
import {workbench} from './workbench.js';

const find = (id) => document.getElementById(id);
const BUSY = 2000, QUIET = 6000;  // milliseconds between two looks at the lists

// Asks for a token in a dialog; null when the person leaves.
onTokenWanted((refused) => new Promise((resolve) => {
  const dialog = find('token');
  find('token-text').value = '';
  find('token-problem').hidden = !refused;
  find('token-problem').textContent = refused ? 'This is not the token.' : '';
  dialog.returnValue = '';
  const leave = () => dialog.close('leave');
  find('token-leave').addEventListener('click', leave, {once: true});
  dialog.addEventListener('close', () => {
    find('token-leave').removeEventListener('click', leave);
    const token = find('token-text').value.trim();
    find('token-text').value = '';
    resolve(dialog.returnValue === 'give' && token !== '' ? token : null);
  }, {once: true});
  dialog.showModal();
}));

const say = (element, text) => {
  if (element.textContent !== text) element.textContent = text;
};
const title = document.title;
let bench = null, jobs = null, version = null;
const models = modelList(find('model-list'), find('model-filter'));

// What the address asks for: options of the command line, the model's file among them.
const wanted = () => new URLSearchParams(location.hash.slice(1));

const open = () => {
  const options = wanted();
  if (!options.get('model')) {
    const first = models.first();
    if (first) return location.replace(addressOf({model: first.file}));
    find('model').hidden = true;
    document.title = title;
    return;
  }
  find('nothing').hidden = true;
  models.mark(options.get('model'));
  bench.open(options);
};

const look = async () => {
  const [{models: list}] = await Promise.all([get('/models'), jobs.refresh()]);
  models.show(list);
  const empty = list.length === 0 && !wanted().get('model');
  if (empty && find('nothing').hidden) find('nothing').replaceChildren(...noModels(version.roots));
  find('nothing').hidden = !empty;
  if (!wanted().get('model') && list.length) open();
};

const connected = () => say(find('link'), `${version.program} \u00b7 ${version.jobs_at_a_time === 1 ? 'one job' : `${version.jobs_at_a_time} jobs`} at a time`);

// Looks at the lists again and again; where nobody sees the page, not at all.
const keepLooking = async () => {
  for (;;) {
    await new Promise((resolve) => setTimeout(resolve, jobs.busy() ? BUSY : QUIET));
    if (document.hidden) await new Promise((resolve) => document.addEventListener('visibilitychange', resolve, {once: true}));
    try {
      await look();
      connected();
    } catch (problem) {
      say(find('link'), `${problem.message} Trying again.`);
    }
  }
};

const begin = async () => {
  version = await get('/version');
  const {components: {schemas}} = await get('/openapi.json');
  jobs = jobList(find('job-list'), {
    spoken: find('jobs-spoken'),
    counted: (running, waiting) => say(find('to-jobs'), `Jobs${running + waiting ? ` (${running} running, ${waiting} waiting)` : ''}`),
    finished: (job) => bench.again(job.options.model),
  });
  bench = workbench({plan: schemas.PlanOptions, frontier: schemas.FrontierOptions, quantize: schemas.QuantizeOptions}, jobs);
  await look();
  connected();
  window.addEventListener('hashchange', open);
  if (wanted().get('model')) open();
};

// Links within the page do not touch the address, which holds the options.
for (const [link, place] of [['.skip', 'work'], ['#to-jobs', 'jobs']])
  document.querySelector(link).addEventListener('click', (event) => {
    event.preventDefault();
    find(place).focus();
    find(place).scrollIntoView();
  });

for (;;) {
  try {
    await begin();
    break;
  } catch (problem) {
    say(find('link'), 'not connected');
    find('nothing').replaceChildren(problemText(problem));
    find('nothing').hidden = false;
    await new Promise((resolve) => setTimeout(resolve, QUIET));
  }
}
find('nothing').hidden = wanted().get('model') !== null;
keepLooking();
