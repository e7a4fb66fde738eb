// Provider and consumer of SOFA-RPC and Dubbo on the npm libraries, driven over standard input.
//
// A command is one line of fields parted by tabs: an id, an operation and key=value pairs. Each is
// answered with one line of JSON, in any order. The process ends with its input.
'use strict';

const readline = require('readline');
const { RpcServer } = require('sofa-rpc-node').server;
const { RpcClient } = require('sofa-rpc-node').client;
const { ZookeeperRegistry } = require('sofa-rpc-node').registry;
const bolt = require('sofa-bolt-node');
const dubbo = require('dubbo-remoting');

const write = (level) => (...args) => process.stderr.write(`${level} ${require('util').format(...args)}\n`);
const logger = { info: () => {}, debug: () => {}, log: () => {}, warn: write('warn'), error: write('error') };

// The second version of Bolt with a checksum, which the library can speak but offers no option for.
const bolt2 = Object.assign({}, bolt, {
  encoder(options) {
    const encoder = bolt.encoder(options);
    encoder.protocolType = 'bolt2';
    encoder.boltVersion = 2;
    encoder.crcEnable = true;
    return encoder;
  },
});
const protocols = { bolt, bolt2, dubbo };

const sleep = (millis) => new Promise((resolve) => setTimeout(resolve, millis));

const registries = new Map();

async function registry(fields) {
  const address = fields.protocol === 'dubbo' ? `${fields.registry}/${fields.root || 'dubbo'}` : fields.registry;
  if (!registries.has(address)) registries.set(address, new ZookeeperRegistry({ logger, address }));
  const found = registries.get(address);
  await found.ready();
  return found;
}

function greeter(name) {
  let noted = '';
  return {
    async sayHello(to) { return `hello ${to} from ${name}`; },
    async echo(order) { return order; },
    async add(left, right) { return left + right; },
    async note(text) { noted = text; return true; },
    async noted() { return noted; },
    async fail(why) { throw new Error(why); },
    async sleep(millis) { await sleep(millis); return `slept ${millis}`; },
    async large(length) { return 'x'.repeat(length); },
    async measure(text) { return text.length; },
    async who() { return name; },
  };
}

const servers = new Map();

async function serve(fields) {
  const server = new RpcServer({
    logger,
    registry: fields.registry ? await registry(fields) : undefined,
    port: Number(fields.port),
    publishAddress: fields.host || '127.0.0.1',
    protocol: protocols[fields.protocol],
  });
  server.on('error', (error) => logger.error(error));
  const version = fields.protocol === 'dubbo' ? fields.version || '' : '1.0';
  server.addService({ interfaceName: fields.interface, version, group: fields.group || '' }, greeter(fields.name));
  await server.start();
  await server.publish();
  servers.set(fields.name, server);
  return `exported ${fields.name}`;
}

// Announces somebody else's address, for consumers that only find services in a registry.
async function announce(fields) {
  const query = `interface=${fields.interface}&version=${fields.version}&group=${fields.group || ''}&dubbo=2.0.2`;
  const url = `dubbo://${fields.address}/${fields.interface}?${query}`;
  await (await registry(fields)).register({ interfaceName: fields.interface, version: fields.version, url });
  return null;
}

const consumers = new Map();

async function consumer(fields) {
  const key = [ fields.protocol, fields.address, fields.registry, fields.interface, fields.version, fields.group ].join('|');
  if (!consumers.has(key)) {
    const client = new RpcClient({
      logger,
      registry: fields.registry ? await registry(fields) : undefined,
      protocol: protocols[fields.protocol],
    });
    client.on('error', (error) => logger.error(error));
    const options = { interfaceName: fields.interface, serverHost: fields.address };
    if (fields.protocol === 'dubbo') {
      options.version = fields.version || '';
      options.group = fields.group || '';
    }
    consumers.set(key, client.createConsumer(options));
  }
  const found = consumers.get(key);
  await found.ready();
  return found;
}

const order = {
  id: '订单-😀', count: 70000, total: 123, rate: 0.125, paid: true,
  lines: Array.from({ length: 20 }, (_, i) => `line ${i}`),
  notes: { none: null, number: 7, text: 'long '.repeat(300) },
  parent: null,
};

function argument(fields) {
  const text = fields.arg || '';
  switch (fields.method) {
    case 'add': return text.split(',').map(Number);
    case 'sleep':
    case 'large': return [ Number(text) ];
    case 'measure': return [ 'y'.repeat(Number(text)) ];
    case 'echo': return [ { $class: 'com.acme.Order', $: order } ];
    case 'noted':
    case 'who': return [];
    default: return [ text ];
  }
}

async function call(fields) {
  const found = await consumer(fields);
  const options = { responseTimeout: Number(fields.timeout || 5000) };
  const value = await found.invoke(fields.method, argument(fields), options);
  if (fields.method === 'large') return value.length;
  if (fields.method === 'echo') {
    const same = require('util').isDeepStrictEqual(JSON.parse(JSON.stringify(value)), order);
    return { same, order: value };
  }
  return value;
}

// Only the codec knows one-way; the library's consumer has no word for it.
async function oneWay(fields) {
  const found = await consumer(fields);
  const request = found.createRequest(fields.method, argument(fields), {});
  const connection = await found.getConnection(request);
  request.oneway = true;
  return new Promise((resolve, reject) => {
    connection._encoder.writeRequest(2000000000, request, (error) => (error ? reject(error) : resolve(null)));
  });
}

async function load(fields) {
  const found = await consumer(fields);
  const end = Date.now() + Number(fields.millis);
  const result = { right: 0, wrong: 0, errors: {}, who: {} };
  const one = async (seed) => {
    for (let i = 0; Date.now() < end; i++) {
      try {
        const sum = await found.invoke('add', [ seed + i, 1 ], { responseTimeout: 5000 });
        if (sum === seed + i + 1) result.right++; else result.wrong++;
        await sleep(1);
      } catch (error) {
        const text = `${error.name}: ${error.message}`.slice(0, 300);
        result.errors[text] = (result.errors[text] || 0) + 1;
        await sleep(5);
      }
    }
  };
  await Promise.all(Array.from({ length: Number(fields.threads || 4) }, (_, i) => one(i * 1000000)));
  return result;
}

let second;

// dubbo2.js keeps its state in module variables: one instance per process.
async function dubbo2(fields) {
  const { Dubbo, java, setting } = require('dubbo2.js');
  if (!second) {
    second = new Dubbo({
      application: { name: 'acme-dubbo2' },
      register: fields.registry,
      zkRoot: fields.root,
      dubboSetting: setting.match(fields.interface, { version: fields.version, group: fields.group || '' }),
      dubboInvokeTimeout: 5,
      service: {
        greeter: (instance) => instance.proxyService({
          dubboInterface: fields.interface,
          methods: {
            sayHello: (to) => [ java.String(to) ],
            add: (left, right) => [ java.int(left), java.int(right) ],
            fail: (why) => [ java.String(why) ],
            large: (length) => [ java.int(length) ],
            measure: (text) => [ java.String(text) ],
          },
        }),
      },
    });
    await second.ready();
  }
  const { res, err } = await second.service.greeter[fields.method](...argument(fields));
  if (err) throw err;
  return fields.method === 'large' ? res.length : res;
}

const operations = {
  export: serve,
  announce,
  call,
  load,
  dubbo2,
  'one-way': oneWay,
  async unexport(fields) {
    const server = servers.get(fields.name);
    servers.delete(fields.name);
    await server.unPublish();
    return null;
  },
};

function say(answer) {
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}

// The library keeps one registry per process, whatever its address: what concerns Dubbo's goes to a
// process of its own, which this one starts when it is first asked for.
const CHILD = 'ACME_DUBBO_PEER';
const children = new Map();
const moved = new Map();

// The root in the registry whose process a command is for; none if it is for this one.
function rootOf(operation, fields) {
  if (process.env[CHILD]) return undefined;
  if (operation === 'unexport') return moved.get(fields.name);
  if (fields.protocol !== 'dubbo' || operation === 'dubbo2') return undefined;
  const root = fields.root || 'dubbo';
  if (operation === 'export') moved.set(fields.name, root);
  return root;
}

function sendToChild(root, line) {
  if (!children.has(root)) {
    const env = Object.assign({}, process.env, { [CHILD]: '1' });
    const stdio = [ 'pipe', 'pipe', 'inherit' ];
    const child = require('child_process').spawn(process.execPath, [ __filename ], { env, stdio });
    readline.createInterface({ input: child.stdout }).on('line', (answer) => {
      if (JSON.parse(answer).id !== 0) process.stdout.write(`${answer}\n`);
    });
    children.set(root, child);
  }
  children.get(root).stdin.write(`${line}\n`);
}

process.on('unhandledRejection', (error) => logger.error('unhandled', error));
const lines = readline.createInterface({ input: process.stdin });
lines.on('line', async (line) => {
  const [ id, operation, ...pairs ] = line.split('\t');
  const fields = Object.fromEntries(pairs.map((pair) => [ pair.slice(0, pair.indexOf('=')), pair.slice(pair.indexOf('=') + 1) ]));
  const root = rootOf(operation, fields);
  if (root) {
    sendToChild(root, line);
    return;
  }
  try {
    const value = await operations[operation](fields);
    say({ id: Number(id), ok: true, value: value === undefined ? null : value });
  } catch (error) {
    say({ id: Number(id), ok: false, error: { class: error.name, message: error.message, code: error.resultCode || null, causes: [] } });
  }
});
lines.on('close', () => {
  children.forEach((child) => child.kill());
  process.exit(0);
});
say({ id: 0, ok: true, value: 'ready' });
