// Ribbons of structures by 3Dmol.js; where the browser has no WebGL, a flat drawing of the C-alpha trace.
"use strict";
(function () {
  const UNITS = 100; // of coordinates per angstrom
  const THREE = {A: "ALA", C: "CYS", D: "ASP", E: "GLU", F: "PHE", G: "GLY", H: "HIS", I: "ILE", K: "LYS", L: "LEU",
    M: "MET", N: "ASN", P: "PRO", Q: "GLN", R: "ARG", S: "SER", T: "THR", V: "VAL", W: "TRP", Y: "TYR"};
  const GREY = "#9aa3ad";
  // The colours of the AlphaFold database for confidence above 90, 70, 50 and below.
  const CONFIDENCE = [[90, "#0053d6", "above 90"], [70, "#65cbf3", "70 to 90"], [50, "#ffdb13", "50 to 70"],
    [-1, "#ff7d45", "below 50"]];
  const STATES = {a: ["#d55e00", "helix"], b: ["#0072b2", "strand"], c: [GREY, "coil"]};
  const POSITION = ["#2b3f8c", "#1c7fb8", "#3fae8f", "#c9b72f", "#c2452d"];
  const DISTANCE = ["#2c6fb6", "#e6b422", "#c2341d"];
  const FARTHEST = 5; // angstrom, from where on the colour is the last

  function mixed(stops, share) {
    const place = Math.max(0, Math.min(1, share)) * (stops.length - 1);
    const first = Math.min(Math.floor(place), stops.length - 2);
    const parts = [1, 3, 5].map((at) => {
      const [a, b] = [stops[first], stops[first + 1]].map((stop) => parseInt(stop.slice(at, at + 2), 16));
      return Math.round(a + (b - a) * (place - first)).toString(16).padStart(2, "0");
    });
    return "#" + parts.join("");
  }

  function band(values) {
    return "linear-gradient(90deg, " + values.join(", ") + ")";
  }

  // What residues can be coloured by: a title, the colour of a residue, and the entries of the legend.
  const SCHEMES = {
    position: {
      title: "position in the chain",
      color: (structure, i) => mixed(POSITION, i / Math.max(1, structure.atoms.length - 1)),
      legend: () => [[band(POSITION), "first residue to last"]],
    },
    structure: {
      title: "secondary structure",
      color: (structure, i) => STATES[structure.structure[i]][0],
      legend: () => Object.values(STATES),
    },
    plddt: {
      title: "pLDDT",
      color: (structure, i) => structure.plddt[i] === null ? GREY
        : CONFIDENCE.find((entry) => structure.plddt[i] > entry[0] || entry[0] < 0)[1],
      legend: () => CONFIDENCE.map((entry) => [entry[1], "pLDDT " + entry[2]]),
    },
    deviation: {
      title: "distance between the two",
      color: (structure, i) => structure.deviation[i] === null ? GREY : mixed(DISTANCE, structure.deviation[i] / FARTHEST),
      legend: () => [[band(DISTANCE), "0 to " + FARTHEST + " \u00c5 and more"]],
    },
    marked: {
      title: "motif",
      color: (structure, i) => structure.marked[i] ? "#d55e00" : "#7fb2d6",
      legend: () => [["#d55e00", "motif"], ["#7fb2d6", "designed residues"]],
    },
  };

  function atomsOf(structure, colorOf) {
    const atoms = [];
    structure.atoms.forEach((row, i) => {
      if (!row) return;
      const shared = {chain: "A", resi: i + 1, resn: THREE[structure.sequence[i]] || "UNK", hetflag: false,
        ss: {a: "h", b: "s", c: "c"}[structure.structure[i]], color: colorOf(i)};
      const [x, y, z, u, v, w] = row.map((value) => value / UNITS);
      atoms.push({...shared, atom: "CA", elem: "C", x, y, z}, {...shared, atom: "O", elem: "O", x: u, y: v, z: w});
    });
    return atoms;
  }

  function element(name, text) {
    const made = document.createElement(name);
    made.textContent = text;
    return made;
  }

  // The ribbon; throws where there is no WebGL.
  function ribbons(stage, background) {
    if (!document.createElement("canvas").getContext("webgl2") && !document.createElement("canvas").getContext("webgl")) {
      throw new Error("no WebGL");
    }
    const viewer = $3Dmol.createViewer(stage, {backgroundColor: background(), antialias: true, nomouse: true, disableFog: true});
    if (!viewer) throw new Error("no viewer");
    // The library fits a sphere around everything into the height; the longest extent lies across.
    function closeness(structures) {
      const rows = structures.flatMap(({structure}) => structure.atoms.filter(Boolean));
      const most = (value) => rows.reduce((sum, row) => Math.max(sum, value(row)), 100);
      const radius = most((row) => Math.hypot(row[0], row[1], row[2]));
      const [across, up] = [0, 1].map((axis) => most((row) => Math.abs(row[axis])) + 2 * UNITS);
      return 0.9 * Math.min(stage.clientWidth / stage.clientHeight * radius / across, radius / up);
    }

    return {
      draw(structures, keep) {
        viewer.removeAllModels();
        viewer.setBackgroundColor(background());
        for (const {structure, color} of structures) {
          const model = viewer.addModel();
          model.addAtoms(atomsOf(structure, color));
          model.setStyle({}, {cartoon: {arrows: true, thickness: 0.35}});
        }
        if (!keep) { viewer.setView([0, 0, 0, 0, 0, 0, 0, 1]); viewer.zoomTo(); viewer.zoom(closeness(structures)); }
        viewer.render();
      },
      rotate(dx, dy) { viewer.rotate(dx, "vy"); viewer.rotate(dy, "vx"); viewer.render(); },
      zoom(factor) { viewer.zoom(factor); viewer.render(); },
      resize() { viewer.resize(); },
    };
  }

  // Without WebGL: the trace from the side of its largest extent, nearer pieces over farther ones; it does not turn.
  function trace(stage) {
    const canvas = document.createElement("canvas");
    const note = element("p", "This browser has no WebGL: a flat C\u03b1 trace instead of the ribbon.");
    note.className = "viewer-without";
    stage.append(canvas, note);
    const context = canvas.getContext("2d");
    let shown = [];
    function paint() {
      const scale = window.devicePixelRatio || 1;
      [canvas.width, canvas.height] = [stage.clientWidth * scale, stage.clientHeight * scale];
      [canvas.style.width, canvas.style.height] = [stage.clientWidth + "px", stage.clientHeight + "px"];
      const pieces = shown.flatMap(({structure, color}) => structure.atoms.slice(1).map((to, i) => {
        const from = structure.atoms[i];
        return from && to && {from, to, color: color(i), depth: from[2] + to[2]};
      })).filter(Boolean).sort((one, two) => one.depth - two.depth);
      const reach = [0, 1].map((axis) => pieces.reduce((most, piece) => Math.max(most, Math.abs(piece.to[axis])), 1));
      const unit = 0.44 * Math.min(canvas.width / reach[0], (canvas.height - 60 * scale) / reach[1]);
      const place = (row) => [canvas.width / 2 + row[0] * unit, (canvas.height - 30 * scale) / 2 - row[1] * unit];
      context.lineCap = "round";
      context.lineWidth = Math.max(2 * scale, 80 * unit);
      for (const piece of pieces) {
        context.strokeStyle = piece.color;
        context.beginPath();
        context.moveTo(...place(piece.from));
        context.lineTo(...place(piece.to));
        context.stroke();
      }
    }
    return {draw(structures) { shown = structures; paint(); }, rotate() {}, zoom() {}, resize: paint};
  }

  function start(root) {
    const scenes = JSON.parse(root.querySelector(".viewer-data").textContent);
    const stage = root.querySelector(".viewer-stage");
    const [choice, coloring] = ["scene", "color"].map((name) => root.querySelector("select[data-choice=" + name + "]"));
    const [facts, legend] = [root.querySelector(".viewer-facts"), root.querySelector(".viewer-legend")];
    const background = () => getComputedStyle(root).getPropertyValue("--paper").trim() || "#ffffff";
    let scene, hidden, picture;

    function draw(keep) {
      const scheme = SCHEMES[coloring.value];
      const last = scene.structures[scene.structures.length - 1];
      const shown = scene.structures.filter((structure) => !hidden.has(structure));
      picture.draw(shown.map((structure) => ({structure, color: structure === last || scene.structures.length === 1
        ? (i) => scheme.color(structure, i) : () => GREY})), keep);
      stage.dataset.drawn = String(shown.reduce((sum, each) => sum + each.atoms.filter(Boolean).length, 0));
      legend.replaceChildren(...scene.structures.map(entry), ...scheme.legend().map(([color, text]) => item(color, text)));
    }

    function item(color, ...content) {
      const made = document.createElement("li");
      const swatch = document.createElement("span");
      swatch.className = "viewer-swatch";
      swatch.style.background = color;
      made.append(swatch, ...content);
      return made;
    }

    // With several structures, each can be hidden.
    function entry(structure, index, all) {
      const colored = index === all.length - 1;
      const text = structure.name + (all.length > 1 ? (colored ? " (coloured)" : " (grey)") : "");
      if (all.length === 1) return element("li", text);
      const label = document.createElement("label");
      const box = document.createElement("input");
      box.type = "checkbox";
      box.checked = !hidden.has(structure);
      box.addEventListener("change", () => {
        hidden[box.checked ? "delete" : "add"](structure);
        draw(true);
      });
      label.append(box, text);
      const made = document.createElement("li");
      made.append(label);
      return made;
    }

    function show(index) {
      scene = scenes[index];
      hidden = new Set();
      choice.value = String(index);
      const last = scene.structures[scene.structures.length - 1];
      const possible = Object.keys(SCHEMES).filter((name) => ["position", "structure"].includes(name) || name in last);
      coloring.replaceChildren(...possible.map((name) => new Option(SCHEMES[name].title, name)));
      coloring.value = possible.includes(scene.colored_by) ? scene.colored_by : "position";
      facts.replaceChildren(...scene.facts.flatMap(([name, value]) => [element("dt", name), element("dd", value)]));
      draw(false);
    }

    try {
      picture = ribbons(stage, background);
      stage.dataset.drawing = "ribbon";
    } catch (error) {
      stage.replaceChildren();
      picture = trace(stage);
      stage.dataset.drawing = "trace";
    }
    const pointers = new Map();
    stage.addEventListener("pointerdown", (event) => {
      pointers.set(event.pointerId, [event.clientX, event.clientY]);
      stage.setPointerCapture(event.pointerId);
    });
    stage.addEventListener("pointermove", (event) => {
      const before = pointers.get(event.pointerId);
      if (!before) return;
      const now = [event.clientX, event.clientY];
      const other = [...pointers].filter(([id]) => id !== event.pointerId).map(([, place]) => place)[0];
      pointers.set(event.pointerId, now);
      if (other) {
        const gap = (place) => Math.hypot(place[0] - other[0], place[1] - other[1]);
        if (gap(before) > 0) picture.zoom(gap(now) / gap(before));
      } else {
        picture.rotate((now[0] - before[0]) / 2, (now[1] - before[1]) / 2);
      }
    });
    for (const name of ["pointerup", "pointercancel"]) {
      stage.addEventListener(name, (event) => pointers.delete(event.pointerId));
    }
    // The wheel zooms only once the viewer is in use, so that it does not catch a page being scrolled.
    stage.addEventListener("wheel", (event) => {
      if (document.activeElement !== stage && !event.ctrlKey) return;
      event.preventDefault();
      picture.zoom(Math.exp(-event.deltaY / 400));
    }, {passive: false});
    const actions = {
      ArrowLeft: () => picture.rotate(-9, 0), ArrowRight: () => picture.rotate(9, 0), ArrowUp: () => picture.rotate(0, -9),
      ArrowDown: () => picture.rotate(0, 9), "+": () => picture.zoom(1.2), "-": () => picture.zoom(1 / 1.2),
      closer: () => picture.zoom(1.3), farther: () => picture.zoom(1 / 1.3), reset: () => draw(false),
    };
    stage.addEventListener("keydown", (event) => {
      if (!actions[event.key]) return;
      event.preventDefault();
      actions[event.key]();
    });
    for (const button of root.querySelectorAll("[data-action]")) button.addEventListener("click", actions[button.dataset.action]);
    let group = null;
    scenes.forEach((each, index) => {
      if (each.group && (!group || group.label !== each.group)) {
        group = document.createElement("optgroup");
        group.label = each.group;
        choice.append(group);
      }
      (each.group ? group : choice).append(new Option(each.label, String(index)));
    });
    choice.addEventListener("change", () => show(Number(choice.value)));
    coloring.addEventListener("change", () => draw(true));
    for (const button of document.querySelectorAll("[data-shows]")) {
      const index = scenes.findIndex((each) => each.key === button.dataset.shows);
      button.hidden = index < 0;
      button.addEventListener("click", () => { show(index); stage.scrollIntoView({block: "nearest"}); });
    }
    choice.parentElement.hidden = scenes.length < 2;
    window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => draw(true));
    show(0);
    new ResizeObserver(() => picture.resize()).observe(stage);
  }

  for (const root of document.querySelectorAll(".structure-viewer")) start(root);
})();
