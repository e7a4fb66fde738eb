// A consumer of Kafka on npm's kafkajs, which speaks to brokers with code of its own.
'use strict';

const { Kafka, logLevel } = require('kafkajs');
const { serve } = require('./console');

const text = (value) => (value === null || value === undefined ? null : value.toString());

// Reads so many messages of a topic from its beginning.
async function read(fields) {
  const kafka = new Kafka({ clientId: 'reader', brokers: fields.brokers.split(','), logLevel: logLevel.NOTHING });
  const consumer = kafka.consumer({ groupId: `readers-${Date.now()}` });
  await consumer.connect();
  await consumer.subscribe({ topics: [fields.topic], fromBeginning: true });
  const found = [];
  await new Promise((resolve) => {
    consumer.run({
      eachMessage: async ({ partition, message }) => {
        const headers = Object.fromEntries(Object.entries(message.headers).map(([name, value]) => [name, Array.isArray(value) ? value.map(text) : text(value)]));
        found.push({ partition, offset: Number(message.offset), key: text(message.key), payload: text(message.value), headers });
        if (found.length === Number(fields.count)) resolve();
      },
    });
  });
  await consumer.disconnect();
  return found;
}

serve({ read });
