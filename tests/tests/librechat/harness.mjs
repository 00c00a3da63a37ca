// Answers questions about what LibreChat's libraries do: one line of JSON in on
// standard input, one out on standard output. Its one argument is the folder with
// node_modules. It decides nothing itself; what LibreChat does with the libraries is
// in librechat.mjs. Time is a number that only questions change.

import './clock.mjs';
import { createRequire } from 'node:module';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';

const folder = process.argv[2];
const load = createRequire(join(folder, 'package.json'));

const questions = {
  // The words that the browser part of ua-parser-js knows, so that no test needs a
  // list of its own, in which one could be missing.
  words: () => {
    const source = readFileSync(load.resolve('ua-parser-js'), 'utf8');
    const browsers = source.slice(source.indexOf('browser : [['), source.indexOf('cpu : [['));
    const code = browsers.replace(/ {2,}\/\/.*$/gm, '');
    return [...new Set(code.match(/[a-z0-9_]+/gi))];
  },
  browsers: ({ texts }) => {
    const parse = load('ua-parser-js');
    return texts.map((text) => new parse(text).getBrowser().name ?? null);
  },
};

for await (const line of createInterface({ input: process.stdin })) {
  const question = JSON.parse(line);
  const answer = await questions[question.ask](question);
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
