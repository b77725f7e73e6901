-- Check the rate limits, the duplicate mark and the quota of one request atomically: admit and count it, or count nothing.
-- O(limits + meters): at most two rates and two meters.
--
-- KEYS  1 rate state of the org, 2 rate state of the key, 3 usage of the org in the period, 4 mark of this body,
--       5 flag of an org that is refused because of its dead letters,
--       6 time at which data of the org was last removed: older marks are invalid
-- ARGV  1 time in microseconds, '' for Redis' own
--       2, 3 interval (microseconds a request, 0: no limit) and burst of the org; 4, 5 of the key
--       6 life of the mark in milliseconds (0: check the rate only), 7 token of this attempt
--       8 time slot of the request, then meter, quantity and hard limit (-1: none) of each meter
-- Returns
--       {0, slot, wait, left, watermark, now, used...}  admitted, counted in `slot`; `wait`: microseconds until the org's
--                                            full burst is available again; `left`: requests left in the burst; `now`
--                                            in microseconds
--       {1, which, wait, left}               over the rate of the org (1) or of the key (2); `wait` in microseconds
--       {2}                                  this body was stored before
--       {3, meter, used}                     over the hard limit of meter number `meter`
--       {4}                                  usage of the period is not in Redis: load it and repeat the call
--       {5}                                  the dead-letter flag is set
local now = tonumber(ARGV[1])
if not now then
    local time = redis.call('TIME')
    now = time[1] * 1000000 + time[2]
end

local function remember(key, tat)
    -- '%.0f', because Lua's default number format would round it. The key expires when the burst is full again.
    redis.call('SET', key, string.format('%.0f', tat), 'PX', math.ceil((tat - now) / 1000) + 1)
end

-- GCRA: `tat` (theoretical arrival time) is when the full burst is available again.
local moved = {}
local wait, left = 0, 0
for which = 1, 2 do
    local interval, burst = tonumber(ARGV[2 * which]), tonumber(ARGV[2 * which + 1])
    if interval > 0 then
        local most = now + interval * burst
        local tat = math.max(tonumber(redis.call('GET', KEYS[which]) or 0), now)
        if tat > most then
            -- The clock was set back or the limit was lowered: wait at most for one full burst.
            tat = most
            remember(KEYS[which], tat)
        end
        if tat + interval > most then
            return {1, which, tat + interval - most, 0}
        end
        moved[#moved + 1] = {which, tat + interval}
        if which == 1 then
            wait, left = tat + interval - now, math.floor((most - tat - interval) / interval)
        end
    end
end
-- A mark is `kept|<time of admission>`, or `<token>|<slot>` while its request is not stored yet.
local mark = ARGV[6] ~= '0' and redis.call('GET', KEYS[4])
local admitted_at = mark and string.match(mark, '^kept|(%d+)$')
local is_same = false
if admitted_at then
    is_same = tonumber(admitted_at) > tonumber(redis.call('GET', KEYS[6]) or 0)
    mark = false
end
if ARGV[6] ~= '0' and not is_same then
    for at = 9, #ARGV, 3 do
        if redis.call('HEXISTS', KEYS[3], ARGV[at]) == 0 then
            return {4} -- before anything is counted, because the call is repeated
        end
    end
end
for _, one in ipairs(moved) do
    remember(KEYS[one[1]], one[2])
end
if ARGV[6] == '0' then
    return {0, 0, wait, left}
end
if is_same then
    return {2}
end
if redis.call('EXISTS', KEYS[5]) == 1 then
    return {5}
end

-- An earlier attempt with the same body reserved usage but has not stored it yet: this attempt takes over its
-- reservation, unless a settlement has replaced it since.
local before = mark and string.match(mark, '|(%d+)$')
if before and redis.call('HEXISTS', KEYS[3], ARGV[9] .. ':' .. before) == 0 then
    before = nil
end
if not before then
    for at = 9, #ARGV, 3 do
        local used = tonumber(redis.call('HGET', KEYS[3], ARGV[at]))
        local hard = tonumber(ARGV[at + 2])
        if hard >= 0 and used + tonumber(ARGV[at + 1]) > hard then
            return {3, (at - 6) / 3, used}
        end
    end
end
-- A settled slot is closed: late usage counts in the next slot. A reservation that is taken over moves to this attempt's
-- slot, because its envelopes arrive later than those of the first attempt.
local watermark = tonumber(redis.call('HGET', KEYS[3], 'watermark') or 0)
local slot = math.max(tonumber(ARGV[8]), watermark + 1)
local answer = {0, slot, wait, left, watermark, now}
for at = 9, #ARGV, 3 do
    if before then
        redis.call('HINCRBY', KEYS[3], ARGV[at], -ARGV[at + 1])
        redis.call('HINCRBY', KEYS[3], ARGV[at] .. ':' .. before, -ARGV[at + 1])
    end
    answer[#answer + 1] = redis.call('HINCRBY', KEYS[3], ARGV[at], ARGV[at + 1])
    redis.call('HINCRBY', KEYS[3], ARGV[at] .. ':' .. slot, ARGV[at + 1])
end
redis.call('SET', KEYS[4], ARGV[7] .. '|' .. answer[2], 'PX', ARGV[6])
return answer
