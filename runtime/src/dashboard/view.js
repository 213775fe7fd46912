// Draws what is known. Every text goes in as text.

const STATES = {
  opening: ['Opening', 'waiting'], streaming: ['Streaming', 'good'], 'no-signal': ['No signal', 'bad'], frozen: ['Picture frozen', 'bad'],
  unplugged: ['Unplugged', 'bad'], busy: ['Camera busy', 'bad'], 'format-lost': ['Format lost', 'bad'], stalled: ['Driver stalled', 'bad'],
  failed: ['Failed', 'bad'], ended: ['Ended', 'waiting'],
};
const WORDS = {Real: 'Real', Fake: 'Fake', Uncertain: 'Uncertain', FaceTooSmall: 'Too small', NoFace: 'No face', Pending: 'Measuring'};
const MAX_PAST = 128;
const SVG = 'http://www.w3.org/2000/svg';

const at = (id) => document.getElementById(id);
const cards = new Map();

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

// Writes only what differs, so that nothing is laid out or read aloud for nothing.
function put(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function score(value) {
  return value === null || value === undefined ? 'no number' : value.toFixed(2);
}

export function word(verdict) {
  return WORDS[verdict] ?? verdict;
}

export function stateWord(state) {
  return (STATES[state] ?? [state])[0];
}

export function clock(unixMs) {
  return new Date(unixMs).toLocaleTimeString([], {hourCycle: 'h23'});
}

export function length(ms) {
  const s = Math.max(0, Math.round(ms / 1000));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor(s / 60) % 60} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor(s / 3600) % 24} h`;
}

const bytes = (n) => `${(n / 1048576).toFixed(0)} MiB`;
const whole = (n) => n.toLocaleString('en');
const isUntrained = (known) => known.model.status === 'untrained';

// The words of one who is asked aloud.
export function say(text) {
  const said = at('said');
  const line = make('p', '', text);
  said.append(line);
  while (said.children.length > 4) said.firstChild.remove();
}

export function link(kind, text) {
  at('link').dataset.is = kind;
  put(at('link'), text);
  document.body.classList.toggle('lost', kind === 'lost');
}

export function source(known, now) {
  const {state, reason, unix_ms: since} = known.state;
  const stands = known.is_watching === false && state !== 'ended';
  const [name, kind] = stands ? ['Program stands still', 'bad'] : STATES[state] ?? [state, 'bad'];
  at('source').dataset.kind = kind;
  put(at('word'), name);
  put(at('why'), stands ? 'its watching thread gives no sign of life' : reason);
  put(at('since'), `since ${clock(since)}, ${length(now - since)}${state === 'streaming' ? '' : '; nothing is judged meanwhile'}`);
  put(at('file'), known.file);
  at('untrained').hidden = !isUntrained(known);
  document.title = `${name} - Candor`;
}

function verdictLine(verdict, untrained) {
  const line = make('p', 'verdict');
  const sign = make('span', 'sign');
  sign.setAttribute('aria-hidden', 'true');
  line.append(sign, make('span', 'word', word(verdict)));
  if (untrained) line.append(make('span', 'untrained', 'untrained'));
  return line;
}

function newCard(face, known) {
  const card = make('li', 'card');
  const head = make('h3');
  head.append(make('span', '', `Face ${face.track_id}`), make('span', 'mean'));
  const svg = document.createElementNS(SVG, 'svg');
  svg.setAttribute('class', 'line');
  svg.setAttribute('viewBox', '0 0 120 100');
  svg.setAttribute('preserveAspectRatio', 'none');
  svg.setAttribute('role', 'img');
  for (const [tag, className] of [['rect', 'frame'], ['line', 'grid'], ['line', 'grid'], ['polyline', '']]) {
    const part = document.createElementNS(SVG, tag);
    if (className) part.setAttribute('class', className);
    svg.append(part);
  }
  const [frame, lower, upper] = svg.children;
  for (const [name, value] of Object.entries({x: 0, y: 0, width: 120, height: 100})) frame.setAttribute(name, value);
  for (const [rule, y] of [[lower, known.program.real_below], [upper, known.program.fake_above]]) {
    for (const [name, value] of Object.entries({x1: 0, x2: 120, y1: 100 - 100 * y, y2: 100 - 100 * y})) rule.setAttribute(name, value);
  }
  card.append(head, verdictLine('Pending', isUntrained(known)), svg, make('p', 'reason'), make('p', 'small'));
  return card;
}

// Why a face has its verdict, as the device says it.
function reason(face, program) {
  if (face.verdict_unix_ms) return face.reason;
  const n = face.n_scores ?? 0;
  return n ? `${n} of the ${program.min_scores} scores that a verdict needs` : 'no score yet: too small, or just come';
}

export function verdictOf(face) {
  return face.verdict_unix_ms ? face.verdict : 'Pending';
}

function fill(card, face, known, now) {
  const verdict = verdictOf(face);
  card.dataset.verdict = verdict;
  put(card.querySelector('.word'), word(verdict));
  put(card.querySelector('.mean'), face.n_scores ? `mean ${score(face.mean_score)}` : '');
  const since = face.verdict_unix_ms ? `since ${clock(face.verdict_unix_ms)}, ${length(now - face.verdict_unix_ms)}; ` : '';
  put(card.querySelector('.reason'), reason(face, known.program));
  put(card.querySelector('.small'), `${since}in view since ${clock(face.appeared_unix_ms)}`);
  const values = face.scores.map(([, value]) => value).filter((value) => value !== null);
  const step = 120 / Math.max(1, Math.max(values.length, 30) - 1);
  const points = values.map((value, i) => `${(i * step).toFixed(1)},${(100 - 100 * value).toFixed(1)}`).join(' ');
  const svg = card.querySelector('svg');
  if (svg.lastChild.getAttribute('points') !== points) {
    svg.lastChild.setAttribute('points', points);
    const [low, high] = [Math.min(...values), Math.max(...values)];
    svg.setAttribute('aria-label', values.length ? `${values.length} scores, from ${score(low)} to ${score(high)}, the last ${score(values.at(-1))}` : 'no scores yet');
  }
}

export function faces(known, now) {
  const shown = [...known.faces.values()];
  put(at('n-faces'), `${shown.length}`);
  at('nobody').hidden = shown.length > 0;
  for (const [id, card] of cards) {
    if (!known.faces.has(id)) {
      card.remove();
      cards.delete(id);
    }
  }
  for (const face of shown) {
    if (!cards.has(face.track_id)) {
      const card = newCard(face, known);
      cards.set(face.track_id, card);
      at('faces').append(card);
    }
    fill(cards.get(face.track_id), face, known, now);
  }
}

export function forgetFaces() {
  cards.clear();
  at('faces').replaceChildren();
}

// One line of the past: what it is, its verdict, why.
function told(event) {
  switch (event.event) {
    case 'verdict': return [`Face ${event.track_id}, over`, event.verdict, `${event.reason}; seen for ${length(1000 * (event.end_s - event.start_s))}`];
    case 'running-verdict': return [`Face ${event.track_id}${event.before && event.before !== event.verdict ? `, was ${word(event.before)}` : ''}`, event.verdict,
      `${event.reason}; mean ${score(event.mean_score)}, ${event.since_appeared_s.toFixed(1)} s after it appeared`];
    case 'state': return [`Source: ${stateWord(event.state)}`, null, event.reason];
    case 'model': return [`Model ${event.model.id} ${event.model.version} ${{'trial-started': 'is tried beside the one in use', 'took-over': 'took over', 'given-up': 'is given up'}[event.step]}`, null, event.reason ?? ''];
    case 'restarted': return ['Started again', null, `The run before didn’t come to its end: ${event.reason}.`];
    case 'reloaded': return [event.is_accepted ? 'Settings read again' : 'Settings refused', null, event.reason ?? ''];
    // One comes before settings that were read again hold, too.
    case 'summary': return [event.interrupted ? 'Watching ended' : 'All faces so far', event.verdict, `${event.reason}; ${event.n_faces === 1 ? 'one face' : `${whole(event.n_faces)} faces`} in ${whole(event.n_frames)} frames`];
    default: return null;
  }
}

function evidence(event) {
  const row = make('div', 'crops more');
  event.evidence.crops.forEach((crop, i) => {
    const figure = make('figure');
    const image = make('img');
    image.alt = `Face ${event.track_id}, ${crop.what === 'newest' ? 'newest look' : `look with the ${crop.what} score`}`;
    image.loading = 'lazy';
    image.width = image.height = 84;
    image.src = `/evidence/${event.id}/${i}.jpg`;
    image.addEventListener('error', () => row.remove(), {once: true});
    figure.append(image, make('figcaption', '', `${crop.what} ${score(crop.score)}`));
    row.append(figure);
  });
  const button = make('button', '', 'Where it looks fake');
  button.type = 'button';
  button.setAttribute('aria-label', `Where face ${event.track_id} looks fake, ${clock(event.unix_ms)}`);
  button.addEventListener('click', () => heat(button, row, event));
  row.append(button);
  return row;
}

// Asks for a map of the median look; only one is made at a time.
async function heat(button, row, event) {
  button.disabled = true;
  button.textContent = 'Computing';
  let reply;
  for (let tries = 0; tries < 20; tries++) {
    reply = await fetch(`/evidence/${event.id}/heat.png`).catch(() => null);
    if (reply?.status !== 503) break;
    await new Promise((go) => setTimeout(go, 1000));
  }
  if (!reply?.ok) {
    button.textContent = reply?.status === 404 ? 'No map any more' : 'No map came';
    say(button.textContent);
    return;
  }
  const image = make('img', 'heat');
  image.alt = `Face ${event.track_id}: the look that stands for it, and beside it in orange what speaks for fake, in blue for real`;
  image.src = URL.createObjectURL(await reply.blob());
  await image.decode().catch(() => {});
  URL.revokeObjectURL(image.src);
  const shown = make('div', 'more');
  row.after(shown);
  shown.append(image, make('p', 'small', 'What moved this network\u2019s score; it doesn\u2019t say what was changed, and is no proof of it.'));
  button.remove();
  say(`The map of face ${event.track_id} is there`);
}

function entry(event) {
  const parts = told(event);
  if (!parts) return null;
  const [title, verdict, why] = parts;
  const item = make('li');
  const head = make('h3');
  head.append(make('span', '', title));
  if (verdict) {
    item.dataset.verdict = verdict;
    // By the model that judged, whichever is in use now.
    const line = verdictLine(verdict, event.model_status === 'untrained');
    const inline = make('span', 'verdict');
    inline.append(...line.childNodes);
    head.append(inline);
  }
  const time = make('time', '', clock(event.unix_ms));
  time.dateTime = new Date(event.unix_ms).toISOString();
  item.append(head, time, make('p', 'reason more small', why));
  if (event.evidence) item.append(evidence(event));
  return item;
}

// `events` are newest first.
export function past(events) {
  at('past').replaceChildren(...events.map(entry).filter(Boolean));
  at('nothing').hidden = at('past').children.length > 0;
}

export function addPast(event) {
  const item = entry(event);
  if (!item) return;
  at('past').prepend(item);
  while (at('past').children.length > MAX_PAST) at('past').lastChild.remove();
  at('nothing').hidden = true;
}

export function health(known, now) {
  const {health: h, model, program} = known;
  const rows = [['Model', `${model.id} ${model.version}, ${model.status}`, 'wide', isUntrained(known)]];
  if (h) {
    const seconds = (value) => (value === null ? 'none of late' : `${value.toFixed(1)} s`);
    rows.push(
      ['Frames a second', h.rate_hz.toFixed(1)],
      ['Search every', `${h.interval_ms.toFixed(0)} ms`],
      ['Processor', h.cpu_share === null ? 'not known' : `${(100 * h.cpu_share).toFixed(0)} % of all cores`],
      ['Temperature', h.temperature_c === null ? 'not known' : `${h.temperature_c.toFixed(0)} \u00b0C`],
      ['Memory', h.resident_bytes === null ? 'not known' : bytes(h.resident_bytes)],
      ['Frames', whole(h.n_frames)],
      ['Frames searched', whole(h.n_searched)],
      ['Frames skipped', whole(h.n_skipped)],
      ['Frames unreadable', whole(h.n_unreadable + h.n_bad), '', h.n_unreadable + h.n_bad > 0],
      ['Lost by the driver', whole(h.n_dropped)],
      ['Old or repeated', whole(h.n_stale + h.n_repeated)],
      ['Source opened', h.n_opened === 1 ? 'once' : `${whole(h.n_opened)} times`],
      ['Events lost', whole(h.n_events_lost), '', h.n_events_lost > 0],
      ['To a first score', seconds(h.first_score_s)],
      ['To a first verdict', seconds(h.first_verdict_s)],
      ['To a full verdict', seconds(h.full_verdict_s)],
      ['Processor time of a run', Object.entries(h.stage_ms).map(([stage, ms]) => `${stage} ${ms.toFixed(1)} ms`).join(', ') || 'none yet', 'wide'],
    );
  }
  rows.push(['Candor', program.version], ['Running for', length(now - program.started_unix_ms)]);
  const list = at('health');
  rows.forEach(([name, value, className, isBad], i) => {
    let row = list.children[i];
    if (!row) {
      row = make('div');
      row.append(make('dt'), make('dd'));
      list.append(row);
    }
    row.className = [className, isBad ? 'warn' : ''].filter(Boolean).join(' ');
    put(row.firstChild, name);
    put(row.lastChild, value);
  });
  while (list.children.length > rows.length) list.lastChild.remove();
}

const STEPS = {installed: 'Installed', 'trial-started': 'Tried', confirmed: 'Confirmed', 'rolled-back': 'Rolled back', failed: 'Found bad'};
const named = (bundle) => `${bundle.id} ${bundle.version}`;

// A slot as the device keeps it: its state, and what the state holds.
function slot(kept) {
  const [state, inside] = typeof kept === 'string' ? [kept, null] : Object.entries(kept)[0];
  return [state, inside?.held ?? inside, inside];
}

function slotLine(kept, isCurrent) {
  const [state, bundle, inside] = slot(kept);
  if (!bundle) return 'empty';
  const about = {
    staged: 'to be tried', trial: `in trial, ${inside.left} starts left`, confirmed: isCurrent ? 'confirmed, runs' : 'confirmed, the one before',
    bad: `bad: ${inside.reason}`,
  }[state] ?? state;
  return `${named(bundle)}: ${about}; signed by ${bundle.signers.join(', ')}`;
}

// What the slots hold and what happened; `status` is null where nothing was ever installed.
export function models(status) {
  at('models').hidden = !status;
  if (!status) return;
  const {slots, history} = status.record;
  const rows = [['Slot A', slotLine(slots.a, slots.current === 'A'), slots.current === 'A'], ['Slot B', slotLine(slots.b, slots.current === 'B'), slots.current === 'B'],
    ['Built in', slots.current ? 'the floor' : 'runs', !slots.current], ['Security epoch', `${slots.security_epoch}`, false],
    ['Key list', status.key_list_serial === null ? 'none' : `serial ${status.key_list_serial}`, false]];
  at('slots').replaceChildren(...rows.map(([name, value, runs]) => {
    const row = make('div', runs ? 'runs' : '');
    row.append(make('dt', '', name), make('dd', '', value));
    return row;
  }));
  at('changes').replaceChildren(...history.toReversed().map((change) => {
    const item = make('li');
    const time = make('time', '', new Date(1000 * change.at_unix_s).toLocaleString([], {hourCycle: 'h23'}));
    time.dateTime = new Date(1000 * change.at_unix_s).toISOString();
    item.append(make('h3', '', `${STEPS[change.what] ?? change.what}: ${named(change.bundle)}`), time, make('p', 'small', `signed by ${change.bundle.signers.join(', ')}`));
    if (change.reason) item.append(make('p', 'reason small', change.reason));
    return item;
  }));
  // What scrolls must be reached by keys.
  if (at('changes').scrollHeight > at('changes').clientHeight) at('changes').tabIndex = 0;
  else at('changes').removeAttribute('tabindex');
}

// The picture and the boxes that belong to it.
export function picture(bitmap, about, known) {
  const canvas = at('picture');
  if (canvas.width !== bitmap.width || canvas.height !== bitmap.height) Object.assign(canvas, {width: bitmap.width, height: bitmap.height});
  canvas.getContext('2d').drawImage(bitmap, 0, 0);
  bitmap.close();
  const boxes = at('boxes');
  about.faces.forEach((face, i) => {
    const box = boxes.children[i] ?? boxes.appendChild(make('div', 'box'));
    if (!box.firstChild) box.append(make('span'));
    // As its card says it.
    const card = known.faces.get(face.track_id);
    const verdict = card ? verdictOf(card) : 'Pending';
    const [x, y, w, h] = face.place;
    box.dataset.verdict = verdict;
    box.classList.toggle('low', y < 0.08);
    Object.assign(box.style, {left: `${100 * x}%`, top: `${100 * y}%`, width: `${100 * w}%`, height: `${100 * h}%`});
    const mean = card?.n_scores ? ` ${score(card.mean_score)}` : '';
    put(box.firstChild, `${face.track_id} ${word(verdict)}${mean}${isUntrained(known) ? ' untrained' : ''}`);
  });
  while (boxes.children.length > about.faces.length) boxes.lastChild.remove();
  const n = about.faces.length;
  canvas.setAttribute('aria-label', `Live picture: ${n === 1 ? 'one face' : `${n} faces`}`);
  curtain(null);
}

export function curtain(text) {
  at('stage').classList.toggle('old', text !== null);
  at('curtain').hidden = text === null;
  if (text !== null) {
    put(at('curtain'), text);
    at('picture').setAttribute('aria-label', `Live picture: ${text}`);
  }
}
