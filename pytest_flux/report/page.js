// The page of a run. Everything is drawn from the JSON in #data; one instance is shown at a time, so that pages of
// many instances stay light. Texts enter the document by textContent only.
//
//   {title, about, others, tests: [{id, outcome, seconds, started, ended, instances: [index], text}],
//    instances: [{name, what, started, ended, facts, notes, size, hosts, overlay, jobs, stories, log}]}
//
// collect.py describes overlay, jobs, stories and log. A line of the log is [time, rank, level, name, text, test];
// time and rank are null for output of which nobody knows them, and `test` is set for those only.
"use strict";
(() => {
const data = JSON.parse(document.getElementById("data").textContent);
const STATES = ["DEPEND", "PRIORITY", "SCHED", "RUN", "CLEANUP"];
const LEVELS = ["emerg", "alert", "crit", "err", "warning", "notice", "info", "debug"];
const GUTTER = 70, AXIS = 20, LINES = 1000, TABLE = 200;
let current = -1;       // the instance that is shown
let view = null;        // its times: {start, end, from, to}
let shownLines = LINES;
let redraw = [];        // what depends on the zoom

// -- elements

const byId = id => document.getElementById(id);

function make(tag, attributes = {}, ...children) {
  const isSvg = ["svg", "g", "rect", "path", "line", "text", "circle"].includes(tag);
  const element = isSvg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

function fill(id, ...children) {
  byId(id).replaceChildren(...children);
}

function option(value, text) {
  return make("option", {value}, text);
}

// -- words

function seconds(value) {
  if (value === null || value === undefined) return "";
  const size = Math.abs(value);
  if (size < 0.001 && size > 0) return `${(value * 1e6).toFixed(0)} µs`;
  if (size < 1) return `${(value * 1000).toFixed(size < 0.1 ? 1 : 0)} ms`;
  if (size < 120) return `${value.toFixed(2)} s`;
  return `${Math.floor(value / 60)} min ${Math.round(value % 60)} s`;
}

function moment(time) {
  return new Date(time * 1000).toISOString().replace("T", " ").replace("Z", "");
}

function parseIds(text) {  // an idset, "[0-2,5]"
  const ids = [];
  for (const part of (text || "").replace(/[[\]]/g, "").split(",")) {
    if (part === "") continue;
    const [low, high = low] = part.split("-").map(Number);
    for (let id = low; id <= high; id++) ids.push(id);
  }
  return ids;
}

// -- jobs

function until(job, instance) {  // where a job ends in the picture: after that, nobody has looked at it
  return job.times[6] || Math.min(job.seen || instance.ended, instance.ended);
}

function segments(job, end) {  // [state, from, to]; a state without a time was left at once, or never reached
  const [submit, depend, priority, sched, run, cleanup, inactive] = job.times;
  // job-list notes when a job *came* to a state: it was in DEPEND from t_depend, or from the submission.
  const starts = [depend || submit, priority, sched, run, cleanup, inactive];
  const found = [];
  for (let index = 0; index < STATES.length; index++) {
    if (!starts[index]) continue;
    let until = end;
    for (let later = index + 1; later < starts.length; later++) {
      if (starts[later]) { until = starts[later]; break; }
    }
    if (until > starts[index]) found.push([STATES[index], starts[index], until]);
  }
  return found;
}

function kind(job) {
  return job.result ? job.result.toLowerCase() : job.state === "RUN" || job.state === "CLEANUP" ? "run" : "wait";
}

function describe(job, instance) {
  const words = [`${job.id}  ${job.name || "?"}: ${job.result ? job.result.toLowerCase() : job.state}`];
  if (job.code !== undefined) words[0] += `, exit code ${job.code}`;
  if (job.exception) words.push(`exception ${job.exception}`);
  const wanted = [["nnodes", "nodes"], ["ntasks", "tasks"], ["ncores", "cores"]].filter(([key]) => job[key])
    .map(([key, word]) => `${job[key]} ${word}`);
  if (job.ranks !== undefined) wanted.push(`ranks ${job.ranks}`);
  if (job.queue) wanted.push(`queue ${job.queue}`);
  if (wanted.length) words.push(wanted.join(", "));
  words.push(segments(job, until(job, instance)).map(([state, from, to]) => `${state} ${seconds(to - from)}`).join(", "));
  return words.filter(Boolean).join("\n");
}

function showDetails(instance, job) {
  const lines = [describe(job, instance), `submitted ${moment(job.times[0])}`];
  const story = instance.stories[job.id];
  if (story) lines.push("", story);
  byId("details").textContent = lines.join("\n");
  byId("details").hidden = false;
  for (const element of document.querySelectorAll(".job.chosen, tr.chosen")) element.classList.remove("chosen");
  for (const element of document.querySelectorAll(`[data-job="${job.number}"]`)) element.classList.add("chosen");
}

// -- tests

function showTests() {
  if (!data.tests.length) return;
  byId("tests").hidden = false;
  const part = byId("test-search").value.toLowerCase(), onlyFailed = byId("only-failed").checked;
  const wanted = data.tests.filter(test => test.id.toLowerCase().includes(part) && !(onlyFailed && !isBad(test)));
  const count = {};
  for (const test of data.tests) count[test.outcome] = (count[test.outcome] || 0) + 1;
  byId("test-count").textContent = Object.entries(count).map(([word, number]) => `${number} ${word}`).join(", ") +
    (data.others ? `; ${data.others} tests without an instance are not listed` : "");
  fill("test-list", ...wanted.map(testRow));
}

const isBad = test => test.outcome === "failed" || test.outcome === "error";

function testRow(test) {
  const cells = make("span", {class: "cells", style: `width:${data.instances.length * 16}px`});
  for (const index of test.instances) {
    const instance = data.instances[index];
    cells.append(make("button", {
      type: "button", class: `cell ${test.outcome}`, style: `left:${index * 16}px`, "data-instance": index,
      title: `instance ${index}: ${instance.name} (${instance.what})`,
      onclick: event => { event.preventDefault(); go({instance: index, test: test.id}); },
    }));
  }
  const parts = [
    make("span", {class: `outcome ${test.outcome}`}, test.outcome),
    make("span", {class: "name", title: test.id}, test.id),
    make("span", {class: "seconds"}, seconds(test.seconds)),
    cells,
  ];
  if (!test.text) return make("div", {class: "row test", "data-test": test.id}, ...parts);
  const links = test.instances.map(index => make("a", {href: hash({instance: index, test: test.id})},
    `instance ${index}, with the log of this test`));
  const body = make("div", {}, ...links.flatMap(link => [link, make("br")]), make("pre", {}, test.text));
  return make("details", {class: "test", "data-test": test.id}, make("summary", {}, ...parts), body);
}

// -- the overlay

const RADIUS = 13;

function place(brokers) {  // leaves side by side, parents above the middle of their children
  const children = new Map(brokers.map(broker => [broker.rank, []]));
  for (const broker of brokers) if (broker.parent >= 0) children.get(broker.parent).push(broker);
  const width = brokers.length > 200 ? 2 * RADIUS : 60;
  const depth = new Map();
  for (const broker of brokers) depth.set(broker.rank, broker.parent < 0 ? 0 : depth.get(broker.parent) + 1);
  let leaves = 0;
  const spots = new Map();
  // Parents come first in the list, so children are placed before their parents from its end; leaves from its start.
  for (const broker of brokers) {
    if (!children.get(broker.rank).length) spots.set(broker.rank, {x: 30 + width * leaves++, y: 0});
  }
  for (const broker of [...brokers].reverse()) {
    const below = children.get(broker.rank).map(child => spots.get(child.rank).x);
    const x = below.length ? (Math.min(...below) + Math.max(...below)) / 2 : spots.get(broker.rank).x;
    spots.set(broker.rank, {x, y: 22 + 62 * depth.get(broker.rank)});
  }
  return {spots, width: 60 + width * Math.max(leaves - 1, 0), height: 62 * (Math.max(...depth.values()) + 1)};
}

function showOverlay(instance) {
  const brokers = instance.overlay || [];
  if (!brokers.length) { fill("overlay", make("p", {class: "hint"}, "not known")); return; }
  const {spots, width, height} = place(brokers);
  const svg = make("svg", {width: Math.max(width, 200), height, role: "img", "aria-label": "tree of brokers"});
  for (const broker of brokers.filter(broker => broker.parent >= 0)) {
    const [from, to] = [spots.get(broker.parent), spots.get(broker.rank)];
    const middle = (from.y + to.y) / 2;
    svg.append(make("path", {class: "edge", d: `M${from.x} ${from.y}C${from.x} ${middle} ${to.x} ${middle} ${to.x} ${to.y}`}));
  }
  for (const broker of brokers) {
    const {x, y} = spots.get(broker.rank);
    const host = instance.hosts[broker.rank] || "";
    const words = [`rank ${broker.rank}: ${broker.status}`, host, broker.error].filter(Boolean).join("\n");
    svg.append(make("g", {class: `broker ${broker.status}`, "data-rank": broker.rank, "data-status": broker.status,
      "data-tip": words, transform: `translate(${x} ${y})`},
      make("circle", {r: RADIUS}), make("text", {y: 4}, String(broker.rank)),
      make("text", {class: "host", y: broker.parent < 0 ? 4 : 27, x: broker.parent < 0 ? RADIUS + 4 : 0,
        style: broker.parent < 0 ? "text-anchor:start" : null},
        brokers.length > 200 ? "" : (broker.status === "full" ? host : broker.status).slice(0, 9))));
  }
  fill("overlay", svg);
}

// -- the timeline

function bars(instance, rows) {  // [{job, class, from, to, row}] and the labels of the rows
  const jobs = instance.jobs.filter(job => job.times[0]).sort((one, other) => one.times[0] - other.times[0]);
  const found = [];
  if (rows === "job") {
    jobs.forEach((job, row) => {
      for (const [state, from, to] of segments(job, until(job, instance))) {
        const word = state === "RUN" ? kind(job) : state === "SCHED" ? "wait" : state.toLowerCase();
        found.push({job, class: word, from, to, row});
      }
    });
    return {found, rows: jobs.length, labels: jobs.map((job, row) => ({text: job.id, row}))};
  }
  const ran = jobs.filter(job => job.times[4] && job.ranks !== undefined).sort((one, other) => one.times[4] - other.times[4]);
  const lanes = new Map();  // the ends of the bars of each rank's lanes
  for (let rank = 0; rank < Math.min(instance.size, 1024); rank++) lanes.set(rank, []);
  for (const job of ran) {
    const to = until(job, instance);
    for (const rank of parseIds(job.ranks)) {
      if (!lanes.has(rank)) continue;
      const ends = lanes.get(rank);
      let lane = ends.findIndex(end => end <= job.times[4]);
      if (lane < 0) lane = ends.length;
      ends[lane] = to;
      const running = job.times[5] || to;
      found.push({job, class: kind(job), from: job.times[4], to: running, rank, lane});
      if (to > running) found.push({job, class: "cleanup", from: running, to, rank, lane});
    }
  }
  let first = 0;
  const labels = [], firsts = new Map();
  for (const [rank, ends] of lanes) {
    firsts.set(rank, first);
    labels.push({text: `rank ${rank}`, row: first});
    first += Math.max(ends.length, 1);
  }
  for (const bar of found) bar.row = firsts.get(bar.rank) + bar.lane;
  return {found, rows: first, labels, lines: [...firsts.values()]};
}

function plot(id, height, gutter) {  // an SVG with a gutter for labels, whose inner SVG has seconds for x
  const width = Math.max(byId(id).clientWidth - 4, 500);
  const inner = make("svg", {class: "plot", x: GUTTER, y: 0, width: width - GUTTER, height, preserveAspectRatio: "none"});
  const axis = make("g", {class: "axis", transform: `translate(${GUTTER} ${height})`});
  const outer = make("svg", {width, height: height + AXIS}, ...gutter, inner, axis);
  fill(id, outer);
  redraw.push(() => {
    inner.setAttribute("viewBox", `${view.from} 0 ${view.to - view.from} ${height}`);
    drawAxis(axis, width - GUTTER);
  });
  steer(inner, width - GUTTER);
  return inner;
}

function drawAxis(axis, width) {
  const span = view.to - view.from, raw = span / Math.max(width / 110, 1);
  const power = 10 ** Math.floor(Math.log10(raw)), step = [1, 2, 5, 10].find(factor => factor * power >= raw) * power;
  const ticks = [];
  for (let tick = Math.ceil(view.from / step) * step; tick <= view.to; tick += step) {
    const x = (tick - view.from) / span * width;
    ticks.push(make("line", {x1: x, x2: x, y1: 0, y2: 4}),
      make("text", {x: x + 3, y: 14}, `${Number(tick.toPrecision(9))} s`));
  }
  axis.replaceChildren(...ticks);
}

function zoom(factor, at = (view.from + view.to) / 2) {
  const whole = view.end - view.start;
  const span = Math.min(Math.max((view.to - view.from) * factor, whole / 20000), whole);
  const share = (at - view.from) / (view.to - view.from);
  look(at - share * span, span);
}

function look(from, span) {
  view.from = Math.min(Math.max(from, view.start), view.end - span);
  view.to = view.from + span;
  for (const draw of redraw) draw();
}

function steer(svg, width) {
  const time = event => view.from + (event.clientX - svg.getBoundingClientRect().left) / width * (view.to - view.from);
  svg.addEventListener("wheel", event => {
    event.preventDefault();
    zoom(Math.exp(event.deltaY / 400), time(event));
  }, {passive: false});
  svg.addEventListener("dblclick", () => look(view.start, view.end - view.start));
  let grip = null;
  svg.addEventListener("pointerdown", event => { grip = {x: event.clientX, from: view.from}; });
  svg.addEventListener("pointermove", event => {
    if (grip === null || !event.buttons) return;
    const span = view.to - view.from;
    look(grip.from - (event.clientX - grip.x) / width * span, span);
  });
  svg.addEventListener("pointerup", () => { grip = null; });
}

function showTimeline(instance) {
  redraw = [];
  const {found, rows, labels, lines = []} = bars(instance, byId("rows").value);
  if (!instance.jobs.length) {
    fill("timeline", make("p", {class: "hint"}, "no jobs"));
    fill("depth");
    return;
  }
  const row = Math.min(Math.max(460 / Math.max(rows, 1), 2), 18), height = Math.max(rows * row, 18);
  const gutter = [];
  let last = -100;
  for (const label of labels) {
    const y = label.row * row + Math.min(row, 14) - 2;
    if (y - last < 11) continue;
    last = y;
    gutter.push(make("text", {class: "faint", x: 2, y}, label.text));
  }
  const inner = plot("timeline", height, gutter);
  for (const line of lines) {
    inner.append(make("line", {class: "grid", x1: 0, x2: view.end, y1: line * row, y2: line * row,
      "vector-effect": "non-scaling-stroke"}));
  }
  const jobs = new Map();
  const drawn = document.createDocumentFragment();
  for (const bar of found) {
    jobs.set(bar.job.number, bar.job);
    drawn.append(make("rect", {class: `job k-${bar.class}`, "data-job": bar.job.number, x: bar.from - view.origin,
      y: (bar.row * row + row * 0.08).toFixed(2), width: bar.to - bar.from, height: (row * 0.84).toFixed(2)}));
  }
  inner.append(drawn);
  inner.addEventListener("pointermove", event => {
    const job = jobs.get(event.target.getAttribute("data-job"));
    if (job) tip(event, describe(job, instance)); else hideTip();
  });
  inner.addEventListener("pointerleave", hideTip);
  inner.addEventListener("click", event => {
    const job = jobs.get(event.target.getAttribute("data-job"));
    if (job) showDetails(instance, job);
  });
  const classes = [...new Set(found.map(bar => bar.class))];
  const words = {wait: "waits (SCHED)", run: "runs", cleanup: "cleanup", depend: "depend", priority: "priority"};
  fill("legend", ...classes.map(word => make("span", {}, make("i", {class: `k-${word}`, style: `background:var(--${
    {completed: "good", failed: "bad", canceled: "odd", timeout: "odd", wait: "wait", run: "run"}[word] || "idle"})`}),
    words[word] || word)));
  showDepth(instance);
  look(view.start, view.end - view.start);
}

// -- queue depth

function steps(intervals) {  // [[time, count]] from intervals
  const changes = intervals.flatMap(([from, to]) => [[from, 1], [to, -1]]).sort((one, other) => one[0] - other[0] || one[1] - other[1]);
  const found = [];
  let count = 0;
  for (const [time, change] of changes) {
    count += change;
    if (found.length && found[found.length - 1][0] === time) found[found.length - 1][1] = count;
    else found.push([time, count]);
  }
  return found;
}

function showDepth(instance) {
  const known = instance.jobs.filter(job => job.times[0]);
  const left = job => job.times[4] || job.times[5] || until(job, instance);
  const waiting = steps(known.map(job => [job.times[0], left(job)]));
  const running = steps(known.filter(job => job.times[4]).map(job => [job.times[4], job.times[5] || until(job, instance)]));
  const most = Math.max(1, ...[...waiting, ...running].map(step => step[1]));
  const height = 110, top = 6, y = count => (height - (height - top) * count / most).toFixed(2);
  const inner = plot("depth", height, [
    make("text", {class: "faint", x: 2, y: top + 10}, most === 1 ? "1 job" : `${most} jobs`), make("text", {class: "faint", x: 2, y: height}, "0")]);
  for (const [name, found] of [["waiting", waiting], ["running", running]]) {
    if (!found.length) continue;
    const x = time => (time - view.origin).toFixed(6);
    const path = found.map(([time, count]) => `H${x(time)}V${y(count)}`).join("");
    const peak = found.reduce((high, step) => Math.max(high, step[1]), 0);
    inner.append(make("path", {class: name, "data-peak": peak, d: `M${x(found[0][0])} ${height}${path}V${height}Z`}));
  }
  inner.addEventListener("pointermove", event => {
    const box = inner.getBoundingClientRect();
    const time = view.origin + view.from + (event.clientX - box.left) / box.width * (view.to - view.from);
    const at = found => (found.filter(step => step[0] <= time).pop() || [0, 0])[1];
    tip(event, `${at(waiting)} waiting, ${at(running)} running`);
  });
  inner.addEventListener("pointerleave", hideTip);
}

// -- the list of jobs

function showJobs(instance) {
  const part = byId("job-search").value.toLowerCase();
  const found = instance.jobs.filter(job =>
    [job.id, job.number, job.name, job.state, job.result, job.queue].join(" ").toLowerCase().includes(part));
  byId("job-count").textContent = `${found.length} of ${instance.jobs.length} jobs` +
    (found.length > TABLE ? `, the first ${TABLE} are listed` : "");
  const bad = job => job.result && job.result !== "COMPLETED" ? 0 : job.result ? 2 : 1;
  const listed = found.map((job, index) => [bad(job), index, job]).sort((one, other) => one[0] - other[0] || one[1] - other[1]);
  const rows = listed.slice(0, TABLE).map(([, , job]) => make("tr",
    {"data-job": job.number, onclick: () => showDetails(instance, job)},
    ...[job.id, job.name || "", job.result || job.state, job.code ?? "", job.ranks ?? "", job.queue || "",
      job.times[4] ? seconds(job.times[4] - job.times[0]) : "",
      job.times[4] ? seconds((job.times[5] || until(job, instance)) - job.times[4]) : ""]
      .map(text => make("td", {}, String(text)))));
  const head = ["id", "name", "state", "exit code", "ranks", "queue", "waited", "ran"].map(text => make("th", {}, text));
  fill("job-table", make("table", {}, make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...rows)));
}

// -- the log

function ownTests(index) {
  return data.tests.filter(test => test.instances.includes(index));
}

function prepareLog(instance, index, test) {
  const ranks = [...new Set(instance.log.map(line => line[1]))].filter(rank => rank !== null).sort((a, b) => a - b);
  const others = instance.log.some(line => line[1] === null) ? [option("-", "launcher and programs")] : [];
  fill("log-rank", option("", "all ranks"), ...ranks.map(rank => option(rank, `rank ${rank}`)), ...others);
  fill("log-level", ...LEVELS.map((name, level) => option(level, level === 7 ? "all levels" : `${name} and worse`)).reverse());
  fill("log-test", option("", "all tests"), ...ownTests(index).map(test => option(test.id, test.id)));
  byId("log-test").hidden = !data.tests.length;
  if (test) byId("log-test").value = test;
  byId("log-search").value = "";
  shownLines = LINES;
}

function showLog() {
  const instance = data.instances[current];
  const rank = byId("log-rank").value, level = Number(byId("log-level").value);
  const test = data.tests.find(test => test.id === byId("log-test").value);
  const part = byId("log-search").value.toLowerCase();
  const found = instance.log.filter(([time, from, severity, name, text, owner]) =>
    (rank === "" || (rank === "-" ? from === null : String(from) === rank)) && severity <= level &&
    (!test || (time === null ? owner === test.id : time >= test.started && time <= test.ended)) &&
    (part === "" || `${name} ${text}`.toLowerCase().includes(part)));
  byId("log-count").textContent = `${found.length} of ${instance.log.length} lines`;
  byId("more").hidden = found.length <= shownLines;
  fill("log", ...found.slice(0, shownLines).map(([time, from, severity, name, text]) => make("div", {
    class: `line ${severity <= 3 ? "bad" : severity <= 5 ? "odd" : severity === 7 ? "low" : ""}`,
    "data-rank": from ?? "-", "data-level": LEVELS[severity]},
    make("span", {title: time === null ? null : moment(time)}, time === null ? "" : `+${(time - view.origin).toFixed(6)}`),
    make("span", {}, from === null ? "launcher" : `[${from}] ${name}.${LEVELS[severity]}`), text)));
}

// -- hints

function tip(event, text) {
  const box = byId("tip");
  box.textContent = text;
  box.hidden = false;
  const left = Math.min(event.clientX + 14, window.innerWidth - box.offsetWidth - 8);
  box.style.left = `${left}px`;
  box.style.top = `${event.clientY + 16 + box.offsetHeight > window.innerHeight ? event.clientY - box.offsetHeight - 8 : event.clientY + 16}px`;
}

function hideTip() {
  byId("tip").hidden = true;
}

// -- what is shown

function hash(place) {
  return "#" + Object.entries(place).map(([name, value]) => `${name}=${encodeURIComponent(value)}`).join("&");
}

function go(place) {
  if (location.hash === hash(place)) follow(); else location.hash = hash(place);
}

function follow() {
  const place = Object.fromEntries(location.hash.slice(1).split("&").filter(Boolean).map(pair => {
    const [name, value = ""] = pair.split("=");
    return [name, decodeURIComponent(value)];
  }));
  const test = data.tests.find(test => test.id === place.test);
  const bad = data.tests.find(test => isBad(test) && test.instances.length);
  const index = place.instance !== undefined ? Number(place.instance) : (test || bad || {instances: [0]}).instances[0];
  showInstance(data.instances[index] ? index : 0, test && test.id);
  if (!test) return;
  for (const row of document.querySelectorAll(".test")) {
    if (row.dataset.test !== test.id) continue;
    row.open = true;
    row.scrollIntoView({block: "nearest"});
  }
}

function showInstance(index, test) {
  const instance = data.instances[index];
  if (!instance) return;
  byId("instance").hidden = false;
  if (index !== current) {
    current = index;
    byId("details").hidden = true;
    byId("chosen").value = index;
    byId("job-search").value = "";
    const times = [instance.started, instance.ended, ...instance.jobs.flatMap(job => job.times),
      ...instance.log.map(line => line[0])].filter(Boolean);
    const origin = times.reduce((least, time) => Math.min(least, time), Infinity);
    const end = Math.max(times.reduce((most, time) => Math.max(most, time), origin) - origin, 0.001);
    // The axis begins with the first job: the start of an instance may take longer than its jobs.
    const first = instance.jobs.map(job => job.times[0]).filter(Boolean).reduce((least, time) => Math.min(least, time), Infinity);
    const start = first === Infinity ? 0 : Math.max(first - origin - 0.02 * end, 0);
    view = {origin, start, end, from: start, to: end};
    fill("facts", ...Object.entries(instance.facts).flatMap(([name, value]) =>
      [make("dt", {}, name), make("dd", {}, String(value))]));
    fill("notes", ...(instance.notes || []).map(note => make("li", {}, note)));
    showOverlay(instance);
    byId("rows").value = instance.jobs.some(job => job.times[4]) ? "rank" : "job";
    showTimeline(instance);
    showJobs(instance);
    prepareLog(instance, index, test);
  } else {
    byId("log-test").value = test || "";
  }
  for (const cell of document.querySelectorAll(".cell")) cell.classList.toggle("chosen", Number(cell.dataset.instance) === index);
  showLog();
}

function start() {
  document.title = data.title;
  byId("title").textContent = data.title;
  byId("about").textContent = data.about;
  showTests();
  fill("chosen", ...data.instances.map((instance, index) => option(index, `${index}: ${instance.name} (${instance.what})${
    instance.first ? `, ${instance.first}` : ""}`)));
  const on = (id, kind, handler) => byId(id).addEventListener(kind, handler);
  on("test-search", "input", showTests);
  on("only-failed", "change", showTests);
  on("chosen", "change", event => go({instance: event.target.value}));
  on("previous", "click", () => go({instance: Math.max(current - 1, 0)}));
  on("next", "click", () => go({instance: Math.min(current + 1, data.instances.length - 1)}));
  on("rows", "change", () => showTimeline(data.instances[current]));
  on("zoom-in", "click", () => zoom(0.5));
  on("zoom-out", "click", () => zoom(2));
  on("zoom-all", "click", () => look(view.start, view.end - view.start));
  on("job-search", "input", () => showJobs(data.instances[current]));
  for (const id of ["log-rank", "log-level", "log-test"]) on(id, "change", () => { shownLines = LINES; showLog(); });
  on("log-search", "input", showLog);
  on("more", "click", () => { shownLines += LINES; showLog(); });
  on("overlay", "pointermove", event => {
    const broker = event.target.closest("[data-tip]");
    if (broker) tip(event, broker.dataset.tip); else hideTip();
  });
  on("overlay", "pointerleave", hideTip);
  window.addEventListener("hashchange", follow);
  follow();
}

start();
})();
