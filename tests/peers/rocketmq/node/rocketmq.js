// RocketMQ's client for Node.js, npm's ali-ons, driven by console.js with the commands of the one for Java.
'use strict';

const { createHash } = require('crypto');
const httpclient = require('urllib');
const { Consumer, Message, Producer } = require('ali-ons');
const { serve } = require('./console');

const clients = new Map();
const noise = () => {};
// What it logs is told by its answers.
const logger = { debug: noise, info: noise, warn: noise, error: noise };

const hash = (body) => createHash('sha256').update(body).digest('hex').slice(0, 16);

function body(key, size) {
  const text = Buffer.from(`body of ${key} `);
  return size ? Buffer.alloc(Number(size), text) : text;
}

function options(fields) {
  return {
    httpclient,
    logger,
    nameSrv: fields.names.split(';'),
    instanceName: `${fields.name}@${process.hrtime.bigint()}`,
    pollNameServerInteval: Number(fields.poll || 30000),
    heartbeatBrokerInterval: Number(fields.heartbeat || 30000),
    accessKeyId: fields.access,
    accessKeySecret: fields.secret,
    onsChannel: fields.access && 'CLOUD',
  };
}

async function producer(fields) {
  const began = Date.now();
  const client = new Producer({ ...options(fields), producerGroup: fields.group });
  client.on('error', noise);
  clients.set(fields.name, { client });
  await client.ready();
  return Date.now() - began;
}

// The properties that an application set: the system's own begin with a capital or a line.
const own = (all) => Object.fromEntries(Object.entries(all).filter(([name]) => /^[a-z]/.test(name)));

async function consumer(fields) {
  const began = Date.now();
  const client = new Consumer({
    ...options(fields),
    consumerGroup: fields.group,
    consumeFromWhere: 'CONSUME_FROM_FIRST_OFFSET',
    isBroadcast: fields.broadcasting === 'true',
  });
  const heard = [];
  const state = { client, heard, waiting: [] };
  clients.set(fields.name, state);
  client.on('error', noise);
  const expression = fields.sql ? { expressionType: 'SQL92', subString: fields.sql } : fields.tags || '*';
  client.subscribe(fields.topic, expression, async (message) => {
    heard.push({
      key: message.keys,
      topic: message.topic,
      tag: message.tags === undefined ? null : message.tags,
      hash: hash(message.body),
      size: message.body.length,
      queue: message.queueId,
      offset: Number(message.queueOffset),
      tries: message.reconsumeTimes,
      id: message.msgId,
      properties: own(message.properties),
      born: Number(message.bornTimestamp),
      at: Date.now(),
      ms: Date.now() - began,
    });
    state.waiting.forEach((wake) => wake());
    return message.reconsumeTimes < Number(fields.fail || 0) ? Consumer.ACTION_RETRY : undefined;
  });
  await client.ready();
  return Date.now() - began;
}

async function send(fields) {
  const { client } = clients.get(fields.name);
  const results = [];
  for (let n = 0; n < Number(fields.count || 1); n += 1) {
    const key = `${fields.key || 'k'}${n}`;
    const message = new Message(fields.topic, fields.tag || '', body(key, fields.size));
    message.keys = [key];
    if (fields.delay) message.delayTimeLevel = Number(fields.delay);
    for (const [name, value] of Object.entries(fields)) {
      if (name.startsWith('@')) message.properties[name.slice(1)] = value;
    }
    const result = { key, hash: hash(message.body) };
    const began = Date.now();
    try {
      const sent = await client.send(message, fields.order);
      const { messageQueue, msgId } = sent;
      Object.assign(result, {
        status: sent.sendStatus, queue: messageQueue.queueId, broker: messageQueue.brokerName, offset: Number(sent.queueOffset), id: msgId,
      });
    } catch (error) {
      result.error = { class: error.name, message: error.message, code: error.code };
    }
    results.push({ ...result, ms: Date.now() - began });
  }
  return results;
}

// Waits for so many messages, but no longer than this, and takes what there is.
async function received(fields) {
  const state = clients.get(fields.name);
  const end = Date.now() + Number(fields.wait || 30000);
  while (state.heard.length < Number(fields.count) && Date.now() < end) {
    await new Promise((resolve) => {
      const timer = setTimeout(resolve, end - Date.now());
      state.waiting.push(() => { clearTimeout(timer); resolve(); });
    });
    state.waiting = [];
  }
  return state.heard.splice(0);
}

async function close(fields) {
  const { client } = clients.get(fields.name);
  clients.delete(fields.name);
  await client.close();
  return true;
}

serve({ producer, consumer, send, received, close });
