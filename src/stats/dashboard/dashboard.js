// Asks the endpoint every second and shows what it says. Names come from peers, so they only ever become text.
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

// columns: [heading, value of a row, is it a number]; a value may be {text, bad}.
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
    for (const [, value, numeric] of columns) {
      const cell = line.insertCell();
      const shown = value(row);
      cell.textContent = shown && shown.text !== undefined ? shown.text : shown;
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
  byId('bytes').textContent = bytes(stats.bytes_in) + ' / ' + bytes(stats.bytes_out);
  byId('uptime').textContent = duration(stats.uptime_seconds);
  byId('clients-section').hidden = stats.role !== 'server';
  table('clients', stats.clients, [
    ['Name', (client) => client.name],
    ['Token', (client) => client.token],
    ['Connected for', (client) => duration(client.connected_seconds)],
    ['Tunnels', (client) => client.tunnels, true],
    ['Proxies', (client) => client.proxies, true],
    ...flow,
  ], 'no client is connected');
  table('proxies', stats.proxies, [
    ['Name', (proxy) => proxy.name],
    ['Client', (proxy) => proxy.client],
    ['Port', (proxy) => (proxy.bind ? proxy.bind + ' ' : '') + proxy.port],
    ['Leads to', (proxy) => proxy.local_addr || ''],
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
  const x = (age) => width - 4 - age / history.span_seconds * (width - left - 4);
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
  for (const minutes of [45, 30, 15]) pen.fillText('-' + minutes + ' min', x(minutes * 60), height - 3);
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

async function get(path) {
  const token = sessionStorage.getItem('token');
  const answer = await fetch(path, { headers: token ? { Authorization: 'Bearer ' + token } : {}, cache: 'no-store' });
  if (answer.status === 401) throw new Error('token');
  if (!answer.ok) throw new Error('the daemon answers ' + answer.status);
  return answer.json();
}

let beats = 0;
async function refresh() {
  const state = byId('state');
  try {
    const stats = await get('/stats');
    byId('login').hidden = true;
    byId('content').hidden = false;
    show(stats);
    if (beats++ % 5 === 0) plot(await get('/api/history'));
    state.textContent = '';
    state.className = '';
  } catch (error) {
    const wanted = error.message === 'token';
    byId('login').hidden = !wanted;
    if (wanted) byId('content').hidden = true;
    state.textContent = wanted ? 'a token is needed' : 'no answer from the daemon (' + error.message + '); the figures are old';
    state.className = 'bad';
    if (wanted) return;  // the form begins anew
  }
  setTimeout(refresh, 1000);
}

byId('login').addEventListener('submit', (event) => {
  event.preventDefault();
  sessionStorage.setItem('token', byId('token').value);
  beats = 0;
  refresh();
});
window.addEventListener('resize', () => { beats = 0; });
refresh();
