-- Rate, sameness and quota of one request, decided in one step: all limits let it in, or nothing is counted.
-- O(limits + meters): two rates and two meters at most.
--
-- KEYS  1 the rate of the org, 2 the rate of the key, 3 usage of the org in the period, 4 the mark of this body,
--       5 the flag of an org that nothing more is taken from, because of its dead letters
--       6 the time at which data of the org was last removed: older marks of bodies are invalid
-- ARGV  1 the time in microseconds, '' for the store's own
--       2, 3 interval (microseconds a request, 0: no limit) and burst of the org; 4, 5 of the key
--       6 the mark's life in milliseconds (0: only the rate is asked), 7 the token of this attempt
--       8 the slot that the request is stamped with, then meter, quantity and hard limit (-1: none) of each meter
-- Answers
--       {0, slot, wait, left, watermark, now, used...}  let in, and counted in `slot`; `wait` and `left` are microseconds
--                                            and requests until, and within, the burst of the org; `now` in microseconds
--       {1, which, wait, left}               over the rate of the org (1) or of the key (2)
--       {2}                                  this body was let in and kept before
--       {3, meter, used}                     over the hard limit of the n-th meter
--       {4}                                  usage of the period is not known here: fill it in and ask again
--       {5}                                  the flag stands
local now = tonumber(ARGV[1])
if not now then
    local time = redis.call('TIME')
    now = time[1] * 1000000 + time[2]
end

local function remember(key, tat)
    -- Written out: a number of this size loses its end when Lua turns it into text. It is of use until it is reached.
    redis.call('SET', key, string.format('%.0f', tat), 'PX', math.ceil((tat - now) / 1000) + 1)
end

-- GCRA: `tat` is when the burst would be whole again.
local moved = {}
local wait, left = 0, 0
for which = 1, 2 do
    local interval, burst = tonumber(ARGV[2 * which]), tonumber(ARGV[2 * which + 1])
    if interval > 0 then
        local most = now + interval * burst
        local tat = math.max(tonumber(redis.call('GET', KEYS[which]) or 0), now)
        if tat > most then
            -- A clock that went back, or a limit that was lowered: nobody waits for longer than for the whole burst.
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
-- A mark is `kept|<when it was admitted>`, or `<token>|<slot>` while its request has not been kept yet.
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
            return {4} -- before anything is counted: it is asked again
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

-- An earlier attempt reserved and did not live to keep it, or is still about it: what it reserved is now this one's,
-- unless a settlement has taken it away since.
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
-- A slot that is settled already is not counted in again: what comes late for it is settled with the next. What is taken
-- over is counted with the stamp of who took it: its envelopes come later than those of the first attempt would have.
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
