// The description of the interface is valid, and the running service keeps to it.
// usage: node openapi_test.mjs QUANTFIT DATA_FOLDER. Exit status 77 where the packages are not installed.
import {spawn} from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';

let Validator, Ajv2020, addFormats;
try {
  ({Validator} = await import('@seriousme/openapi-schema-validator'));
  Ajv2020 = (await import('ajv/dist/2020.js')).default.default ?? (await import('ajv/dist/2020.js')).default;
  addFormats = (await import('ajv-formats')).default.default ?? (await import('ajv-formats')).default;
} catch {
  console.log('skipped: scripts/setup-service was not run');
  process.exit(77);
}

const [binary, data] = process.argv.slice(2);
const folder = fs.mkdtempSync(path.join(os.tmpdir(), 'quantfit-openapi-'));
const root = path.join(folder, 'models');
fs.mkdirSync(root);
for (const name of ['tale-dense-F16.gguf', 'tale-dense.imatrix.gguf']) fs.copyFileSync(path.join(data, name), path.join(root, name));
const service = spawn(binary, ['serve', '--root', root, '--listen', '127.0.0.1:0', '--quiet'], {stdio: ['ignore', 'pipe', 'inherit']});
const address = await new Promise((resolve, reject) => {
  service.stdout.once('data', (text) => resolve(String(text).trim()));
  service.once('exit', () => reject(new Error('the service did not start')));
});
const failures = [];
const complain = (text) => failures.push(text);

try {
  const api = await (await fetch(address + 'api/v1/openapi.json')).json();
  const validity = await new Validator().validate(structuredClone(api));
  if (!validity.valid) complain('the description is not valid: ' + JSON.stringify(validity.errors).slice(0, 800));

  const ajv = new Ajv2020({strict: false, allErrors: true});
  addFormats(ajv);
  ajv.addSchema(api, 'api');
  const resolve = (object) => object.$ref ? object.$ref.slice(2).split('/').reduce((at, key) => at[key.replace('~1', '/')], api) : object;
  const compiled = new Map();
  const check = (schema, value, what) => {
    const key = JSON.stringify(schema);
    if (!compiled.has(key)) {
      compiled.set(key, ajv.compile(JSON.parse(key.replaceAll('"#/components/', '"api#/components/'))));
    }
    const validate = compiled.get(key);
    if (!validate(value)) complain(`${what}: ${ajv.errorsText(validate.errors).slice(0, 400)}`);
  };

  const asked = new Set();
  // Asks, and holds the reply to what is described for the path `template`.
  const ask = async (method, template, {id, folder, name, query = '', body, fields = {}} = {}) => {
    const where = template.replace('{id}', id).replace('{folder}', folder).replace('{name}', encodeURIComponent(name));
    const what = `${method} ${where}${query}`;
    const operation = api.paths[template]?.[method.toLowerCase()];
    if (!operation) {
      complain(`${what} is not described`);
      return {};
    }
    asked.add(method + ' ' + template);
    const headers = {...fields, ...(body === undefined ? {} : {'Content-Type': 'application/json'})};
    const reply = await fetch(address + 'api/v1' + where + query, {method, headers, body: body === undefined ? undefined : JSON.stringify(body)});
    const described = resolve(operation.responses[reply.status] ?? (reply.status >= 400 ? operation.responses.default : undefined) ?? {});
    const type = (reply.headers.get('content-type') ?? '').split(';')[0];
    const bytes = Buffer.from(await reply.arrayBuffer());
    if (!described.description) complain(`${what}: status ${reply.status} is not described`);
    else if (bytes.length === 0 && !described.content) return {status: reply.status};
    else if (!described.content?.[type]) complain(`${what}: ${reply.status} with ${type} is not described`);
    const json = /json$/.test(type) ? JSON.parse(bytes) : undefined;
    if (json !== undefined && described.content?.[type]) check(described.content[type].schema, json, what);
    if (type === 'application/problem+json' && json.status !== reply.status) complain(`${what}: the problem says ${json.status}`);
    return {status: reply.status, json, bytes, headers: reply.headers};
  };

  const quick = {model: 'models/tale-dense-F16.gguf', imatrix: 'models/tale-dense.imatrix.gguf', objective: 'prior', 'error-feedback': 'off', effort: 'fast'};
  const expect = (reply, status, what) => {
    if (reply.status !== status) complain(`${what}: status ${reply.status} instead of ${status}`);
    return reply;
  };
  for (const plain of ['/health', '/version', '/openapi.json', '/metrics', '/files', '/models', '/jobs']) expect(await ask('GET', plain), 200, plain);
  expect(await ask('GET', '/files', {query: '?kind=imatrix'}), 200, 'imatrix');
  expect(await ask('GET', '/models/inspect', {query: '?file=models%2Ftale-dense-F16.gguf&metadata=true'}), 200, 'inspect');
  expect(await ask('GET', '/models/inspect', {query: '?file=models%2Fnothing.gguf'}), 404, 'inspect nothing');
  expect(await ask('POST', '/session'), 204, 'session');
  expect(await ask('DELETE', '/session'), 204, 'session');
  expect(await ask('POST', '/plan', {body: {...quick, 'target-bpw': '4.5'}}), 409, 'plan, not measured');
  expect(await ask('POST', '/frontier', {body: quick}), 409, 'frontier, not measured');
  expect(await ask('POST', '/plan', {body: {model: 'models/tale-dense-F16.gguf', 'target-bpw': 'x'}}), 400, 'plan, bad');

  const body = {command: 'quantize', options: {...quick, 'target-bpw': '4.5'}};
  check(api.paths['/jobs'].post.requestBody.content['application/json'].schema, body, 'the body of a job');
  const job = expect(await ask('POST', '/jobs', {body, fields: {'Idempotency-Key': 'k'}}), 201, 'create').json.id;
  expect(await ask('POST', '/jobs', {body, fields: {'Idempotency-Key': 'k'}}), 200, 'create again');
  expect(await ask('POST', '/jobs', {body: {...body, command: 'plan'}, fields: {'Idempotency-Key': 'k'}}), 422, 'key of another');
  const second = expect(await ask('POST', '/jobs', {body: {...body, command: 'plan'}}), 201, 'create plan').json.id;
  expect(await ask('POST', '/jobs/{id}/cancel', {id: second}), 200, 'cancel');
  expect(await ask('POST', '/jobs/{id}/retry', {id: second}), 200, 'retry');
  expect(await ask('DELETE', '/jobs/{id}', {id: job}), 409, 'delete what runs');
  expect(await ask('GET', '/jobs/{id}/events', {id: job}), 200, 'events');  // to the end
  expect(await ask('GET', '/jobs/{id}/events', {id: job, query: '?after=999999999'}), 204, 'no more events');
  const done = expect(await ask('GET', '/jobs/{id}', {id: job}), 200, 'show').json;
  if (done.status !== 'done') complain('the job is ' + JSON.stringify(done).slice(0, 600));
  expect(await ask('GET', '/jobs/{id}/events', {id: second}), 200, 'events of the second');
  for (const result of expect(await ask('GET', '/jobs/{id}/results', {id: job}), 200, 'results').json.results) {
    const whole = expect(await ask('GET', '/jobs/{id}/results/{name}', {id: job, name: result.name}), 200, result.name);
    if (whole.bytes?.length !== result.bytes) complain(`${result.name}: ${whole.bytes?.length} bytes instead of ${result.bytes}`);
    if (result.name.endsWith('.gguf')) {
      expect(await ask('GET', '/jobs/{id}/results/{name}', {id: job, name: result.name, fields: {Range: 'bytes=0-9'}}), 206, 'range');
      expect(await ask('GET', '/jobs/{id}/results/{name}', {id: job, name: result.name, fields: {Range: 'bytes=999999999-'}}), 416, 'range');
      expect(await ask('GET', '/jobs/{id}/results/{name}', {id: job, name: result.name, fields: {'If-None-Match': whole.headers.get('etag')}}), 304, 'known');
    }
  }
  expect(await ask('GET', '/jobs/{id}/results/{name}', {id: job, name: '../x'}), 400, 'a bad name');
  const folder_body = {command: 'publish', options: {...quick, sizes: ['Q4_K_M']}};
  for (const [command, options] of [['publish', folder_body.options], ['calibrate', {model: quick.model, chunks: 1}],
                                    ['tune', {original: quick.model, quantized: quick.model, steps: 1}],
                                    ['evaluate', {base: quick.model, text: [quick.model]}], ['measure', {model: quick.model, imatrix: quick.imatrix, effort: 'fast'}]])
    check(api.paths['/jobs'].post.requestBody.content['application/json'].schema, {command, options}, `the body of ${command}`);
  const published = expect(await ask('POST', '/jobs', {body: folder_body}), 201, 'create publish').json.id;
  expect(await ask('GET', '/jobs/{id}/events', {id: published}), 200, 'events of publish');
  const inner = expect(await ask('GET', '/jobs/{id}/results', {id: published}), 200, 'results of publish').json.results.find((one) => one.name.includes('/'));
  if (!inner) complain('publish made no file in a folder');
  else expect(await ask('GET', '/jobs/{id}/results/{folder}/{name}', {id: published, folder: inner.name.split('/')[0], name: inner.name.split('/')[1]}), 200, inner.name);
  expect(await ask('POST', '/plan', {body: {...quick, 'target-bpw': '4.5'}}), 200, 'plan');
  expect(await ask('POST', '/plan', {body: {...quick, 'target-vram': '1GiB', 'ctx-size': 256}}), 200, 'plan of memory');
  expect(await ask('POST', '/frontier', {body: {...quick, points: 20}}), 200, 'frontier');
  expect(await ask('POST', '/jobs/{id}/cancel', {id: job}), 409, 'cancel what is over');
  expect(await ask('POST', '/jobs/{id}/retry', {id: job}), 409, 'retry what is done');
  expect(await ask('DELETE', '/jobs/{id}', {id: job}), 204, 'delete');
  expect(await ask('GET', '/jobs/{id}', {id: job}), 404, 'show nothing');
  expect(await ask('GET', '/jobs', {query: '?status=nothing'}), 400, 'list nothing');
  for (const [template, methods] of Object.entries(api.paths))
    for (const method of ['get', 'post', 'delete', 'put', 'patch'])
      if (methods[method] && !asked.has(method.toUpperCase() + ' ' + template)) complain(`${method} ${template} was not asked`);
  console.log(`${asked.size} operations of the description were asked`);
} finally {
  service.kill('SIGTERM');
  await new Promise((resolve) => service.once('exit', resolve));
  fs.rmSync(folder, {recursive: true, force: true});
}
for (const failure of failures) console.error(failure);
process.exit(failures.length ? 1 : 0);
