// A chat host with LibreChat v0.8's routes and answers, on Express. It knows nothing of
// whoever stands in front of it, limits nobody, and has no database: accounts and
// generations are in memory. Settings: HOST, PORT, JWT_SECRET, SESSION_EXPIRY (ms) as
// LibreChat has them, and RUNNING_PORT, where it says how many generations run.
'use strict';

const compression = require('compression');
const crypto = require('node:crypto');
const express = require('express');
const http = require('node:http');
const multer = require('multer');

const account = require('./account');
const generation = require('./generation');

const upload = multer({ storage: multer.memoryStorage(), limits: { fileSize: 20 * 1024 * 1024 } });

/** What came, so that whoever sent it can tell that it came unharmed. */
const received = (request, response) => {
  if (!request.file) {
    return response.status(400).json({ message: 'No file provided' });
  }
  const { originalname: filename, size: bytes, buffer } = request.file;
  const sha256 = crypto.createHash('sha256').update(buffer).digest('hex');
  return response.json({ app: true, file_id: crypto.randomUUID(), filename, bytes, sha256 });
};

/** What has no answer of its own here. */
const other = (request, response) =>
  response.json({ app: true, method: request.method, url: request.originalUrl });

const files = express.Router()
  .post('/speech/stt', upload.single('audio'), (request, response) =>
    request.file ? response.json({ app: true, text: `${request.file.size} bytes` })
      : response.status(400).json({ message: 'No audio file provided' }))
  .all('/speech/tts/manual', (_, response) => response.type('audio/mpeg').send(Buffer.alloc(64)))
  .post('/usage', other)
  .post(['/', '/images', '/images/avatar'], upload.single('file'), received);

const conversations = express.Router()
  .post('/import', upload.single('file'), (request, response) =>
    request.file ? response.status(201).json({ message: 'Conversation(s) imported successfully' })
      : response.status(400).json({ message: 'No file provided' }))
  .post(['/fork', '/duplicate'], (_, response) => {
    const conversation = { conversationId: crypto.randomUUID() };
    return response.json({ app: true, conversation, messages: [] });
  });

const withAccount = express.Router()
  .use(account.required)
  .use('/agents/chat', generation.router)
  .post('/agents/tools/:tool/call', (request, response) =>
    response.json({ app: true, result: request.params.tool }))
  .use('/files', files)
  .use('/convos', conversations)
  .post(['/skills/import', '/skills/:skill/files'], upload.single('file'), received)
  .use(other);

const app = express();
app.disable('x-powered-by');
app.set('trust proxy', 1);
app.get('/health', (_, response) => response.send('OK'));
// Before everything that costs time, for whoever measures.
app.get('/api/config', (_, response) =>
  response.json({ app: true, appTitle: 'LibreChat', emailLoginEnabled: true }));
app.use(express.json({ limit: '3mb' }));
app.use(express.urlencoded({ extended: true, limit: '3mb' }));
app.use(compression());
app.use('/api/auth', account.router);
app.post('/api/admin/login/local', account.login);
app.use('/api/admin/oauth', other);
app.use('/oauth', other);
app.post(['/api/user/verify', '/api/user/verify/resend'], (_, response) =>
  response.json({ app: true, message: 'Verification email sent' }));
app.get('/api/share/:link', other);
app.use('/api/agents/v1', account.keyRequired, other);
app.use('/api', withAccount);
app.use((_, response) => response.type('html').send('<!doctype html><title>LibreChat</title>'));
app.use((error, _request, response, next) => {
  if (response.headersSent) {
    return next(error);
  }
  const status = error instanceof multer.MulterError ? 400 : error.status ?? 500;
  return response.status(status).json({ message: error.message });
});

const running = express().get('/running', (_, response) => response.json(generation.running()));
const { HOST = '127.0.0.1', PORT = '3080', RUNNING_PORT = '3081' } = process.env;
http.createServer(running).listen(Number(RUNNING_PORT), '127.0.0.1');
http.createServer(app).listen(Number(PORT), HOST);
