// The same ground at every scale, under the pointer: a crop, what a network is given of it, what
// it answers. Plain JavaScript after `common.js`, in three parts: arithmetic, that knows no page;
// panes, that draw; transports, that fetch (from a kernel, or from what a saved page holds).
// Whatever follows the pointer is drawn here at once; pictures and answers come when they come.
// Names of files and classes only ever become text (`textContent`), never markup.

const LEAST = 8; // shortest side of a crop, in pixels of the source
const GONE = 'No answer from the kernel: it is busy, or gone. If this stays so, run the cell again.';
const QUIET = 6000; // milliseconds without an answer, after which that is said
const POLL = 800; // milliseconds until a collection that is being computed is asked again
const LONG = ['model', 'rendered', 'neighbours', 'map']; // that may take longer than QUIET
const REST = 180; // milliseconds after a key until the model is asked
const SOON = 8; // milliseconds after a change until the kernel's state follows
const CALM = 150; // milliseconds after the last change until a histogram is asked for
const STATE = [
  'place', 'box', 'out', 'sampling', 'seed', 'square',
  'token', 'layer', 'head', 'mass', 'opacity', 'patch',
];
const HANDLES = ['nw', 'n', 'ne', 'e', 'se', 's', 'sw', 'w'];
const STEP = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
// of Okabe and Ito (2008); each has a shape, a dash or a word beside it
const COLOUR = { frame: '#E69F00', uniform: '#56B4E9', random: '#D55E00', model: '#CC79A7' };
const CIVIDIS = [
  '#00224e', '#00285b', '#002e6a', '#053371', '#1a386f', '#273e6e', '#32436d', '#3b496c',
  '#434e6c', '#4b546c', '#535a6d', '#5a5f6e', '#61656f', '#686a71', '#6f7073', '#767676',
  '#7d7c78', '#848279', '#8c8878', '#938e78', '#9b9476', '#a39a74', '#aba072', '#b4a76f',
  '#bcae6c', '#c4b468', '#cdbb63', '#d5c25e', '#dec958', '#e7d150', '#f0d846', '#f9e03a',
  '#fee838',
].map((c) => [1, 3, 5].map((k) => parseInt(c.slice(k, k + 2), 16)));
const LANES = [['uniform', 50], ['random', 86]]; // of the scale axis: where their marks stand
const TALL = 30; // CSS pixels of the highest bar of a histogram
const LINE = 112; // where the scale axis is drawn, from the top
const KIND_COLOURS = ['#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9', '#000000'];
const KIND_SHAPES = ['circle', 'square', 'up', 'diamond', 'down'];

// ---- arithmetic -------------------------------------------------------------------------

const limit = (v, low, high) => Math.min(Math.max(v, low), high);

/** The nearest box of whole pixels inside an image; boxes are `[top, left, height, width]`. */
export function clampBox(box, hw) {
  const size = [0, 1].map((k) => limit(Math.round(box[k + 2]), Math.min(LEAST, hw[k]), hw[k]));
  const place = [0, 1].map((k) => limit(Math.round(box[k]), 0, hw[k] - size[k]));
  return [...place, ...size];
}

/** A box `times` as large about the same centre, as large as fits. */
export function grownBox(box, hw, times) {
  const most = Math.min(hw[0] / box[2], hw[1] / box[3]);
  const least = Math.max(...[0, 1].map((k) => Math.min(LEAST, hw[k]) / box[k + 2]));
  const t = Math.min(Math.max(times, least), most);
  const size = [Math.round(box[2] * t), Math.round(box[3] * t)];
  const place = [0, 1].map((k) => box[k] + (box[k + 2] - size[k]) / 2);
  return clampBox([...place, ...size], hw);
}

/** The box after one of its eight handles went by `[down, right]` source pixels. */
export function handledBox(box, hw, name, [down, right], square) {
  const way = [name.includes('s') - name.includes('n'), name.includes('e') - name.includes('w')];
  const gone = [down, right];
  const size = [0, 1].map((k) => Math.max(LEAST, box[k + 2] + way[k] * gone[k]));
  const room = [0, 1].map((k) => {
    if (way[k] > 0) return hw[k] - box[k];
    return way[k] < 0 ? box[k] + box[k + 2] : hw[k];
  });
  if (square) {
    const wanted = way[0] && way[1] ? Math.max(...size) : size[way[0] ? 0 : 1];
    size.fill(Math.min(wanted, ...room));
  }
  const place = [0, 1].map((k) => {
    const s = (size[k] = Math.round(Math.min(size[k], room[k])));
    if (way[k] > 0) return box[k];
    return way[k] < 0 ? box[k] + box[k + 2] - s : box[k] + (box[k + 2] - s) / 2;
  });
  return clampBox([...place, ...size], hw);
}

/** Effective GSD of a box that becomes `out` pixels: source / mean(out / crop), as `crop_gsd`. */
export function effectiveGsd(box, gsd, out) {
  return (gsd * 2) / (out / box[2] + out / box[3]);
}

/** A value between those of equal parts of an axis, `t` counted from the middle of the first. */
function between(values, t) {
  const last = values.length - 1;
  const i = limit(Math.floor(t), 0, Math.max(0, last - 1)); // beyond the ends the slope goes on
  return values[i] + (t - i) * (values[Math.min(i + 1, last)] - values[i]);
}

/** GSD of the source about the middle of a box: between the places of a table, where there is one. */
export function sourceGsd(place, box) {
  const table = place.gsds;
  if (!table) return place.gsd;
  const at = (k, n) => ((box[k] + box[k + 2] / 2) / place.hw[k]) * n - 0.5;
  const rows = table.map((row) => between(row, at(1, row.length)));
  return between(rows, at(0, rows.length));
}

/** Effective GSD of a box of a place that becomes `out` pixels. */
export const gsdOf = (box, place, out) => effectiveGsd(box, sourceGsd(place, box), out);

/** The largest 1, 2 or 5 times a power of ten that is not above `longest`. */
export function niceLength(longest) {
  const power = 10 ** Math.floor(Math.log10(longest) + 1e-12);
  return [5, 2, 1].map((s) => s * power).find((v) => v <= longest * (1 + 1e-9));
}

/** Three digits, as Python's `:.3g` for the sizes that occur here. */
export function digits(v) {
  return String(Number(v.toPrecision(3)));
}

export function metresText(metres) {
  for (const [unit, size] of [['km', 1000], ['m', 1], ['cm', 0.01]]) {
    if (metres >= size * (unit === 'm' ? 0.5 : 1)) return `${digits(metres / size)} ${unit}`;
  }
  return `${digits(metres * 1000)} mm`;
}

/** Values 1, 2 and 5 times powers of ten between two, both ends included. */
export function logTicks(low, high) {
  const ticks = [];
  for (let e = Math.floor(Math.log10(low)); e <= Math.ceil(Math.log10(high)); e++) {
    for (const s of [1, 2, 5]) ticks.push(Number((s * 10 ** e).toPrecision(1)));
  }
  return ticks.filter((v) => v >= low * 0.9999 && v <= high * 1.0001);
}

/** Bars of a histogram that count anything: their ends on the axis, and share of the highest. */
export function barsOf(edges, counts, most) {
  const bars = counts.map((n, k) => ({ low: edges[k], high: edges[k + 1], share: n / most }));
  return bars.filter((bar) => bar.share > 0);
}

/** Which of the largest values make up `share` of their sum: 1 or 0 for each; all for share 0. */
export function massMask(values, share) {
  const mask = new Uint8Array(values.length).fill(share > 0 ? 0 : 1);
  if (!(share > 0)) return mask;
  const order = Array.from(values.keys()).sort((a, b) => values[b] - values[a]);
  const whole = values.reduce((a, b) => a + b, 0);
  let sum = 0;
  for (const i of order) {
    if (sum >= share * whole) break;
    mask[i] = 1;
    sum += values[i];
  }
  return mask;
}

export function cividis(share) {
  const at = limit(share, 0, 1) * (CIVIDIS.length - 1);
  const k = Math.min(Math.floor(at), CIVIDIS.length - 2);
  return [0, 1, 2].map((c) => CIVIDIS[k][c] + (at - k) * (CIVIDIS[k + 1][c] - CIVIDIS[k][c]));
}

/** A string as Python writes it. */
function pythonText(text) {
  const quoted = JSON.stringify(text);
  return text.includes("'") ? quoted : `'${quoted.slice(1, -1).replaceAll('\\"', '"')}'`;
}

/** The words below the pictures, as the kernel writes them. */
export function captionOf(box, place, out) {
  const gsd = sourceGsd(place, box);
  const y = (gsd * box[2]) / out;
  const x = (gsd * box[3]) / out;
  const both = Math.abs(y / x - 1) < 0.01 ? '' : ` (down ${digits(y)}, across ${digits(x)})`;
  const facts = [
    `${box[2]} x ${box[3]} px -> ${out} x ${out} px`,
    `effective GSD ${digits(effectiveGsd(box, gsd, out))} m/px${both}`,
    `footprint ${metresText(box[2] * gsd)} x ${metresText(box[3] * gsd)}`,
  ];
  if (isUpsampled(box, out)) facts.push('upsampled: no new detail');
  return facts.join(' · ');
}

export const isUpsampled = (box, out) => box[2] < out || box[3] < out;

/** How unlike two crops are: ratio of the sides, and distance of the centres in sides. */
export function unlike(a, b) {
  const side = (x) => Math.sqrt(x[2] * x[3]);
  const apart = [0, 1].map((k) => a[k] + a[k + 2] / 2 - b[k] - b[k + 2] / 2);
  return Math.abs(Math.log(side(a) / side(b))) + Math.hypot(...apart) / Math.min(side(a), side(b));
}

// ---- elements of a page -----------------------------------------------------------------

const part = (name, more = {}) => element('div', { class: `satdino-x-${name}`, ...more });
const SVG = 'http://www.w3.org/2000/svg';

function svg(kind, attributes = {}, text = '') {
  const made = document.createElementNS(SVG, kind);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text) made.textContent = text;
  return made;
}

function button(text, title, act) {
  const made = element('button', { type: 'button', title, 'aria-label': title }, text);
  made.addEventListener('click', act);
  return made;
}

/** Buttons of which one is pressed; `choose(value)` is called by a click or an arrow key. */
class Choice {
  constructor(name, options, choose) {
    this.root = part('choice', { role: 'radiogroup', 'aria-label': name });
    this.buttons = options.map(([value, text, title]) => {
      const made = button(text, title || text, () => choose(value));
      made.setAttribute('role', 'radio');
      made.value = value;
      return made;
    });
    this.root.addEventListener('keydown', (e) => this.walk(e));
    this.root.append(...this.buttons);
  }

  walk(e) {
    if (!STEP[e.key]) return;
    const open = this.buttons.filter((b) => !b.disabled);
    const by = STEP[e.key][0] + STEP[e.key][1];
    const next = (open.indexOf(e.target) + by + open.length) % open.length;
    e.preventDefault();
    e.stopPropagation();
    open[next].focus();
    open[next].click();
  }

  set(value) {
    for (const b of this.buttons) {
      const on = b.value === value;
      b.setAttribute('aria-checked', String(on));
      b.tabIndex = on ? 0 : -1;
    }
    if (!this.buttons.some((b) => b.value === value)) this.buttons[0].tabIndex = 0;
  }
}

/** A labelled slider whose value is written beside it. */
class Slider {
  constructor(name, low, high, step, write, change) {
    this.root = element('label', { class: 'satdino-x-slider' }, name);
    this.field = element('input', { type: 'range', min: low, max: high, step });
    this.words = element('output');
    this.write = write;
    this.field.addEventListener('input', () => change(Number(this.field.value), false));
    this.field.addEventListener('change', () => change(Number(this.field.value), true));
    this.field.addEventListener('keydown', (e) => e.stopPropagation());
    this.root.append(this.field, this.words);
  }

  set(value) {
    if (Number(this.field.value) !== value) this.field.value = value;
    this.words.textContent = this.write(value);
    this.field.setAttribute('aria-valuetext', this.words.textContent);
  }
}

/** Follow a pointer from `pointerdown` on; `begin(e)` gives `move(dx, dy, e)` or nothing. */
function follow(target, begin, end) {
  let move = null;
  let from = [0, 0];
  target.addEventListener('pointerdown', (e) => {
    if (e.button !== 0) return;
    move = begin(e);
    if (!move) return;
    from = [e.clientX, e.clientY];
    target.setPointerCapture(e.pointerId);
    e.preventDefault();
  });
  target.addEventListener('pointermove', (e) => {
    if (move) move(e.clientX - from[0], e.clientY - from[1], e);
  });
  const stop = (e) => {
    if (!move) return;
    move = null;
    end(e);
  };
  target.addEventListener('pointerup', stop);
  target.addEventListener('pointercancel', stop);
}

/** A white scale bar on black, in 1, 2, 5 steps: group of an `svg`. */
function scaleBar(gsd, width, bottom, left = 8) {
  const metres = niceLength(gsd * width * 0.34);
  const long = metres / gsd;
  const text = metresText(metres);
  const wide = Math.max(long, text.length * 6.6) + 16;
  const group = svg('g', { class: 'satdino-x-bar', 'data-metres': metres, 'data-length': long });
  const box = { x: left, y: bottom - 34, width: wide, height: 28, rx: 3, fill: '#000' };
  group.append(svg('rect', { ...box, 'fill-opacity': 0.82 }));
  const words = { x: left + 8, y: bottom - 19, fill: '#fff', 'font-size': 12, 'font-weight': 600 };
  group.append(svg('text', words, text));
  group.append(svg('rect', { x: left + 8, y: bottom - 14, width: long, height: 4, fill: '#fff' }));
  return group;
}

/** A canvas that is at hand, or the answer's pixels: red, green and blue, a byte each. */
function pictureOf({ canvas, reply, buffers }) {
  if (canvas) return canvas;
  const [height, width] = reply.hw;
  const image = new ImageData(width, height);
  const raw = buffers[0];
  for (let i = 0, j = 0; i < raw.length; i += 3, j += 4) {
    image.data[j] = raw[i];
    image.data[j + 1] = raw[i + 1];
    image.data[j + 2] = raw[i + 2];
    image.data[j + 3] = 255;
  }
  return image;
}

/** Fill a node, unless it shows this already; `shows` says all that the parts depend on. */
function fill(node, shows, parts) {
  const now = JSON.stringify(shows);
  if (node.satdinoShows === now) return;
  node.satdinoShows = now;
  node.replaceChildren(...parts());
}

/** Questions of one kind: one is under way, the newest waits, what is overtaken is dropped. */
class Line {
  constructor(ask, show, fail) {
    Object.assign(this, { ask, show, fail, busy: false, next: null, last: '', asked: 0, shown: 0 });
  }

  want(args, again = false) {
    const text = JSON.stringify(args);
    if (text === this.last && !again) return;
    this.last = text;
    this.next = args;
    if (!this.busy) this.go();
  }

  async go() {
    this.busy = true;
    while (this.next) {
      const args = this.next;
      this.next = null;
      this.asked += 1;
      try {
        const answer = await this.ask(args);
        await this.show(answer, args);
        this.shown += 1;
      } catch (e) {
        if (this.next) continue;
        this.last = ''; // so that the same may be asked again
        this.fail(e.message || String(e), args);
      }
    }
    this.busy = false;
  }
}

// ---- the overview: the whole place, the frame on it, the sampled views --------------------

class Overview {
  constructor(app) {
    this.app = app;
    this.scale = 1; // CSS pixels for one pixel of the source
    this.root = part('pane', { role: 'group', 'aria-label': 'overview' });
    this.head = element('h3', {}, 'Overview');
    this.note = element('span', { class: 'satdino-x-note' });
    this.head.append(this.note);
    this.stage = part('stage', { tabindex: '0', role: 'application' });
    this.stage.setAttribute('aria-roledescription', 'crop frame');
    this.picture = element('img', { alt: '', draggable: 'false' });
    this.top = svg('svg', { 'aria-hidden': 'true' });
    this.stage.append(this.picture, this.top);
    this.legend = part('legend', { role: 'group', 'aria-label': 'legend of the sampled views' });
    this.root.append(this.head, this.stage, this.legend);
    this.line = new Line(
      (args) => app.ask('overview', args),
      (answer, args) => this.show(answer, args),
      (words) => app.fail('overview', words),
    );
    this.build();
    this.listen();
  }

  build() {
    this.shade = svg('path', { class: 'satdino-x-shade', 'fill-rule': 'evenodd' });
    this.views = svg('g');
    this.answered = svg('rect', { class: 'satdino-x-answered' });
    this.barPlace = svg('g');
    this.frame = svg('g', { class: 'satdino-x-frame' });
    this.edges = ['satdino-x-casing', 'satdino-x-edge'].map((name) => svg('rect', { class: name }));
    this.handles = HANDLES.map((name) =>
      svg('rect', { class: 'satdino-x-handle', 'data-handle': name, width: 10, height: 10 }),
    );
    for (const h of this.handles) h.style.cursor = `${h.dataset.handle}-resize`;
    this.frame.append(...this.edges, ...this.handles);
    this.top.append(this.shade, this.views, this.answered, this.barPlace, this.frame);
  }

  listen() {
    follow(this.stage, (e) => this.grab(e), () => this.app.released());
    this.stage.addEventListener('keydown', (e) => this.key(e));
    this.stage.addEventListener('wheel', (e) => this.wheel(e), { passive: false });
  }

  /** What a pointer takes hold of: a handle, a view's name, the frame, or a new place for it. */
  grab(e) {
    const { app } = this;
    this.stage.focus();
    const name = e.target.dataset?.handle;
    const view = e.target.dataset?.view;
    if (view) return void app.goTo(JSON.parse(view));
    let start = app.state.box;
    const hw = app.place.hw;
    const by = (dx, dy) => [dy / this.scale, dx / this.scale];
    app.dragging = true;
    if (name) {
      return (dx, dy) =>
        app.setBox(handledBox(start, hw, name, by(dx, dy), app.state.square), false);
    }
    const stage = this.stage.getBoundingClientRect();
    const at = by(e.clientX - stage.left, e.clientY - stage.top);
    const within = [0, 1].every((k) => at[k] >= start[k] && at[k] <= start[k] + start[k + 2]);
    if (!within) {
      start = clampBox([at[0] - start[2] / 2, at[1] - start[3] / 2, start[2], start[3]], hw);
      app.setBox(start, false);
    }
    return (dx, dy) => {
      const [down, right] = by(dx, dy);
      app.setBox(clampBox([start[0] + down, start[1] + right, start[2], start[3]], hw), false);
    };
  }

  key(e) {
    const { app } = this;
    const step = STEP[e.key];
    const [t, l, h, w] = app.state.box;
    const n = e.shiftKey ? 10 : 1;
    if (step) {
      app.setBox(clampBox([t + n * step[0], l + n * step[1], h, w], app.place.hw));
    } else if (e.key === '+' || e.key === '=' || e.key === '-' || e.key === '_') {
      app.growBy((e.key === '-' || e.key === '_' ? -2 : 2) * n);
    } else return;
    e.preventDefault();
    e.stopPropagation(); // a notebook has keys of its own
  }

  wheel(e) {
    const has = this.stage === this.stage.getRootNode().activeElement;
    if (!has && !e.ctrlKey && !e.metaKey) {
      return this.app.say('Click the overview, or hold Ctrl, to resize the crop with the wheel.');
    }
    e.preventDefault();
    const lines = e.deltaMode === 1 ? 30 : 1;
    this.app.grow(Math.exp(e.deltaY * lines * 0.0012));
  }

  fetch() {
    this.line.want({ place: this.app.state.place, most: 1200 });
  }

  async show({ buffers }, args) {
    if (args.place !== this.app.state.place) return;
    if (this.url) URL.revokeObjectURL(this.url);
    this.url = URL.createObjectURL(new Blob([buffers[0]], { type: 'image/jpeg' }));
    this.picture.src = this.url;
    await this.picture.decode().catch(() => {});
    this.app.root.dataset.overview = args.place;
    this.app.heal('overview');
  }

  /** The largest size that fits the pane, in CSS pixels. */
  fit() {
    const room = this.root.clientWidth;
    const { hw } = this.app.place;
    if (!room) return;
    this.scale = Math.min(room / hw[1], this.app.tallest / hw[0]);
    const [h, w] = hw.map((n) => Math.round(n * this.scale));
    this.stage.style.width = `${w}px`;
    this.stage.style.height = `${h}px`;
    this.top.setAttribute('viewBox', `0 0 ${w} ${h}`);
    this.size = [h, w];
  }

  paint() {
    const { app } = this;
    if (!this.size) return;
    const { state, place } = app;
    const [h, w] = this.size;
    const [t, l, bh, bw] = state.box.map((n) => n * this.scale);
    const inner = `M${l} ${t}h${bw}v${bh}h${-bw}z`;
    this.shade.setAttribute('d', `M0 0H${w}V${h}H0z${inner}`);
    this.edges.forEach((edge) => setBox(edge, [t, l, bh, bw]));
    const small = Math.min(bh, bw) < 44;
    for (const handle of this.handles) {
      const name = handle.dataset.handle;
      const y = t + bh * (name.includes('n') ? 0 : name.includes('s') ? 1 : 0.5);
      const x = l + bw * (name.includes('w') ? 0 : name.includes('e') ? 1 : 0.5);
      handle.setAttribute('x', x - 5);
      handle.setAttribute('y', y - 5);
      handle.style.display = small && name.length === 1 ? 'none' : '';
    }
    const scaled = this.scale;
    fill(this.barPlace, [place.gsd, scaled, w, h], () => [scaleBar(place.gsd / scaled, w, h)]);
    this.note.textContent = `${place.hw[0]} x ${place.hw[1]} px, ${digits(place.gsd)} m/px`;
    const words = `crop frame on ${state.place}: ${captionOf(state.box, place, state.out)}. `;
    this.stage.setAttribute('aria-label', words + HELP_FRAME);
    const of = app.model?.of;
    const elsewhere = of && String(of) !== String(state.box) && !app.live;
    this.answered.style.display = elsewhere ? '' : 'none';
    if (elsewhere) setBox(this.answered, of.map((n) => n * scaled));
  }

  paintViews() {
    const { app } = this;
    const shown = app.shownViews();
    const rows = [];
    for (const [how, views] of shown) {
      const counts = {};
      for (const view of views) {
        counts[view.kind] = (counts[view.kind] || 0) + 1;
        rows.push(...this.viewMarks(how, view, counts[view.kind]));
      }
    }
    this.views.replaceChildren(...rows);
    app.root.dataset.footprints = this.views.querySelectorAll('.satdino-x-view').length;
    this.legend.replaceChildren(...shown.map(([how, views]) => this.legendRow(how, views)));
  }

  viewMarks(how, view, n) {
    const box = view.box.map((v) => v * this.scale);
    const whole = view.kind === 'global';
    const dash = how === 'random' ? '6 4' : 'none';
    const width = whole ? 2.6 : 1.5;
    const look = { stroke: COLOUR[how], 'stroke-dasharray': dash, 'stroke-width': width };
    const casing = svg('rect', { class: 'satdino-x-under', 'stroke-width': width + 1.6 });
    const line = svg('rect', { class: 'satdino-x-view', ...look });
    [casing, line].forEach((r) => setBox(r, box));
    if (this.app.state.sampling === 'both' && !whole) return [casing, line]; // names would crowd
    const text = `${how === 'uniform' ? 'u' : 'r'}${whole ? 'G' : ''}${n}`;
    const wide = 7 * text.length + 6;
    const y = how === 'uniform' ? box[0] : box[0] + box[2] - 14;
    const tag = svg('g', { class: 'satdino-x-tag' });
    tag.append(svg('rect', { x: box[1], y, width: wide, height: 14, fill: '#000' }));
    tag.append(svg('text', { x: box[1] + 3, y: y + 11, fill: COLOUR[how] }, text));
    const title = `${how} ${view.kind} view ${n}: ${digits(view.gsd)} m/px. Click: go there`;
    tag.append(svg('title', {}, title));
    for (const child of tag.children) {
      child.dataset.view = JSON.stringify({ box: view.box, out: view.out });
    }
    return [casing, line, tag];
  }

  legendRow(how, views) {
    const row = element('span');
    const sign = svg('svg', { width: 30, height: 12, 'aria-hidden': 'true' });
    const dash = how === 'random' ? '6 4' : 'none';
    const look = { stroke: COLOUR[how], 'stroke-width': 3, 'stroke-dasharray': dash };
    sign.append(svg('line', { x1: 1, x2: 29, y1: 6, y2: 6, ...look }));
    const local = views.filter((v) => v.kind === 'local').map((v) => v.gsd).sort((a, b) => a - b);
    const gaps = local.slice(1).map((g, k) => g - local[k]);
    const gap = gaps.length ? `, largest gap ${digits(Math.max(...gaps))} m/px` : '';
    const mark = how === 'uniform' ? 'solid, u' : 'dashed, r';
    const words = `${how} (${mark}): ${views.length - local.length} global, ${local.length} local`;
    row.append(sign, words + gap);
    return row;
  }
}

const HELP_FRAME =
  'Arrow keys move it by one pixel, with Shift by ten; plus and minus resize it about its centre.';

function setBox(rect, [top, left, height, width]) {
  const values = { x: left, y: top, width, height };
  for (const [name, value] of Object.entries(values)) rect.setAttribute(name, value);
}

// ---- the network's input, and what a model makes of its patches ---------------------------

class Input {
  constructor(app) {
    this.app = app;
    this.root = part('pane', { role: 'group', 'aria-label': 'network input' });
    this.head = element('h3', {}, 'Network input');
    this.note = element('span', { class: 'satdino-x-note' });
    this.head.append(this.note);
    this.stages = part('pair');
    this.stage = part('stage', { tabindex: '0', role: 'application' });
    this.stage.setAttribute('aria-roledescription', 'network input');
    this.canvas = element('canvas', { class: 'satdino-x-pixels', 'aria-hidden': 'true' });
    this.heat = element('canvas', { class: 'satdino-x-heat', 'aria-hidden': 'true' });
    this.top = svg('svg', { 'aria-hidden': 'true' });
    this.stage.append(this.canvas, this.heat, this.top);
    this.other = part('stage satdino-x-other', { role: 'img' });
    this.otherCanvas = element('canvas', { class: 'satdino-x-pixels', 'aria-hidden': 'true' });
    this.otherTop = svg('svg', { 'aria-hidden': 'true' });
    this.other.append(this.otherCanvas, this.otherTop);
    this.stages.append(this.stage, this.other);
    this.compare = 'resampled';
    this.choice = new Choice(
      'resampled or rendered',
      [
        ['resampled', 'resampled', 'what the network is given: the crop, resampled'],
        ['rendered', 'rendered', 'the same ground, drawn anew at this GSD'],
        ['both', 'both', 'resampled beside rendered'],
      ],
      (value) => this.setCompare(value),
    );
    this.compareRow = part('row');
    this.compareRow.append('Scene', this.choice.root);
    this.whyNot = part('note'); // in place of the switch
    this.controls = this.buildControls();
    this.root.append(this.head, this.stages, this.compareRow, this.whyNot, this.controls);
    this.buildLines();
    this.listen();
  }

  buildLines() {
    const { app } = this;
    this.line = new Line(
      (args) => app.ask('input', args),
      (answer, args) => this.show(answer, args),
      (words) => app.fail('input', words),
    );
    this.rendered = new Line(
      (args) => app.ask('rendered', args),
      (answer, args) => this.showRendered(answer, args),
      (words) => app.fail('rendered', words),
    );
  }

  buildControls() {
    const { app } = this;
    const set = (name) => (value, done) => app.set({ [name]: value }, done);
    const tokens = [
      ['none', 'none', 'no overlay'],
      ['cls', 'CLS', 'attention of the CLS token'],
      ['gsd', 'GSD', 'attention of the GSD token'],
      ['similarity', 'similarity', 'likeness of all patches to the one that was clicked'],
    ];
    this.token = new Choice('overlay', tokens, (value) => app.set({ token: value }, true));
    const { layers = 1, heads = 1 } = app.setup.model || {};
    const layer = (v) => (v < 0 ? `last of ${layers}` : `${v + 1} of ${layers}`);
    const head = (v) => (v < 0 ? `mean of ${heads}` : `${v + 1} of ${heads}`);
    const share = (v) => (v > 0 ? `${Math.round(v * 100)} %` : 'all');
    const percent = (v) => `${Math.round(v * 100)} %`;
    this.sliders = {
      layer: new Slider('Layer', -1, layers - 1, 1, layer, set('layer')),
      head: new Slider('Head', -1, heads - 1, 1, head, set('head')),
      mass: new Slider('Mass', 0, 1, 0.05, share, set('mass')),
      opacity: new Slider('Opacity', 0, 1, 0.05, percent, set('opacity')),
    };
    const row = part('row');
    row.append('Overlay', this.token.root);
    const sliders = part('sliders');
    sliders.append(...Object.values(this.sliders).map((s) => s.root));
    this.colours = part('colours', { role: 'img' });
    const all = part('controls');
    all.append(row, sliders, this.colours);
    return all;
  }

  listen() {
    this.stage.addEventListener('click', (e) => this.click(e));
    this.stage.addEventListener('keydown', (e) => this.key(e));
  }

  grid() {
    return this.app.model?.grid || this.app.setup.model?.grid;
  }

  /** Is there a model of patches that can be asked about one of them? */
  canAsk() {
    const { model } = this.app.setup;
    return Boolean(model && this.grid() && !model.baked);
  }

  click(e) {
    if (!this.canAsk()) return;
    const box = this.stage.getBoundingClientRect();
    const [rows, columns] = this.grid();
    const at = [(e.clientY - box.top) / box.height, (e.clientX - box.left) / box.width];
    this.choosePatch(Math.floor(at[0] * rows), Math.floor(at[1] * columns));
  }

  choosePatch(row, column) {
    const [rows, columns] = this.grid();
    const patch = [limit(row, 0, rows - 1), limit(column, 0, columns - 1)];
    this.app.set({ patch, token: 'similarity' }, true);
  }

  key(e) {
    const step = STEP[e.key];
    if (!step || !this.canAsk()) return;
    e.preventDefault();
    e.stopPropagation();
    const [rows, columns] = this.grid();
    const [row, column] = this.app.state.patch.length
      ? this.app.state.patch
      : [rows >> 1, columns >> 1];
    const n = e.shiftKey ? 4 : 1;
    this.choosePatch(row + n * step[0], column + n * step[1]);
  }

  setCompare(value) {
    this.compare = value;
    this.app.root.dataset.compare = value;
    this.fetch(true);
    this.app.fit();
  }

  scene() {
    return Boolean(this.app.place.scene);
  }

  fetch(settled) {
    const { place, box, out } = this.app.state;
    this.line.want({ place, box, out });
    if (this.scene() && this.compare !== 'resampled' && settled) {
      this.app.root.dataset.rendering = '';
      this.rendered.want({ place, box, out });
    }
  }

  show(answer, args) {
    drawExact(this.canvas, pictureOf(answer));
    this.shown = args;
    const { app } = this;
    app.inputShown(answer.reply, args);
  }

  showRendered(answer, args) {
    drawExact(this.otherCanvas, pictureOf(answer));
    const { app } = this;
    app.root.dataset.rendered = args.box.join(' ');
    delete app.root.dataset.rendering;
    this.other.setAttribute('aria-label', `rendered: ${answer.reply.caption || ''}`);
    app.heal('rendered');
    this.paint();
  }

  fit() {
    const { out } = this.app.state;
    const scene = this.scene();
    const compare = scene ? this.compare : 'resampled';
    this.compareRow.style.display = scene ? '' : 'none';
    this.whyNot.textContent = scene || !this.app.live ? '' : this.app.place.why || '';
    this.stage.style.display = compare === 'rendered' ? 'none' : '';
    this.other.style.display = compare === 'resampled' ? 'none' : '';
    const room = Math.min(this.root.clientWidth, Math.max(this.app.tallest, 448));
    if (!room) return;
    const each = compare === 'both' ? (this.root.clientWidth - 8) / 2 : room;
    const times = Math.floor(each / out);
    this.side = times >= 1 ? times * out : Math.floor(each);
    this.times = times >= 1 ? `${times}` : digits(each / out);
    for (const stage of [this.stage, this.other]) {
      stage.style.width = stage.style.height = `${this.side}px`;
    }
    for (const top of [this.top, this.otherTop]) {
      top.setAttribute('viewBox', `0 0 ${this.side} ${this.side}`);
    }
    const pixel = times >= 1 ? 'pixelated' : 'auto';
    this.canvas.style.imageRendering = this.otherCanvas.style.imageRendering = pixel;
  }

  paint() {
    const { app } = this;
    if (!this.side) return;
    const { state, place } = app;
    const exact = app.live ? 'exact' : 'drawn in this page';
    this.note.textContent = `${state.out} x ${state.out} px, ${exact}, shown ${this.times} times`;
    const gsd = (sourceGsd(place, state.box) * state.box[3]) / this.side;
    const bar = () => scaleBar(gsd, this.side, this.side);
    const patch = [state.token, state.patch, this.grid()];
    fill(this.top, [gsd, this.side, patch], () => [bar(), ...this.patchMarks()]);
    fill(this.otherTop, [gsd, this.side], () => [bar(), this.otherName()]);
    const words = `network input: ${captionOf(state.box, place, state.out)}`;
    this.stage.setAttribute('aria-label', app.setup.model ? `${words}. ${HELP_INPUT}` : words);
    this.choice.set(this.compare);
    this.paintHeat();
    this.paintControls();
  }

  otherName() {
    const name = svg('text', { x: 8, y: 18, class: 'satdino-x-name' }, 'rendered at this GSD');
    return name;
  }

  patchMarks() {
    const { state } = this.app;
    const grid = this.grid();
    if (state.token !== 'similarity' || !state.patch.length || !grid) return [];
    const size = [this.side / grid[0], this.side / grid[1]];
    const box = [state.patch[0] * size[0], state.patch[1] * size[1], ...size];
    return ['satdino-x-ring-under', 'satdino-x-ring'].map((name) => {
      const ring = svg('rect', { class: name });
      setBox(ring, box);
      return ring;
    });
  }

  /** Colours of the answer on its own ground: where the crop went on, they stay behind. */
  paintHeat() {
    const { app, heat } = this;
    const { state } = app;
    const context = heat.getContext('2d');
    const answer = app.model;
    const on = state.token !== 'none' && answer?.values && answer.token === state.token;
    heat.style.display = on ? '' : 'none';
    app.root.dataset.overlay = on ? state.token : 'none';
    if (!on) return;
    const [rows, columns] = answer.grid;
    const [low, high] = answer.range;
    const mask = massMask(Array.from(answer.values, (v) => low + (v / 255) * (high - low)),
      state.token === 'similarity' ? 0 : state.mass);
    app.root.dataset.patches = mask.reduce((a, b) => a + b, 0);
    const side = Math.round(this.side * (window.devicePixelRatio || 1));
    if (heat.width !== side) heat.width = heat.height = side;
    context.clearRect(0, 0, side, side);
    const part = heatCanvas(answer.values, mask, rows, columns);
    const [t, l, h, w] = answer.of;
    const [bt, bl, bh, bw] = state.box;
    const at = [((l - bl) / bw) * side, ((t - bt) / bh) * side];
    const size = [(w / bw) * side, (h / bh) * side];
    context.imageSmoothingEnabled = false;
    context.globalAlpha = state.opacity;
    context.drawImage(part, ...at, ...size);
    context.globalAlpha = 1;
    if (state.mass > 0) outlineMask(context, mask, rows, columns, at, size);
  }

  paintControls() {
    const { app } = this;
    const { state, setup } = app;
    const model = setup.model;
    this.controls.style.display = model && model.grid !== null ? '' : 'none';
    if (!model) return;
    this.token.set(state.token);
    const names = model.tokens || [];
    for (const b of this.token.buttons) {
      const known = b.value === 'none' || names.includes(b.value);
      b.disabled = !(known || (b.value === 'similarity' && !model.baked));
    }
    for (const [name, slider] of Object.entries(this.sliders)) {
      slider.set(state[name]);
      const alike = state.token === 'similarity' && (name === 'head' || name === 'mass');
      const fixed = model.baked && (name === 'layer' || name === 'head');
      slider.field.disabled = state.token === 'none' || alike || fixed;
    }
    this.paintColours();
  }

  paintColours() {
    const { app } = this;
    const answer = app.model;
    const on = app.root.dataset.overlay !== 'none' && answer?.range;
    this.colours.style.visibility = on ? '' : 'hidden';
    if (!on) return;
    const [low, high] = answer.range.map(digits);
    const unit = answer.unit || '';
    const text = `${low} to ${high} ${unit}`;
    if (this.colours.dataset.text === text) return;
    this.colours.dataset.text = text;
    this.colours.setAttribute('aria-label', `colours from ${text}`);
    const bar = element('i');
    bar.style.background = `linear-gradient(90deg, ${CIVIDIS.map((c) => `rgb(${c})`).join(',')})`;
    const words = element('span', { class: 'satdino-x-note' }, unit);
    this.colours.replaceChildren(element('span', {}, low), bar, element('span', {}, high), words);
  }
}

const HELP_INPUT = 'Click a patch, or use the arrow keys, to colour all patches by their likeness.';

function drawExact(canvas, picture) {
  canvas.width = picture.width;
  canvas.height = picture.height;
  const context = canvas.getContext('2d');
  if (picture instanceof ImageData) context.putImageData(picture, 0, 0);
  else context.drawImage(picture, 0, 0);
  canvas.dataset.size = `${picture.width} ${picture.height}`;
}

/** One pixel for each patch, in cividis; transparent where the mask is 0. */
function heatCanvas(values, mask, rows, columns) {
  const canvas = document.createElement('canvas');
  canvas.width = columns;
  canvas.height = rows;
  const image = new ImageData(columns, rows);
  for (let i = 0; i < rows * columns; i++) {
    image.data.set([...cividis(values[i] / 255), mask[i] ? 255 : 0], 4 * i);
  }
  canvas.getContext('2d').putImageData(image, 0, 0);
  return canvas;
}

/** A white line on black around the patches of a mask. */
function outlineMask(context, mask, rows, columns, at, size) {
  const x = (c) => at[0] + (c / columns) * size[0];
  const y = (r) => at[1] + (r / rows) * size[1];
  const has = (r, c) => r >= 0 && c >= 0 && r < rows && c < columns && mask[r * columns + c];
  context.beginPath();
  for (let r = 0; r <= rows; r++) {
    for (let c = 0; c <= columns; c++) {
      if (Boolean(has(r, c)) !== Boolean(has(r - 1, c))) {
        context.moveTo(x(c), y(r));
        context.lineTo(x(c + 1), y(r));
      }
      if (Boolean(has(r, c)) !== Boolean(has(r, c - 1))) {
        context.moveTo(x(c), y(r));
        context.lineTo(x(c), y(r + 1));
      }
    }
  }
  for (const [colour, width] of [['#000', 4], ['#fff', 2]]) {
    context.strokeStyle = colour;
    context.lineWidth = width;
    context.stroke();
  }
}

// ---- the model: its estimate of the GSD against the true one -------------------------------

class ModelPane {
  constructor(app) {
    this.app = app;
    this.trail = []; // answers for this place, the newest last
    this.root = part('pane satdino-x-model', { role: 'group', 'aria-label': 'model' });
    this.head = element('h3', {}, 'Model');
    this.note = element('span', { class: 'satdino-x-note' });
    this.head.append(this.note);
    this.words = part('answer', { role: 'status', 'aria-live': 'polite' });
    this.plot = svg('svg', { role: 'img', class: 'satdino-x-plot' });
    this.caption = part('note');
    this.root.append(this.head, this.words, this.plot, this.caption);
    this.line = new Line(
      (args) => app.ask('model', args),
      (answer, args) => this.show(answer, args),
      (words) => this.failed(words),
    );
  }

  fetch() {
    const { app } = this;
    if (!app.setup.model) return;
    const { place, box, out, token, layer, head, patch } = app.state;
    const open = token === 'similarity' && !patch.length ? 'none' : token;
    const asked = { place, box, out, token: open, layer, head, mass: 0, patch };
    this.line.want(asked);
    if (this.line.busy) this.computing(true);
  }

  computing(on) {
    this.root.classList.toggle('satdino-x-computing', on);
    this.app.root.dataset.computing = on ? 'model' : '';
    this.paint();
  }

  failed(words) {
    this.app.fail('model', words);
    this.computing(false);
  }

  show({ reply, buffers }, args) {
    const { app } = this;
    if (args.place !== app.state.place) return;
    const values = buffers.length ? Uint8Array.from(buffers[0]) : null;
    app.model = { of: args.box, ...reply, token: args.token, values, out: args.out };
    if (reply.estimate) {
      const truth = reply.truth ?? gsdOf(args.box, app.place, args.out);
      this.trail = [...this.trail, { ...reply.estimate, truth }].slice(-40);
    }
    app.root.dataset.estimate = reply.estimate ? digits(reply.estimate.gsd) : 'none';
    app.root.dataset.answered = app.model.of.join(' ');
    app.heal('model');
    this.computing(Boolean(this.line.next));
    app.paint();
  }

  fit() {
    const { root } = this.app;
    const wide = root.classList.contains('satdino-x-wide');
    const beside = !wide && !root.classList.contains('satdino-x-narrow');
    const room = beside ? this.root.clientWidth / 2 : this.root.clientWidth;
    this.width = Math.max(220, Math.min(room, 420));
    this.height = Math.min(this.width * 0.86, wide ? this.app.tallest - 96 : 260);
    this.plot.setAttribute('viewBox', `0 0 ${this.width} ${this.height}`);
    this.plot.style.width = `${this.width}px`;
    this.plot.style.height = `${this.height}px`;
  }

  paint() {
    const { app } = this;
    const { setup, model } = app;
    if (!this.width) return;
    this.note.textContent = setup.model ? setup.model.name : '';
    const plotted = setup.model?.answers_gsd && this.trail.length > 0;
    this.plot.style.display = plotted ? '' : 'none';
    const busy = this.root.classList.contains('satdino-x-computing');
    const { estimate, why, truth, of, out } = model || {};
    const failed = 'model' in app.errors;
    const shows = [busy, failed, Boolean(model), estimate, why, truth, of, out];
    fill(this.words, shows, () => this.answer());
    this.caption.textContent = model?.caption || '';
    if (!plotted) return;
    fill(this.plot, [this.width, this.height, app.domain(), this.trail], () => this.drawn());
  }

  /** The answer in words: what it says, how sure it is, and how far off that is. */
  answer() {
    const { app } = this;
    const { setup, model } = app;
    const busy = this.root.classList.contains('satdino-x-computing');
    const note = (text) => element('div', { class: 'satdino-x-note' }, text);
    const failed = 'model' in app.errors;
    const state = busy ? 'computing…' : failed ? 'of an earlier crop' : '';
    const wait = state ? [element('span', { class: 'satdino-x-busy' }, state)] : [];
    if (!setup.model) {
      return [note('No model was given. With one, Explorer(tiles, model), its estimate of the ' +
        'GSD stands here, and its attention on the network input.')];
    }
    if (!model) return wait.length ? wait : [note('no answer yet')];
    if (!model.estimate) {
      const words = element('strong', {}, 'does not answer GSD');
      return [words, ...wait, note(model.why || '')];
    }
    const { gsd, low, high, level } = model.estimate;
    const truth = model.truth ?? gsdOf(model.of, app.place, model.out);
    const off = gsd > truth ? gsd / truth : truth / gsd;
    const value = element('strong', {}, `${digits(gsd)} m/px`);
    const sure = low === null || low === undefined ? '' :
      `, ${Math.round((level ?? 0.8) * 100)} % interval ${digits(low)} to ${digits(high)}`;
    const way = gsd > truth ? 'coarse' : 'fine';
    const side = off < 1.005 ? 'as it is' : `${digits(off)} times too ${way}`;
    const lines = [`estimate${sure}`, `truth ${digits(truth)} m/px: ${side}`];
    const more = model.why ? [note(model.why)] : [];
    return [value, ...wait, ...lines.map((text) => element('div', {}, text)), ...more];
  }

  drawn() {
    const [w, h] = [this.width, this.height];
    const edge = { left: 46, right: 12, top: 10, bottom: 38 };
    const seen = this.trail.flatMap((p) => [p.truth, p.gsd]);
    const domain = this.app.domain();
    let low = Math.min(domain[0], ...seen);
    let high = Math.max(domain[1], ...seen);
    [low, high] = [low / 1.1, high * 1.1];
    const share = (v) => Math.log(limit(v, low, high) / low) / Math.log(high / low);
    const x = (v) => edge.left + share(v) * (w - edge.left - edge.right);
    const y = (v) => h - edge.bottom - share(v) * (h - edge.top - edge.bottom);
    const rows = [];
    const add = (kind, look, text) => rows.push(svg(kind, look, text));
    const dense = Math.log10(high / low) > 2.6;
    for (const v of logTicks(low, high)) {
      const strong = String(v).replace(/[0.]/g, '')[0] === '1';
      const grid = strong ? 'satdino-x-grid satdino-x-strong' : 'satdino-x-grid';
      add('line', { class: grid, x1: x(v), x2: x(v), y1: y(low), y2: y(high) });
      add('line', { class: grid, x1: x(low), x2: x(high), y1: y(v), y2: y(v) });
      if (dense && !strong) continue;
      add('text', { x: x(v), y: y(low) + 14, 'text-anchor': 'middle' }, digits(v));
      add('text', { x: x(low) - 5, y: y(v) + 4, 'text-anchor': 'end' }, digits(v));
    }
    const diagonal = { x1: x(low), y1: y(low), x2: x(high), y2: y(high) };
    add('line', { class: 'satdino-x-diagonal', ...diagonal });
    const below = { x: (x(low) + x(high)) / 2, y: h - 4, 'text-anchor': 'middle' };
    add('text', below, 'true GSD (m/px)');
    const turned = `translate(11 ${(y(low) + y(high)) / 2}) rotate(-90)`;
    add('text', { transform: turned, 'text-anchor': 'middle' }, 'estimate (m/px)');
    this.trail.forEach((p, k) => this.point(add, p, x, y, k === this.trail.length - 1));
    const label = 'estimates against true GSDs of the crops so far, both logarithmic; ';
    this.plot.setAttribute('aria-label', `${label}on the dashed line they are equal`);
    return rows;
  }

  point(add, p, x, y, newest) {
    const look = { stroke: COLOUR.model, 'stroke-width': newest ? 2.5 : 1 };
    const dim = { opacity: newest ? 1 : 0.4 };
    if (p.low !== null && p.low !== undefined && newest) {
      add('line', { x1: x(p.truth), x2: x(p.truth), y1: y(p.low), y2: y(p.high), ...look });
      for (const end of [p.low, p.high]) {
        add('line', { x1: x(p.truth) - 5, x2: x(p.truth) + 5, y1: y(end), y2: y(end), ...look });
      }
    }
    const circle = { cx: x(p.truth), cy: y(p.gsd), r: newest ? 6 : 3.5, fill: COLOUR.model };
    add('circle', { ...circle, ...dim, class: 'satdino-x-dot' });
  }
}

// ---- one axis for every GSD ----------------------------------------------------------------

class Axis {
  constructor(app) {
    this.app = app;
    this.root = part('axis', { role: 'group', 'aria-label': 'scale axis' });
    this.drawing = svg('svg', { class: 'satdino-x-scale' });
    this.back = svg('g', { 'aria-hidden': 'true' });
    this.marks = svg('g', { 'aria-hidden': 'true' });
    this.mark = svg('g', { class: 'satdino-x-mark', tabindex: '0', role: 'slider' });
    this.mark.setAttribute('aria-label', 'effective GSD of the crop, metres per pixel');
    this.answered = svg('g', { 'aria-hidden': 'true' });
    this.bars = svg('g', { 'aria-hidden': 'true' });
    this.drawing.append(this.back, this.bars, this.marks, this.answered, this.mark);
    this.words = part('note', { role: 'note', 'aria-label': 'histogram of GSDs' });
    this.root.append(this.drawing, this.words);
    follow(this.mark, () => this.grab(), () => app.released());
    this.mark.addEventListener('keydown', (e) => this.key(e));
    this.marks.addEventListener('click', (e) => {
      const view = e.target.dataset.view;
      if (view) app.goTo(JSON.parse(view));
    });
  }

  /** The centre stays where it was at the start: there and back gives the same crop. */
  grab() {
    const { app } = this;
    const start = app.state.box;
    const gsd = gsdOf(start, app.place, app.state.out);
    const from = this.x(gsd);
    this.mark.focus();
    app.dragging = true;
    return (dx) => app.setBox(grownBox(start, app.place.hw, this.gsd(from + dx) / gsd), false);
  }

  key(e) {
    const n = (e.shiftKey ? 10 : 1) * 2;
    if (e.key === 'ArrowRight' || e.key === 'ArrowUp') this.app.growBy(n);
    else if (e.key === 'ArrowLeft' || e.key === 'ArrowDown') this.app.growBy(-n);
    else if (e.key === 'Home') this.app.grow(0);
    else if (e.key === 'End') this.app.grow(Infinity);
    else return;
    e.preventDefault();
    e.stopPropagation();
  }

  x(gsd) {
    const [low, high] = this.app.domain();
    const share = Math.log(gsd / low) / Math.log(high / low);
    return this.left + share * (this.width - this.left - this.right);
  }

  gsd(x) {
    const [low, high] = this.app.domain();
    return low * (high / low) ** ((x - this.left) / (this.width - this.left - this.right));
  }

  fit() {
    this.width = Math.max(300, this.root.clientWidth);
    this.left = 76;
    this.right = 30;
    this.height = LINE + (this.app.setup.model?.answers_gsd ? 52 : 26);
    this.drawing.setAttribute('viewBox', `0 0 ${this.width} ${this.height}`);
    this.drawing.style.height = `${this.height}px`;
    this.paintViews();
  }

  /** What does not move with the frame: ticks, the sensor, the sampled views. */
  paintViews() {
    if (!this.width) return;
    const { app } = this;
    const [low, high] = app.domain();
    const rows = [];
    const add = (kind, look, text) => rows.push(svg(kind, look, text));
    const [from, to] = [this.x(low), this.x(high)];
    const sensor = limit(this.x(app.place.gsd), from, to);
    const finer = { x: from, y: 26, width: sensor - from, height: LINE - 26 };
    add('rect', { class: 'satdino-x-finer', ...finer });
    if (sensor - from > 190) {
      add('text', { class: 'satdino-x-faint', x: from + 6, y: LINE - 5 }, 'upsampled: no new detail');
    }
    for (const v of logTicks(low, high)) {
      const at = this.x(v);
      add('line', { class: 'satdino-x-grid', x1: at, x2: at, y1: 26, y2: LINE + 6 });
      add('text', { x: at, y: LINE + 19, 'text-anchor': 'middle' }, digits(v));
    }
    add('line', { class: 'satdino-x-line', x1: from, x2: to, y1: LINE, y2: LINE });
    if (sensor > from && sensor < to) {
      add('line', { class: 'satdino-x-sensor', x1: sensor, x2: sensor, y1: 26, y2: LINE + 6 });
      const right = sensor > to - 110;
      const end = right ? 'end' : 'start';
      const look = { x: sensor + (right ? -5 : 5), y: LINE - 5, 'text-anchor': end };
      add('text', { class: 'satdino-x-faint', ...look }, `source ${digits(app.place.gsd)} m/px`);
    }
    add('text', { x: from - 10, y: LINE + 19, 'text-anchor': 'end' }, 'm/px');
    this.lanes(add);
    this.back.replaceChildren(...rows);
    this.paintBars();
  }

  /** Bars behind the marks: both samplings counted in the same segments, drawn to one scale. */
  paintBars() {
    const { app } = this;
    const { edges = [], ...counts } = app.histogram || {};
    const most = Math.max(1, ...LANES.flatMap(([how]) => counts[how] || []));
    const shown = new Set(app.shownViews().map(([how]) => how));
    const bars = LANES.flatMap(([how, y]) => barsOf(edges, counts[how] || [], most).map((bar) => {
      const [left, right] = [this.x(bar.low), this.x(bar.high)];
      const place = { x: left, y: y + 12 - TALL * bar.share, width: Math.max(1, right - left) };
      const look = { fill: COLOUR[how], opacity: shown.has(how) ? 0.55 : 0.3 };
      const size = { height: TALL * bar.share, 'data-how': how };
      return svg('rect', { class: 'satdino-x-count', ...place, ...size, ...look });
    }));
    this.bars.replaceChildren(...bars);
    app.root.dataset.bars = bars.length;
    this.words.textContent = counts.words ? `Bars: ${counts.words}` : '';
  }

  lanes(add) {
    const { app } = this;
    const marks = [];
    const shown = new Set(app.shownViews().map(([how]) => how));
    LANES.forEach(([how, y]) => {
      const words = shown.has(how) ? how : `${how}`;
      const look = { class: shown.has(how) ? '' : 'satdino-x-faint' };
      add('text', { x: this.left - 10, y: y + 4, 'text-anchor': 'end', ...look }, words);
      for (const view of app.views?.[how] || []) {
        marks.push(this.viewMark(how, view, y, shown.has(how)));
      }
    });
    this.marks.replaceChildren(...marks);
    app.root.dataset.ticks = marks.length;
  }

  viewMark(how, view, y, strong) {
    const x = this.x(view.gsd);
    const r = view.kind === 'global' ? 7 : 5;
    const look = { fill: COLOUR[how], class: 'satdino-x-view-mark', opacity: strong ? 1 : 0.45 };
    const made =
      how === 'uniform'
        ? svg('circle', { cx: x, cy: y, r, ...look })
        : svg('path', { d: `M${x} ${y - r}l${r} ${2 * r}h${-2 * r}z`, ...look });
    const global = view.kind === 'global' ? 'global (large)' : 'local (small)';
    made.append(svg('title', {}, `${how}, ${global}: ${digits(view.gsd)} m/px. Click: go there`));
    made.dataset.view = JSON.stringify({ box: view.box, out: view.out });
    return made;
  }

  paint() {
    if (!this.width) return;
    const { app } = this;
    const gsd = gsdOf(app.state.box, app.place, app.state.out);
    const [low, high] = app.domain();
    const x = limit(this.x(gsd), this.left, this.width - this.right);
    const text = `${digits(gsd)} m/px`;
    const half = text.length * 3.9 + 9;
    const at = limit(x, this.left + half - 40, this.width - half - 1);
    const grip = { x: x - 14, y: 0, width: 28, height: LINE + 10 };
    const pill = { x: at - half, y: 1, width: 2 * half, height: 21, rx: 10 };
    const rows = [
      svg('rect', { class: 'satdino-x-grip', ...grip }),
      svg('line', { class: 'satdino-x-mark-under', x1: x, x2: x, y1: 18, y2: LINE + 10 }),
      svg('line', { class: 'satdino-x-mark-line', x1: x, x2: x, y1: 18, y2: LINE + 10 }),
      svg('rect', { class: 'satdino-x-pill', ...pill }),
      svg('text', { class: 'satdino-x-pill-words', x: at, y: 16, 'text-anchor': 'middle' }, text),
    ];
    this.mark.replaceChildren(...rows);
    const shows = [app.model?.estimate, low, high, this.width];
    fill(this.answered, shows, () => this.estimate());
    const values = { valuemin: digits(low), valuemax: digits(high), valuenow: digits(gsd) };
    for (const [name, v] of Object.entries(values)) this.mark.setAttribute(`aria-${name}`, v);
    this.mark.setAttribute('aria-valuetext', `${digits(gsd)} metres per pixel`);
  }

  estimate() {
    const answer = this.app.model?.estimate;
    if (!answer) return [];
    const [from, to] = [this.left, this.width - this.right];
    const at = (v) => limit(this.x(v), from, to);
    const [x, y] = [at(answer.gsd), LINE + 38];
    const rows = [svg('text', { x: from - 10, y: y + 4, 'text-anchor': 'end' }, 'model')];
    if (answer.low !== null && answer.low !== undefined) {
      const look = { class: 'satdino-x-interval', stroke: COLOUR.model };
      rows.push(svg('line', { x1: at(answer.low), x2: at(answer.high), y1: y, y2: y, ...look }));
    }
    const out = this.x(answer.gsd) < from - 1 || this.x(answer.gsd) > to + 1;
    const way = this.x(answer.gsd) < from ? -1 : 1;
    const shape = out
      ? `M${x} ${y - 7}l${way * 11} 7l${-way * 11} 7z`
      : `M${x} ${y - 8}l8 8l-8 8l-8 -8z`;
    rows.push(svg('path', { d: shape, fill: COLOUR.model, class: 'satdino-x-dot' }));
    const right = x > to - 150;
    const ends = [answer.low ?? answer.gsd, answer.high ?? answer.gsd].map(at);
    const end = right ? Math.min(x, ends[0]) - 14 : Math.max(x, ends[1]) + 14;
    const look = { x: end, y: y + 4, 'text-anchor': right ? 'end' : 'start' };
    rows.push(svg('text', { class: 'satdino-x-halo', ...look }, `estimate ${digits(answer.gsd)}`));
    return rows;
  }
}

// ---- a collection: its map, and the neighbours of the crop ---------------------------------

class Atlas {
  constructor(app) {
    this.app = app;
    this.hover = -1;
    this.thumbs = new Map(); // row -> {url, words}
    this.selected = null;
    this.rings = [];
    this.here = null; // where the crop lies on the map
    this.method = '';
    this.told = false; // are there neighbours?
    this.root = part('atlas');
    this.mapPane = part('pane satdino-x-map', { role: 'group', 'aria-label': 'map' });
    const head = element('h3', {}, 'Map of the collection');
    this.note = element('span', { class: 'satdino-x-note' });
    head.append(this.note);
    this.stage = part('stage satdino-x-points', { tabindex: '0', role: 'application' });
    this.canvas = element('canvas', { 'aria-hidden': 'true' });
    this.tip = part('tip', { hidden: '' });
    this.stage.append(this.canvas, this.tip);
    this.legend = part('legend', { role: 'group', 'aria-label': 'classes' });
    const row = part('row');
    const clear = button('Clear lasso', 'show all points of the map again', () => this.pick([]));
    row.append(clear, this.legend);
    this.caption = part('note');
    this.progress = part('note', { role: 'status', 'aria-live': 'polite' });
    this.mapPane.append(head, this.stage, row, this.progress, this.caption);
    this.nearPane = part('pane', { role: 'group', 'aria-label': 'neighbours' });
    this.near = element('ol', { class: 'satdino-x-near' });
    this.nearNote = part('note');
    this.nearPane.append(element('h3', {}, 'Neighbours across scales'), this.near, this.nearNote);
    this.root.append(this.mapPane, this.nearPane);
    this.buildLines();
    this.listen();
  }

  buildLines() {
    const { app } = this;
    const fail = (kind) => (words) => app.fail(kind, words);
    this.line = new Line((a) => app.ask('map', a), (answer) => this.showMap(answer), fail('map'));
    this.nearLine = new Line(
      (args) => app.ask('neighbours', args),
      (answer, args) => this.showNear(answer, args),
      (words) => {
        this.nearPane.classList.remove('satdino-x-computing');
        app.fail('neighbours', words);
      },
    );
    this.thumbLine = new Line(
      (args) => app.ask('thumb', args),
      (answer, args) => this.showThumb(answer, args),
      fail('thumb'),
    );
    this.goLine = new Line(
      (args) => app.ask('place_of', args),
      ({ reply }) => app.goTo(reply),
      fail('place_of'),
    );
  }

  listen() {
    const { stage } = this;
    stage.addEventListener('pointermove', (e) => this.lasso || this.point(this.under(e)));
    stage.addEventListener('pointerleave', () => this.lasso || this.point(-1));
    stage.addEventListener('keydown', (e) => this.key(e));
    follow(stage, (e) => this.grab(e), (e) => this.drop(e));
  }

  fetch(again = false) {
    this.line.want({ have: this.method }, again);
  }

  /** What is there: at first perhaps only words, then one layout, then a better one. */
  showMap({ reply, buffers }) {
    const { root } = this.app;
    this.note.textContent = `${reply.n} tiles`;
    this.progress.textContent = reply.pending ? `${reply.pending}…` : '';
    root.dataset.pending = reply.pending || '';
    clearTimeout(this.polling);
    if (reply.pending) this.polling = setTimeout(() => this.fetch(true), POLL);
    if (buffers.length) this.takeMap({ reply, buffers });
    this.app.heal('map');
  }

  takeMap({ reply, buffers }) {
    this.method = reply.method || '';
    const raw = Uint8Array.from(buffers[0]);
    this.xy = Float32Array.from(new Uint16Array(raw.buffer), (v) => v / 65535);
    this.codes = Uint8Array.from(buffers[1] || new Uint8Array(this.xy.length / 2));
    this.n = this.xy.length / 2;
    this.grid = gridIndex(this.xy);
    this.marks = marksOf(reply.classes, this.codes);
    this.caption.textContent = reply.caption || '';
    this.stage.setAttribute('aria-label', `map of ${this.n} tiles. ${HELP_MAP}`);
    this.writeLegend();
    this.app.root.dataset.map = this.n;
    this.app.root.dataset.method = this.method;
    if (this.told) this.fetchNear(true); // the crop has another place on this map
    this.draw();
  }

  writeLegend() {
    const rows = this.marks.filter((m) => m?.label).slice(0, 24).map((mark) => {
      const row = element('span');
      row.append(markerCanvas(mark.colour, mark.shape, 5), element('span', {}, mark.label));
      return row;
    });
    this.legend.replaceChildren(...rows);
  }

  fit() {
    const box = this.stage.getBoundingClientRect();
    if (!box.width) return;
    this.size = [box.width, box.height];
    this.ratio = window.devicePixelRatio || 1;
    this.canvas.width = Math.round(box.width * this.ratio);
    this.canvas.height = Math.round(box.height * this.ratio);
    this.draw();
  }

  where(i) {
    return this.onPage(this.xy[2 * i], this.xy[2 * i + 1]);
  }

  onPage(x, y) {
    const pad = 18;
    const scale = Math.min(...this.size) - 2 * pad;
    return [this.size[0] / 2 + (x - 0.5) * scale, this.size[1] / 2 - (y - 0.5) * scale];
  }

  placeOf(e) {
    const box = this.stage.getBoundingClientRect();
    const scale = Math.min(...this.size) - 36;
    const x = (e.clientX - box.left - this.size[0] / 2) / scale + 0.5;
    return [x, 0.5 - (e.clientY - box.top - this.size[1] / 2) / scale];
  }

  under(e) {
    if (!this.grid || !this.size) return -1;
    return nearest(this.grid, ...this.placeOf(e), 14 / (Math.min(...this.size) - 36));
  }

  grab(e) {
    this.stage.focus();
    const from = this.placeOf(e);
    this.lasso = [from];
    this.moved = false;
    return (dx, dy, event) => {
      this.moved ||= Math.hypot(dx, dy) > 4;
      this.lasso.push(this.placeOf(event));
      if (this.moved) this.point(-1);
      this.draw();
    };
  }

  drop(e) {
    const path = this.lasso;
    this.lasso = null;
    if (!this.grid) return;
    if (this.moved) this.pick(inside(this.xy, path));
    else {
      const i = this.under(e);
      if (i >= 0) this.go(i);
    }
    this.draw();
  }

  pick(rows) {
    this.selected = rows.length ? new Set(rows) : null;
    this.app.root.dataset.selected = Array.from(rows).join(' ');
    if (rows.length) this.app.say(`${rows.length} tiles in the lasso; the others are dimmed`);
    this.draw();
  }

  go(i) {
    this.goLine.want({ i }, true);
  }

  key(e) {
    const step = STEP[e.key];
    if (step && this.xy) {
      const from = this.hover >= 0 ? this.hover : nearest(this.grid, 0.5, 0.5, 1);
      const next = this.hover >= 0 ? ahead(this.xy, from, step[1], -step[0]) : from;
      if (next >= 0) this.point(next);
    } else if (e.key === 'Enter' && this.hover >= 0) this.go(this.hover);
    else if (e.key === 'Escape') this.pick([]);
    else return;
    e.preventDefault();
    e.stopPropagation();
  }

  point(i) {
    if (i === this.hover) return;
    this.hover = i;
    this.app.root.dataset.hover = i;
    if (i >= 0 && !this.thumbs.has(i)) this.thumbLine.want({ i });
    this.writeTip();
    this.draw();
  }

  showThumb({ reply, buffers }, { i }) {
    const blob = buffers.length && new Blob([buffers[0]], { type: 'image/jpeg' });
    const words = [reply.name, reply.gsd && `${digits(reply.gsd)} m/px`, reply.label];
    const url = blob ? URL.createObjectURL(blob) : '';
    this.thumbs.set(i, { url, words: words.filter(Boolean).join(', ') });
    if (this.thumbs.size > 300) {
      const [oldest, { url: old }] = this.thumbs.entries().next().value;
      URL.revokeObjectURL(old);
      this.thumbs.delete(oldest);
    }
    this.app.heal('thumb');
    this.writeTip();
  }

  writeTip() {
    const i = this.hover;
    const known = this.thumbs.get(i);
    this.tip.hidden = i < 0;
    this.app.root.dataset.thumb = i >= 0 && known ? i : '';
    if (i < 0) return;
    const label = this.marks[this.codes[i]]?.label || '';
    const words = element('div', {}, known ? known.words : label || `tile ${i}`);
    const picture = known?.url ? [element('img', { src: known.url, alt: '' })] : [];
    this.tip.replaceChildren(...picture, words);
    const [x, y] = this.where(i);
    const [w, h] = this.size;
    this.tip.style.left = x < w / 2 ? `${x + 14}px` : '';
    this.tip.style.right = x < w / 2 ? '' : `${w - x + 14}px`;
    this.tip.style.top = y < h / 2 ? `${Math.max(0, y - 10)}px` : '';
    this.tip.style.bottom = y < h / 2 ? '' : `${Math.max(0, h - y - 10)}px`;
    if (known) this.app.say(known.words);
  }

  fetchNear(again = false) {
    const { place, box, out } = this.app.state;
    this.nearLine.want({ place, box, out, k: 6 }, again);
    if (this.nearLine.busy) this.nearPane.classList.add('satdino-x-computing');
  }

  showNear({ reply, buffers }, args) {
    if (args.place !== this.app.state.place) return;
    this.nearPane.classList.remove('satdino-x-computing');
    clearTimeout(this.nearPolling);
    if (reply.pending) {
      this.nearNote.textContent = `${reply.pending}…`;
      this.nearPolling = setTimeout(() => this.fetchNear(true), POLL);
      return;
    }
    this.told = true;
    this.here = reply.here || null;
    this.app.root.dataset.here = this.here ? this.here.map((v) => v.toFixed(3)).join(' ') : '';
    this.rings = reply.rows.map((row) => row.i);
    for (const url of this.urls || []) URL.revokeObjectURL(url);
    this.urls = buffers.map((b) => URL.createObjectURL(new Blob([b], { type: 'image/jpeg' })));
    this.near.replaceChildren(...reply.rows.map((row, k) => this.nearRow(row, this.urls[k])));
    this.nearNote.textContent = reply.caption || 'by the features of the crop; click to go there';
    this.app.root.dataset.near = this.rings.join(' ');
    this.app.heal('neighbours');
    this.draw();
  }

  nearRow(row, url) {
    const gsd = row.gsd ? `${digits(row.gsd)} m/px` : 'GSD unknown';
    const words = `${row.name}, ${gsd}, ${digits(row.distance)} away`;
    const item = element('li');
    const made = button('', `${words}; go there`, () => this.go(row.i));
    if (url) made.append(element('img', { src: url, alt: '' }));
    const text = element('span');
    text.append(element('b', {}, gsd), element('span', {}, row.label || row.name));
    text.append(element('span', { class: 'satdino-x-note' }, `${digits(row.distance)} away`));
    made.append(text);
    const over = (i) => () => {
      this.hover = i;
      this.draw();
    };
    made.addEventListener('mouseenter', over(row.i));
    made.addEventListener('mouseleave', over(-1));
    item.append(made);
    return item;
  }

  draw() {
    if (!this.xy || !this.size || this.asked) return;
    this.asked = requestAnimationFrame(() => {
      this.asked = null;
      this.paintPoints();
    });
  }

  paintPoints() {
    const context = this.canvas.getContext('2d');
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    const r = (this.n > 3000 ? 2.2 : this.n > 400 ? 3.5 : 5) * this.ratio;
    const stamps = this.marks.map((m) => m && markerCanvas(m.colour, m.shape, r));
    const grey = markerCanvas('#cfcfcf', 'circle', r * 0.7, '#cfcfcf');
    const put = (i, mark) => {
      const [x, y] = this.where(i).map((v) => v * this.ratio);
      context.drawImage(mark, Math.round(x - mark.width / 2), Math.round(y - mark.height / 2));
    };
    for (let i = 0; i < this.n; i++) if (this.selected && !this.selected.has(i)) put(i, grey);
    for (let i = 0; i < this.n; i++) {
      if (!this.selected || this.selected.has(i)) put(i, stamps[this.codes[i]] || grey);
    }
    context.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    const at = (i) => this.where(i);
    this.rings.forEach((i, k) => i < this.n && ringAt(context, at(i), 9, '#0072B2', String(k + 1)));
    if (this.here) starAt(context, this.onPage(...this.here), 10, COLOUR.frame);
    if (this.hover >= 0) ringAt(context, at(this.hover), 8, COLOUR.random, '');
    if (this.lasso && this.moved) this.paintLasso(context);
  }

  close() {
    clearTimeout(this.polling);
    clearTimeout(this.nearPolling);
  }

  paintLasso(context) {
    const scale = Math.min(...this.size) - 36;
    const [w, h] = this.size;
    context.beginPath();
    corners(context, this.lasso.map(([x, y]) => [
      w / 2 + (x - 0.5) * scale, h / 2 - (y - 0.5) * scale,
    ]));
    context.fillStyle = 'rgba(0, 114, 178, 0.12)';
    context.fill();
    context.setLineDash([5, 4]);
    context.lineWidth = 1.5;
    context.strokeStyle = '#0072B2';
    context.stroke();
    context.setLineDash([]);
  }
}

const HELP_MAP =
  'Point at a tile to see it, click to go there, drag around tiles to dim the others; arrow keys ' +
  'go from tile to tile, Enter goes there, Escape shows all again.';

/** Marks by code: given as `{code, label, colour, shape}`, or as names in the order of codes. */
function marksOf(classes, codes) {
  const marks = [];
  (classes || []).forEach((c, k) => {
    if (c && typeof c === 'object') marks[c.code] = c;
    else marks[k] = { label: c, colour: KIND_COLOURS[k % 7], shape: KIND_SHAPES[k % 5] };
  });
  for (const code of codes) {
    marks[code] ||= { label: '', colour: '#777777', shape: 'cross' };
  }
  return Array.from(marks);
}

/** The crop's own mark: a star, which no class has. */
function starAt(context, [x, y], radius, colour) {
  const points = Array.from({ length: 10 }, (_, k) => {
    const r = k % 2 ? 0.45 * radius : radius;
    return [x + r * Math.sin((k * Math.PI) / 5), y - r * Math.cos((k * Math.PI) / 5)];
  });
  context.beginPath();
  corners(context, points);
  for (const [stroke, width] of [['white', 5], ['black', 2.5]]) {
    context.lineWidth = width;
    context.strokeStyle = stroke;
    context.stroke();
  }
  context.fillStyle = colour;
  context.fill();
}

function ringAt(context, [x, y], radius, colour, text) {
  for (const [stroke, width] of [['white', 4.5], [colour, 2.5]]) {
    context.beginPath();
    context.arc(x, y, radius, 0, 2 * Math.PI);
    context.lineWidth = width;
    context.strokeStyle = stroke;
    context.stroke();
  }
  if (!text) return;
  context.font = 'bold 12px sans-serif';
  context.lineWidth = 3.5;
  context.strokeStyle = 'white';
  context.strokeText(text, x + radius + 1, y - radius + 5);
  context.fillStyle = colour;
  context.fillText(text, x + radius + 1, y - radius + 5);
}

// ---- all of it together --------------------------------------------------------------------

class App {
  constructor(root, transport) {
    this.transport = transport;
    this.setup = transport.setup;
    this.live = transport.live;
    this.errors = {};
    this.slow = new Set(); // kinds of questions
    this.dragging = false;
    this.model = null; // the last answer
    this.views = null; // of this place and seed, both ways
    this.histogram = null; // of the local views of this seed
    this.state = Object.fromEntries(STATE.map((name) => [name, transport.get(name)]));
    this.root = part('root', { role: 'group', 'aria-label': 'explorer' });
    this.root.classList.add('satdino-x');
    keepKeys(this.root);
    this.build();
    root.append(this.root);
    this.off = transport.onChange((names) => this.heard(names));
    this.watch = new ResizeObserver(() => this.fit());
    this.watch.observe(this.root);
    this.fit();
    this.renew();
  }

  build() {
    this.bar = part('row satdino-x-tools', { role: 'toolbar', 'aria-label': 'explorer' });
    this.buildBar();
    this.facts = part('facts');
    this.overview = new Overview(this);
    this.input = new Input(this);
    this.modelPane = new ModelPane(this);
    this.axis = new Axis(this);
    this.panes = part('panes');
    this.panes.append(this.overview.root, this.input.root, this.modelPane.root);
    this.panes.classList.toggle('satdino-x-bare', !this.setup.model);
    this.status = part('status', { role: 'status', 'aria-live': 'polite' });
    this.alert = part('alert', { role: 'alert' });
    this.caption = part('caption');
    this.root.append(this.bar, this.status, this.alert, this.panes, this.facts, this.axis.root);
    if (this.setup.collection) {
      this.atlas = new Atlas(this);
      this.root.append(this.atlas.root);
    }
    this.root.append(this.caption);
    this.viewsLine = new Line(
      (args) => this.ask('views', args),
      (answer, args) => this.showViews(answer.reply, args),
      (words) => this.fail('views', words),
    );
    this.histogramLine = new Line(
      (args) => this.ask('histogram', args),
      (answer, args) => this.showHistogram(answer.reply, args),
      (words) => this.fail('histogram', words),
    );
  }

  buildBar() {
    this.menu = element('select', { 'aria-label': 'ground' });
    this.writeMenu();
    this.menu.addEventListener('change', () => this.goTo({ name: this.menu.value }));
    const label = element('label', {}, 'Ground ');
    label.append(this.menu);
    const [low, high] = this.setup.outs || [16, 448];
    const out = (v) => `${v} px`;
    this.out = new Slider('Output', low, high, 8, out, (v, done) => this.set({ out: v }, done));
    this.square = element('input', { type: 'checkbox' });
    this.square.addEventListener('change', () => this.setSquare(this.square.checked));
    const square = element('label', {}, '');
    square.append(this.square, ' keep square');
    const ways = ['none', 'uniform', 'random', 'both'].map((w) => [w, w, `show ${w} views`]);
    this.sampling = new Choice('views', ways, (value) => this.set({ sampling: value }, false));
    const views = element('span', {}, 'Views ');
    views.append(this.sampling.root);
    const next = () => this.set({ seed: this.state.seed + 1 }, false);
    this.resample = button('Resample', 'draw the views with the next seed', next);
    const title = 'save the network input as PNG that carries its GSD';
    const save = button('Save picture', title, () => this.save());
    save.disabled = !this.live;
    const copy = button('Copy as code', 'copy this state as one line of Python', () => this.copy());
    this.code = element('input', { readonly: '', 'aria-label': 'state as code', hidden: '' });
    const end = part('end');
    end.append(save, copy, this.code);
    this.bar.append(label, this.out.root, square, views, this.resample, this.numbers(), end);
  }

  /** The four numbers of the box, for whoever types. */
  numbers() {
    const names = ['top', 'left', 'height', 'width'];
    const all = part('numbers', { role: 'group', 'aria-label': 'box in source pixels' });
    all.append('Box ');
    this.fields = names.map((name, k) => {
      const field = element('input', { type: 'number', step: 1, 'aria-label': name, title: name });
      field.addEventListener('keydown', (e) => e.stopPropagation());
      field.addEventListener('change', () => this.setNumber(k, Number(field.value)));
      all.append(field);
      return field;
    });
    return all;
  }

  setNumber(k, value) {
    const box = [...this.state.box];
    const { hw } = this.place;
    if (k < 2) {
      box[k] = value;
      return this.setBox(clampBox(box, hw));
    }
    const size = [box[2], box[3]];
    size[k - 2] = value;
    if (this.state.square) size.fill(Math.min(value, ...hw));
    const place = [0, 1].map((j) => box[j] + (box[j + 2] - size[j]) / 2);
    this.setBox(clampBox([...place, ...size], hw));
  }

  writeMenu() {
    const rows = this.setup.places.map(({ name }) => element('option', { value: name }, name));
    this.menu.replaceChildren(...rows);
  }

  /** In one message, so that the kernel, which squares as well, finds it done. */
  setSquare(on) {
    const [t, l, h, w] = this.state.box;
    const side = Math.min(h, w);
    if (!on || h === w) return this.set({ square: on }, false);
    const middle = [t + Math.floor((h - side) / 2), l + Math.floor((w - side) / 2), side, side];
    this.set({ square: on, box: middle }, false);
    this.restSoon();
  }

  get place() {
    return this.setup.places.find((p) => p.name === this.state.place) || this.setup.places[0];
  }

  /** Which samplings are framed, with their views. */
  shownViews() {
    const { sampling } = this.state;
    const ways = sampling === 'both' ? ['uniform', 'random'] : [sampling];
    return ways.filter((how) => this.views?.[how]).map((how) => [how, this.views[how]]);
  }

  /** Lowest and highest GSD of the scale axis: all that the frame, or a view, can have. */
  domain() {
    const { gsd, gsds, hw } = this.place;
    const { out } = this.state;
    const [finest, coarsest] = [Math.min, Math.max].map((f) => f(gsd, ...(gsds || []).flat()));
    const drawn = [...(this.views?.uniform || []), ...(this.views?.random || [])];
    const views = [...drawn.map((v) => v.gsd), ...(this.histogram?.edges || [])];
    const low = Math.min((finest * LEAST * 2) / out, gsd, ...views);
    const high = Math.max((coarsest * Math.min(...hw)) / out, gsd, ...views);
    return [low / 1.06, high * 1.06];
  }

  // changes

  /** Take over some of the state: `settled` asks what is only asked at rest. */
  set(changes, settled) {
    Object.assign(this.state, changes);
    this.changed(Object.keys(changes), settled); // the question goes ahead of the state
    this.transport.set(changes);
  }

  setBox(box, settled = !this.dragging) {
    if (String(box) === String(this.state.box)) return;
    this.set({ box }, false);
    if (settled) this.restSoon();
  }

  /** The box about the same centre; a run of steps is one gesture, so the centre does not creep. */
  grow(times) {
    const now = this.state.box;
    if (String(this.gesture?.box) !== String(now)) this.gesture = { from: now, times: 1 };
    const { from } = this.gesture;
    this.gesture.times = limit(this.gesture.times * times, LEAST / 1e5, 1e5);
    const box = grownBox(from, this.place.hw, this.gesture.times);
    const [least, most] = [-0.5, 0.5].map((d) => (box[2] + d) / from[2]);
    this.gesture.times = limit(this.gesture.times, least, most); // nothing is owed at the ends
    this.gesture.box = box;
    this.setBox(box);
  }

  growBy(pixels) {
    const [, , h, w] = this.state.box;
    this.gesture = null;
    this.grow((Math.min(h, w) + pixels) / Math.min(h, w));
  }

  released() {
    this.dragging = false;
    this.settle();
  }

  restSoon() {
    clearTimeout(this.resting);
    this.resting = setTimeout(() => this.settle(), REST);
  }

  /** What is asked at rest only. */
  settle() {
    clearTimeout(this.resting);
    if (this.dragging) return;
    this.input.fetch(true);
    this.modelPane.fetch();
    this.atlas?.fetchNear();
  }

  /** Go to another crop, of this place or of another one. */
  goTo({ name, box, out }) {
    const changes = {};
    const moved = name !== undefined && name !== this.state.place;
    if (moved) {
      const place = this.setup.places.find((p) => p.name === name);
      if (!place) return this.fail('place_of', `${name} is not among the places that are open`);
      changes.place = this.state.place = name; // so that `this.place` is the new one
      changes.box = middleBox(place.hw);
      changes.patch = [];
    }
    if (box) changes.box = clampBox(box, this.place.hw);
    if (out) changes.out = out;
    this.heal('place_of');
    this.set(changes, false); // place and box in one message
    if (moved) this.moved();
    this.settle();
  }

  /** Another place: what belonged to the old one goes. */
  moved() {
    this.model = null;
    this.views = null;
    this.histogram = null;
    this.modelPane.trail = [];
    this.renew();
  }

  heard(names) {
    if (names.includes('setup')) {
      this.setup = this.transport.get('setup'); // there are other places
      this.writeMenu();
      this.menu.value = this.state.place;
    }
    const before = JSON.stringify(this.state);
    const place = this.state.place;
    for (const name of names) {
      if (!STATE.includes(name) || (this.dragging && name === 'box')) continue;
      this.state[name] = this.transport.get(name);
    }
    if (JSON.stringify(this.state) === before) return;
    if (this.state.place !== place) this.moved();
    this.changed(names, false);
    this.restSoon();
  }

  changed(names, settled) {
    if (names.includes('seed')) this.fetchViews();
    if (names.includes('out')) this.fit();
    if (names.includes('sampling')) this.overview.paintViews();
    if (names.includes('sampling')) this.axis.paintViews();
    this.paintSoon();
    if (settled) this.settle();
    else this.input.fetch(false);
  }

  renew() {
    this.overview.fetch();
    this.fetchViews();
    this.atlas?.fetch();
    this.fit();
    this.settle();
  }

  fetchViews(again = false) {
    this.viewsLine.want({ place: this.state.place, seed: this.state.seed }, again);
    clearTimeout(this.counting); // whoever draws again and again gets one histogram, at the end
    this.counting = setTimeout(() => {
      const { place, seed } = this.state;
      this.histogramLine.want({ place, seed }, !this.histogram);
    }, CALM);
  }

  showHistogram(reply, args) {
    if (args.place !== this.state.place) return;
    this.histogram = reply;
    this.root.dataset.histogram = args.seed;
    this.heal('histogram');
    this.axis.paintViews();
    this.paintSoon();
  }

  showViews(reply, args) {
    if (args.place !== this.state.place) return;
    this.views = { uniform: reply.uniform, random: reply.random };
    this.root.dataset.drawn = args.seed;
    this.heal('views');
    this.overview.paintViews();
    this.axis.paintViews();
    this.paintSoon();
  }

  inputShown(reply, args) {
    this.root.dataset.shown = args.box.join(' ');
    this.root.dataset.frames = Number(this.root.dataset.frames || 0) + 1;
    this.reply = { ...reply, args };
    this.heal('input');
    this.paintSoon();
  }

  // what is said

  async ask(kind, args) {
    const slow = setTimeout(() => this.atWork(kind, true), 1000);
    const quiet = setTimeout(() => {
      if (LONG.includes(kind)) this.fetchViews(true); // is there anybody?
      else this.fail('kernel', GONE);
    }, QUIET);
    try {
      const answer = await this.transport.ask(kind, args);
      this.heal('kernel');
      if (answer.reply.error) throw new Error(answer.reply.error);
      return answer;
    } finally {
      clearTimeout(slow);
      clearTimeout(quiet);
      this.atWork(kind, false);
    }
  }

  /** What has taken more than a second is named until its answer is there. */
  atWork(kind, on) {
    if (on === this.slow.has(kind)) return;
    if (on) this.slow.add(kind);
    else this.slow.delete(kind);
    this.root.dataset.slow = [...this.slow].join(' ');
    this.say(this.slow.size ? `${[...this.slow].join(', ')}: still at work…` : '');
  }

  say(words) {
    this.status.textContent = words;
  }

  fail(kind, words) {
    this.errors[kind] = words;
    this.writeErrors();
  }

  heal(kind) {
    if (!(kind in this.errors)) return;
    delete this.errors[kind];
    this.writeErrors();
  }

  writeErrors() {
    const all = Object.entries(this.errors);
    this.root.dataset.errors = all.map(([kind]) => kind).join(' ');
    const lines = all.map(([kind, words]) => element('div', {}, `${kind}: ${words}`));
    this.alert.replaceChildren(...lines);
  }

  async save() {
    const { place, box, out } = this.state;
    try {
      const answer = await this.ask('save', { place, box, out });
      this.heal('save');
      this.root.dataset.saved = answer.reply.path;
      this.say(`Saved as ${answer.reply.path}`);
    } catch (e) {
      this.fail('save', e.message);
    }
  }

  codeNow() {
    const { state, reply } = this;
    const same = reply?.code && String(reply.args.box) === String(state.box) &&
      reply.args.out === state.out && reply.args.place === state.place;
    const own = `CropState(tiles[${pythonText(state.place)}], box=(${state.box.join(', ')}), out=${state.out})`;
    const code = same ? reply.code : own;
    if (!['uniform', 'random'].includes(state.sampling)) return code;
    return `${code.slice(0, -1)}, sampling='${state.sampling}', seed=${state.seed})`;
  }

  writeCode() {
    const code = this.codeNow();
    if (this.code.value !== code) this.code.value = code;
  }

  copy() {
    this.code.hidden = false;
    this.writeCode();
    this.code.select();
    navigator.clipboard?.writeText(this.code.value).catch(() => document.execCommand('copy'));
    this.say('Copied. Its tiles are those of explorer.state.tiles.');
  }

  // what is drawn

  fit() {
    const width = this.root.clientWidth;
    if (!width) return;
    this.root.dataset.width = width;
    const wide = width >= 980;
    this.root.classList.toggle('satdino-x-wide', wide);
    this.root.classList.toggle('satdino-x-roomy', width >= 1090);
    this.root.classList.toggle('satdino-x-narrow', width < 560);
    const most = this.setup.model ? 400 : 520;
    this.tallest = wide ? most : Math.max(300, Math.min(420, width * 0.62));
    this.overview.fit();
    this.input.fit();
    this.modelPane.fit();
    this.axis.fit();
    this.atlas?.fit();
    this.overview.paintViews();
    this.paint();
  }

  paintSoon() {
    this.asked ??= requestAnimationFrame(() => {
      this.asked = null;
      this.paint();
    });
  }

  paint() {
    const { state, place } = this;
    this.root.dataset.place = state.place;
    this.root.dataset.box = state.box.join(' ');
    this.root.dataset.gsd = digits(gsdOf(state.box, place, state.out));
    this.root.dataset.seed = state.seed;
    if (!this.code.hidden) this.writeCode();
    this.menu.value = state.place;
    this.out.set(state.out);
    this.square.checked = state.square;
    this.sampling.set(state.sampling);
    this.fields.forEach((field, k) => {
      if (field !== field.getRootNode().activeElement) field.value = state.box[k];
    });
    this.overview.paint();
    this.input.paint();
    this.modelPane.paint();
    this.axis.paint();
    this.paintFacts();
  }

  paintFacts() {
    const { state, place } = this;
    const { box, out } = state;
    const source = sourceGsd(place, box);
    const gsd = effectiveGsd(box, source, out);
    const facts = [
      ['effective GSD', `${digits(gsd)} m/px`],
      ['footprint', `${metresText(box[2] * source)} × ${metresText(box[3] * source)}`],
      ['source px → output px', `${box[2]} × ${box[3]} → ${out} × ${out}`],
      ['a car, 4.5 m, is', `${digits(4.5 / gsd)} px`],
    ];
    const upsampled = isUpsampled(box, out);
    fill(this.facts, [facts, upsampled], () => {
      const parts = facts.map(([name, value]) => {
        const fact = part('fact');
        fact.append(element('span', {}, name), element('strong', {}, value));
        return fact;
      });
      if (upsampled) parts.push(part('badge'));
      if (upsampled) parts.at(-1).textContent = 'upsampled: no new detail';
      return parts;
    });
    const { reply } = this;
    const same = reply?.caption && String(reply.args.box) === String(box) && reply.args.out === out;
    const words = same ? reply.caption : captionOf(box, place, out);
    this.caption.textContent = `${state.place}: ${words}${this.transport.note || ''}`;
  }

  close() {
    this.atlas?.close();
    this.watch.disconnect();
    this.off?.();
    clearTimeout(this.resting);
    clearTimeout(this.counting);
    this.transport.close?.();
    this.root.remove();
  }
}

/** A box in the middle, as the kernel's `centred_box`. */
function middleBox(hw) {
  const side = Math.round(0.4 * Math.min(...hw));
  return clampBox([Math.floor((hw[0] - side) / 2), Math.floor((hw[1] - side) / 2), side, side], hw);
}

/** Draw the explorer into an element; gives a function that takes it away again. */
export function mount(root, transport) {
  const app = new App(root, transport);
  return () => app.close();
}

// ---- transports ----------------------------------------------------------------------------

/**
 * To a kernel, by the traits and messages of an anywidget. Every question has a number.
 *
 * The state follows a moment after the question. Jupyter's server leaves Nagle's algorithm on
 * (tornado, `WebSocketHandler.set_nodelay`): what the kernel answers waits, up to 40 ms, until the
 * browser has acknowledged the message before it. Whatever the browser sends acknowledges it.
 */
export function kernelTransport(model) {
  const view = String(Math.random()); // a widget may be shown twice
  const open = new Map();
  let number = 0;
  const answered = (message, buffers) => {
    if (message.view !== view || !open.has(message.answer)) return;
    const done = open.get(message.answer);
    open.delete(message.answer);
    done({ reply: message, buffers: (buffers || []).map(bytes) });
  };
  model.on('msg:custom', answered);
  let saving = null;
  const save = () => {
    clearTimeout(saving);
    saving = null;
    try {
      model.save_changes();
    } catch (e) {
      console.warn(e); // the questions that follow fail as well, and say so in the page
    }
  };
  return {
    setup: model.get('setup'),
    live: true,
    get: (name) => structuredClone(model.get(name)),
    set: (changes) => {
      for (const [name, value] of Object.entries(changes)) model.set(name, value);
      saving ??= setTimeout(save, SOON);
    },
    onChange: (f) => {
      const heard = [...STATE, 'setup'].map((name) => [`change:${name}`, () => f([name])]);
      for (const [name, g] of heard) model.on(name, g);
      return () => heard.forEach(([name, g]) => model.off(name, g));
    },
    ask: (kind, args) =>
      new Promise((done, fail) => {
        number += 1;
        open.set(number, done);
        try {
          model.send({ ask: number, view, kind, ...args });
        } catch (e) {
          open.delete(number);
          fail(new Error(GONE)); // a kernel that was shut down
        }
      }),
    close: () => {
      if (saving) save();
      model.off('msg:custom', answered);
    },
  };
}

const decoded = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0));

/** To what a saved page holds: no kernel, no network. */
export function pageTransport(baked) {
  const state = { ...baked.state };
  const pictures = new Map();
  const answer = (reply, ...buffers) => ({ reply, buffers });
  const picture = (place) => {
    if (!pictures.has(place)) {
      const blob = new Blob([decoded(baked.places[place].jpeg)], { type: 'image/jpeg' });
      pictures.set(place, createImageBitmap(blob));
    }
    return pictures.get(place);
  };
  const asks = {
    overview: ({ place }) => answer({}, decoded(baked.places[place].jpeg)),
    input: async ({ place, box, out }) => ({
      ...answer({}),
      canvas: resampled(await picture(place), box, hwOf(place), out),
    }),
    views: ({ place, seed }) => {
      const { views } = baked.places[place];
      return answer(views[seed % views.length]);
    },
    histogram: ({ place, seed }) => {
      const { histograms } = baked.places[place];
      return answer(histograms[seed % histograms.length]);
    },
    model: ({ place, box, token }) => {
      const known = baked.places[place].answers;
      const best = known.reduce((a, b) => (unlike(b.of, box) < unlike(a.of, box) ? b : a));
      const heat = best.heat?.[token];
      const reply = { ...best, ...(heat && { range: heat.range, unit: heat.unit }) };
      return heat ? answer(reply, decoded(heat.values)) : answer(reply);
    },
  };
  const hwOf = (place) => baked.setup.places.find((p) => p.name === place).hw;
  return {
    setup: baked.setup,
    live: false,
    note: baked.note,
    get: (name) => structuredClone(state[name]),
    set: (changes) => Object.assign(state, changes),
    onChange: () => () => {},
    ask: async (kind, args) => {
      if (!asks[kind]) throw new Error('this saved page has no kernel; open the notebook for it');
      return asks[kind](args);
    },
  };
}

/** A crop of a picture as `out` x `out` pixels; halved until one more step would be too many. */
function resampled(picture, box, hw, out) {
  const scale = picture.width / hw[1];
  let from = picture;
  let [y, x, h, w] = box.map((v) => v * scale);
  const canvasOf = (width, height) => {
    const canvas = document.createElement('canvas');
    canvas.width = Math.max(1, Math.round(width));
    canvas.height = Math.max(1, Math.round(height));
    const context = canvas.getContext('2d');
    context.imageSmoothingQuality = 'high';
    context.drawImage(from, x, y, w, h, 0, 0, canvas.width, canvas.height);
    return canvas;
  };
  while (Math.min(h, w) > 2 * out) {
    from = canvasOf(w / 2, h / 2);
    [y, x, h, w] = [0, 0, from.height, from.width];
  }
  return canvasOf(out, out);
}

function render({ model, el }) {
  const end = mount(el, kernelTransport(model));
  if (model.get('still')) hideStillSoon(el);
  return end;
}

export default { render };
