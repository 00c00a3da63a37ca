// Generations as LibreChat v0.8 has them: the POST begins one and answers at once, it goes
// on whether somebody listens or not, any number of GETs carry it from its beginning, and
// it ends by itself or is aborted. How long it takes is said by who begins it.
'use strict';

const crypto = require('node:crypto');
const express = require('express');

const LONGEST_MS = 60_000;
const SHORTEST_STEP_MS = 10;
/** A finished one is found so much longer, and replayed. */
const KEPT_MS = 5_000;
/** Finished ones among them. */
const MOST = 10_000;

/** By stream; the finished ones among them, for a while. */
const jobs = new Map();
/** By user, how many run now and the most that ever ran at once. */
const counts = new Map();

const bounded = (value, least, fallback, most) =>
  Number.isFinite(value) ? Math.min(Math.max(value, least), most) : fallback;

const count = (user, change) => {
  const entry = counts.get(user) ?? { running: 0, most: 0 };
  entry.running += change;
  entry.most = Math.max(entry.most, entry.running);
  counts.set(user, entry);
};

const event = (data) => `event: message\ndata: ${JSON.stringify(data)}\n\n`;

const tell = (job, data) => {
  const text = event(data);
  job.told.push(text);
  job.listeners.forEach((listener) => listener.write(text));
};

const finish = (job, data) => {
  if (job.final) {
    return;
  }
  job.final = true;
  clearInterval(job.step);
  clearTimeout(job.end);
  count(job.user, -1);
  tell(job, { final: true, conversation: { conversationId: job.id }, ...data });
  job.listeners.forEach((listener) => listener.end());
  job.listeners.clear();
  // Another of the same conversation may have taken its place.
  setTimeout(() => jobs.get(job.id) === job && jobs.delete(job.id), KEPT_MS).unref();
};

const begin = (id, user, { ms, every }) => {
  const job = { id, user, told: [], listeners: new Set(), final: false, createdAt: Date.now() };
  jobs.set(id, job);
  count(user, 1);
  const message = { conversationId: id, isCreatedByUser: true };
  tell(job, { created: true, message, streamId: id });
  let index = 0;
  job.step = setInterval(() => {
    // When it was made, by the clock that all programs of this machine share.
    tell(job, { index, at: Date.now(), type: 'text', text: `chunk ${index} ` });
    index += 1;
  }, every);
  job.end = setTimeout(() => finish(job, { chunks: index }), ms);
};

const start = (request, response) => {
  const { refuse, conversationId: wanted, ms, every } = request.body ?? {};
  if (refuse) {
    return response.status(400).json({ error: 'Invalid request' });
  }
  const isId = typeof wanted === 'string' && /^[\w-]{1,64}$/.test(wanted) && wanted !== 'new';
  const id = isId ? wanted : crypto.randomUUID();
  if (jobs.has(id) && jobs.get(id).user !== request.user.id) {
    return response.status(403).json({ error: 'User not authorized for this conversation' });
  }
  if (jobs.size >= MOST) {
    return response.status(503).json({ error: 'Too many generations' });
  }
  begin(id, request.user.id, {
    ms: bounded(ms, 0, 2_000, LONGEST_MS),
    every: bounded(every, SHORTEST_STEP_MS, 100, LONGEST_MS),
  });
  return response.json({ streamId: id, conversationId: id, status: 'started' });
};

const stream = (request, response) => {
  const job = jobs.get(request.params.id);
  if (!job) {
    return response.status(404).json({ error: 'Stream not found' });
  }
  if (job.user !== request.user.id) {
    return response.status(403).json({ error: 'Unauthorized' });
  }
  response.set({
    'Content-Encoding': 'identity',
    'Content-Type': 'text/event-stream',
    'Cache-Control': 'no-cache, no-transform',
    'Connection': 'keep-alive',
    'X-Accel-Buffering': 'no',
  });
  response.flushHeaders();
  job.told.forEach((text) => response.write(text));
  if (job.final) {
    return response.end();
  }
  job.listeners.add(response);
  return response.on('close', () => job.listeners.delete(response));
};

const abort = (request, response) => {
  const { streamId, conversationId, abortKey } = request.body ?? {};
  const id = streamId ?? conversationId ?? String(abortKey ?? '').split(':')[0];
  const job = jobs.get(id);
  if (!job || job.final) {
    return response.status(404).json({ error: 'Job not found', streamId: id });
  }
  if (job.user !== request.user.id) {
    return response.status(403).json({ error: 'Unauthorized' });
  }
  finish(job, { aborted: true });
  return response.json({ success: true, aborted: id });
};

const active = (request, response) => {
  const mine = [...jobs.values()].filter((job) => job.user === request.user.id && !job.final);
  return response.json({ activeJobIds: mine.map((job) => job.id) });
};

const status = (request, response) => {
  const job = jobs.get(request.params.id);
  if (!job) {
    return response.json({ active: false });
  }
  if (job.user !== request.user.id) {
    return response.status(403).json({ error: 'Unauthorized' });
  }
  const { id: streamId, final, createdAt } = job;
  const state = final ? 'complete' : 'running';
  return response.json({ active: !final, streamId, status: state, createdAt });
};

const router = express.Router()
  .get('/stream/:id', stream)
  .get('/status/:id', status)
  .get('/active', active)
  .post('/abort', abort)
  .post(['/', '/:endpoint'], start);

/** By user: how many run now, and the most that ever ran at once. */
const running = () => Object.fromEntries(counts);

module.exports = { router, running };
