-- Take, keep or give back one of so many leases. O(log(leases) + leases that ended).
--
-- KEYS  1 the leases by the end of each, 2 the generation given last
-- ARGV  1 the time in microseconds, '' for the store's own, 2 'take', 'keep' or 'give', 3 the holder's token,
--       4 life of a lease in microseconds, 5 how many there may be at once (-1: any number)
-- Answers
--       take: {generation, 0}, or {0, microseconds until one ends} when all are held
--       keep, give: 1; 0 when it has ended, and its holder must stop
local now = tonumber(ARGV[1])
if not now then
    local time = redis.call('TIME')
    now = time[1] * 1000000 + time[2]
end
local function text(number)
    return string.format('%.0f', number)
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', text(now))
if ARGV[2] == 'give' then
    return redis.call('ZREM', KEYS[1], ARGV[3])
end
local life, most = tonumber(ARGV[4]), tonumber(ARGV[5])
if ARGV[2] == 'keep' then
    if not redis.call('ZSCORE', KEYS[1], ARGV[3]) then
        return 0
    end
elseif most >= 0 and redis.call('ZCARD', KEYS[1]) >= most then
    local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
    return {0, first[2] and tonumber(first[2]) - now or life}
end
redis.call('ZADD', KEYS[1], text(now + life), ARGV[3])
redis.call('PEXPIRE', KEYS[1], math.ceil(life / 1000) + 1000)
if ARGV[2] == 'keep' then
    return 1
end
return {redis.call('INCR', KEYS[2]), 0}
