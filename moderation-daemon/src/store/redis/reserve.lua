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

local unpack, pack = struct.unpack, struct.pack
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local is_late = now > tonumber(ARGV[1])

-- Each kind: reads what is kept to what is used, when some of it ends, and what is left.
local LOG, BUCKETS, FIXED, LEASES = 1, 2, 3, 4
-- Pieces of a window in buckets.
local PIECES = 64
-- More stamps than this are in no log.
local MOST = 128

local read = {}

read[LOG] = function(raw, window)
  local first, length = 1, #raw
  while first <= length and unpack('>I6', raw, first) + window <= now do
    first = first + 12
  end
  if first > length then return 0, now + 1 + window, '' end
  local rest = first == 1 and raw or string.sub(raw, first)
  return #rest / 12, unpack('>I6', rest) + window, rest
end

read[LEASES] = function(raw)
  local kept, ends, used = '', nil, 0
  for at = 1, #raw, 20 do
    local stop = unpack('>I6', raw, at)
    if stop > now then
      kept, used = kept .. string.sub(raw, at, at + 19), used + 1
      if not ends or stop < ends then ends = stop end
    end
  end
  return used, ends or now, kept
end

read[BUCKETS] = function(raw, window)
  local width = math.ceil(window / PIECES)
  local first, length, used = 1, #raw, 0
  while first <= length and (unpack('>I6', raw, first) + 1) * width + window <= now do
    first = first + 12
  end
  for at = first, length, 12 do
    used = used + unpack('>I6', raw, at + 6)
  end
  local piece = first > length and math.floor(now / width) or unpack('>I6', raw, first)
  return used, (piece + 1) * width + window, string.sub(raw, first)
end

read[FIXED] = function(raw, window)
  if raw == '' or unpack('>I6', raw) <= now then return 0, now + window, '' end
  return unpack('>I6', raw, 7), unpack('>I6', raw), raw
end

local write = {}

write[LOG] = function(key, rest, claim, id)
  if #rest >= 12 * MOST then rest = string.sub(rest, 13) end
  redis.call('SET', key, rest .. pack('>I6', now + 1) .. id, 'PX', claim.window + 1)
end

write[LEASES] = function(key, rest, claim, id)
  local stop = now + claim.window
  local last = stop
  for at = 1, #rest, 20 do
    last = math.max(last, (unpack('>I6', rest, at)))
  end
  redis.call('SET', key, rest .. pack('>I6', stop) .. claim.lease, 'PX', last - now)
end

write[BUCKETS] = function(key, rest, claim)
  local width = math.ceil(claim.window / PIECES)
  local piece, sum = math.floor(now / width), claim.cost
  local length = #rest
  if length > 0 and unpack('>I6', rest, length - 11) >= piece then
    piece = unpack('>I6', rest, length - 11)
    sum = sum + unpack('>I6', rest, length - 5)
    rest = string.sub(rest, 1, length - 12)
  end
  sum = math.min(sum, 2 ^ 47)
  redis.call('SET', key, rest .. pack('>I6I6', piece, sum), 'PX', claim.window + width + 1)
end

write[FIXED] = function(key, rest, claim)
  local stop, sum = now + claim.window, claim.cost
  if rest ~= '' then stop, sum = unpack('>I6', rest), sum + unpack('>I6', rest, 7) end
  redis.call('SET', key, pack('>I6I6', stop, math.min(sum, 2 ^ 47)), 'PX', stop - now)
end

local function claims_of(group, at, count)
  local claims = {}
  for index = 1, count do
    local kind, flags, window, max, cost, length = unpack('>BBI6I6I6B', group, at)
    at = at + 21
    local name = string.sub(group, at, at + length - 1)
    at = at + length
    local lease
    if kind == LEASES then lease, name = string.sub(name, 1, 14), string.sub(name, 15) end
    claims[index] = {
      kind = kind, window = window, max = max, cost = cost, name = name, lease = lease,
      looks = flags % 2 == 1, rejected = flags >= 2,
    }
  end
  return claims
end

local function serve(group, first)
  local id = string.sub(group, 1, 6)
  local in_order, has_score, count = unpack('>BBB', group, 7)
  local claims = claims_of(group, 10, count)
  local denied, is_broken, parts = 0, false, {}
  for index, claim in ipairs(claims) do
    local raw = redis.pcall('GET', KEYS[first + index - 1])
    if type(raw) == 'table' then
      is_broken, raw = true, ''
    end
    local used, ends, rest = read[claim.kind](raw or '', claim.window)
    claim.rest = rest
    if claim.lease and string.find(rest, claim.lease, 1, true) then
      claim.is_held = true
    elseif denied == 0 and used + claim.cost > claim.max then
      denied = index
    end
    parts[index] = pack('>I6I6', math.min(used, 2 ^ 48 - 1), ends)
  end
  local taken = first + count + has_score
  if is_broken then return string.char(254) .. table.concat(parts), taken end
  if is_late then return string.char(255) .. table.concat(parts), taken end
  for index, claim in ipairs(claims) do
    local counts = denied == 0 or (in_order == 1 and index < denied)
      or (index == denied and claim.rejected)
    if counts and not claim.looks and not claim.is_held and claim.cost > 0 then
      write[claim.kind](KEYS[first + index - 1], claim.rest, claim, id)
    end
  end
  local score = ''
  local name = count == 0 and string.sub(group, 10) or (denied > 0 and claims[denied].name)
  if has_score == 1 and name and name ~= '' then
    local known = redis.pcall('HMGET', KEYS[taken - 1], name, '-')
    if known.err then return string.char(254) .. table.concat(parts), taken end
    score = known[1] or (known[2] and '0 0 0 0') or ''
  end
  return string.char(denied) .. table.concat(parts) .. score, taken
end

local answers, first = { now }, 1
for index = 2, #ARGV do
  answers[index], first = serve(ARGV[index], first)
end
return answers
