// Listens to the daemon's events and shows what they say. Names come from peers, so they only ever become text.
'use strict';

const byId = (id) => document.getElementById(id);
const number = (value, digits = 0) => value.toLocaleString('en', { minimumFractionDigits: digits, maximumFractionDigits: digits });

function rate(mbps) {
  return number(mbps, mbps < 10 ? 2 : mbps < 100 ? 1 : 0);
}
function bytes(count) {
  const units = ['B', 'kB', 'MB', 'GB', 'TB', 'PB'];
  let unit = 0;
  while (count >= 1000 && unit < units.length - 1) { count /= 1000; ++unit; }
  return number(count, unit === 0 || count >= 100 ? 0 : 1) + ' ' + units[unit];
}
function duration(seconds) {
  const parts = [[86400, 'd'], [3600, 'h'], [60, 'min'], [1, 's']];
  const first = Math.max(parts.findIndex(([size]) => seconds >= size), 0);
  const shown = seconds < 1 ? 3 : first;
  const text = [Math.floor(seconds / parts[shown][0]) + ' ' + parts[shown][1]];
  if (shown + 1 < parts.length) {
    const rest = Math.floor(seconds % parts[shown][0] / parts[shown + 1][0]);
    if (rest > 0) text.push(rest + ' ' + parts[shown + 1][1]);
  }
  return text.join(' ');
}

// columns: [heading, value of a row, is it a number]; a value may be {text, bad}, or an element.
function table(id, rows, columns, empty) {
  const body = document.createElement('tbody');
  const head = body.insertRow();
  for (const [heading, , numeric] of columns) {
    const cell = document.createElement('th');
    cell.scope = 'col';
    cell.textContent = heading;
    if (numeric) cell.className = 'number';
    head.append(cell);
  }
  for (const row of rows) {
    const line = body.insertRow();
    for (const [heading, value, numeric] of columns) {
      const cell = line.insertCell();
      cell.dataset.label = heading;
      const shown = value(row);
      if (shown instanceof Element) cell.append(shown);
      else cell.textContent = shown && shown.text !== undefined ? shown.text : shown;
      cell.className = (numeric ? 'number ' : '') + (shown && shown.bad ? 'bad' : '');
    }
  }
  if (rows.length === 0) {
    const cell = body.insertRow().insertCell();
    cell.colSpan = columns.length;
    cell.textContent = empty;
  }
  byId(id).replaceChildren(body);
}

// A button that asks once more before it acts. The tables are made anew every second, so what was pressed is kept here.
const pressed = new Map();
function closer(path, body) {
  const key = path + JSON.stringify(body);
  const sure = pressed.get(key) > Date.now();
  const button = document.createElement('button');
  button.type = 'button';
  button.textContent = sure ? 'Sure?' : 'Close';
  button.className = sure ? 'sure' : '';
  button.addEventListener('click', async () => {
    if (!(pressed.get(key) > Date.now())) {
      pressed.set(key, Date.now() + 4000);
      button.textContent = 'Sure?';
      button.className = 'sure';
      return;
    }
    pressed.delete(key);
    const answer = await fetch(path, { method: 'POST', headers: { ...bearer(), 'Content-Type': 'application/json' }, body: JSON.stringify(body) });
    if (answer.ok || answer.status === 404) button.remove();
    else say('not closed: ' + (await answer.text()).trim());
  });
  return button;
}
// Closing needs the token, from loopback as well.
const closing = (path, body) => (sessionStorage.getItem('token') ? [['', (row) => closer(path, body(row))]] : []);

const flow = [
  ['Now', (row) => number(row.active_connections), true],
  ['In all', (row) => number(row.total_connections), true],
  ['In', (row) => bytes(row.bytes_in), true],
  ['Out', (row) => bytes(row.bytes_out), true],
];

function show(stats) {
  byId('role').textContent = stats.role + ' ' + stats.version + (stats.server ? ' to ' + stats.server : '');
  byId('in').textContent = rate(stats.bandwidth.in_mbps);
  byId('out').textContent = rate(stats.bandwidth.out_mbps);
  byId('active').textContent = number(stats.active_connections);
  byId('total').textContent = number(stats.total_connections);
  byId('bytes-in').textContent = bytes(stats.bytes_in);
  byId('bytes-out').textContent = bytes(stats.bytes_out);
  byId('uptime').textContent = duration(stats.uptime_seconds);
  byId('clients-section').hidden = stats.role !== 'server';
  table('clients', stats.clients, [
    ['Name', (client) => client.name],
    ['Token', (client) => client.token],
    ['Connected for', (client) => duration(client.connected_seconds)],
    ['Tunnels', (client) => client.tunnels, true],
    ['Proxies', (client) => client.proxies, true],
    ...flow,
    ...closing('/api/clients/close', (client) => ({ instance: client.instance })),
  ], 'no client is connected');
  table('proxies', stats.proxies, [
    ['Name', (proxy) => proxy.name],
    ['Client', (proxy) => proxy.client],
    ['Port', (proxy) => (proxy.bind ? proxy.bind + ' ' : '') + proxy.port],
    ...(stats.role === 'client' ? [['Leads to', (proxy) => proxy.local_addr]] : []),
    ['State', (proxy) => ({ text: proxy.open ? 'open' : proxy.problem || 'not open', bad: !proxy.open })],
    ...flow,
  ], 'no proxy is registered');
  table('tunnels', stats.tunnels, [
    ['Client', (tunnel) => tunnel.client],
    ['Other end', (tunnel) => tunnel.address],
    ['For', (tunnel) => duration(tunnel.connected_seconds)],
    ['Travels by', (tunnel) => [tunnel.transport, tunnel.cipher, tunnel.mux].filter(Boolean).join(', ')],
    ['Congestion', (tunnel) => tunnel.congestion + (tunnel.target_mbps ? ', target ' + rate(tunnel.target_mbps) + ' Mbit/s' : '')],
    ['RTT', (tunnel) => tunnel.rtt_ms ? number(tunnel.rtt_ms, 1) + ' ms' : '', true],
    ['Sent again', (tunnel) => tunnel.wire_bytes_out ? number(100 * tunnel.retransmitted_bytes / tunnel.wire_bytes_out, 2) + ' %' : '', true],
    ['Connections', (tunnel) => number(tunnel.active_connections), true],
  ], 'no tunnel is up');
}

function showConnections({ connections, left_out }, role) {
  const shown = connections.slice(0, 200);
  const more = connections.length - shown.length + left_out;
  byId('left-out').textContent = more > 0 ? 'the newest ' + shown.length + ', ' + number(more) + ' more' : '';
  table('connections', shown, [
    ['User', (connection) => connection.user],
    ...(role === 'server' ? [['Client', (connection) => connection.client]] : []),
    ['Proxy', (connection) => connection.proxy],
    ['Port', (connection) => connection.port, true],
    ...(role === 'client' ? [['Leads to', (connection) => connection.local_addr]] : []),
    ['For', (connection) => duration(connection.seconds)],
    ['In', (connection) => bytes(connection.bytes_in), true],
    ['Out', (connection) => bytes(connection.bytes_out), true],
    ...closing('/api/connections/close', (connection) => ({ connection: connection.connection })),
  ], 'no user is connected');
}

function showTroubles(troubles) {
  table('troubles', troubles.slice().reverse(), [
    ['When', (trouble) => new Date(trouble.time_ms).toLocaleTimeString()],
    ['', (trouble) => ({ text: trouble.level, bad: trouble.level === 'error' })],
    ['What', (trouble) => trouble.text],
  ], 'none');
}

function plot(history) {
  const canvas = byId('plot');
  const scale = window.devicePixelRatio || 1;
  const width = canvas.clientWidth, height = canvas.clientHeight;
  canvas.width = width * scale;
  canvas.height = height * scale;
  const pen = canvas.getContext('2d');
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name);
  pen.scale(scale, scale);
  const highest = Math.max(1, ...history.in_mbps, ...history.out_mbps);
  const step = 10 ** Math.floor(Math.log10(highest));
  const top = Math.ceil(highest / step) * step;
  const left = 44, bottom = height - 18;
  // As much of the hour as there is.
  const known = history.in_mbps.length * history.step_seconds;
  const span = [300, 900, 1800].find((seconds) => known <= seconds) || history.span_seconds;
  const x = (age) => width - 4 - age / span * (width - left - 4);
  const y = (mbps) => bottom - mbps / top * (bottom - 8);
  pen.font = '11px system-ui, sans-serif';
  pen.fillStyle = colour('--weak');
  pen.strokeStyle = colour('--line');
  pen.textAlign = 'right';
  for (const part of [0, .5, 1]) {
    pen.fillText(number(top * part, top * part % 1 ? 1 : 0), left - 6, y(top * part) + 4);
    pen.beginPath();
    pen.moveTo(left, y(top * part));
    pen.lineTo(width - 4, y(top * part));
    pen.stroke();
  }
  pen.textAlign = 'center';
  for (const part of [.8, .6, .4, .2]) pen.fillText('-' + span * part / 60 + ' min', x(span * part), height - 3);
  pen.lineWidth = 1.6;
  pen.lineJoin = 'round';
  for (const [values, name] of [[history.in_mbps, '--in'], [history.out_mbps, '--out']]) {
    pen.strokeStyle = colour(name);
    pen.beginPath();
    values.forEach((value, i) => {
      const age = (values.length - 1 - i) * history.step_seconds;
      if (i === 0) pen.moveTo(x(age), y(value));
      else pen.lineTo(x(age), y(value));
    });
    pen.stroke();
  }
}

function say(text) {
  byId('state').textContent = text;
  byId('state').className = text ? 'bad' : '';
}
function bearer() {
  const token = sessionStorage.getItem('token');
  return token ? { Authorization: 'Bearer ' + token } : {};
}
async function ask(path, signal) {
  const answer = await fetch(path, { headers: bearer(), cache: 'no-store', signal });
  if (answer.status === 401) throw new Error('token');
  if (!answer.ok) throw new Error('the daemon answers ' + answer.status);
  return answer;
}

let traffic;
function showEvent(event) {
  byId('content').hidden = false;
  byId('sign').hidden = false;
  byId('sign').textContent = sessionStorage.getItem('token') ? 'Sign out' : 'Sign in';
  show(event.stats);
  showConnections(event, event.stats.role);
  showTroubles(event.troubles);
  say('');
}

// Server-sent events by fetch: an EventSource can't send the token in a header. Without a sound for 10 s it begins anew.
let listening;
async function listen() {
  listening?.abort();
  const mine = listening = new AbortController();
  let alarm;
  const heard = () => {
    clearTimeout(alarm);
    alarm = setTimeout(() => mine.abort(), 10000);
  };
  try {
    heard();
    const answer = await ask('/api/events', mine.signal);
    traffic = await (await ask('/api/history', mine.signal)).json();
    byId('login').hidden = true;
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = '', events = 0;
    for (;;) {
      const { value, done } = await reader.read();
      if (done) throw new Error('it ended the connection');
      heard();
      text += value;
      for (let end = text.indexOf('\n\n'); end >= 0; end = text.indexOf('\n\n')) {
        const event = text.slice(0, end);
        text = text.slice(end + 2);
        if (!event.startsWith('data: ')) continue;
        showEvent(JSON.parse(event.slice(6)));
        if (++events % 5 === 0) traffic = await (await ask('/api/history', mine.signal)).json();
        plot(traffic);
      }
    }
  } catch (error) {
    if (listening !== mine) return;  // begun anew elsewhere
    if (error.message === 'token') {
      byId('login').hidden = false;
      byId('content').hidden = true;
      byId('sign').hidden = true;
      say(sessionStorage.getItem('token') ? 'this token is not the right one' : 'a token is needed');
      return;  // the form begins anew
    }
    say('no answer from the daemon (' + error.message + '); the figures are old');
    setTimeout(() => { if (listening === mine) listen(); }, 1000);
  } finally {
    clearTimeout(alarm);
  }
}

byId('login').addEventListener('submit', (event) => {
  event.preventDefault();
  sessionStorage.setItem('token', byId('token').value);
  byId('token').value = '';
  listen();
});
byId('sign').addEventListener('click', () => {
  if (sessionStorage.getItem('token')) {
    sessionStorage.removeItem('token');
    listen();
  } else {
    byId('login').hidden = !byId('login').hidden;
  }
});
window.addEventListener('resize', () => { if (traffic) plot(traffic); });
listen();
