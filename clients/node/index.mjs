// What the package exports, for `import`. Nothing is done here.
import client from './index.js';

export const { Moderation, Lease, ModerationError, DeniedError, protect } = client;
