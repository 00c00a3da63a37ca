// LibreChat's limiters, the routes that ask them, and what its records and answers say
// of each: from its environment to numbers, as it reads them.

const MINUTE = 60 * 1000;

// Which limiters a kind of request meets, in order; whether only browsers may send it;
// and whether LibreChat looks for bans before the limiters, as it does where nothing
// else is said, behind them, or never. The names are those of our own configuration.
export const ROUTES = {
  login: { checked: 'later', steps: ['login'] },
  registration: { checked: 'later', steps: ['registration'] },
  password_reset: { checked: 'later', steps: ['password_reset'] },
  password_reset_submission: { steps: ['password_reset_submission'] },
  email_verification: { checked: 'never', steps: ['email_verification'] },
  email_verification_submission: { checked: 'never', steps: ['email_verification_submission'] },
  two_factor: { checked: 'later', steps: ['two_factor_ip', 'two_factor_user'] },
  message: { browsers: true, steps: ['message_ip', 'message_user'] },
  file_upload: { browsers: true, steps: ['file_upload_ip', 'file_upload_user'] },
  file_usage: { steps: ['file_usage'] },
  import: { checked: 'never', steps: ['import_ip', 'import_user'] },
  fork: { checked: 'never', steps: ['fork_ip', 'fork_user'] },
  tts: { browsers: true, steps: ['tts_ip', 'tts_user'] },
  stt: { browsers: true, steps: ['stt_ip', 'stt_user'] },
  tool_call: { browsers: true, steps: ['tool_call'] },
  prompt_usage: { checked: 'never', steps: ['prompt_usage'] },
  context_projection: { steps: ['context_projection'] },
  shared_link: { checked: 'never', steps: ['share_ip', 'share_user'] },
  agent_event: { checked: 'never', steps: ['agent_event'] },
};

// Violations that LibreChat finds without a limiter, and their points.
export const reports = (env) => ({
  convo_access: { type: 'convo_access', score: env.CONVO_ACCESS_VIOLATION_SCORE ?? 0 },
  illegal_model_request: {
    type: 'illegal_model_request',
    score: env.ILLEGAL_MODEL_REQ_SCORE ?? 1,
  },
  token_balance: { type: 'token_balance', score: 0 },
});

const byAddress = ({ ip }) => ip;
const byUser = ({ user }) => user;

export function limiters(load, env) {
  const { ipKeyGenerator } = load('express-rate-limit');
  // What is set counts as it stands, as text; the first that is set.
  const raw = (names, fallback) => names.map((name) => env[name]).find((text) => text !== undefined) ?? fallback;
  const int = (name, fallback) => parseInt(env[name]) || fallback;
  const number = (name, fallback) => Number(env[name] ?? fallback);

  // One with a limit by address: login and its like.
  const entrance = (type, prefixes, max, minutes, score, message, more = {}) => {
    const windowMs = raw(prefixes.map((name) => `${name}_WINDOW`), minutes) * 60 * 1000;
    const windowInMinutes = windowMs / MINUTE;
    const limit = raw(prefixes.map((name) => `${name}_MAX`), max);
    const { before, after, key = byAddress } = more;
    const record = { type, max: limit, ...before, windowInMinutes, ...after };
    return { key, max: limit, windowMs, record, score, message: message(windowInMinutes) };
  };
  const logins = (w) => `Too many login attempts, please try again after ${w} minutes.`;
  const accounts = (w) => `Too many accounts created, please try again after ${w} minutes`;
  const attempts = (w) => `Too many attempts, please try again after ${w} minute(s)`;
  const factors = (w) => `Too many verification attempts, please try again after ${w} minutes.`;
  const submission = { after: { limiter: 'submission' } };

  const twoFactor = (limiter, key) =>
    entrance('logins', ['TWO_FACTOR_TEMP', 'LOGIN'], 7, 5, env.TWO_FACTOR_TEMP_VIOLATION_SCORE ?? env.LOGIN_VIOLATION_SCORE, factors, {
      before: { limiter },
      key,
    });
  const message = (limiter, name, key) =>
    entrance('message_limit', [name], 40, 1, env.MESSAGE_VIOLATION_SCORE, () => undefined, {
      before: { limiter },
      key,
    });

  // One of a pair, by address and by user, whose limits cannot be turned off.
  const one = (type, name, limiter, max, minutes, score, text, more = {}) => {
    const side = limiter.toUpperCase();
    const limit = int(`${name}_${side}_MAX`, max);
    const windowMs = int(`${name}_${side}_WINDOW`, minutes) * 60 * 1000;
    const record = { type, max: limit, limiter, windowInMinutes: windowMs / MINUTE };
    const key = limiter === 'ip' ? byAddress : byUser;
    const answer = `Too many ${text}requests. Try again later`;
    return { key, max: limit, windowMs, record, score, message: answer, ...more };
  };
  const pair = (name, key, type, maxima, minutes, score, text, more = {}) => ({
    [`${key}_ip`]: one(type, name, 'ip', maxima[0], minutes, score, text, more.ip),
    [`${key}_user`]: one(type, name, 'user', maxima[1], minutes, score, text, more.user),
  });
  const uploads = 'file_upload_limit';

  // One that is no violation.
  const plain = (max, windowMs, message) => ({ key: byUser, max, windowMs, record: null, message });

  const enabled = (name) => env[name]?.toLowerCase().trim() === 'true';
  return {
    login: entrance('logins', ['LOGIN'], 7, 5, env.LOGIN_VIOLATION_SCORE, logins),
    registration: entrance('registrations', ['REGISTER'], 5, 60, env.REGISTRATION_VIOLATION_SCORE, accounts),
    password_reset: entrance('reset_password_limit', ['RESET_PASSWORD'], 2, 2, env.RESET_PASSWORD_VIOLATION_SCORE, attempts),
    password_reset_submission: entrance('reset_password_limit', ['RESET_PASSWORD_SUBMISSION', 'RESET_PASSWORD'], 2, 2, env.RESET_PASSWORD_SUBMISSION_VIOLATION_SCORE, attempts, submission),
    email_verification: entrance('verify_email_limit', ['VERIFY_EMAIL'], 2, 2, env.VERIFY_EMAIL_VIOLATION_SCORE, attempts),
    email_verification_submission: entrance('verify_email_limit', ['VERIFY_EMAIL_SUBMISSION', 'VERIFY_EMAIL'], 2, 2, env.VERIFY_EMAIL_SUBMISSION_VIOLATION_SCORE, attempts, submission),
    two_factor_ip: twoFactor('ip', byAddress),
    two_factor_user: twoFactor('user', ({ user, ip }) => (user ? `user:${user}` : `ip:${ip}`)),
    ...(enabled('LIMIT_MESSAGE_IP') && { message_ip: message('ip', 'MESSAGE_IP', byAddress) }),
    ...(enabled('LIMIT_MESSAGE_USER') && { message_user: message('user', 'MESSAGE_USER', byUser) }),
    ...pair('FILE_UPLOAD', 'file_upload', uploads, [100, 50], 15, env.FILE_UPLOAD_VIOLATION_SCORE, 'file upload '),
    file_usage: one(uploads, 'FILE_USAGE', 'user', 120, 15, env.FILE_UPLOAD_VIOLATION_SCORE, 'file usage '),
    ...pair('IMPORT', 'import', uploads, [100, 50], 15, env.IMPORT_VIOLATION_SCORE, 'conversation import '),
    ...pair('FORK', 'fork', uploads, [30, 7], 1, env.FORK_VIOLATION_SCORE, ''),
    ...pair('TTS', 'tts', 'tts_limit', [100, 50], 1, env.TTS_VIOLATION_SCORE, 'TTS '),
    ...pair('STT', 'stt', 'stt_limit', [100, 50], 1, env.STT_VIOLATION_SCORE, 'STT '),
    tool_call: {
      key: byUser,
      max: 1,
      windowMs: 1000,
      record: { type: 'tool_call_limit', max: 1, limiter: 'user', windowInMinutes: 1 },
      score: env.TOOL_CALL_VIOLATION_SCORE,
      message: 'Too many tool call requests. Try again later',
    },
    prompt_usage: plain(30, MINUTE, 'Too many prompt usage requests. Try again later'),
    context_projection: plain(raw(['CONTEXT_PROJECTION_MAX'], 20), raw(['CONTEXT_PROJECTION_WINDOW'], 1) * MINUTE),
    ...pair('SHARE', 'share', 'share_limit', [100, 60], 1, env.SHARE_VIOLATION_SCORE ?? 0, 'shared link ', {
      ip: { key: ({ ip }) => ipKeyGenerator(ip) },
      user: { skip: ({ user }) => user == null },
    }),
    agent_event: plain(number('AGENT_EVENT_USER_MAX', 40), number('AGENT_EVENT_USER_WINDOW', 1) * 60 * 1000),
  };
}
