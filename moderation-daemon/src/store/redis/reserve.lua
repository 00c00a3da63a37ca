-- What events and generations use up of limits that several hosts count together: looks,
-- and takes, in one step that nobody can come between. A group is one decision.
--
-- KEYS: for each group its claims' windows in their order, then, if it has one, its score.
-- ARGV[1]: after which moment of this server's clock nothing is taken any more (ms).
-- ARGV[2...]: one packed group each:
--   id (6 bytes), rule (1: 0 all or none, 1 in order), has a score (1), claims (1), and
--   each claim: kind (1: 1 log, 2 buckets, 3 fixed, 4 leases), flags (1: 1 only looks,
--   2 counts what is rejected), window ms (6), max (6), cost (6), name of the violation
--   (1 byte of length, and the name), before which leases have their own (14 bytes).
--   One without claims asks for a score alone: the name of the violation is the rest.
-- Returns now, and for each group: verdict (1 byte: 0 taken, 1.. denied by that claim, 254 a
-- key holds something else, 255 too late), then for each claim used (6) and when some of it
-- is free (6), then the score as it is kept, if it was asked for, and known.
--
-- A stamp is one more than the millisecond it was made in, so that nothing counts for less
-- than its window, whatever was cut off.

local unpack, pack, sub, char = struct.unpack, struct.pack, string.sub, string.char
local call, pcall, ceil, floor = redis.call, redis.pcall, math.ceil, math.floor
local keys, time = KEYS, redis.call('TIME')
local now = time[1] * 1000 + floor(time[2] / 1000)
local is_late = now > tonumber(ARGV[1])
local stamp = pack('>I6', now + 1)

-- Each kind: reads what is kept to what is used, when some of it ends, and what is left.
local LOG, BUCKETS, FIXED, LEASES = 1, 2, 3, 4
-- Pieces of a window in buckets.
local PIECES = 64
-- More stamps than this are in no log.
local MOST = 128
-- The greatest number of six bytes, and the greatest sum that is kept.
local GREATEST, FULL = 2 ^ 48 - 1, 2 ^ 47

-- Lifetimes as texts, each written down once: Redis would do it for every call.
local texts = {}

local function text(ms)
  local known = texts[ms]
  if not known then
    known = string.format('%.0f', ms)
    texts[ms] = known
  end
  return known
end

local read = {}

read[LOG] = function(raw, window)
  local first, length = 1, #raw
  local stop
  while first <= length do
    stop = unpack('>I6', raw, first) + window
    if stop > now then
      return (length - first + 1) / 12, stop, first == 1 and raw or sub(raw, first)
    end
    first = first + 12
  end
  return 0, now + 1 + window, ''
end

read[LEASES] = function(raw)
  local kept, ends, used = '', nil, 0
  for at = 1, #raw, 20 do
    local stop = unpack('>I6', raw, at)
    if stop > now then
      kept, used = kept .. sub(raw, at, at + 19), used + 1
      if not ends or stop < ends then ends = stop end
    end
  end
  return used, ends or now, kept
end

read[BUCKETS] = function(raw, window)
  local width = ceil(window / PIECES)
  local first, length, used = 1, #raw, 0
  while first <= length and (unpack('>I6', raw, first) + 1) * width + window <= now do
    first = first + 12
  end
  for at = first, length, 12 do
    used = used + unpack('>I6', raw, at + 6)
  end
  local piece = first > length and floor(now / width) or unpack('>I6', raw, first)
  return used, (piece + 1) * width + window, sub(raw, first)
end

read[FIXED] = function(raw, window)
  if raw == '' or unpack('>I6', raw) <= now then return 0, now + window, '' end
  return unpack('>I6', raw, 7), unpack('>I6', raw), raw
end

local write = {}

write[LOG] = function(key, rest, window, _, id)
  if #rest >= 12 * MOST then rest = sub(rest, 13) end
  call('SET', key, rest .. stamp .. id, 'PX', text(window + 1))
end

write[LEASES] = function(key, rest, window, _, _, lease)
  local stop = now + window
  local last = stop
  for at = 1, #rest, 20 do
    last = math.max(last, (unpack('>I6', rest, at)))
  end
  call('SET', key, rest .. pack('>I6', stop) .. lease, 'PX', text(last - now))
end

write[BUCKETS] = function(key, rest, window, cost)
  local width = ceil(window / PIECES)
  local piece, sum = floor(now / width), cost
  local length = #rest
  if length > 0 and unpack('>I6', rest, length - 11) >= piece then
    piece = unpack('>I6', rest, length - 11)
    sum = sum + unpack('>I6', rest, length - 5)
    rest = sub(rest, 1, length - 12)
  end
  sum = math.min(sum, FULL)
  call('SET', key, rest .. pack('>I6I6', piece, sum), 'PX', text(window + width + 1))
end

write[FIXED] = function(key, rest, window, cost)
  local stop, sum = now + window, cost
  if rest ~= '' then stop, sum = unpack('>I6', rest), sum + unpack('>I6', rest, 7) end
  call('SET', key, pack('>I6I6', stop, math.min(sum, FULL)), 'PX', text(stop - now))
end

-- The claims of the group that is being served, by their number. One set of tables for all
-- groups: to make new ones takes longer than to count.
local kinds, flags, windows, costs, leases = {}, {}, {}, {}, {}
local rests, held, parts = {}, {}, {}

local function serve(group, first)
  local in_order, has_score, count = unpack('>BBB', group, 7)
  local at, denied, is_broken, violation = 10, 0, false, ''
  for index = 1, count do
    local kind, flag, window, max, cost, length = unpack('>BBI6I6I6B', group, at)
    local stop = at + 21 + length
    local raw = pcall('GET', keys[first + index - 1])
    if not raw then
      raw = ''
    elseif type(raw) == 'table' then
      is_broken, raw = true, ''
    end
    local used, ends, rest = read[kind](raw, window)
    local is_held, named_at = false, at + 21
    if kind == LEASES then
      named_at = named_at + 14
      leases[index] = sub(group, at + 21, at + 34)
      is_held = string.find(rest, leases[index], 1, true)
    end
    if denied == 0 and not is_held and used + cost > max then
      denied, violation = index, sub(group, named_at, stop - 1)
    end
    kinds[index], flags[index], windows[index], costs[index] = kind, flag, window, cost
    rests[index], held[index] = rest, is_held
    parts[index] = pack('>I6I6', used < GREATEST and used or GREATEST, ends)
    at = stop
  end
  local taken = first + count + has_score
  local said = count == 1 and parts[1] or table.concat(parts, '', 1, count)
  if is_broken then return char(254) .. said, taken end
  if is_late then return char(255) .. said, taken end
  for index = 1, count do
    local flag = flags[index]
    local counts = denied == 0 or (in_order == 1 and index < denied)
      or (index == denied and flag >= 2)
    if counts and flag % 2 == 0 and not held[index] and costs[index] > 0 then
      local id = sub(group, 1, 6)
      local key, rest = keys[first + index - 1], rests[index]
      write[kinds[index]](key, rest, windows[index], costs[index], id, leases[index])
    end
  end
  if count == 0 then violation = sub(group, 10) end
  if has_score == 1 and violation ~= '' then
    local known = pcall('HMGET', keys[taken - 1], violation, '-')
    if known.err then return char(254) .. said, taken end
    said = said .. (known[1] or (known[2] and '0 0 0 0') or '')
  end
  return char(denied) .. said, taken
end

local answers, first = { now }, 1
for index = 2, #ARGV do
  answers[index], first = serve(ARGV[index], first)
end
return answers
