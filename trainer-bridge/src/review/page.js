'use strict';
const PAGE_FACES = 60;
const WORDS = {'wrong-face': 'wrong face', 'real-person': 'real person'};
const $ = (id) => document.getElementById(id);
const key = (video, track, frame) => JSON.stringify([video, track, frame ?? null]);
let faces = [], shown = [], page = 0, at = [0, 0];
const decided = new Map(), undo = [];
let saving = Promise.resolve();

function element(tag, properties, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

function say(text, isBad = false) {
  $('status').textContent = text;
  $('status').classList.toggle('bad', isBad);
}

const isMarked = (face) => decided.has(key(face.video, face.track)) ||
  face.pictures.some((p) => decided.has(key(face.video, face.track, p.frame)));

function filter() {
  const [label, split, show] = ['label', 'split', 'show'].map((id) => $(id).value);
  shown = faces.filter((face) => (!label || face.label === label) && (!split || face.split === split) &&
    (show !== 'undecided' || !isMarked(face)) && (show !== 'marked' || isMarked(face)) &&
    (show !== 'crowd' || face.n_beside > 0));
  page = 0;
  at = [0, 0];
  draw();
}

function draw() {
  const n_pages = Math.max(1, Math.ceil(shown.length / PAGE_FACES));
  page = Math.min(page, n_pages - 1);
  const first = page * PAGE_FACES;
  $('sheet').replaceChildren(...shown.slice(first, first + PAGE_FACES).map((face, idx) => row(face, first + idx)));
  if (!shown.length) $('sheet').append(element('p', {textContent: 'No face is like that.'}));
  $('page').textContent = `page ${page + 1} of ${n_pages}`;
  $('before').disabled = page === 0;
  $('after').disabled = page + 1 >= n_pages;
  count();
}

function row(face, idx) {
  const made = element('section', {className: 'face', id: `face-${idx}`});
  made.setAttribute('aria-label', `${face.video}, face ${face.track}, ${face.label}`);
  const tags = [face.label, face.method, face.split, face.n_beside ? `${face.n_beside + 1} faces` : ''];
  const button = (verdict, text) => {
    const made = element('button', {type: 'button', textContent: text, tabIndex: -1});
    made.dataset.verdict = verdict;
    made.onclick = () => mark(face, idx, null, verdict);
    return made;
  };
  const buttons = element('span', {className: 'buttons'}, button('wrong-face', 'Wrong face'));
  if (face.label === 'FAKE') buttons.append(button('real-person', 'Real person'));
  made.append(element('div', {className: 'head'}, element('h2', {textContent: `${face.video} · ${face.track}`}),
    element('span', {className: 'tag', textContent: tags.filter(Boolean).join(' · ')}),
    element('span', {className: 'mark'}), buttons));
  const strip = element('div', {className: 'strip'});
  face.pictures.forEach((picture, n) => {
    const image = element('img', {loading: 'lazy', alt: ''});
    image.src = '/picture/' + picture.file.split('/').map(encodeURIComponent).join('/');
    const crop = element('button', {type: 'button', className: 'crop', tabIndex: idx === at[0] && n === at[1] ? 0 : -1}, image);
    crop.onfocus = () => focused(idx, n);
    crop.onclick = () => crop.focus();
    strip.append(crop);
  });
  made.append(strip);
  show(face, made);
  return made;
}

function show(face, section) {
  if (!section) return;
  const whole = decided.get(key(face.video, face.track));
  section.className = 'face ' + (whole ?? '');
  section.querySelector('.mark').textContent = whole ? WORDS[whole] : '';
  for (const button of section.querySelectorAll('.buttons button')) {
    button.setAttribute('aria-pressed', String(button.dataset.verdict === whole));
  }
  section.querySelectorAll('.crop').forEach((crop, n) => {
    const one = decided.get(key(face.video, face.track, face.pictures[n].frame));
    crop.className = 'crop ' + (one ?? '');
    const words = [whole && `face: ${WORDS[whole]}`, one && `crop: ${WORDS[one]}`].filter(Boolean).join(', ');
    crop.setAttribute('aria-label', `${face.video}, face ${face.track}, frame ${face.pictures[n].frame}` +
      ` (${n + 1} of ${face.pictures.length})${words ? ', ' + words : ''}`);
  });
}

function count() {
  let wrong = 0, real = 0, crops = 0;
  for (const [name, verdict] of decided) {
    if (JSON.parse(name)[2] !== null) crops += 1;
    else if (verdict === 'wrong-face') wrong += 1;
    else real += 1;
  }
  $('counts').textContent = `${shown.length} of ${faces.length} faces shown · wrong ${wrong} · real ${real} · single crops ${crops}`;
  $('undo').disabled = !undo.length;
}

const cropAt = (idx, n) => $(`face-${idx}`)?.querySelectorAll('.crop')[n];

function focused(idx, n) {
  cropAt(...at)?.setAttribute('tabindex', '-1');
  at = [idx, n];
  cropAt(...at)?.setAttribute('tabindex', '0');
}

function go(idx, n) {
  if (idx < 0 || idx >= shown.length) return;
  if (Math.floor(idx / PAGE_FACES) !== page) {
    page = Math.floor(idx / PAGE_FACES);
    draw();
  }
  n = Math.max(0, Math.min(n, shown[idx].pictures.length - 1));
  cropAt(idx, n)?.focus({preventScroll: true});
  $(`face-${idx}`)?.scrollIntoView({block: 'nearest'});
}

// One after the other, so that the file ends as the page does.
function save(video, track, frame, verdict) {
  saving = saving.then(async () => {
    const body = JSON.stringify({video, track, frame, verdict});
    const reply = await fetch('/decisions', {method: 'POST', headers: {'Content-Type': 'application/json'}, body});
    if (!reply.ok) throw new Error(await reply.text() || reply.statusText);
    document.body.dataset.saved = String(Number(document.body.dataset.saved ?? 0) + 1);
  }).catch((error) => {
    say(`Not saved: ${error.message}. Load the page again to see what is.`, true);
  });
  return saving;
}

function put(video, track, frame, verdict) {
  if (verdict) decided.set(key(video, track, frame), verdict);
  else decided.delete(key(video, track, frame));
  const idx = shown.findIndex((face) => face.video === video && face.track === track);
  if (idx >= 0) show(shown[idx], $(`face-${idx}`));
  count();
  const what = frame === null ? `face ${track}` : `face ${track}, frame ${frame}`;
  say(`${video}, ${what}: ${verdict ? WORDS[verdict] : 'no mark'}`);
  save(video, track, frame, verdict);
}

function mark(face, idx, frame, verdict) {
  if (verdict === 'real-person' && face.label !== 'FAKE') {
    say('Only a fake can have a real person in it.');
    return;
  }
  const before = decided.get(key(face.video, face.track, frame)) ?? null;
  undo.push([face.video, face.track, frame, before]);
  put(face.video, face.track, frame, before === verdict ? null : verdict);
}

function takeBack() {
  const last = undo.pop();
  if (!last) return;
  put(...last);
  const idx = shown.findIndex((face) => face.video === last[0] && face.track === last[1]);
  if (idx >= 0) go(idx, 0);
}

addEventListener('keydown', (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest?.('select')) return;
  const [idx, n] = at, face = shown[idx];
  const pressed = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  const isOn = document.activeElement?.classList.contains('crop');
  const moves = {ArrowLeft: [idx, n - 1], ArrowRight: [idx, n + 1], ArrowUp: [idx - 1, n], ArrowDown: [idx + 1, n]};
  if (moves[pressed] && face) go(...(isOn ? moves[pressed] : at));
  else if (pressed === 'w' && face) mark(face, idx, event.shiftKey ? face.pictures[n].frame : null, 'wrong-face');
  else if (pressed === 'r' && face) mark(face, idx, event.shiftKey ? face.pictures[n].frame : null, 'real-person');
  else if (pressed === 'u') takeBack();
  else return;
  event.preventDefault();
});
for (const id of ['label', 'split', 'show']) $(id).onchange = filter;
$('undo').onclick = takeBack;
$('before').onclick = () => { page -= 1; at = [page * PAGE_FACES, 0]; draw(); go(...at); };
$('after').onclick = () => { page += 1; at = [page * PAGE_FACES, 0]; draw(); go(...at); };

(async () => {
  const [all, marks] = await Promise.all(['/faces', '/decisions'].map(async (path) => {
    const reply = await fetch(path);
    if (!reply.ok) throw new Error(reply.statusText);
    return reply.json();
  }));
  faces = all;
  for (const {video, track, frame, verdict} of marks) decided.set(key(video, track, frame), verdict);
  filter();
  go(0, 0);
  document.body.dataset.ready = 'yes';
})().catch((error) => say(`The faces can't be loaded: ${error.message}`, true));
