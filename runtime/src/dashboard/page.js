// Keeps what is known in step with the device: the whole state once, then its news.

import * as view from '/view.js';

const MAX_SCORES = 120;
// The device says something every 5 s at least.
const SILENT_MS = 12000;
// The watching thread gives a sign of life every second.
const STILL_MS = 30000;
// Somebody may change the slots by hand.
const MODELS_MS = 30000;
const AGAIN_MS = [1000, 2000, 4000, 8000];

let known = null;
// The number of the newest news that is known; news that come while the state is on its way.
let newest = 0;
let waiting = null;
let offsetMs = 0;
let stream = null;
let heardMs = 0;
let pulseMs = 0;
let n_failed = 0;
let isDirty = false;
let isPaused = false;
let wake = () => {};

const now = () => Date.now() + offsetMs;
const pause = (ms) => new Promise((go) => setTimeout(go, ms));

function draw() {
  isDirty = false;
  view.source(known, now());
  view.faces(known, now());
  view.health(known, now());
}

function mark() {
  if (isDirty) return;
  isDirty = true;
  requestAnimationFrame(draw);
}

// Reads all that is known. Of several loads that overlap only the last one counts: news wait for that one.
async function load() {
  const late = waiting = [];
  const reply = await fetch('/state.json');
  if (reply.status === 401) location.reload();
  if (!reply.ok) throw new Error(`state.json: ${reply.status}`);
  const state = await reply.json();
  if (waiting !== late) return;
  waiting = null;
  offsetMs = state.unix_ms - Date.now();
  pulseMs = Date.now();
  known = {...state, faces: new Map(state.faces.map((face) => [face.track_id, face]))};
  newest = Number(state.news.split('-')[1]);
  view.forgetFaces();
  view.past(state.past);
  for (const [n, event] of late) if (n > newest) apply(n, event);
  showCurtain();
  wake();
  mark();
  loadModels();
}

// Reads which models there are. What can't be read now stays as it was.
async function loadModels() {
  const reply = await fetch('/models.json').catch(() => null);
  if (reply?.status === 404) view.models(null);
  if (reply?.ok) view.models(await reply.json());
}

// The source does something else.
function enter(state, reason, unixMs) {
  known.state = {state, reason, unix_ms: unixMs};
  view.say(`Source: ${view.stateWord(state)}`);
  showCurtain();
  wake();
}

function apply(n, event) {
  newest = n;
  known.file = event.file ?? known.file;
  const face = known.faces.get(event.track_id);
  switch (event.event) {
    case 'state':
      enter(event.state, event.reason, event.unix_ms);
      break;
    case 'face-appeared':
      known.faces.set(event.track_id, {track_id: event.track_id, appeared_unix_ms: event.unix_ms, scores: [], reason: null, verdict_unix_ms: null});
      break;
    case 'score':
      if (face) {
        Object.assign(face, {verdict: event.verdict, mean_score: event.mean_score, n_scores: event.n_scores});
        face.scores.push([event.unix_ms, event.score]);
        if (face.scores.length > MAX_SCORES) face.scores.shift();
      }
      break;
    case 'running-verdict':
      if (face) {
        if (!face.verdict_unix_ms || event.before !== event.verdict) {
          face.verdict_unix_ms = event.unix_ms;
          view.say(`Face ${event.track_id}: ${view.word(event.verdict)}${known.model.status === 'untrained' ? ', untrained' : ''}`);
        }
        Object.assign(face, {verdict: event.verdict, mean_score: event.mean_score, n_scores: event.n_scores, reason: event.reason});
      }
      break;
    case 'verdict':
      known.faces.delete(event.track_id);
      break;
    case 'pulse':
      known.health = event.health;
      known.is_watching = true;
      pulseMs = Date.now();
      // Where an event was lost on the way, a face or a state would stay for ever.
      if (event.health.n_faces === 0) known.faces.clear();
      if (event.health.state !== known.state.state) enter(event.health.state, '', event.unix_ms);
      break;
    case 'summary':
      known.faces.clear();
      break;
  }
  view.addPast(event);
  mark();
  if (event.event === 'model') loadModels();
  if (event.event === 'model' && event.step === 'took-over') {
    known.model = event.model;
    // Another model has other limits.
    load().catch(lost);
  }
}

function heard() {
  heardMs = Date.now();
  n_failed = 0;
  view.link('live', 'Live');
}

function connect() {
  stream = new EventSource(`/events?after=${encodeURIComponent(known.news)}`);
  stream.addEventListener('open', heard);
  stream.addEventListener('beat', heard);
  stream.addEventListener('reset', () => {
    heard();
    load().catch(lost);
  });
  stream.addEventListener('message', (message) => {
    heard();
    const [n, event] = [Number(message.lastEventId.split('-')[1]), JSON.parse(message.data)];
    if (waiting) waiting.push([n, event]);
    else if (n > newest) apply(n, event);
  });
  stream.addEventListener('error', () => {
    sayLost();
    // The browser tries again by itself, except where the answer was no stream.
    if (stream.readyState === EventSource.CLOSED) lost();
  });
}

let isTrying = false;

function sayLost() {
  view.link('lost', heardMs ? `Connection lost; as of ${view.clock(heardMs)}` : 'No connection, trying again');
}

// Begins anew until there is a connection.
async function lost() {
  if (isTrying) return;
  isTrying = true;
  stream?.close();
  waiting = null;
  while (true) {
    sayLost();
    await pause(AGAIN_MS[Math.min(n_failed++, AGAIN_MS.length - 1)]);
    try {
      await load();
      break;
    } catch { /* it will be tried again */ }
  }
  isTrying = false;
  heardMs = Date.now();
  connect();
}

function showCurtain() {
  if (isPaused) view.curtain('Paused');
  else if (known.state.state !== 'streaming') view.curtain(`No picture: ${view.stateWord(known.state.state)}`);
}

// Gets pictures while they can be seen; each request waits for one that is new.
async function look() {
  let after = 0;
  while (true) {
    const isSeen = !document.hidden && !isPaused && known?.state.state === 'streaming';
    if (!isSeen) {
      await new Promise((go) => { wake = go; });
      continue;
    }
    try {
      const reply = await fetch(`/picture.jpg?after=${after}`);
      if (reply.status === 200) {
        const about = JSON.parse(reply.headers.get('Candor-Picture'));
        const bitmap = await createImageBitmap(await reply.blob());
        after = about.n;
        if (!isPaused && known.state.state === 'streaming') view.picture(bitmap, about, known);
      } else if (reply.status !== 204) {
        await pause(2000);
      }
    } catch {
      await pause(2000);
    }
  }
}

document.addEventListener('visibilitychange', () => wake());
document.getElementById('pause').addEventListener('click', (click) => {
  isPaused = !isPaused;
  click.currentTarget.setAttribute('aria-pressed', String(isPaused));
  if (known) showCurtain();
  wake();
});
setInterval(() => {
  if (!known) return;
  if (stream && !isTrying && Date.now() - heardMs > SILENT_MS) lost();
  if (Date.now() - pulseMs > STILL_MS) known.is_watching = false;
  mark();
}, 1000);

setInterval(() => {
  if (known && !document.hidden) loadModels();
}, MODELS_MS);

load().then(connect, lost).then(() => {
  document.body.dataset.ready = 'yes';
  look();
});
