-- Take, renew or return a lease. O(log(leases) + expired leases).
--
-- KEYS  1 sorted set: token -> expiry time (us), 2 the last generation
-- ARGV  1 time in microseconds, '' for Redis' own, 2 'take', 'keep' (renew) or 'give' (return), 3 token of the holder,
--       4 life of a lease in microseconds, 5 most leases at once (-1: unlimited)
-- Returns
--       take: {generation, 0}, or {0, microseconds until a lease expires} when all are held
--       keep, give: 1, or 0 when the lease had expired and its holder must stop
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
