// A small viewer of C-alpha traces on a 2-D canvas: smooth tubes, drawn back to front; drag turns, pinch or wheel zooms.
"use strict";
(function () {
  const root = document.getElementById("viewer");
  const source = document.getElementById("viewer-data");
  if (!root || !source) return;
  const samples = JSON.parse(source.textContent);
  const canvas = root.querySelector("canvas");
  const select = root.querySelector("select");
  const facts = root.querySelector(".viewer-facts");
  const legend = root.querySelector(".viewer-legend");
  const context = canvas.getContext("2d");
  const PIECES = 4; // of the curve between two residues
  // The colours of the AlphaFold database for confidence above 90, 70, 50 and below.
  const CONFIDENCE = [[90, [0, 83, 214], "above 90"], [70, [101, 203, 243], "70 to 90"],
    [50, [255, 219, 19], "50 to 70"], [-1, [255, 125, 69], "below 50"]];
  let strips = [];
  let radius = 1; // of the sphere that holds everything
  let reach = [1, 1]; // across and up, before any turn
  let turn, zoom;

  function reset() {
    turn = [1, 0, 0, 0, 1, 0, 0, 0, 1];
    zoom = 0; // until drawn: as large as fits
  }

  function color(name) {
    const text = getComputedStyle(document.documentElement).getPropertyValue(name).trim().slice(1);
    return [0, 2, 4].map((i) => parseInt(text.slice(i, i + 2), 16));
  }

  function ofConfidence(value) {
    return CONFIDENCE.find((band) => value > band[0] || band[0] < 0)[1];
  }

  // Catmull-Rom: through every residue, without corners.
  function between(a, b, c, d, t) {
    return [0, 1, 2].map((i) => 0.5 * (2 * b[i] + (c[i] - a[i]) * t + (2 * a[i] - 5 * b[i] + 4 * c[i] - d[i]) * t * t
      + (3 * b[i] - a[i] - 3 * c[i] + d[i]) * t * t * t));
  }

  function curve(trace, isLast) {
    const points = trace.points;
    const pieces = [];
    for (let i = 0; i + 1 < points.length; i++) {
      if (!points[i] || !points[i + 1]) continue;
      const before = points[i - 1] || points[i];
      const after = points[i + 2] || points[i + 1];
      for (let k = 0; k < PIECES; k++) {
        const residue = k < PIECES / 2 ? i : i + 1;
        const confidence = trace.plddt ? trace.plddt[residue] : null;
        pieces.push({
          from: between(before, points[i], points[i + 1], after, k / PIECES),
          to: between(before, points[i], points[i + 1], after, (k + 1) / PIECES),
          color: isLast && confidence !== null ? ofConfidence(confidence) : null,
          role: isLast ? "last" : "first",
        });
      }
    }
    return pieces;
  }

  function item(background, text) {
    const entry = document.createElement("li");
    const swatch = document.createElement("span");
    swatch.className = "swatch";
    swatch.style.background = background;
    entry.append(swatch, text);
    return entry;
  }

  function show(index) {
    const sample = samples[index];
    const last = sample.traces[sample.traces.length - 1];
    strips = sample.traces.flatMap((trace) => curve(trace, trace === last));
    const points = sample.traces.flatMap((trace) => trace.points.filter(Boolean));
    reach = [0, 1].map((i) => points.reduce((most, p) => Math.max(most, Math.abs(p[i])), 1) + 2);
    radius = points.reduce((most, p) => Math.max(most, Math.hypot(p[0], p[1], p[2])), 1) + 3;
    facts.replaceChildren(...sample.facts.flatMap(([name, value]) => {
      const term = document.createElement("dt");
      const definition = document.createElement("dd");
      term.textContent = name;
      definition.textContent = value;
      return [term, definition];
    }));
    const colored = last.plddt && last.plddt.some((value) => value !== null);
    const entries = sample.traces.map((trace) => trace === last
      ? item(colored ? "linear-gradient(90deg, #ff7d45, #ffdb13, #65cbf3, #0053d6)" : "var(--series-2)",
        trace.name + (colored ? ", coloured by pLDDT" : ", no pLDDT"))
      : item("var(--faint)", trace.name));
    if (colored) entries.push(...CONFIDENCE.map((band) => item("rgb(" + band[1].join(",") + ")", "pLDDT " + band[2])));
    legend.replaceChildren(...entries);
    reset();
    draw();
  }

  function turned(p) {
    return [0, 3, 6].map((i) => turn[i] * p[0] + turn[i + 1] * p[1] + turn[i + 2] * p[2]);
  }

  function draw() {
    const scale = window.devicePixelRatio || 1;
    const width = Math.round(canvas.clientWidth * scale);
    const height = Math.round(canvas.clientHeight * scale);
    if (canvas.width !== width || canvas.height !== height) {
      canvas.width = width;
      canvas.height = height;
    }
    const whole = Math.min(width, height) / 2 / radius;
    if (!zoom) zoom = Math.max(1, Math.min(width / 2 / reach[0], height / 2 / reach[1]) / whole);
    const unit = whole * zoom;
    const ground = color("--paper");
    const own = {first: color("--faint"), last: color("--series-2")};
    const lines = strips.map((piece) => {
      const a = turned(piece.from);
      const b = turned(piece.to);
      return {a, b, depth: (a[2] + b[2]) / 2, color: piece.color || own[piece.role], thin: piece.role === "first"};
    }).sort((one, two) => one.depth - two.depth);
    context.fillStyle = "rgb(" + ground.join(",") + ")";
    context.fillRect(0, 0, width, height);
    context.lineCap = "round";
    for (const line of lines) {
      const nearness = Math.max(0, Math.min(1, (line.depth / radius + 1) / 2));
      const mixed = line.color.map((c, i) => Math.round(ground[i] + (c - ground[i]) * (0.35 + 0.65 * nearness)));
      const thickness = unit * (line.thin ? 0.55 : 0.9) * (0.8 + 0.4 * nearness);
      context.beginPath();
      context.moveTo(width / 2 + line.a[0] * unit, height / 2 - line.a[1] * unit);
      // Canvas draws nothing for a line without length: the hundredth makes a collapsed structure a dot.
      context.lineTo(width / 2 + line.b[0] * unit + 0.01, height / 2 - line.b[1] * unit);
      // A rim in the ground's colour lets the nearer strand pass visibly over the farther one.
      context.lineCap = "butt";
      context.strokeStyle = "rgb(" + ground.join(",") + ")";
      context.lineWidth = thickness + 1.4 * scale;
      context.stroke();
      context.lineCap = "round";
      context.strokeStyle = "rgb(" + mixed.join(",") + ")";
      context.lineWidth = thickness;
      context.stroke();
    }
    canvas.dataset.drawn = String(lines.length);
  }

  function rotate(dx, dy) {
    const [cx, sx, cy, sy] = [Math.cos(dy), Math.sin(dy), Math.cos(dx), Math.sin(dx)];
    const step = [cy, 0, sy, sx * sy, cx, -sx * cy, -cx * sy, sx, cx * cy];
    const next = [];
    for (let i = 0; i < 3; i++) {
      for (let j = 0; j < 3; j++) {
        next.push(step[3 * i] * turn[j] + step[3 * i + 1] * turn[3 + j] + step[3 * i + 2] * turn[6 + j]);
      }
    }
    turn = next;
    draw();
  }

  function zoomBy(factor) {
    zoom = Math.max(0.3, Math.min(12, zoom * factor));
    draw();
  }

  const pointers = new Map();
  canvas.addEventListener("pointerdown", (event) => {
    pointers.set(event.pointerId, [event.clientX, event.clientY]);
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    const before = pointers.get(event.pointerId);
    if (!before) return;
    const now = [event.clientX, event.clientY];
    const other = [...pointers].filter(([id]) => id !== event.pointerId).map(([, place]) => place)[0];
    pointers.set(event.pointerId, now);
    if (other) {
      const gap = (p) => Math.hypot(p[0] - other[0], p[1] - other[1]);
      if (gap(before) > 0) zoomBy(gap(now) / gap(before));
    } else {
      rotate((now[0] - before[0]) / 120, (now[1] - before[1]) / 120);
    }
  });
  for (const name of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(name, (event) => pointers.delete(event.pointerId));
  }
  // The wheel zooms only once the viewer is in use, so that it does not catch a page being scrolled.
  canvas.addEventListener("wheel", (event) => {
    if (document.activeElement !== canvas && !event.ctrlKey) return;
    event.preventDefault();
    zoomBy(Math.exp(-event.deltaY / 400));
  }, {passive: false});
  canvas.addEventListener("keydown", (event) => {
    const actions = {
      ArrowLeft: () => rotate(-0.15, 0), ArrowRight: () => rotate(0.15, 0), ArrowUp: () => rotate(0, -0.15),
      ArrowDown: () => rotate(0, 0.15), "+": () => zoomBy(1.2), "-": () => zoomBy(1 / 1.2),
    };
    if (!actions[event.key]) return;
    event.preventDefault();
    actions[event.key]();
  });
  root.querySelector("[data-action=closer]").addEventListener("click", () => zoomBy(1.3));
  root.querySelector("[data-action=farther]").addEventListener("click", () => zoomBy(1 / 1.3));
  root.querySelector("[data-action=reset]").addEventListener("click", () => { reset(); draw(); });
  select.addEventListener("change", () => show(Number(select.value)));
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  new ResizeObserver(draw).observe(canvas);
  select.replaceChildren(...samples.map((sample, index) => new Option(sample.label, String(index))));
  show(0);
})();
