// A map of tiles that a hand can walk about in: points, hover, lasso, neighbours.
// Plain JavaScript, drawn on two canvases: points below, rings and the lasso above.
// Arithmetic and markers stand in `common.js`, which the kernel puts before this file; `TileMap`
// draws; `render` is what anywidget calls.
// Names of files and classes only ever become text (`textContent`), never markup.

const REACH = 14; // how far from a point, in CSS pixels, the pointer still means it
const PATIENCE = 4000; // milliseconds after which an unanswered question is given up
const KEPT = 300; // pictures that are kept

const KEY = { type: 'button', class: 'satdino-map-key' };
const panel = (name, more = {}) => element('div', { class: name, ...more });

class TileMap {
  constructor(model, el) {
    this.model = model;
    this.size = [10, 10];
    this.hover = -1;
    this.emphasis = -1;
    this.pictures = new Map(); // index -> {url, words}
    this.id = String(Math.random()); // a map may be shown twice
    this.number = 0; // of the newest question for a picture
    this.waiting = null; // the question that is under way
    this.next = -1; // the index to ask for after it
    this.frames = 0;
    this.build(el);
    this.read();
    this.listen();
  }

  // what the page holds

  build(el) {
    this.root = panel('satdino-map', { role: 'group', 'aria-label': 'map of tiles' });
    keepKeys(this.root);
    this.bar = panel('satdino-map-bar', { role: 'toolbar', 'aria-label': 'map' });
    this.stage = panel('satdino-map-stage');
    this.base = element('canvas', { 'aria-hidden': 'true' });
    const reads = { role: 'application', 'aria-roledescription': 'map' };
    this.top = element('canvas', { tabindex: '0', ...reads });
    this.tip = panel('satdino-map-tip', { hidden: '' });
    this.tipPicture = element('img', { alt: '' });
    this.tipWords = element('div');
    this.tip.append(this.tipPicture, this.tipWords);
    this.side = panel('satdino-map-side');
    this.legend = element('div', { role: 'group', 'aria-label': 'legend' });
    this.near = element('div', { role: 'group', 'aria-label': 'neighbours' });
    this.chosenRows = element('div', { role: 'group', 'aria-label': 'selection' });
    this.status = panel('satdino-map-status', { role: 'status', 'aria-live': 'polite' });
    this.words = panel('satdino-map-caption');
    this.stage.append(this.base, this.top, this.tip);
    this.side.append(this.legend, this.near, this.chosenRows);
    const middle = panel('satdino-map-middle');
    middle.append(this.stage, this.side);
    this.root.append(this.bar, middle, this.status, this.words);
    this.buildBar();
    el.append(this.root);
  }

  buildBar() {
    const label = element('label', {}, 'Colour ');
    this.menu = element('select', { 'aria-label': 'colour by' });
    label.append(this.menu);
    const button = (text, title, act) => {
      const made = element('button', { type: 'button', title, 'aria-label': title }, text);
      made.addEventListener('click', act);
      this.bar.append(made);
      return made;
    };
    this.bar.append(label);
    const middle = () => [this.size[0] / 2, this.size[1] / 2];
    button('+', 'zoom in', () => this.zoom(1.5, ...middle()));
    button('−', 'zoom out', () => this.zoom(1 / 1.5, ...middle()));
    button('Whole', 'show the whole map', () => this.showWhole());
    const lasso = 'lasso: draw around tiles (or Shift and drag)';
    this.lassoButton = button('Lasso', lasso, () => this.setLasso(!this.lassoing));
    this.setLasso(false);
    button('Clear', 'clear the selection', () => this.clear());
    this.menu.addEventListener('change', () => {
      this.model.set('colour', this.menu.value);
      this.model.save_changes();
    });
  }

  setLasso(on) {
    this.lassoing = on;
    this.lassoButton.setAttribute('aria-pressed', String(on));
  }

  // what the kernel says

  read() {
    const places = bytes(this.model.get('places'));
    const whole = new Uint16Array(places.buffer, places.byteOffset, places.byteLength / 2);
    this.xy = Float32Array.from(whole, (v) => v / 65535);
    this.n = this.xy.length / 2;
    this.grid = gridIndex(this.xy);
    this.words.textContent = this.model.get('caption');
    for (const name of this.model.get('columns')) {
      this.menu.append(element('option', { value: name }, name));
    }
    this.top.setAttribute('aria-label', `map of ${this.n} tiles. ${HELP}`);
    this.readColours();
    this.readSelection();
    this.readNear();
    this.say(HELP);
  }

  readColours() {
    this.menu.value = this.model.get('colour');
    this.codes = bytes(this.model.get('codes'));
    this.marks = this.model.get('marks');
    this.emphasis = -1;
    this.stamps = null;
    this.writeLegend();
    this.draw();
  }

  readSelection() {
    const raw = bytes(this.model.get('selection'));
    this.selected = new Uint32Array(raw.slice().buffer);
    this.isSelected = null;
    if (this.selected.length) {
      this.isSelected = new Uint8Array(this.n);
      for (const i of this.selected) this.isSelected[i] = 1;
    }
    this.writeSelection();
    this.draw();
  }

  readNear() {
    this.chosen = this.model.get('chosen');
    const near = this.model.get('near');
    this.rings = near.of === this.chosen && this.chosen >= 0 ? near.rows : [];
    this.writeNear(near);
    this.drawTop();
  }

  listen() {
    const on = (names, f) => names.split(' ').forEach((name) => this.model.on(name, f));
    on('change:codes change:marks change:colour', () => this.readColours());
    on('change:selection', () => this.readSelection());
    on('change:chosen change:near', () => this.readNear());
    on('msg:custom', (message, buffers) => this.answered(message, buffers));
    this.watch = new ResizeObserver(() => this.fit());
    this.watch.observe(this.stage);
    const top = this.top;
    const listen = (name, f) => top.addEventListener(name, f, { passive: false });
    listen('pointerdown', (e) => this.down(e));
    listen('pointermove', (e) => this.move(e));
    listen('pointerup', (e) => this.up(e));
    listen('pointercancel', () => this.drop());
    listen('pointerleave', () => this.drag || this.point(-1));
    listen('wheel', (e) => this.wheel(e));
    listen('keydown', (e) => this.key(e));
    listen('focus', () => this.drawTop());
    listen('blur', () => this.drawTop());
  }

  remove() {
    this.watch.disconnect();
    clearTimeout(this.timer);
    this.model.off();
    for (const { url } of this.pictures.values()) URL.revokeObjectURL(url);
  }

  // panels

  writeLegend() {
    const rows = [element('b', {}, this.model.get('colour'))];
    const marks = this.marks.filter((m) => m.label);
    for (const mark of marks) {
      const row = element('button', { ...KEY, 'aria-pressed': 'false' });
      row.append(markerCanvas(mark.colour, mark.shape, 5), element('span', {}, mark.label));
      row.addEventListener('click', () => this.emphasise(mark.code, row));
      rows.push(row);
    }
    this.legend.replaceChildren(...rows);
  }

  emphasise(code, row) {
    this.emphasis = this.emphasis === code ? -1 : code;
    for (const other of this.legend.querySelectorAll('button')) {
      other.setAttribute('aria-pressed', String(other === row && this.emphasis >= 0));
    }
    this.draw();
  }

  writeNear(near) {
    this.root.dataset.chosen = this.chosen;
    this.root.dataset.near = this.rings.map((r) => r.index).join(' ');
    if (this.chosen < 0) return this.near.replaceChildren();
    const list = element('ol');
    for (const row of this.rings) {
      const item = element('li');
      const button = element('button', KEY, row.words);
      button.addEventListener('click', () => this.choose(row.index));
      button.addEventListener('mouseenter', () => this.point(row.index));
      button.addEventListener('mouseleave', () => this.point(-1));
      button.addEventListener('focus', () => this.point(row.index));
      item.append(button);
      list.append(item);
    }
    const head = this.rings.length ? near.words : `tile ${this.chosen} ...`;
    this.near.replaceChildren(element('b', {}, 'Neighbours'), element('div', {}, head), list);
  }

  writeSelection() {
    const n = this.selected.length;
    this.root.dataset.selected = n;
    if (!n) return this.chosenRows.replaceChildren();
    const rows = n <= 200 ? `[${Array.from(this.selected).join(', ')}]` : 'the_map.selected';
    const code = `tiles.subset(${rows})`;
    const field = element('input', { readonly: '', 'aria-label': 'selection as code' });
    field.value = code;
    const copy = element('button', { type: 'button' }, 'Copy');
    copy.addEventListener('click', () => {
      field.select();
      navigator.clipboard?.writeText(code).catch(() => document.execCommand('copy'));
      this.say('copied');
    });
    const save = element('button', { type: 'button' }, 'Save index');
    save.addEventListener('click', () => this.model.send({ kind: 'save' }));
    const head = `${n} ${n === 1 ? 'tile' : 'tiles'} selected`;
    this.chosenRows.replaceChildren(element('b', {}, head), field, copy, save);
  }

  say(words) {
    this.status.textContent = words;
  }

  // pictures: one question at a time, the newest is asked last and shown

  ask(index) {
    if (this.pictures.has(index)) return;
    if (this.waiting) {
      this.next = index;
      return;
    }
    this.number += 1;
    this.waiting = { number: this.number, index };
    this.model.send({ kind: 'picture', view: this.id, number: this.number, index });
    this.timer = setTimeout(() => {
      this.waiting = null;
      this.say('No picture: the kernel is busy or gone. If it stays so, run the cell again.');
    }, PATIENCE);
  }

  answered(message, buffers) {
    if (message.kind === 'saved') return this.say(message.words);
    if (message.kind !== 'picture') return;
    const blob = buffers?.length && new Blob([buffers[0]], { type: 'image/jpeg' });
    const url = blob ? URL.createObjectURL(blob) : '';
    this.keep(message.index, { url, words: message.words });
    if (message.view === this.id && this.waiting?.number === message.number) {
      clearTimeout(this.timer);
      this.waiting = null;
      if (this.next >= 0 && this.next === this.hover) this.ask(this.next);
      this.next = -1;
    }
    if (message.index === this.hover) this.writeTip();
  }

  keep(index, picture) {
    this.pictures.set(index, picture);
    if (this.pictures.size <= KEPT) return;
    const [oldest, { url }] = this.pictures.entries().next().value;
    URL.revokeObjectURL(url);
    this.pictures.delete(oldest);
  }

  writeTip() {
    const i = this.hover;
    this.root.dataset.hover = i;
    this.tip.hidden = i < 0;
    if (i < 0) return;
    const mark = this.marks.find((m) => m.code === this.codes[i]);
    const known = this.pictures.get(i);
    this.tipPicture.hidden = !known?.url;
    if (known?.url) this.tipPicture.src = known.url;
    const words = known ? known.words : `tile ${i}${mark?.label ? `: ${mark.label}` : ''}`;
    this.tipWords.textContent = words;
    this.root.dataset.shown = known ? i : -1;
    const [x, y] = this.place(i);
    const right = x > this.size[0] / 2;
    this.tip.style.left = right ? '' : `${x + 16}px`;
    this.tip.style.right = right ? `${this.size[0] - x + 16}px` : '';
    const low = y > this.size[1] / 2;
    this.tip.style.top = low ? '' : `${Math.max(0, y - 20)}px`;
    this.tip.style.bottom = low ? `${Math.max(0, this.size[1] - y - 20)}px` : '';
    if (known) this.say(words);
  }

  // gestures

  place(i) {
    return toScreen(this.view, this.size, this.xy[2 * i], this.xy[2 * i + 1]);
  }

  point(i) {
    if (i === this.hover) return;
    this.hover = i;
    if (i >= 0) this.ask(i);
    this.writeTip();
    this.drawTop();
  }

  choose(i) {
    this.model.set('chosen', i);
    this.model.save_changes();
    this.readNear();
  }

  select(rows) {
    this.model.set('selection', new DataView(Uint32Array.from(rows).buffer));
    this.model.save_changes();
    this.readSelection();
    this.say(rows.length ? `${rows.length} tiles selected` : 'nothing selected');
  }

  clear() {
    this.select([]);
    this.choose(-1);
  }

  at(e) {
    const box = this.top.getBoundingClientRect();
    return [e.clientX - box.left, e.clientY - box.top];
  }

  under(left, top) {
    const here = fromScreen(this.view, this.size, left, top);
    return nearest(this.grid, ...here, REACH / this.view.scale);
  }

  down(e) {
    if (e.button !== 0) return;
    e.preventDefault();
    this.top.focus();
    this.top.setPointerCapture(e.pointerId);
    const here = this.at(e);
    const path = e.shiftKey || this.lassoing ? [here] : null;
    const add = e.ctrlKey || e.metaKey;
    this.drag = { from: here, view: this.view, path, add, moved: false };
    this.point(-1);
  }

  move(e) {
    const here = this.at(e);
    const drag = this.drag;
    if (!drag) return this.point(this.under(...here));
    const gone = [here[0] - drag.from[0], here[1] - drag.from[1]];
    drag.moved ||= Math.hypot(...gone) > 3;
    if (drag.path) {
      const last = drag.path.at(-1);
      if (Math.hypot(here[0] - last[0], here[1] - last[1]) > 3) drag.path.push(here);
      this.drawTop();
    } else if (drag.moved) {
      const { x, y, scale } = drag.view;
      this.look({ x: x - gone[0] / scale, y: y + gone[1] / scale, scale });
    }
  }

  up(e) {
    const drag = this.drag;
    this.drop();
    if (!drag) return;
    const here = this.at(e);
    if (!drag.moved) {
      const i = this.under(...here);
      if (drag.path && i >= 0) this.toggle(i);
      else if (i >= 0) this.choose(i);
      this.point(i);
    } else if (drag.path) {
      const corners = drag.path.map((p) => fromScreen(this.view, this.size, ...p));
      const rows = inside(this.xy, corners);
      this.select(drag.add ? union(this.selected, rows) : rows);
    }
  }

  drop() {
    this.drag = null;
    this.drawTop();
  }

  toggle(i) {
    const rows = Array.from(this.selected);
    this.select(this.isSelected?.[i] ? rows.filter((j) => j !== i) : union(rows, [i]));
  }

  wheel(e) {
    const ours = e.ctrlKey || e.metaKey || this.top === this.top.getRootNode().activeElement;
    if (!ours) return this.say('Click the map, or hold Ctrl, to zoom with the wheel.');
    e.preventDefault();
    const lines = e.deltaMode === 1 ? 30 : 1;
    this.zoom(Math.exp(-e.deltaY * lines * 0.002), ...this.at(e));
  }

  key(e) {
    const arrow = ARROWS[e.key];
    const [w, h] = this.size;
    if (arrow && e.shiftKey) {
      const step = 60 / this.view.scale;
      const { x, y, scale } = this.view;
      this.look({ x: x + arrow[0] * step, y: y + arrow[1] * step, scale });
    } else if (arrow) this.walk(...arrow);
    else if (e.key === '+' || e.key === '=') this.zoom(1.25, w / 2, h / 2);
    else if (e.key === '-') this.zoom(0.8, w / 2, h / 2);
    else if (e.key === '0') this.showWhole();
    else if (e.key === 'Enter' && this.hover >= 0) this.choose(this.hover);
    else if (e.key === ' ' && this.hover >= 0) this.toggle(this.hover);
    else if (e.key === 'Escape') this.drag ? this.drop() : this.clear();
    else return;
    e.preventDefault();
    e.stopPropagation(); // a notebook has keys of its own
  }

  walk(dx, dy) {
    let from = this.hover >= 0 ? this.hover : this.chosen;
    if (from < 0) from = nearest(this.grid, this.view.x, this.view.y, 1);
    else from = ahead(this.xy, from, dx, dy);
    if (from < 0) return;
    const [x, y] = this.place(from);
    if (x < 0 || y < 0 || x > this.size[0] || y > this.size[1]) {
      this.look({ ...this.view, x: this.xy[2 * from], y: this.xy[2 * from + 1] });
    }
    this.point(from);
  }

  // the view

  fit() {
    const box = this.stage.getBoundingClientRect();
    if (!box.width || !box.height) return;
    this.size = [box.width, box.height];
    this.ratio = window.devicePixelRatio || 1;
    for (const canvas of [this.base, this.top]) {
      canvas.width = Math.round(box.width * this.ratio);
      canvas.height = Math.round(box.height * this.ratio);
    }
    this.buffer = this.base.getContext('2d').createImageData(this.base.width, this.base.height);
    this.pixels = new Uint32Array(this.buffer.data.buffer);
    this.stamps = null; // they fit one width
    const before = this.whole;
    this.whole = Math.min(...this.size) * 0.92;
    if (!this.view) this.showWhole();
    else this.look({ ...this.view, scale: (this.view.scale * this.whole) / before });
  }

  showWhole() {
    this.look({ x: 0.5, y: 0.5, scale: this.whole });
  }

  zoom(times, left, top) {
    this.look(zoomed(this.view, this.size, times, left, top, this.whole));
  }

  look(view) {
    this.view = view;
    this.root.dataset.view = [view.x, view.y, view.scale].map((v) => v.toFixed(6)).join(' ');
    this.draw();
    if (this.hover >= 0) this.writeTip();
  }

  radius() {
    const first = this.n > 20000 ? 1.5 : this.n > 3000 ? 2.5 : 4.5;
    const most = Math.max(first, 6);
    const r = Math.min(most, first * (this.view.scale / this.whole) ** 0.35) * this.ratio;
    return Math.round(4 * r) / 4; // so that stamps serve for several steps of a zoom
  }

  makeStamps() {
    const r = this.radius();
    if (this.stamps?.radius === r) return;
    const width = this.base.width;
    this.stamps = [];
    this.stamps.radius = r;
    for (const { code, colour, shape } of this.marks) {
      this.stamps[code] = stamp(colour, shape, r, width);
    }
    this.grey = stamp('#d0d0d0', 'circle', r * 0.7, width, '#d0d0d0');
  }

  draw() {
    if (this.view && !this.asked) {
      this.asked = requestAnimationFrame(() => {
        this.asked = null;
        this.paint();
        this.paintTop();
      });
    }
  }

  drawTop() {
    if (this.view && !this.askedTop) {
      this.askedTop = requestAnimationFrame(() => {
        this.askedTop = null;
        this.paintTop();
      });
    }
  }

  isDim(i) {
    const outside = this.isSelected && !this.isSelected[i];
    return outside || (this.emphasis >= 0 && this.codes[i] !== this.emphasis);
  }

  paint() {
    const began = performance.now();
    this.makeStamps();
    this.pixels.fill(0);
    const dim = new Uint8Array(this.n);
    if (this.isSelected || this.emphasis >= 0) {
      for (let i = 0; i < this.n; i++) dim[i] = this.isDim(i) ? 1 : 0;
      this.put(dim, 1, () => this.grey);
    }
    this.put(dim, 0, (i) => this.stamps[this.codes[i]]);
    this.base.getContext('2d').putImageData(this.buffer, 0, 0);
    this.frames += 1;
    this.root.dataset.frames = this.frames;
    this.root.dataset.paint = (performance.now() - began).toFixed(2);
  }

  /** Copy the stamps of the points whose `dim` is `which` into the picture. */
  put(dim, which, stampOf) {
    const { xy, n, pixels } = this;
    const { width, height } = this.base;
    const scale = this.view.scale * this.ratio;
    const left = width / 2 - this.view.x * scale + 0.5;
    const top = height / 2 + this.view.y * scale + 0.5;
    for (let i = 0; i < n; i++) {
      if (dim[i] !== which) continue;
      const x = Math.floor(left + xy[2 * i] * scale);
      const y = Math.floor(top - xy[2 * i + 1] * scale);
      const mark = stampOf(i);
      if (!mark) continue;
      const half = mark.half;
      if (x < half || y < half || x >= width - half || y >= height - half) continue;
      const at = y * width + x;
      const { solid, solidColours, edge, edgeColours } = mark;
      for (let k = 0; k < solid.length; k++) pixels[at + solid[k]] = solidColours[k];
      for (let k = 0; k < edge.length; k++) {
        const p = at + edge[k];
        pixels[p] = blend(pixels[p], edgeColours[k]);
      }
    }
  }

  paintTop() {
    const context = this.top.getContext('2d');
    context.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    context.clearRect(0, 0, ...this.size);
    const r = this.radius() / this.ratio;
    this.rings.forEach((row, k) => {
      this.ring(context, row.index, r + 5, '#0072B2', 2);
      this.tag(context, row.index, String(k + 1), r + 6);
    });
    if (this.chosen >= 0) this.ring(context, this.chosen, r + 6, '#000000', 3);
    if (this.hover >= 0) this.ring(context, this.hover, r + 4, '#D55E00', 2.5);
    if (this.drag?.path) this.paintLasso(context);
  }

  ring(context, i, radius, colour, width) {
    for (const [stroke, line] of [['white', width + 2], [colour, width]]) {
      context.beginPath();
      context.arc(...this.place(i), radius, 0, 2 * Math.PI);
      context.lineWidth = line;
      context.strokeStyle = stroke;
      context.stroke();
    }
  }

  tag(context, i, text, away) {
    const [x, y] = this.place(i);
    context.font = 'bold 12px sans-serif';
    context.lineWidth = 3;
    context.strokeStyle = 'white';
    context.strokeText(text, x + away, y - away + 4);
    context.fillStyle = '#0072B2';
    context.fillText(text, x + away, y - away + 4);
  }

  paintLasso(context) {
    context.beginPath();
    corners(context, this.drag.path);
    context.fillStyle = 'rgba(0, 114, 178, 0.12)';
    context.fill();
    context.lineWidth = 1.5;
    context.setLineDash([5, 4]);
    context.strokeStyle = '#0072B2';
    context.stroke();
    context.setLineDash([]);
  }
}

const HELP =
  'Drag to pan; click, then wheel or + and - to zoom; Shift and drag to select; arrows go from ' +
  'tile to tile, Enter shows its neighbours, Space selects it, 0 shows the whole map, Escape ' +
  'clears.';
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };

const union = (a, b) => Uint32Array.from(new Set([...a, ...b])).sort();

function render({ model, el }) {
  const map = new TileMap(model, el);
  if (model.get('still')) hideStillSoon(el);
  return () => map.remove();
}

export default { render };
