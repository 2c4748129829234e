/*
 * The page of `freezepoint points --report`.  All that it shows is in the element #data.
 * Names come from an untrusted program: they become text nodes and attributes' values,
 * never markup.
 */
'use strict';

(() => {
const data = JSON.parse(document.getElementById('data').textContent);
const line = data.timeline;
const $ = id => document.getElementById(id);

/* ---- making elements ---- */

function make(tag, attributes, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) {
        if (name === 'class')
            element.className = value;
        else if (name.startsWith('on'))
            element.addEventListener(name.slice(2), value);
        else if (value !== false && value !== null && value !== undefined)
            element.setAttribute(name, value === true ? '' : value);
    }
    element.append(...children.filter(child => child !== null && child !== undefined));
    return element;
}

function draw(tag, attributes, text) {
    const element = document.createElementNS('http://www.w3.org/2000/svg', tag);
    for (const [name, value] of Object.entries(attributes || {}))
        element.setAttribute(name, value);
    if (text !== undefined)
        element.textContent = text;
    return element;
}

const named = text => make('span', { class: 'name', title: text }, text);

/* ---- words for numbers ---- */

function time(ns) {
    if (ns >= 1e10)
        return (ns / 1e9).toFixed(1) + ' s';
    if (ns >= 1e9)
        return (ns / 1e9).toFixed(2) + ' s';
    if (ns >= 1e6)
        return (ns / 1e6).toFixed(ns >= 1e8 ? 0 : 1) + ' ms';
    return ns ? (ns / 1e3).toFixed(0) + ' \u00b5s' : '0';
}

function size(bytes) {
    const units = ['B', 'kB', 'MB', 'GB', 'TB'];
    let unit = 0;
    for (; bytes >= 1000 && unit + 1 < units.length; unit++)
        bytes /= 1000;
    return bytes.toFixed(unit && bytes < 100 ? 1 : 0) + ' ' + units[unit];
}

const count = number => number.toLocaleString('en-US');
const plural = (number, word) => `${count(number)} ${word}${number === 1 ? '' : 's'}`;
/* Not rounded up: 100 % is all of it. */
const percent = share => Math.floor(share * 100 + 1e-9) + ' %';

/* ---- what is known ---- */

const started = data.start_up_ns !== null;
const total = Math.max(data.duration_ns, 1);
const startCpu = started ? data.start_up_cpu_ns : data.cpu_ns;
const cpuShare = ns => Math.min(1, startCpu ? ns / startCpu : 0);
const hits = data.hits.slice().sort((a, b) => a.time_ns - b.time_ns);
const advice = data.advice.map((one, index) => Object.assign({}, one, { rank: index + 1 }));
const processNames = new Map(data.processes.map(one => [one.pid, one]));

for (const one of advice) {
    one.hit = hits.find(hit => hit.function === one.function && hit.number === one.number &&
        hit.tid === one.tid && hit.time_ns === one.time_ns) || one;
}

/* Threads as lanes: by process as they appeared, the first thread first. */
const lanes = line.threads.map(thread => Object.assign({ hits: [] }, thread));
for (const hit of hits) {
    const lane = lanes.find(one => one.tid === hit.tid && one.pid === hit.pid);
    if (lane)
        lane.hits.push(hit);
}
const first = lane => lane.spans.length ? lane.spans[0][0] : 0;
const groups = [];
for (const lane of lanes) {
    let group = groups.find(one => one.pid === lane.pid);
    if (!group)
        groups.push(group = { pid: lane.pid, lanes: [], begun: Infinity });
    group.lanes.push(lane);
    group.begun = Math.min(group.begun, first(lane));
}
groups.sort((a, b) => a.begun - b.begun);
for (const group of groups)
    group.lanes.sort((a, b) => (b.tid === b.pid) - (a.tid === a.pid) || first(a) - first(b) || a.tid - b.tid);

/* ---- reasons to rest ---- */

const kinds = {
    event: ['waits for events', /^(accept|epoll|poll|ppoll|select|pselect|io_getevents|io_uring|recv)/],
    lock: ['waits for a lock or thread', /^futex/],
    read: ['reads', /^(read|pread|preadv)/],
    sleep: ['sleeps', /nanosleep|^pause|^rt_sig|^restart/],
    child: ['waits for a child', /^wait|^vfork|^clone/],
};

function kindOf(rest) {
    if (rest.kind !== 'call')
        return rest.kind;
    for (const [name, [, pattern]] of Object.entries(kinds))
        if (pattern.test(rest.call))
            return name;
    return 'other';
}

const rests = line.rests.map(rest => ({
    kind: kindOf(rest),
    text: rest.kind === 'call' ? rest.call : '',
    long: rest.kind === 'call' ? `waits in ${rest.call}`
        : rest.kind === 'kernel' ? 'asleep, in no system call'
            : rest.kind === 'ready' ? 'could run, but others do' : 'has ended',
}));

/* Not its own doing: for most of that rest we held it. */
const held = { kind: 'held', text: '', long: 'held still by freezepoint' };

function heldWithin(begin, end) {
    let sum = 0;
    for (const [one, other] of line.held)
        sum += Math.max(0, Math.min(end, other) - Math.max(begin, one));
    return sum;
}

function restOf(reason, begin, end) {
    const rest = rests[reason];
    return rest.kind === 'kernel' && heldWithin(begin, end) > (end - begin) / 2 ? held : rest;
}

/* ---- the head ---- */

function showHead() {
    const program = data.program ? data.program.join(' ')
        : data.watched_pid ? `process ${data.watched_pid}` : `group ${data.watched_group}`;
    document.title = `${program} \u2013 freezepoint points`;
    const when = new Date(data.made_unix_ns / 1e6);
    const stood = started ? heldWithin(0, data.start_up_ns) : 0;
    const figures = [
        [started ? time(data.start_up_ns) : '\u2013', !started ? 'never idle for 200 ms'
            : stood > data.start_up_ns * .02 ? `start-up, ${time(stood)} of it held still` : 'start-up'],
        [time(startCpu), started ? 'CPU of the start-up' : 'CPU'],
        [started && data.start_up_memory_bytes ? size(data.start_up_memory_bytes)
            : size(Math.max(0, ...line.memory.bytes)), started ? 'memory by then' : 'memory at most'],
        [count(lanes.length), `thread${lanes.length === 1 ? '' : 's'} in ${plural(data.processes.length, 'process').replace('processs', 'processes')}`],
        [time(data.duration_ns), 'watched'],
    ];
    $('head').append(
        make('div', {},
            make('div', { class: 'kicker' }, `freezepoint points \u00b7 ${when.toLocaleString()}`),
            make('h1', { title: program }, make('bdi', {}, program))),
        make('dl', { class: 'figures' }, ...figures.map(([value, word]) =>
            make('div', {}, make('dt', {}, word), make('dd', {}, value)))));
    const doubts = listDoubts();
    if (doubts.length)
        $('head').after(make('p', { class: 'doubts', role: 'note' }, doubts.join(' ')));
}

function listDoubts() {
    const doubts = [];
    const say = (number, text) => number && doubts.push(text(number));
    say(data.lost_hits, n => `${count(n)} single calls were lost: the counts are right, ticks are missing.`);
    say(data.uncounted_calls, n => `${count(n)} calls were not counted: too many threads.`);
    say(data.unprobed_processes, n => `The functions of ${count(n)} of the processes were not seen.`);
    say(line.lost_runs, n => `${count(n)} runs of threads were lost: the lanes have gaps.`);
    say(line.left_out_runs, n => `${count(n)} runs are of further threads, which have no lane.`);
    say(line.left_out_holds, n => `${count(n)} more times it was held still for probes.`);
    if (line.samples_end_early)
        doubts.push('The curves end after an hour.');
    return doubts;
}

/* ---- copying ---- */

async function copy(text, button) {
    try {
        await navigator.clipboard.writeText(text);
    } catch (error) {
        /* Where there is no clipboard for a file's page. */
        const area = make('textarea', {});
        area.value = text;
        document.body.append(area);
        area.select();
        document.execCommand('copy');
        area.remove();
    }
    const former = button.textContent;
    button.textContent = 'Copied';
    setTimeout(() => { button.textContent = former; }, 1400);
}

const command = text => make('div', { class: 'command' }, make('code', {}, text),
    make('button', { class: 'copy', onclick: event => copy(text, event.currentTarget) }, 'Copy'));

/* ---- the advice ---- */

function factsOf(one) {
    const chip = (good, text) => make('span', { class: `chip ${good}` }, text);
    return make('div', { class: 'facts' },
        chip('', `after ${time(one.time_ns)}`),
        chip(one.cpu_share >= .8 ? 'good' : '', `${percent(one.cpu_share)} of the start-up\u2019s CPU`),
        one.memory_bytes ? chip('', size(one.memory_bytes)) : null,
        one.waits ? chip('good', one.waits_still ? `waits there for ${time(one.waited_ns)} and more` : 'waits there') : null,
        chip(one.connections ? 'bad' : 'good', one.connections ? `${plural(one.connections, 'connection')} open` : 'no connection open'),
        chip(one.half_started_child ? 'bad' : 'good', one.half_started_child ? 'a child half-started' : 'no child half-started'),
        one.threads > 1 ? chip('bad', `${count(one.threads)} threads call it`) : null);
}

const sentence = text => text.charAt(0).toUpperCase() + text.slice(1) + '.';
const rankOf = one => make('span', { class: one.fit ? 'rank' : 'rank unfit' }, one.rank);

function showAdvice() {
    if (!advice.length) {
        $('advice').append(make('div', { class: 'card best unfit' }, make('h2', {}, 'No advice'),
            make('p', {}, started ? 'None of the functions that are looked at was called before it was idle.'
                : 'It was never idle for 200 ms: when its start-up is over cannot be told.')));
        return;
    }
    const best = advice[0];
    $('advice').append(make('div', { class: best.fit ? 'card best' : 'card best unfit' },
        make('div', { class: 'kicker' }, best.fit ? 'Checkpoint it here' : 'The least bad point; none is fit'),
        make('h2', {}, best.point), make('p', {}, sentence(best.reasons)), factsOf(best), command(best.command),
        briefStack(best.hit)));
    if (advice.length === 1)
        return;
    $('advice').append(make('div', { class: 'card' }, make('h2', {}, 'Other points'),
        make('ol', { class: 'others' }, ...advice.slice(1).map(one => make('li', {},
            make('button', { 'data-rank': one.rank, title: one.reasons, onclick: () => showHit(one.hit) },
                rankOf(one),
                make('span', { class: 'name' }, one.point, make('small', {}, one.reasons)),
                make('span', { class: 'meter' }, make('i', { style: `width:${one.cpu_share * 100}%` })),
                make('span', { class: 'share' }, percent(one.cpu_share))))))));
}

/* ---- details of a call ---- */

/* Itanium names of nested C++ functions: the part that people know. */
function readable(symbol) {
    symbol = symbol.replace(/@@?[A-Z]+_[\d.]+$/, '');
    const start = /^_ZN[KVr]*/.exec(symbol);
    if (!start && !/^_ZL?\d/.test(symbol))
        return symbol;
    const parts = [];
    let rest = symbol.slice(start ? start[0].length : /^_ZL?/.exec(symbol)[0].length);
    for (let found; (found = /^(\d+)/.exec(rest));) {
        const length = Number(found[1]);
        parts.push(rest.substr(found[1].length, length));
        rest = rest.slice(found[1].length + length);
        if (!start)
            break;
    }
    return parts.length && parts.every(part => part) ? parts.join('::') : symbol;
}

function stackOf(hit) {
    const known = hit.callers && hit.callers.frames.length;
    const frames = known ? hit.callers.frames
        : (hit.stack || []).map(text => ({ address: text, module: null }));
    const note = known ? (hit.callers.by === 'unwind tables' ? 'Unwound from a copy of its stack, by the programs\u2019 own tables.'
        : 'As far as frame pointers led.') : 'Not named: of each function\u2019s calls the first few are. As far as frame pointers led.';
    if (!frames.length)
        return [make('p', {}, 'Its stack is not known.')];
    return [make('ol', { class: 'stack' }, ...frames.map((frame, index) => make('li', { 'data-number': index },
        make('span', {},
            frame.symbol ? make('span', { class: 'name', title: frame.symbol }, readable(frame.symbol),
                frame.symbol_offset ? `+0x${frame.symbol_offset.toString(16)}` : '')
                : make('span', { class: 'name unknown' }, frame.module ? `0x${frame.offset.toString(16)}` : frame.address),
            frame.module ? make('small', {}, make('bdi', {}, frame.module)) : null)))), make('p', {}, note)];
}

const BRIEF = 6;

function briefStack(hit) {
    const frames = hit.callers ? hit.callers.frames.filter(frame => frame.symbol).slice(0, BRIEF) : [];
    return make('div', { class: 'brief' }, make('span', {}, 'Called from '),
        ...frames.flatMap((frame, index) => [index ? ' \u2190 ' : '', named(readable(frame.symbol))]),
        frames.length ? ' ' : '', make('button', { class: 'open', onclick: () => showHit(hit) }, 'the whole stack'));
}

let chosen = null;

function choose(hit) {
    chosen = hit;
    const one = hit && advice.find(other => other.hit === hit);
    for (const element of document.querySelectorAll('.pin, .others button'))
        element.classList.toggle('chosen', Boolean(one) && Number(element.dataset.rank) === one.rank);
    for (const row of document.querySelectorAll('.lane'))
        row.classList.toggle('chosen', Boolean(hit) && Number(row.dataset.tid) === hit.tid);
}

function hideDetails() {
    $('details').hidden = true;
    choose(null);
}

function showHit(hit) {
    const one = advice.find(other => other.hit === hit);
    const lane = lanes.find(other => other.tid === hit.tid && other.pid === hit.pid);
    const facts = [
        ['Time', time(hit.time_ns)],
        ['CPU by then', `${time(hit.cpu_ns)} (${percent(cpuShare(hit.cpu_ns))}${started ? ' of the start-up\u2019s' : ''})`],
        ['Memory', hit.memory_bytes ? size(hit.memory_bytes) : '\u2013'],
        ['Waited', hit.waited_ns ? time(hit.waited_ns) + (hit.waits_still ? ', up to the end' : '') : 'less than 20 ms'],
        ['Connections', count(hit.connections)],
        ['Thread', `${lane ? lane.comm : ''} ${hit.tid}, process ${hit.pid}`],
    ];
    $('details').replaceChildren(
        make('button', { class: 'close', 'aria-label': 'Close', onclick: hideDetails }, '\u00d7'),
        make('h2', {}, `${hit.function}#${hit.number}`),
        one ? make('p', {}, sentence(one.reasons)) : null,
        make('dl', {}, ...facts.flatMap(([word, value]) => [make('dt', {}, word), make('dd', {}, make('bdi', {}, value))])),
        ...(one ? [make('h3', {}, 'Command'), command(one.command)] : []),
        make('h3', {}, 'Called from'), ...stackOf(hit));
    $('details').hidden = false;
    $('details').scrollTop = 0;
    choose(hit);
}

/* ---- the window of time ---- */

const closest = 50e3;
let from = 0, to = total, width = 1000;
const x = ns => (ns - from) / (to - from) * width;
const at = pixel => from + pixel / width * (to - from);

/* With all that is advised, which may be behind its end. */
function startView() {
    const end = Math.max(data.start_up_ns * 1.3, ...advice.map(one => one.time_ns * 1.05));
    return started && end < total * .7 ? [0, end] : [0, total];
}

function show(begin, end) {
    const span = Math.min(Math.max(end - begin, closest), total);
    begin = Math.min(Math.max(begin, 0), total - span);
    if (begin === from && begin + span === to)
        return;
    from = begin;
    to = begin + span;
    request();
}

function zoom(factor, center) {
    const span = (to - from) * factor;
    const share = (center - from) / (to - from);
    show(center - span * share, center + span * (1 - share));
}

let asked = false;
function request() {
    if (!asked)
        requestAnimationFrame(() => { asked = false; render(); });
    asked = true;
}

/* ---- the chart's rows ---- */

const LANES_AT_FIRST = 80;
const chart = $('chart');
const rows = { ruler: null, flags: null, lanes: [], curves: [], over: null };

function row(kind, label, height) {
    const svg = draw('svg', { height, width: '100%', 'aria-hidden': 'true' });
    const element = make('div', { class: `row ${kind}` }, make('div', { class: 'label' }, ...label), svg);
    chart.append(element);
    return { element, svg, height };
}

/* Where there are very many: those that used most. */
function shownLanes(all) {
    if (all || lanes.length <= LANES_AT_FIRST)
        return new Set(lanes);
    const flagged = new Set(advice.map(one => one.tid));
    return new Set(lanes.slice().sort((a, b) => flagged.has(b.tid) - flagged.has(a.tid) || b.cpu_ns - a.cpu_ns)
        .slice(0, LANES_AT_FIRST));
}

function addLane(lane, kind) {
    const one = row(kind, [named(lane.comm || '?'), make('small', {}, `${lane.tid}`)], 20);
    one.element.dataset.tid = lane.tid;
    one.element.dataset.hits = lane.hits.length;
    one.lane = lane;
    rows.lanes.push(one);
    return one.element;
}

/* A process of one thread is its lane. */
function addGroup(group, shown) {
    const those = group.lanes.filter(lane => shown.has(lane));
    if (!those.length)
        return;
    if (group.lanes.length === 1) {
        addLane(those[0], 'lane single');
        return;
    }
    const process = processNames.get(group.pid);
    const head = make('div', { class: 'row process' }, make('button', { class: 'label', 'aria-expanded': 'true' },
        named(process ? process.comm : those[0].comm),
        make('small', {}, `${group.pid}, ${plural(group.lanes.length, 'thread')}`)));
    chart.append(head);
    const made = those.map(lane => addLane(lane, 'lane'));
    head.firstChild.addEventListener('click', () => {
        const closed = head.classList.toggle('closed');
        head.firstChild.setAttribute('aria-expanded', String(!closed));
        for (const element of made)
            element.hidden = closed;
        render();
    });
}

function buildChart(all) {
    chart.replaceChildren();
    rows.lanes = [];
    rows.ruler = row('ruler', [], 24);
    if (advice.length) {
        rows.flags = { element: make('div', { class: 'row flags' }, make('div', { class: 'label' }, 'Points to checkpoint at'),
            make('div', { class: 'place' })) };
        rows.flags.place = rows.flags.element.lastChild;
        chart.append(rows.flags.element);
    }
    const shown = shownLanes(all);
    for (const group of groups)
        addGroup(group, shown);
    if (shown.size < lanes.length)
        chart.append(make('button', { class: 'more', onclick: () => { buildChart(true); render(); } },
            `Show all ${count(lanes.length)} threads, not only the ${shown.size} that used most CPU`));
    rows.curves = [
        Object.assign(row('curve', [make('b', {}, 'CPU'), make('small', {}, 'sampled each 10 ms'), make('span', { class: 'scale' })], 66), { paint: paintCpu }),
        Object.assign(row('curve', [make('b', {}, 'Memory'), make('small', {}, 'resident, each 20 ms'), make('span', { class: 'scale' })], 66), { paint: paintMemory }),
        Object.assign(row('curve', [make('b', {}, 'Connections'), make('small', {}, 'open, each 20 ms'), make('span', { class: 'scale' })], 44), { paint: paintConnections }),
    ];
    rows.over = make('div', { class: 'over' });
    rows.cross = make('i', { class: 'cross', hidden: true });
    chart.append(rows.over);
}

/* ---- painting ---- */

function ruling() {
    const steps = [1, 2, 5];
    const least = (to - from) / Math.max(width / 110, 1);
    let unit = 10 ** Math.floor(Math.log10(least));
    const step = steps.map(one => one * unit).find(one => one >= least) || unit * 10;
    const marks = [];
    for (let t = Math.ceil(from / step) * step; t <= to; t += step)
        marks.push(t);
    return { marks, step };
}

function mark(ns, step) {
    const unit = step >= 1e9 ? [1e9, 's'] : step >= 1e6 || ns === 0 ? (ns >= 1e9 && step >= 1e7 ? [1e9, 's'] : [1e6, 'ms']) : [1e6, 'ms'];
    const digits = Math.max(0, -Math.floor(Math.log10(step / unit[0]) + 1e-9));
    return `${(ns / unit[0]).toFixed(digits)} ${unit[1]}`;
}

const bar = (left, right, top, height) => `M${left.toFixed(1)} ${top}H${right.toFixed(1)}v${height}H${left.toFixed(1)}z`;

/* One path for each colour; what is narrower than a pixel still shows. */
function paintLane(one, ruled) {
    const parts = {}, texts = [];
    const put = (kind, left, right, top, height) => {
        parts[kind] = (parts[kind] || '') + bar(Math.max(left, -2), Math.min(right, width + 2), top, height);
    };
    const spans = one.lane.spans;
    let drawn = -Infinity;
    for (let i = 0; i < spans.length; i++) {
        const [begin, end, cpu, reason] = spans[i];
        const next = i + 1 < spans.length ? spans[i + 1][0] : rests[reason].kind === 'end' ? end : total;
        if (next < from || begin > to)
            continue;
        const left = x(begin), right = Math.max(x(end), left + .8);
        if (rests[reason].kind !== 'end' && x(next) - right > .3)
            paintRest(put, texts, restOf(reason, end, next), x(end), x(next), next - end);
        if (right - drawn > .4)
            put(end - begin > 0 && cpu / (end - begin) < .5 ? 'thin' : 'run', Math.max(left, Math.min(drawn, right - .5)), right, 3, 14);
        drawn = Math.max(drawn, right);
    }
    one.svg.replaceChildren(...ruled.map(t => draw('path', { class: 'grid', d: `M${x(t).toFixed(1)} 0v20` })),
        ...['event', 'lock', 'read', 'sleep', 'child', 'other', 'ready', 'kernel', 'held', 'thin', 'run'].filter(kind => parts[kind])
            .map(kind => draw('path', { class: kind, d: parts[kind] })), ...texts, ...paintHits(one.lane));
}

function paintRest(put, texts, rest, left, right, ns) {
    const solid = rest.kind === 'ready' || rest.kind === 'kernel' || rest.kind === 'held';
    put(rest.kind, left, right, solid ? 7 : 4, solid ? 6 : 12);
    const begin = Math.max(left, 0), room = Math.min(right, width) - begin;
    const long = `${rest.text} ${time(ns)}`;
    const text = room > long.length * 5.6 + 10 ? long : rest.text;
    if (rest.text && room > text.length * 5.6 + 10)
        texts.push(draw('text', { class: rest.kind, x: (begin + 5).toFixed(1), y: 13.4 }, text));
}

function paintHits(lane) {
    let ticks = '', last = -Infinity;
    for (const hit of lane.hits) {
        const here = x(hit.time_ns);
        if (here < -4 || here > width + 4 || here - last < 1.5)
            continue;
        ticks += `M${here.toFixed(1)} 13l3 6.5h-6z`;
        last = here;
    }
    const dots = advice.filter(one => one.tid === lane.tid && one.pid === lane.pid)
        .map(one => draw('circle', { class: one.fit ? 'dot' : 'dot unfit', cx: x(one.time_ns).toFixed(1), cy: 10, r: 4.5 }));
    return [...(ticks ? [draw('path', { class: 'ticks', d: ticks })] : []), ...dots];
}

/* In as many levels as keep them from each other. */
function paintFlags() {
    const ends = [], pins = [];
    for (const one of advice.slice().sort((a, b) => a.time_ns - b.time_ns)) {
        const here = x(one.time_ns);
        if (here < -1 || here > width + 1)
            continue;
        const wide = 34 + one.point.length * 7.2;
        const left = here + wide > width;
        const begin = left ? here - wide + 10 : here - 10;
        let level = 0;
        while (level < 7 && ends[level] > begin)
            level++;
        ends[level] = begin + wide + 4;
        const pin = make('button', { class: `pin${left ? ' left' : ''}${one.fit ? '' : ' unfit'}`, 'data-rank': one.rank,
            style: `${left ? `right:${(width - here - 10).toFixed(1)}px` : `left:${begin.toFixed(1)}px`};top:${2 + level * 23}px`,
            onclick: () => showHit(one.hit) }, rankOf(one), one.point);
        pin.tip = () => [one.point, `after ${time(one.time_ns)}`, sentence(one.reasons)];
        pins.push(pin);
    }
    rows.flags.place.replaceChildren(...pins);
    rows.flags.place.style.height = `${Math.max(1, ends.length) * 23 + 4}px`;
}

function paintOver() {
    const marks = [];
    if (started && data.start_up_ns < to)
        marks.push(make('i', { class: 'idle', 'data-text': data.start_up_ns >= from ? 'idle from here' : '',
            style: `left:${Math.max(0, x(data.start_up_ns)).toFixed(1)}px;right:0` }));
    for (const [begin, end] of line.held)
        if (end >= from && begin <= to)
            marks.push(make('i', { class: 'held', style: `left:${x(begin).toFixed(1)}px;width:${Math.max(1, x(end) - x(begin)).toFixed(1)}px` }));
    for (const one of advice)
        if (one.time_ns >= from && one.time_ns <= to)
            marks.push(make('i', { class: one.fit ? 'pole' : 'pole unfit', style: `left:${x(one.time_ns).toFixed(1)}px` }));
    rows.over.replaceChildren(...marks, rows.cross);
}

/* Processor time up to a moment, between two samples as if used evenly. */
function usedAt(ns) {
    const times = line.cpu.time_ns, used = line.cpu.cpu_ns;
    let low = 0, high = times.length;
    while (low < high) {
        const middle = (low + high) >> 1;
        if (times[middle] <= ns)
            low = middle + 1;
        else
            high = middle;
    }
    if (!low)
        return times.length && times[0] > 0 ? used[0] * ns / times[0] : 0;
    if (low === times.length)
        return used[low - 1];
    const share = (ns - times[low - 1]) / (times[low] - times[low - 1] || 1);
    return used[low - 1] + (used[low] - used[low - 1]) * share;
}

/* A step for each sample, or for each two pixels. */
function cpuSteps(begin, end, pixels) {
    const edges = [];
    const bin = (end - begin) / pixels * 2;
    let last = begin;
    for (const t of [...line.cpu.time_ns, end]) {
        if (t <= begin || t < last + bin && t < end)
            continue;
        const upTo = Math.min(t, end);
        if (upTo > last)
            edges.push([last, upTo, (usedAt(upTo) - usedAt(last)) / (upTo - last)]);
        last = upTo;
        if (t >= end)
            break;
    }
    return edges;
}

function paintArea(one, kind, steps, most, base) {
    const height = one.height, top = 6, y = value => base - (base - top) * Math.min(value / most, 1);
    let path = '';
    for (const [begin, end, value] of steps)
        path += `${path ? 'L' : `M${x(begin).toFixed(1)} ${base}L`}${x(begin).toFixed(1)} ${y(value).toFixed(1)}H${x(end).toFixed(1)}`;
    if (path)
        path += `V${base}z`;
    one.svg.replaceChildren(
        ...one.ruled.map(t => draw('path', { class: 'grid', d: `M${x(t).toFixed(1)} 0v${height}` })),
        draw('path', { class: `area-${kind}`, d: path }));
}

const scale = (one, text) => { one.element.firstChild.lastChild.textContent = text; };

function paintCpu(one) {
    const steps = cpuSteps(from, to, width);
    const most = Math.max(1, Math.ceil(Math.max(0, ...steps.map(step => step[2])) - .05));
    paintArea(one, 'cpu', steps, most, 62);
    scale(one, `${most * 100} %`);
}

function memorySteps(values) {
    const times = line.memory.time_ns;
    return times.map((t, i) => [i ? t : 0, i + 1 < times.length ? times[i + 1] : total, values[i]])
        .filter(step => step[1] >= from && step[0] <= to);
}

function paintMemory(one) {
    const most = Math.max(1, ...line.memory.bytes);
    paintArea(one, 'memory', memorySteps(line.memory.bytes), most, 62);
    scale(one, size(most));
}

function paintConnections(one) {
    const most = Math.max(1, ...line.memory.connections);
    paintArea(one, 'connections', memorySteps(line.memory.connections), most, 40);
    scale(one, Math.max(0, ...line.memory.connections) ? count(most) : 'none');
}

function paintOverview() {
    const strip = $('overview'), wide = strip.clientWidth || width;
    const steps = cpuSteps(0, total, wide);
    const most = Math.max(1, ...steps.map(step => step[2]));
    let path = 'M0 34';
    for (const [begin, end, value] of steps)
        path += `L${(begin / total * wide).toFixed(1)} ${(33 - 28 * value / most).toFixed(1)}H${(end / total * wide).toFixed(1)}`;
    const svg = draw('svg', { width: '100%', height: 34, 'aria-hidden': 'true' });
    svg.append(draw('path', { class: 'area-cpu', d: `${path}V34z` }));
    for (const one of advice)
        svg.append(draw('circle', { class: one.fit ? 'dot' : 'dot unfit', r: 3.5, cy: 7, cx: (one.time_ns / total * wide).toFixed(1) }));
    strip.replaceChildren(svg, make('div', { class: 'window',
        style: `left:${from / total * 100}%;width:${(to - from) / total * 100}%` }));
}

function render() {
    width = Math.max(100, rows.ruler.svg.clientWidth || 1000);
    const { marks, step } = ruling();
    rows.ruler.svg.replaceChildren(...marks.flatMap(t => [
        draw('path', { class: 'grid', d: `M${x(t).toFixed(1)} 18v6` }),
        draw('text', { x: x(t).toFixed(1), y: 15, 'text-anchor': t === 0 || x(t) < 20 ? 'start' : x(t) > width - 24 ? 'end' : 'middle' }, mark(t, step))]));
    if (rows.flags)
        paintFlags();
    for (const one of rows.lanes)
        if (!one.element.hidden)
            paintLane(one, marks);
    for (const one of rows.curves) {
        one.ruled = marks;
        one.paint(one);
    }
    paintOver();
    paintOverview();
    if (chosen)
        choose(chosen);
}

/* ---- what is under the pointer ---- */

function nearestHit(lane, pixel) {
    let best = null, distance = 5;
    for (const hit of lane.hits) {
        const away = Math.abs(x(hit.time_ns) - pixel);
        if (away < distance || best && away === distance && advice.some(one => one.hit === hit)) {
            best = hit;
            distance = away;
        }
    }
    return best;
}

function tellLane(lane, ns, pixel) {
    const who = `${lane.comm} (${lane.tid})`;
    const hit = nearestHit(lane, pixel);
    if (hit)
        return [`${hit.function}#${hit.number}`, `called after ${time(hit.time_ns)}, ${percent(cpuShare(hit.cpu_ns))} of the CPU used`,
            hit.waited_ns ? `waited ${time(hit.waited_ns)}` : '', who, 'Click for its stack'];
    const index = lane.spans.findLastIndex(span => span[0] <= ns);
    if (index < 0)
        return [who, 'had not been seen yet'];
    const [begin, end, cpu, reason] = lane.spans[index];
    if (ns <= end || at(pixel + 1) - ns > end - begin && ns - end < at(pixel + 1) - ns)
        return [`runs: ${time(end - begin)}`, `on a processor for ${time(cpu)} of that`, `from ${time(begin)}`, who];
    if (rests[reason].kind === 'end')
        return [who, `ended after ${time(end)}`];
    const last = index + 1 === lane.spans.length;
    const until = last ? total : lane.spans[index + 1][0];
    return [restOf(reason, end, until).long, `${time(until - end)}${last ? ', up to the end' : ''}`, `from ${time(end)}`, who];
}

function sampleAt(values, ns) {
    const index = line.memory.time_ns.findLastIndex(t => t <= ns);
    return index < 0 ? values[0] || 0 : values[index];
}

function tellCurves(ns) {
    const around = Math.max(10e6, (to - from) / width * 2);
    const begin = Math.max(0, ns - around), end = Math.min(total, ns + around);
    return [time(ns), `CPU ${Math.round((usedAt(end) - usedAt(begin)) / (end - begin || 1) * 100)} % of one processor, ${time(usedAt(ns))} up to here`,
        line.memory.bytes.length ? `memory ${size(sampleAt(line.memory.bytes, ns))}` : '',
        `${plural(sampleAt(line.memory.connections, ns), 'connection')} open`];
}

function showTip(event, lines) {
    const tip = $('tip');
    tip.replaceChildren(make('b', {}, make('bdi', {}, lines[0])),
        ...lines.slice(1).filter(text => text).map(text => make('small', {}, make('bdi', {}, text))));
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(4, Math.min(event.clientX + 14, innerWidth - box.width - 8))}px`;
    tip.style.top = `${event.clientY + 18 + box.height > innerHeight ? event.clientY - box.height - 12 : event.clientY + 18}px`;
}

function hideTip() {
    $('tip').hidden = true;
    rows.cross.hidden = true;
}

function pixelOf(event) {
    return event.clientX - rows.ruler.svg.getBoundingClientRect().left;
}

function look(event) {
    const pixel = pixelOf(event);
    const pin = event.target.closest('.pin');
    if (pixel < 0 && !pin)
        return hideTip();
    const ns = Math.min(Math.max(at(pixel), 0), total);
    rows.cross.hidden = false;
    rows.cross.style.left = `${pixel}px`;
    const lane = rows.lanes.find(one => one.element.contains(event.target));
    showTip(event, pin ? pin.tip() : lane ? tellLane(lane.lane, ns, pixel) : tellCurves(ns));
}

/* ---- moving about ---- */

function listenToChart() {
    let grip = null;
    chart.addEventListener('pointerdown', event => {
        if (event.button || pixelOf(event) < 0 || event.target.closest('button'))
            return;
        grip = { pixel: pixelOf(event), from, to, moved: false };
        chart.setPointerCapture(event.pointerId);
    });
    chart.addEventListener('pointermove', event => {
        if (!grip)
            return look(event);
        const by = (grip.pixel - pixelOf(event)) / width * (grip.to - grip.from);
        grip.moved = grip.moved || Math.abs(grip.pixel - pixelOf(event)) > 3;
        if (!grip.moved)
            return;
        chart.classList.add('moving');
        hideTip();
        show(grip.from + by, grip.to + by);
    });
    chart.addEventListener('pointerup', event => {
        const moved = !grip || grip.moved;
        grip = null;
        chart.classList.remove('moving');
        if (moved)
            return;
        const under = document.elementFromPoint(event.clientX, event.clientY);
        const lane = rows.lanes.find(one => one.element.contains(under));
        const hit = lane && nearestHit(lane.lane, pixelOf(event));
        if (hit)
            showHit(hit);
    });
    chart.addEventListener('pointercancel', () => { grip = null; chart.classList.remove('moving'); });
    chart.addEventListener('pointerleave', hideTip);
    chart.addEventListener('dblclick', event => pixelOf(event) >= 0 && !event.target.closest('button') && zoom(.5, at(pixelOf(event))));
    chart.addEventListener('wheel', event => {
        if (event.ctrlKey || event.metaKey) {
            event.preventDefault();
            zoom(Math.exp(event.deltaY * .002), at(pixelOf(event)));
        } else if (Math.abs(event.deltaX) > Math.abs(event.deltaY) || event.shiftKey) {
            event.preventDefault();
            const by = (event.deltaX || event.deltaY) / width * (to - from);
            show(from + by, to + by);
        }
    }, { passive: false });
    chart.addEventListener('keydown', event => {
        const by = (to - from) * .2, middle = (from + to) / 2;
        const actions = {
            '+': () => zoom(.6, middle), '=': () => zoom(.6, middle), '-': () => zoom(1 / .6, middle),
            ArrowLeft: () => show(from - by, to - by), ArrowRight: () => show(from + by, to + by),
            0: () => show(0, total), 1: () => show(...startView()),
        };
        if (actions[event.key] && !event.ctrlKey && !event.metaKey && event.target === chart) {
            event.preventDefault();
            actions[event.key]();
        }
    });
}

function listenToOverview() {
    const strip = $('overview');
    let grip = null;
    strip.addEventListener('pointerdown', event => {
        const box = strip.getBoundingClientRect(), window = strip.querySelector('.window').getBoundingClientRect();
        const here = (event.clientX - box.left) / box.width * total;
        const inside = event.clientX >= window.left - 3 && event.clientX <= window.right + 3;
        const edge = Math.abs(event.clientX - window.left) < 7 ? 'from' : Math.abs(event.clientX - window.right) < 7 ? 'to' : 'all';
        grip = { edge: inside ? edge : 'all', at: here, from, to };
        if (!inside) {
            show(here - (to - from) / 2, here + (to - from) / 2);
            Object.assign(grip, { from, to });
        }
        strip.setPointerCapture(event.pointerId);
    });
    strip.addEventListener('pointermove', event => {
        if (!grip)
            return;
        const box = strip.getBoundingClientRect();
        const by = (event.clientX - box.left) / box.width * total - grip.at;
        if (grip.edge === 'from')
            show(Math.min(grip.from + by, grip.to - closest), grip.to);
        else if (grip.edge === 'to')
            show(grip.from, Math.max(grip.to + by, grip.from + closest));
        else
            show(grip.from + by, grip.to + by);
    });
    for (const name of ['pointerup', 'pointercancel'])
        strip.addEventListener(name, () => { grip = null; });
}

/* ---- the tables ---- */

function table(section, title, columns, list, open) {
    let order = columns.find(column => column.title === 'First') || null, down = false, filter = '';
    const body = make('tbody', {});
    const fill = () => {
        const kept = list.filter(item => String(columns[0].value(item)).toLowerCase().includes(filter));
        if (order)
            kept.sort((a, b) => {
                const one = order.value(a), other = order.value(b);
                return (one < other ? -1 : one > other ? 1 : 0) * (down ? -1 : 1);
            });
        body.replaceChildren(...kept.map(item => make('tr', open ? { class: 'opens', onclick: () => open(item) } : {},
            ...columns.map((column, index) => make('td', index ? {} : { class: 'name', title: String(column.value(item)) },
                column.show ? column.show(item) : String(column.value(item)))))));
    };
    const heads = columns.map(column => make('th', { scope: 'col', 'aria-sort': column === order && 'ascending' }, make('button', { onclick: () => {
        down = order === column ? !down : column !== columns[0];
        order = column;
        for (const head of heads)
            head.removeAttribute('aria-sort');
        heads[columns.indexOf(column)].setAttribute('aria-sort', down ? 'descending' : 'ascending');
        fill();
    } }, column.title)));
    const search = make('input', { type: 'search', placeholder: 'Filter', 'aria-label': `Filter: ${title}`,
        oninput: event => { filter = event.target.value.toLowerCase(); fill(); } });
    section.append(make('div', { class: 'bar' }, make('h2', {}, title), list.length > 3 ? search : null),
        make('div', { class: 'scroll' }, make('table', {}, make('thead', {}, make('tr', {}, ...heads)), body)));
    fill();
}

function amount(list, of) {
    const most = Math.max(1, ...list.map(of));
    return item => make('span', {}, make('span', { class: 'amount' }, make('i', { style: `width:${of(item) / most * 100}%` })), time(of(item)));
}

function showTables() {
    const times = [
        { title: 'First', value: item => item.first_ns, show: item => time(item.first_ns) },
        { title: 'Last', value: item => item.last_ns, show: item => time(item.last_ns) },
    ];
    const counts = [
        { title: 'Calls', value: item => item.calls, show: item => count(item.calls) },
        { title: 'Threads', value: item => item.threads, show: item => count(item.threads) },
    ];
    const waited = list => ({ title: 'Waited', value: item => item.waited_ns, show: amount(list, item => item.waited_ns) });
    if (data.functions.length)
        table($('functions'), 'Functions', [{ title: 'Function', value: item => item.function }, ...counts, ...times,
            { title: 'CPU at first', value: item => item.first_cpu_ns, show: item => percent(cpuShare(item.first_cpu_ns)) },
            { title: 'at last', value: item => item.last_cpu_ns, show: item => percent(cpuShare(item.last_cpu_ns)) },
            waited(data.functions)], data.functions,
        item => {
            const hit = hits.find(one => one.function === item.function);
            if (hit)
                showHit(hit);
        });
    $('functions').hidden = !data.functions.length;
    if (data.system_calls.length)
        table($('calls'), 'System calls that wait', [{ title: 'Call', value: item => item.call }, ...counts, ...times,
            waited(data.system_calls)], data.system_calls);
    $('calls').hidden = !data.system_calls.length;
    const event = (title, key, none) => ({ title, value: item => item[key], show: item => item[key] ? time(item[key]) : none });
    table($('processes'), 'Processes', [{ title: 'Process', value: item => item.comm }, { title: 'Number', value: item => item.pid },
        { title: 'Threads', value: item => lanes.filter(lane => lane.pid === item.pid).length },
        { title: 'CPU', value: cpuOf, show: item => time(cpuOf(item)) },
        event('Forked', 'forked_ns', '\u2013'), event('Executed', 'executed_ns', '\u2013'), event('Ended', 'ended_ns', 'lives')],
    data.processes);
}

const cpuOf = process => lanes.filter(lane => lane.pid === process.pid).reduce((sum, lane) => sum + lane.cpu_ns, 0);

/* ---- what all of it is worth ---- */

function showNotes() {
    const coarse = lanes.filter(lane => lane.finest_rest_ns > 1e6);
    const notes = [
        'Runs and waits are the kernel\u2019s scheduler\u2019s own: each wait of 1 ms or more is there; shorter ones are part of the run around them, which is pale where the thread was on a processor for less than half of it.',
        'A wait lasts until the thread is on a processor again.',
        'CPU, memory and connections are samples: a peak between two of them is not seen.',
        'Function calls are counted exactly, by breakpoints in the C library. A tick stands for a single call: the first 64 of a function in each process, and those that waited for 20 ms or more. Where ticks would touch, one stands for all.',
        'Stacks are of the first four calls of a function in each process, and of the points that are advised.',
        'The start-up is over where all threads wait for 200 ms. What was watched was a little slower for it.',
    ];
    if (coarse.length)
        notes.push(`Too much happened in ${plural(coarse.length, 'thread')} for each wait to be kept: in ${coarse.slice(0, 4).map(lane => `${lane.comm} (${lane.tid})`).join(', ')}${coarse.length > 4 ? ' \u2026' : ''} those shorter than ${time(Math.max(...coarse.map(lane => lane.finest_rest_ns)))} are part of runs.`);
    if (line.held.length)
        notes.push(`Hatched: ${plural(line.held.length, 'time')} it was held still by freezepoint, ${time(line.held.reduce((sum, [begin, end]) => sum + end - begin, 0))} in all, while new processes got their breakpoints. Without that it would be as much faster.`);
    if (data.left_out_stacks || data.lost_stacks)
        notes.push(`${plural(data.left_out_stacks + data.lost_stacks, 'further stack')} found no room or time.`);
    if (!data.program)
        notes.push('Threads that slept the whole time have no lane: it was running already.');
    const doubts = listDoubts();
    notes.push(doubts.length ? doubts.join(' ') : 'No event was lost.');
    $('notes').append(make('h2', {}, 'How to read this'), make('ul', {}, ...notes.map(text => make('li', {}, make('bdi', {}, text)))),
        make('p', { class: 'hint' }, `freezepoint ${data.freezepoint_version}, ${plural(data.processors, 'processor')}`));
}

function showLegend() {
    const used = new Set(lanes.flatMap(lane => lane.spans.map((span, i) =>
        restOf(span[3], span[1], i + 1 < lane.spans.length ? lane.spans[i + 1][0] : total).kind)));
    const entry = (kind, text) => make('span', {}, make('i', { class: kind }), text);
    $('legend').append(entry('run', 'runs'),
        ...Object.entries(kinds).filter(([kind]) => used.has(kind)).map(([kind, [text]]) => entry(kind, text)),
        ...(used.has('other') ? [entry('other', 'waits in another call')] : []),
        ...(used.has('ready') ? [entry('ready', 'could run, others do')] : []),
        ...(used.has('held') ? [entry('held', 'held still by freezepoint')] : []),
        ...(used.has('kernel') ? [entry('kernel', 'asleep in no call')] : []),
        ...(hits.length ? [entry('tick', 'a function is called')] : []));
}

/* ---- all of it ---- */

showHead();
showAdvice();
showLegend();
showTables();
showNotes();
buildChart(false);
[from, to] = startView();
listenToChart();
listenToOverview();
$('zoom-in').addEventListener('click', () => zoom(.5, (from + to) / 2));
$('zoom-out').addEventListener('click', () => zoom(2, (from + to) / 2));
$('zoom-start').addEventListener('click', () => show(...startView()));
$('zoom-all').addEventListener('click', () => show(0, total));
$('zoom-start').hidden = !started || startView()[1] === total;
document.addEventListener('keydown', event => event.key === 'Escape' && hideDetails());
new ResizeObserver(request).observe($('timeline'));
/* Paper has its own width, which is not known while it is drawn for it. */
for (const [name, wide] of [['beforeprint', '1000px'], ['afterprint', '']])
    addEventListener(name, () => {
        $('timeline').style.width = wide;
        render();
    });
render();
document.body.dataset.ready = 'yes';
})();
