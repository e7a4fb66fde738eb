// Clients of MQTT on npm's mqtt, over TCP, TLS and WebSocket, and the packets of npm's mqtt-packet, driven by console.js.
'use strict';

const fs = require('fs');
const { createRequire } = require('module');
const mqtt = require('mqtt');
const { serve } = require('./console');

const clients = new Map();

const json = (text) => (text ? JSON.parse(text) : undefined);

// Connects once; what came of it is the answer.
function connect(fields) {
  const options = {
    protocolVersion: Number(fields.version || 4),
    protocolId: fields.version === '3' ? 'MQIsdp' : 'MQTT',
    clientId: fields.id || '',
    clean: fields.clean !== 'false',
    keepalive: Number(fields.keepalive || 60),
    reconnectPeriod: 0,
    connectTimeout: 20000,
    username: fields.username,
    password: fields.password,
    will: json(fields.will),
    properties: json(fields.properties),
    ca: fields.ca ? fs.readFileSync(fields.ca) : undefined,
    cert: fields.cert ? fs.readFileSync(fields.cert) : undefined,
    key: fields.key ? fs.readFileSync(fields.key) : undefined,
    servername: fields.servername,
    resubscribe: false,
  };
  const client = mqtt.connect(fields.url, options);
  const own = { client, heard: [], waiting: [], closed: null, goodbye: null };
  clients.set(fields.name, own);
  client.on('message', (topic, payload, packet) => {
    const properties = packet.properties && {
      ...packet.properties,
      correlationData: packet.properties.correlationData && packet.properties.correlationData.toString(),
    };
    const { qos, retain, dup } = packet;
    own.heard.push({ topic, payload: payload.length > 200 ? payload.length : payload.toString(), qos, retain, dup, properties });
    own.waiting.forEach((wake) => wake());
  });
  client.on('disconnect', (packet) => { own.goodbye = packet; });
  client.on('close', () => { own.closed = true; own.waiting.forEach((wake) => wake()); });
  return new Promise((resolve, reject) => {
    let failed = null;
    client.once('connect', (packet) => {
      resolve({ present: packet.sessionPresent, properties: packet.properties || {} });
    });
    client.on('error', (error) => { failed = failed || error; });
    client.once('close', () => {
      const error = failed || new Error('closed before CONNACK');
      reject(Object.assign(error, { message: `${error.code || ''} ${error.message}` }));
    });
  });
}

async function subscribe(fields) {
  const { client } = clients.get(fields.name);
  const each = { qos: Number(fields.qos || 0), ...json(fields.options) };
  const filters = Object.fromEntries(fields.filters.split(' ').map((filter) => [filter, each]));
  return new Promise((resolve, reject) => {
    client.subscribe(filters, { properties: json(fields.properties) }, (error, granted, packet) => {
      if (packet) resolve(packet.granted);
      else reject(error);
    });
  });
}

async function unsubscribe(fields) {
  await clients.get(fields.name).client.unsubscribeAsync(fields.filter);
  return true;
}

async function publish(fields) {
  const { client } = clients.get(fields.name);
  const payload = fields.size ? Buffer.alloc(Number(fields.size), 'x') : fields.payload || '';
  const options = { qos: Number(fields.qos || 0), retain: fields.retain === 'true', properties: json(fields.properties) };
  if (options.properties && options.properties.correlationData) {
    options.properties.correlationData = Buffer.from(options.properties.correlationData);
  }
  const count = Number(fields.count || 1);
  const sent = [];
  for (let n = 0; n < count; n += 1) {
    const text = count > 1 ? `${payload}${n}` : payload;
    sent.push(client.publishAsync(fields.topic, text, options));
  }
  const packets = await Promise.all(sent);
  return packets.map((packet) => (packet && packet.reasonCode) || 0);
}

// Waits for so many messages, and says what came.
async function heard(fields) {
  const own = clients.get(fields.name);
  while (own.heard.length < Number(fields.count) && !own.closed) {
    await new Promise((resolve) => own.waiting.push(resolve));
  }
  return own.heard.splice(0);
}

async function closed(fields) {
  const own = clients.get(fields.name);
  while (!own.closed) await new Promise((resolve) => own.waiting.push(resolve));
  return own.goodbye && { reason: own.goodbye.reasonCode, properties: own.goodbye.properties };
}

async function end(fields) {
  const own = clients.get(fields.name);
  if (fields.force === 'true') own.client.stream.destroy();
  else await own.client.endAsync(false, { properties: json(fields.properties) });
  return true;
}

// The packets in mqtt-packet's own tests: found by running them with what would test them replaced. Those
// longer than any limit of ours are left out.
function vectors() {
  const file = require.resolve('mqtt-packet/test.js');
  const found = { good: [], bad: [] };
  const keep = (list, name, bytes, options) => {
    if (bytes.length > 100000) return;
    list.push({ name, level: (options && options.protocolVersion) || 4, bytes: Buffer.from(bytes).toString('hex') });
  };
  const good = (name, object, bytes, options) => keep(found.good, name, bytes, options);
  const replaced = {
    testParseGenerate: good,
    testParseOnly: good,
    testParseAndGenerate: good,
    testParseGenerateDefaults: good,
    testParseError: (expected, bytes, options) => keep(found.bad, expected, bytes, options),
  };
  const names = Object.keys(replaced).join('|');
  const text = fs.readFileSync(file, 'utf8').replace(new RegExp(`^function (${names}) `, 'gm'), 'function unused_$1 ');
  const own = createRequire(file);
  const need = (id) => (id === 'tape' ? () => {} : own(id));
  new Function('require', ...Object.keys(replaced), text)(need, ...Object.values(replaced));
  return found;
}

serve({ connect, subscribe, unsubscribe, publish, heard, closed, end, vectors });
