// Servers and clients of HTTP on Node's own http and http2, and of WebSocket on npm's ws, driven by
// console.js.
'use strict';

const http = require('http');
const http2 = require('http2');
const { WebSocket, WebSocketServer } = require('ws');
const console_ = require('./console');

const sleep = (millis) => new Promise((resolve) => setTimeout(resolve, millis));

const servers = new Map();

function answer(name) {
  return async (request, response) => {
    const url = new URL(request.url, 'http://any');
    const [, verb, argument] = url.pathname.split('/');
    if (verb === 'events') {
      response.writeHead(200, { 'content-type': 'text/event-stream' });
      for (let n = 0; n < 3; n += 1) {
        response.write(`data: ${n}\n\n`);
        await sleep(Number(argument));
      }
      response.end();
      return;
    }
    let length = 0;
    let first = '';
    try {
      for await (const piece of request) {
        if (length === 0) first = piece.toString('latin1').slice(0, 64);
        length += piece.length;
      }
    } catch {
      // The caller went away.
      return;
    }
    if (verb === 'sleep') await sleep(Number(argument));
    if (verb === 'status') response.statusCode = Number(argument);
    if (verb === 'drop') { request.socket.destroy(); return; }
    if (verb === 'large') { response.end(Buffer.alloc(Number(argument), 'x')); return; }
    response.setHeader('x-name', name);
    response.setHeader('content-type', 'application/json');
    response.end(JSON.stringify({
      name, method: request.method, url: request.url, version: request.httpVersion, headers: request.headers, length, first,
    }));
  };
}

async function serve(fields) {
  const handle = answer(fields.name);
  const server = fields.version === '2' ? http2.createServer(handle) : http.createServer({ keepAliveTimeout: 60000 }, handle);
  if (fields.version !== '2') {
    const sockets = new WebSocketServer({ server });
    sockets.on('connection', (socket) => socket.on('message', (data, binary) => socket.send(data, { binary })));
  }
  await new Promise((resolve) => server.listen(Number(fields.port || 0), '127.0.0.1', resolve));
  servers.set(fields.name, server);
  return server.address().port;
}

// Ends a server as an application does that is deployed anew: what is in flight is finished.
async function stop(fields) {
  const server = servers.get(fields.name);
  servers.delete(fields.name);
  const closed = new Promise((resolve) => server.close(resolve));
  if (server.closeIdleConnections) server.closeIdleConnections();
  await Promise.race([closed, sleep(3000)]);
  return 'stopped';
}

function headers(fields) {
  const own = {};
  for (const [key, value] of Object.entries(fields)) if (key.startsWith('@')) own[key.slice(1)] = value;
  return own;
}

const agent = new http.Agent({ keepAlive: true, maxSockets: 64 });

function fetch1(url, method, own, body) {
  return new Promise((resolve, reject) => {
    const request = http.request(url, { method, agent, headers: own }, (response) => {
      const pieces = [];
      response.on('data', (piece) => pieces.push(piece));
      response.on('error', reject);
      response.on('aborted', () => reject(new Error('aborted')));
      response.on('end', () => resolve({
        status: response.statusCode, headers: response.headers, body: Buffer.concat(pieces).toString('latin1'),
      }));
    });
    request.on('error', reject);
    request.end(body);
  });
}

const sessions = new Map();

function session(origin) {
  let found = sessions.get(origin);
  if (!found || found.closed || found.destroyed) {
    found = http2.connect(origin);
    found.on('error', () => {});
    // Told to go: the next request begins on another connection.
    found.on('goaway', () => { if (sessions.get(origin) === found) sessions.delete(origin); });
    sessions.set(origin, found);
  }
  return found;
}

function fetch2(url, method, own, body) {
  return new Promise((resolve, reject) => {
    const at = new URL(url);
    const stream = session(at.origin).request({ ':method': method, ':path': at.pathname + at.search, ...own });
    const pieces = [];
    let head;
    stream.on('response', (got) => { head = got; });
    stream.on('data', (piece) => pieces.push(piece));
    stream.on('error', reject);
    stream.on('close', () => {
      if (stream.rstCode) reject(new Error(`reset with ${stream.rstCode}`));
      else if (!head) reject(new Error('no response'));
      else resolve({ status: head[':status'], headers: head, body: Buffer.concat(pieces).toString('latin1') });
    });
    stream.end(body);
  });
}

// A stream that was refused was not looked at, so it is asked for again (RFC 9113, section 8.7), as
// every library above Node's bare http2 does; a GOAWAY may cross a request on its way.
async function asked(url, method, own, body) {
  try {
    return await fetch2(url, method, own, body);
  } catch (error) {
    if (!/REFUSED_STREAM/.test(error.message)) throw error;
    sessions.delete(new URL(url).origin);
    return fetch2(url, method, own, body);
  }
}

function fetch(fields) {
  const body = fields.length ? Buffer.alloc(Number(fields.length), 'y') : fields.body;
  const call = fields.version === '2' ? asked : fetch1;
  return call(fields.url, fields.method || 'GET', headers(fields), body);
}

async function load(fields) {
  const counts = { right: 0, wrong: 0, errors: {}, who: {} };
  const end = Date.now() + Number(fields.millis);
  let number = 0;
  const one = async () => {
    while (Date.now() < end) {
      number += 1;
      const mark = String(number);
      try {
        const url = `${fields.url}?mark=${mark}`;
        const got = await fetch({ ...fields, url });
        if (got.status !== 200) throw new Error(`status ${got.status}: ${got.body}`);
        const said = JSON.parse(got.body);
        if (said.url.endsWith(`mark=${mark}`)) counts.right += 1; else counts.wrong += 1;
        counts.who[said.name] = (counts.who[said.name] || 0) + 1;
      } catch (error) {
        counts.errors[error.message] = (counts.errors[error.message] || 0) + 1;
        await sleep(10);
      }
    }
  };
  await Promise.all(Array.from({ length: Number(fields.workers || 8) }, one));
  return counts;
}

function socket(fields) {
  return new Promise((resolve, reject) => {
    const own = new WebSocket(fields.url, { headers: headers(fields) });
    own.on('open', () => own.send(fields.text));
    own.on('message', (data) => { resolve(data.toString()); own.close(); });
    own.on('error', reject);
  });
}

// WebSocket over HTTP/2 (RFC 8441), which ws has no client for: one masked text frame there and back.
function extended(fields) {
  return new Promise((resolve, reject) => {
    const at = new URL(fields.url);
    const own = http2.connect(at.origin);
    own.on('error', reject);
    own.on('remoteSettings', (settings) => {
      if (!settings.enableConnectProtocol) { reject(new Error('extended CONNECT is not offered')); return; }
      const stream = own.request({
        ':method': 'CONNECT', ':protocol': 'websocket', ':scheme': 'http', ':authority': at.host, ':path': at.pathname,
        'sec-websocket-version': '13',
      });
      const text = Buffer.from(fields.text);
      stream.on('response', (head) => {
        if (head[':status'] !== 200) { reject(new Error(`status ${head[':status']}`)); return; }
        stream.write(Buffer.concat([Buffer.from([0x81, 0x80 | text.length, 0, 0, 0, 0]), text]));
      });
      let got = Buffer.alloc(0);
      stream.on('data', (piece) => {
        got = Buffer.concat([got, piece]);
        if (got.length >= 2 + text.length) { resolve(got.subarray(2).toString()); own.destroy(); }
      });
      stream.on('error', reject);
    });
  });
}

// gRPC-Web by Google's own client, which wants a browser's XMLHttpRequest.
function grpcweb(fields) {
  global.XMLHttpRequest = require('xhr2');
  const web = require('grpc-web');
  const bytes = (text) => new Uint8Array(Buffer.from(text, 'hex'));
  const method = new web.MethodDescriptor(
    fields.method, fields.kind, Object, Object, (message) => bytes(message.hex), (data) => Buffer.from(data).toString('hex'),
  );
  const client = new web.GrpcWebClientBase({ format: fields.format });
  const message = { hex: fields.message };
  const meta = headers(fields);
  if (fields.kind === 'unary') {
    return new Promise((resolve) => {
      client.rpcCall(fields.url + fields.method, message, meta, method, (error, answer) => {
        resolve(error ? { code: error.code, text: error.message } : { code: 0, messages: [answer] });
      });
    });
  }
  return new Promise((resolve) => {
    const messages = [];
    let code = 0;
    let text = '';
    const stream = client.serverStreaming(fields.url + fields.method, message, meta, method);
    stream.on('data', (answer) => messages.push(answer));
    stream.on('error', (error) => resolve({ code: error.code, text: error.message, messages }));
    stream.on('status', (status) => { code = status.code; text = status.details; });
    stream.on('end', () => resolve({ code, text, messages }));
  });
}

// Triple by Dubbo's own library for JavaScript. What its generator would write is written here.
function greeter() {
  const { proto3, MethodKind } = require('@bufbuild/protobuf');
  const fields = (name) => () => [{ no: 1, name, kind: 'scalar', T: 9 }];
  const Request = proto3.makeMessageType('greet.Request', fields('name'));
  const Answer = proto3.makeMessageType('greet.Answer', fields('text'));
  const method = (name, kind) => ({ name, I: Request, O: Answer, kind });
  return {
    typeName: 'greet.Greeter',
    methods: {
      greet: method('Greet', MethodKind.Unary),
      count: method('Count', MethodKind.ServerStreaming),
    },
  };
}

async function tripleServe(fields) {
  const { dubboNodeAdapter } = require('@apachedubbo/dubbo-node');
  const { DubboError, Code } = require('@apachedubbo/dubbo');
  const routes = (router) => router.service(greeter(), {
    async greet(request) {
      if (request.name === 'nobody') throw new DubboError('there is nobody', Code.NotFound);
      return { text: `${fields.name} greets ${request.name}` };
    },
    async* count(request) {
      for (let n = 1; n <= Number(request.name); n += 1) yield { text: `${n}` };
    },
  }, { serviceVersion: fields.serviceVersion || '', serviceGroup: fields.serviceGroup || '' });
  const server = http2.createServer(dubboNodeAdapter({ routes }));
  await new Promise((resolve) => { server.listen(0, '127.0.0.1', resolve); });
  return server.address().port;
}

async function triple(fields) {
  const { createDubboTransport, createGrpcTransport } = require('@apachedubbo/dubbo-node');
  const { createPromiseClient } = require('@apachedubbo/dubbo');
  const make = fields.form === 'grpc' ? createGrpcTransport : createDubboTransport;
  const transport = make({ baseUrl: fields.url, httpVersion: fields.version, useBinaryFormat: fields.form !== 'json' });
  const client = createPromiseClient(greeter(), transport, {
    serviceVersion: fields.serviceVersion || '', serviceGroup: fields.serviceGroup || '',
  });
  try {
    if (fields.method === 'count') {
      const all = [];
      for await (const answer of client.count({ name: fields.argument })) all.push(answer.text);
      return { code: 0, texts: all };
    }
    const answer = await client.greet({ name: fields.argument });
    return { code: 0, texts: [answer.text] };
  } catch (error) {
    return { code: error.code, text: error.rawMessage };
  }
}

console_.serve({ tripleServe, triple, grpcweb, serve, stop, fetch, load, socket, extended });
