// Drives a peer over standard input: a command is one line of fields parted by tabs: an id, an operation
// and key=value pairs. Each is answered with one line of JSON, in any order. The process ends with
// its input.
'use strict';

const readline = require('readline');

function serve(operations) {
  readline.createInterface({ input: process.stdin }).on('line', async (line) => {
    const [id, operation, ...pairs] = line.split('\t');
    const fields = Object.fromEntries(pairs.map((pair) => [pair.slice(0, pair.indexOf('=')), pair.slice(pair.indexOf('=') + 1)]));
    let said;
    try {
      said = { id: Number(id), ok: true, value: await operations[operation](fields) };
    } catch (error) {
      said = { id: Number(id), ok: false, error: { class: error.constructor.name, message: error.message, code: error.code } };
    }
    process.stdout.write(`${JSON.stringify(said)}\n`);
  }).on('close', () => process.exit(0));
  process.stdout.write(`${JSON.stringify({ id: 0, ok: true, value: 'ready' })}\n`);
}

module.exports = { serve };
