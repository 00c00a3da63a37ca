// Answers questions about what LibreChat's libraries do: one line of JSON in on
// standard input, one out on standard output. Its one argument is the folder with
// node_modules. It decides nothing itself; what LibreChat does with the libraries is
// in librechat.mjs. Time is a number that only questions change.

import { advance, begin } from './clock.mjs';
import { createRequire } from 'node:module';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { LibreChat } from './librechat.mjs';
import { exact, isEnabled, math } from './settings.mjs';

const folder = process.argv[2];
const load = createRequire(join(folder, 'package.json'));

let libreChat;

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
  settings: ({ texts, fallback }) => {
    const { evaluate } = load('mathjs');
    return texts.map((text) => ({
      math: exact(math(evaluate, text, fallback)),
      int: exact(parseInt(text)),
      number: exact(+text),
      text: String(+text),
      enabled: isEnabled(text),
    }));
  },
  // A LibreChat with these settings that knows nothing yet.
  begin: ({ env, folder: files, at }) => {
    begin(at);
    libreChat = new LibreChat(load, env, files);
    return null;
  },
  judge: ({ event, banned, admitted }) => {
    advance(event.at);
    return libreChat.judge({ ...event, banned, admitted });
  },
  judgeApart: ({ event }) => {
    advance(event.at);
    return libreChat.judgeApart(event);
  },
  release: ({ at, user }) => {
    advance(at);
    return libreChat.release({ user });
  },
  forgive: ({ keys }) => libreChat.forgive({ keys }),
  files: () => libreChat.writeFiles(),
};

for await (const line of createInterface({ input: process.stdin })) {
  const question = JSON.parse(line);
  const answer = await questions[question.ask](question);
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}
