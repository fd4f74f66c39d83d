// What every picture of this folder stands on: places on a map, markers, elements of a page.
// No module of its own: the kernel puts it before the file that draws (`static_text`), so that
// no browser has to look for it.

// ---- arithmetic -------------------------------------------------------------------------

/** Points by cells of a square grid, in one pass: `order` lists them, `start` says where. */
function gridIndex(xy) {
  const n = xy.length / 2;
  const side = Math.max(1, Math.min(512, Math.round(Math.sqrt(n / 2))));
  const cell = new Uint32Array(n);
  const start = new Uint32Array(side * side + 1);
  const clamp = (v) => Math.min(side - 1, Math.max(0, Math.floor(v * side)));
  for (let i = 0; i < n; i++) {
    cell[i] = clamp(xy[2 * i + 1]) * side + clamp(xy[2 * i]);
    start[cell[i] + 1]++;
  }
  for (let c = 0; c < side * side; c++) start[c + 1] += start[c];
  const next = start.slice();
  const order = new Uint32Array(n);
  for (let i = 0; i < n; i++) order[next[cell[i]]++] = i;
  return { xy, side, start, order, clamp };
}

/** The point nearest to a place, no further than `reach` from it; -1: none. */
function nearest(grid, x, y, reach) {
  const { xy, side, start, order, clamp } = grid;
  let best = -1;
  let least = reach * reach;
  for (let row = clamp(y - reach); row <= clamp(y + reach); row++) {
    const first = start[row * side + clamp(x - reach)];
    const last = start[row * side + clamp(x + reach) + 1];
    for (let k = first; k < last; k++) {
      const i = order[k];
      const d = (xy[2 * i] - x) ** 2 + (xy[2 * i + 1] - y) ** 2;
      if (d <= least) {
        best = i;
        least = d;
      }
    }
  }
  return best;
}

/** Indices of the points inside of a polygon of `[x, y]` corners (even-odd rule). */
function inside(xy, polygon) {
  const found = [];
  const xs = polygon.map((p) => p[0]);
  const ys = polygon.map((p) => p[1]);
  const [left, right] = [Math.min(...xs), Math.max(...xs)];
  const [low, high] = [Math.min(...ys), Math.max(...ys)];
  for (let i = 0; i < xy.length / 2; i++) {
    const [x, y] = [xy[2 * i], xy[2 * i + 1]];
    if (x < left || x > right || y < low || y > high) continue;
    let odd = false;
    for (let a = 0, b = polygon.length - 1; a < polygon.length; b = a++) {
      const crosses = ys[a] > y !== ys[b] > y;
      if (crosses && x < ((xs[b] - xs[a]) * (y - ys[a])) / (ys[b] - ys[a]) + xs[a]) odd = !odd;
    }
    if (odd) found.push(i);
  }
  return Uint32Array.from(found);
}

/** The next point in a direction (a key): ahead, and not far to the side; -1: none. */
function ahead(xy, from, dx, dy) {
  let best = -1;
  let least = Infinity;
  for (let i = 0; i < xy.length / 2; i++) {
    const ux = xy[2 * i] - xy[2 * from];
    const uy = xy[2 * i + 1] - xy[2 * from + 1];
    const along = ux * dx + uy * dy;
    const aside = Math.abs(ux * dy - uy * dx);
    if (i === from || along <= 0 || aside > along) continue;
    if (along + aside < least) {
      best = i;
      least = along + aside;
    }
  }
  return best;
}

/** Where a view puts a point: `view` is `{x, y, scale}`, scale in CSS pixels for one unit. */
function toScreen(view, size, x, y) {
  return [size[0] / 2 + (x - view.x) * view.scale, size[1] / 2 - (y - view.y) * view.scale];
}

function fromScreen(view, size, left, top) {
  return [
    view.x + (left - size[0] / 2) / view.scale,
    view.y - (top - size[1] / 2) / view.scale,
  ];
}

/** A view that is `times` larger and keeps what lies under `(left, top)` there. */
function zoomed(view, size, times, left, top, whole) {
  const [x, y] = fromScreen(view, size, left, top);
  const scale = Math.min(whole * 400, Math.max(whole * 0.5, view.scale * times));
  const keep = view.scale / scale;
  return { x: x + (view.x - x) * keep, y: y + (view.y - y) * keep, scale };
}

// ---- markers ----------------------------------------------------------------------------

const OUTLINES = { // corners, in radii from the middle
  square: [[-0.85, -0.85], [0.85, -0.85], [0.85, 0.85], [-0.85, 0.85]],
  diamond: [[0, -1.2], [1.2, 0], [0, 1.2], [-1.2, 0]],
  up: [[0, -1.1], [1.1, 0.9], [-1.1, 0.9]],
  down: [[0, 1.1], [1.1, -0.9], [-1.1, -0.9]],
  cross: [
    [-0.35, -1.1], [0.35, -1.1], [0.35, -0.35], [1.1, -0.35], [1.1, 0.35], [0.35, 0.35],
    [0.35, 1.1], [-0.35, 1.1], [-0.35, 0.35], [-1.1, 0.35], [-1.1, -0.35], [-0.35, -0.35],
  ],
};

function outline(context, shape, middle, radius) {
  if (shape === 'circle') return context.arc(middle, middle, radius, 0, 2 * Math.PI);
  corners(context, OUTLINES[shape].map((p) => p.map((v) => middle + v * radius)));
}

function corners(context, points) {
  points.forEach(([x, y], k) => (k ? context.lineTo(x, y) : context.moveTo(x, y)));
  context.closePath();
}

/** Would `#rrggbb` be hard to see on white? (relative luminance, ITU-R BT.709) */
function isPale(colour) {
  const [r, g, b] = [1, 3, 5].map((k) => parseInt(colour.slice(k, k + 2), 16) / 255);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.72;
}

/** A canvas with one marker in its middle, `radius` in device pixels, on a pale or dark edge. */
function markerCanvas(colour, shape, radius, edge = isPale(colour) ? '#666666' : 'white') {
  const side = 2 * Math.ceil(radius * 1.3 + 1) + 1;
  const canvas = document.createElement('canvas');
  canvas.width = canvas.height = side;
  const context = canvas.getContext('2d', { willReadFrequently: true });
  context.beginPath();
  outline(context, shape, side / 2, radius);
  context.lineWidth = Math.max(1, radius * 0.35);
  context.strokeStyle = edge;
  context.stroke();
  context.fillStyle = colour;
  context.fill();
  return canvas;
}

/** A marker as pixels of a picture `width` wide: copying them is quicker than `drawImage`. */
function stamp(colour, shape, radius, width, edgeColour) {
  const canvas = markerCanvas(colour, shape, radius, edgeColour);
  const side = canvas.width;
  const half = side >> 1;
  const data = canvas.getContext('2d').getImageData(0, 0, side, side).data;
  const solid = []; // [offset, colour]
  const edge = []; // those that let something through
  for (let k = 0; k < side * side; k++) {
    const [r, g, b, a] = data.subarray(4 * k, 4 * k + 4);
    const at = (Math.floor(k / side) - half) * width + (k % side) - half;
    const packed = ((a << 24) | (b << 16) | (g << 8) | r) >>> 0;
    if (a > 240) solid.push([at, packed]);
    else if (a > 15) edge.push([at, packed]);
  }
  return { half, ...lists('solid', solid), ...lists('edge', edge) };
}

function lists(name, pixels) {
  const offsets = Int32Array.from(pixels, (p) => p[0]);
  const colours = Uint32Array.from(pixels, (p) => p[1]);
  return { [name]: offsets, [`${name}Colours`]: colours };
}

/** A colour over another, both packed as 0xAABBGGRR; red and blue are mixed in one go. */
function blend(below, above) {
  if (below >>> 24 === 0) return above;
  const a = above >>> 24;
  const b = 256 - a;
  const redBlue = (((above & 0xff00ff) * a + (below & 0xff00ff) * b) >>> 8) & 0xff00ff;
  const green = (((above & 0x00ff00) * a + (below & 0x00ff00) * b) >>> 8) & 0x00ff00;
  return ((below & 0xff000000) | redBlue | green) >>> 0;
}

// ---- the page ---------------------------------------------------------------------------

function element(kind, attributes = {}, text = '') {
  const made = document.createElement(kind);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.textContent = text;
  return made;
}

/** Keep keys from the notebook, whose commands some letters are; Ctrl and Shift+Enter stay its. */
function keepKeys(el) {
  el.addEventListener('keydown', (e) => {
    const its = e.ctrlKey || e.metaKey || e.altKey || e.key === 'Escape';
    if (!its && !(e.key === 'Enter' && e.shiftKey)) e.stopPropagation();
  });
}

function bytes(view) {
  if (view instanceof ArrayBuffer) return new Uint8Array(view);
  return new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
}

/** Hide the still picture below a widget that lives; it is for readers without a kernel. */
function hideStill(el) {
  const still = el.closest('.jp-OutputArea-child')?.nextElementSibling;
  if (still?.querySelector('.jp-RenderedImage')) still.style.display = 'none';
}

function hideStillSoon(el, times = 50) {
  hideStill(el);
  if (times) setTimeout(() => hideStillSoon(el, times - 1), 200);
}

