// The service's HTTP interface, as the page uses it (docs: /api/v1/openapi.json). Errors are Problems.

// What went wrong, with the sentence that the command line prints, and what to do about it. `code` is the name of the
// kind of error; `body` the whole problem document.
export class Problem extends Error {
  constructor(status, body) {
    super(body.detail || body.title || `The program answered with status ${status}.`);
    this.status = status;
    this.body = body;
    this.hint = body.hint || '';
    this.code = (body.type || '').replace('urn:quantfit:', '');
  }
}

// Also behind a proxy that serves the page under a folder of its own.
const BASE = new URL('api/v1', document.baseURI).pathname;
const TOKEN = 'quantfit-token';
const silence = () => new Problem(0, {detail: 'quantfit does not answer.', type: 'silent',
                                      hint: 'It may have been stopped: start it again with quantfit serve. This page goes on by itself.'});

let askForToken = async () => null;
// `ask(refused)` resolves with a token, or null when nobody gives one; `refused`: the one before was wrong.
export const onTokenWanted = (ask) => { askForToken = ask; };

const problemOf = async (response) => {
  try {
    return new Problem(response.status, await response.json());
  } catch {
    return new Problem(response.status, {});
  }
};
const request = async (path, options) => {
  try {
    return await fetch(BASE + path, {...options, cache: 'no-store'});
  } catch (error) {
    if (options.signal?.aborted) throw error;
    throw silence();
  }
};

// Trades a token for the cookie that goes with downloads too; true when there is one now. The token is kept in this tab,
// for the next start of the service.
const openSession = async () => {
  let token = sessionStorage.getItem(TOKEN);
  for (let refused = false;; refused = true) {
    token ??= await askForToken(refused);
    if (token === null) return false;
    const response = await request('/session', {method: 'POST', headers: {Authorization: `Bearer ${token}`}});
    if (response.ok) {
      sessionStorage.setItem(TOKEN, token);
      return true;
    }
    if (response.status !== 401) throw await problemOf(response);
    sessionStorage.removeItem(TOKEN);
    token = null;
  }
};
let opening = null;

// A response with an ok status. With `signal`, an abort rejects with the signal's reason.
const send = async (path, options = {}) => {
  for (let again = false;; again = true) {
    const response = await request(path, options);
    if (response.ok) return response;
    if (response.status !== 401 || again) throw await problemOf(response);
    opening ??= openSession().finally(() => { opening = null; });  // one question for many requests
    if (!await opening) throw await problemOf(response);
  }
};

export const get = async (path, signal) => (await send(path, {signal})).json();
export const post = async (path, body, {signal, headers = {}} = {}) => {
  const response = await send(path, {method: 'POST', signal, headers: {'Content-Type': 'application/json', ...headers},
                                     body: JSON.stringify(body ?? {})});
  const text = await response.text();
  return text === '' ? null : JSON.parse(text);
};
export const remove = (path) => send(path, {method: 'DELETE'});

// A key for requests that must not be done twice.
export const newKey = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => b.toString(16).padStart(2, '0')).join('');

const pause = (milliseconds, signal) => new Promise((resolve) => {
  const timer = setTimeout(resolve, milliseconds);
  signal.addEventListener('abort', () => {
    clearTimeout(timer);
    resolve();
  }, {once: true});
});

// Splits a stream of server-sent events. Events: {id, event, data}, data as text.
export const eventParser = (onEvent) => {
  let rest = '';
  let current = {event: 'message', data: []};
  return (chunk) => {
    const lines = (rest + chunk).split('\n');
    rest = lines.pop();
    for (const raw of lines) {
      const line = raw.endsWith('\r') ? raw.slice(0, -1) : raw;
      if (line === '') {
        if (current.data.length) onEvent({id: current.id, event: current.event, data: current.data.join('\n')});
        current = {event: 'message', data: []};
        continue;
      }
      const colon = line.indexOf(':');
      if (colon === 0) continue;  // a comment, sent to keep the connection open
      const field = colon < 0 ? line : line.slice(0, colon);
      const value = colon < 0 ? '' : line.slice(colon + 1).replace(/^ /, '');
      if (field === 'data') current.data.push(value);
      else if (field === 'event' || field === 'id') current[field] = value;
    }
  };
};

// Reads a stream of events until `signal` is aborted, or until it ends while `over()` is true. A broken connection is
// made again, from the event behind the last one; `last` is that one's id, null for all. (EventSource tells nothing about
// why it failed.)
export const follow = async (path, {signal, last = null, onEvent, over}) => {
  let wait = 500;
  while (!signal.aborted) {
    try {
      const response = await send(path, {signal, headers: {Accept: 'text/event-stream', ...(last === null ? {} : {'Last-Event-ID': last})}});
      if (response.status === 204) return;  // there will be no more
      wait = 500;
      const take = eventParser((event) => {
        if (event.id !== undefined) last = event.id;
        onEvent(event);
      });
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      for (;;) {
        const {value, done} = await reader.read();
        if (done) break;
        take(value);
      }
      if (over()) return;
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof Problem && error.status >= 400 && error.status < 500 && error.status !== 429) throw error;
    }
    await pause(wait, signal);
    wait = Math.min(2 * wait, 10000);
  }
};

// Where a link to a result of a job leads.
export const resultAddress = (job, name) => `${BASE}/jobs/${job.id}/results/${name.split('/').map(encodeURIComponent).join('/')}`;
