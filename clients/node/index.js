// What the package exports, for `require`; index.mjs has the same for `import`, so
// that both get one and the same classes. Nothing is done here.
'use strict';

const { Moderation, DeniedError } = require('./lib/client.js');
const { Lease } = require('./lib/lease.js');
const { ModerationError } = require('./lib/error.js');
const { protect } = require('./lib/express.js');

module.exports = { Moderation, Lease, ModerationError, DeniedError, protect };
