-- Brings what is counted into line with what was decided: adds what a host counted while it
-- could not ask, gives back what it had reserved in vain, renews and ends leases, adds
-- points. Each act can be sent again and is done once: it finds its own traces.
--
-- KEYS: for each act two, that which it is about and a mark that it was done (not used by
-- acts that find their traces there).
-- ARGV: one packed act each: what (1 byte), and then
--   1 add to a log: id (6), at ms (6), window ms (6)
--   2 take from a log: id (6)
--   3 add to buckets: at ms (6), window (6), cost (6)
--   4 take from buckets: at ms (6), window (6), cost (6)
--   5 add to a fixed window: at ms (6), window (6), cost (6)
--   6 take from a fixed window: at ms (6), window (6), cost (6)
--   7 forget the key
--   8 hold a lease: lease (14), lifetime ms (6)
--   9 end a lease: lease (14)
--   10 add points: a text, see below
--   11 forget all points
-- Returns now, and for each act an empty text, or the score as it is kept, or an error that
-- begins with '!'.

local unpack, pack = struct.unpack, struct.pack
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local PIECES, MOST = 64, 128
-- A mark outlives every repetition of its act.
local MARK_MS = 600000
local KEPT_MS = 2592000000

local function put(key, raw, ttl)
  if raw == '' then
    redis.call('DEL', key)
  elseif ttl > 0 then
    redis.call('SET', key, raw, 'PX', ttl)
  end
end

local function find(raw, width, at, length, wanted)
  for place = 1, #raw, width do
    if string.sub(raw, place + at, place + at + length - 1) == wanted then return place end
  end
end

local function cut(raw, place, width)
  return string.sub(raw, 1, place - 1) .. string.sub(raw, place + width)
end

local function is_first(mark)
  return redis.call('SET', mark, '1', 'NX', 'PX', MARK_MS)
end

local function ttl_of(key)
  return math.max(redis.call('PTTL', key), 1)
end

local acts = {}

acts[1] = function(key, _, raw, act)
  local id = string.sub(act, 2, 7)
  local at, window = unpack('>I6I6', act, 8)
  -- What is said to be yet to come happened now.
  local stamp = math.min(at, now) + 1
  if stamp + window <= now or find(raw, 12, 6, 6, id) then return end
  local place = #raw + 1
  while place > 1 and unpack('>I6', raw, place - 12) > stamp do
    place = place - 12
  end
  raw = string.sub(raw, 1, place - 1) .. pack('>I6', stamp) .. id .. string.sub(raw, place)
  if #raw > 12 * MOST then raw = string.sub(raw, 13) end
  put(key, raw, unpack('>I6', raw, #raw - 11) + window - now)
end

acts[2] = function(key, _, raw, act)
  local place = find(raw, 12, 6, 6, string.sub(act, 2, 7))
  if place then put(key, cut(raw, place, 12), ttl_of(key)) end
end

local function into_buckets(key, mark, raw, act, sign)
  local at, window, cost = unpack('>I6I6I6', act, 2)
  local width = math.ceil(window / PIECES)
  local piece = math.floor(math.min(at, now) / width)
  if (piece + 1) * width + window <= now or not is_first(mark) then return end
  local place = 1
  while place <= #raw and unpack('>I6', raw, place) < piece do
    place = place + 12
  end
  local is_there = place <= #raw and unpack('>I6', raw, place) == piece
  local sum = (is_there and unpack('>I6', raw, place + 6) or 0) + sign * cost
  if is_there then raw = cut(raw, place, 12) end
  if sum > 0 then
    local record = pack('>I6I6', piece, math.min(sum, 2 ^ 47))
    raw = string.sub(raw, 1, place - 1) .. record .. string.sub(raw, place)
  end
  put(key, raw, window + width + 1)
end

acts[3] = function(key, mark, raw, act) into_buckets(key, mark, raw, act, 1) end
acts[4] = function(key, mark, raw, act) into_buckets(key, mark, raw, act, -1) end

local function into_fixed(key, mark, raw, act, sign)
  local at, window, cost = unpack('>I6I6I6', act, 2)
  if at + window <= now or not is_first(mark) then return end
  local stop, sum = math.min(at, now) + window, 0
  if raw ~= '' then stop, sum = unpack('>I6', raw), unpack('>I6', raw, 7) end
  -- Another window has begun since.
  if at + window < stop - window or (raw == '' and sign < 0) then return end
  sum = math.max(math.min(sum + sign * cost, 2 ^ 47), 0)
  put(key, pack('>I6I6', stop, sum), stop - now)
end

acts[5] = function(key, mark, raw, act) into_fixed(key, mark, raw, act, 1) end
acts[6] = function(key, mark, raw, act) into_fixed(key, mark, raw, act, -1) end

acts[8] = function(key, _, raw, act)
  local lease, lifetime = string.sub(act, 2, 15), unpack('>I6', act, 16)
  local kept, longest = '', lifetime
  for at = 1, #raw, 20 do
    local stop = unpack('>I6', raw, at)
    if stop > now and string.sub(raw, at + 6, at + 19) ~= lease then
      kept, longest = kept .. string.sub(raw, at, at + 19), math.max(longest, stop - now)
    end
  end
  put(key, kept .. pack('>I6', now + lifetime) .. lease, longest)
end

acts[9] = function(key, _, raw, act)
  local place = find(raw, 20, 6, 14, string.sub(act, 2, 15))
  if place then put(key, cut(raw, place, 20), ttl_of(key)) end
end

-- A score is four numbers: points, spent ones, up to when both have decayed, when the last
-- ones were added. The arithmetic is the engine's, see score.rs. The text of an act:
--   type, points, spent, decay (n, t or h), its ms, its step ms, and the host's own score
--   from which to begin if none is known here: four numbers
local function decayed(score, decay, ms, step)
  if decay == 't' and ms > 0 and now - score[4] >= ms then return { 0, 0, 0, 0 } end
  if decay ~= 'h' then return score end
  local elapsed = math.max(now - score[3], 0)
  local whole = elapsed - elapsed % math.max(step, 1)
  if whole == 0 then return score end
  local left = 0.5 ^ (whole / math.max(ms, 1))
  return { score[1] * left, score[2] * left, score[3] + whole, score[4] }
end

local function numbers(text)
  local all = {}
  for number in string.gmatch(text, '%S+') do
    all[#all + 1] = tonumber(number)
  end
  return all
end

acts[10] = function(key, mark, _, act)
  local name, points, spent, decay, ms, step, own =
    string.match(string.sub(act, 2), '^(%S+) (%S+) (%S+) (%a) (%S+) (%S+) (.+)$')
  points, spent = tonumber(points), tonumber(spent)
  local known = redis.call('HMGET', key, name, '-')
  if not is_first(mark) then return known[1] end
  local text = known[1] or (not known[2] and own) or '0 0 0 0'
  local score = decayed(numbers(text), decay, tonumber(ms), tonumber(step))
  local is_new = score[1] == 0 and score[2] == 0 and score[4] == 0
  score[1] = math.max(score[1] + points - spent, 0)
  score[2] = score[2] + spent
  score[4] = now
  if is_new then score[3] = now end
  local kept = string.format('%.17g %.17g %.0f %.0f', score[1], score[2], score[3], score[4])
  redis.call('HSET', key, name, kept)
  redis.call('PEXPIRE', key, KEPT_MS)
  return kept
end

acts[11] = function(key)
  redis.call('DEL', key)
  -- Those who have a score of their own must hear that it is gone.
  redis.call('HSET', key, '-', '1')
  redis.call('PEXPIRE', key, KEPT_MS)
end

local function serve(index, act)
  local what = string.byte(act)
  local key, mark = KEYS[2 * index - 1], KEYS[2 * index]
  if what == 7 then
    redis.call('DEL', key)
    return ''
  end
  if what >= 10 then
    local kind = redis.call('TYPE', key).ok
    if kind ~= 'none' and kind ~= 'hash' then return '!WRONGTYPE' end
    return acts[what](key, mark, nil, act) or ''
  end
  local raw = redis.pcall('GET', key)
  if type(raw) == 'table' then return '!WRONGTYPE' end
  acts[what](key, mark, raw or '', act)
  return ''
end

local answers = { now }
for index, act in ipairs(ARGV) do
  answers[index + 1] = serve(index, act)
end
return answers
